"""Where an array gets its sharding: the mesh, the table of logical axes, and their use."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dss_jax import errors, models
from dss_jax.train import config as config_lib
from dss_jax.train import state as state_lib

AXES = ('data', 'fsdp', 'model')

LOGICAL_RULES = (  # logical axis of a parameter or activation -> mesh axes
    ('batch', ('data', 'fsdp')),
    ('vocab', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    ('mlp', 'model'),
    ('embed', None),  # of activations; parameters: see PARAMETER_RULES
    ('length', None),
    ('kv', None),
    ('layers', None),
    ('relpos_buckets', None),
)
# Parameters are split over fsdp along `embed`; activations are not, their batch is.
PARAMETER_RULES = (('embed', 'fsdp'), *(rule for rule in LOGICAL_RULES if rule[0] != 'embed'))


def make_mesh(
    config: config_lib.MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh over all devices of all processes, or over these (of a slice that is elsewhere).

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  shape = [config.data, config.fsdp, config.model]
  count = jax.device_count() if devices is None else len(devices)
  fixed = int(np.prod([size for size in shape if size != -1]))
  if shape.count(-1) == 1 and count % fixed == 0:
    shape[shape.index(-1)] = count // fixed
  if any(size < 1 for size in shape) or int(np.prod(shape)) != count:
    raise errors.UserError(
        f'MESH_DATA={config.data}, MESH_FSDP={config.fsdp}, MESH_MODEL={config.model}: the '
        f'product must be the number of devices, {count} (one axis may be -1)')
  return jax.make_mesh(
      tuple(shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices)


@dataclasses.dataclass(frozen=True)
class Jitted:
  """A function of `jax.jit` whose traces see a mesh and the rules."""

  compiled: Any
  rules: Callable[[], contextlib.AbstractContextManager]

  def __call__(self, *args) -> Any:
    with self.rules():
      return self.compiled(*args)

  def lower(self, *args) -> jax.stages.Lowered:
    """Traced for arguments or their `jax.ShapeDtypeStruct`s, to be compiled but not run."""
    with self.rules():
      return self.compiled.lower(*args)


@dataclasses.dataclass(frozen=True)
class Sharding:
  """A mesh, and what follows from it."""

  mesh: Mesh

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, P())

  @property
  def rows(self) -> NamedSharding:
    """Of a batch: rows over data and fsdp."""
    return NamedSharding(self.mesh, P(('data', 'fsdp')))

  def params(self, model: models.Transformer) -> Any:
    """NamedSharding of every parameter, from its logical axis names."""
    boxed = jax.eval_shape(lambda: state_lib.init_params(model, jax.random.key(0)))
    specs = nn.get_partition_spec(boxed)
    return nn.logical_to_mesh_sharding(specs, self.mesh, PARAMETER_RULES)

  def state(
      self, model: models.Transformer, optimizer: optax.GradientTransformation
  ) -> Any:
    """Of the whole TrainState, in its place: optimizer statistics lie where their parameters do.

    Statistics of another shape than their parameter (Adafactor's factored ones are vectors)
    are replicated.
    """
    params = self.params(model)
    abstract = jax.eval_shape(lambda: state_lib.init_state(model, optimizer, 0))
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda leaf, param, sharding: sharding if leaf.shape == param.shape else self.replicated,
        abstract.opt_state, abstract.params, params,
        transform_non_params=lambda _: self.replicated)
    replicated: Any = self.replicated
    return state_lib.TrainState(replicated, params, opt_state)

  def check_batch(self, batch_size: int, microbatches: int) -> None:
    """UserError unless every device gets whole rows of every microbatch."""
    shards = self.mesh.shape['data'] * self.mesh.shape['fsdp']
    if batch_size % (shards * microbatches):
      whole = math.gcd(batch_size // microbatches, self.mesh.size)
      raise errors.UserError(
          f'BATCH_SIZE={batch_size} must be a multiple of {shards} (mesh data x fsdp) times '
          f'MICROBATCHES={microbatches}: change it (in a new MODEL_DIR), or split every row over '
          f'devices, MESH_MODEL={self.mesh.size // whole} and MESH_DATA x MESH_FSDP = {whole}')

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch, the same in every process -> global arrays, rows split over the mesh.

    Each process hands its devices their rows.
    """
    return {name: jax.make_array_from_callback(rows.shape, self.rows, rows.__getitem__)
            for name, rows in batch.items()}

  @contextlib.contextmanager
  def rules(self):
    """Inside, logical axes of activations mean mesh axes."""
    # `with mesh:` would make the constraints of Flax do nothing, without a word.
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(LOGICAL_RULES):
      yield

  def jit(self, fn: Callable, **options) -> Jitted:
    """`jax.jit` whose traces see the mesh and the rules."""
    return Jitted(jax.jit(fn, **options), self.rules)
