"""Where an array gets its sharding: the mesh, the tables of logical axes, and their use."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dss_jax import errors, models, valid

AXES = ('data', 'fsdp', 'model')

COMPUTE_RULES = (  # logical axis of what is computed -> mesh axes
    ('batch', ('data', 'fsdp')),
    ('vocab', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    ('mlp', 'model'),
    ('embed', None),
    ('length', None),
    ('kv', None),
    ('layers', None),
    ('relpos_buckets', None),
)
# Of what is stored: parameters are split over fsdp along `embed`; activations are not, their
# batch is.
STORAGE_RULES = (('embed', 'fsdp'), *(rule for rule in COMPUTE_RULES if rule[0] != 'embed'))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis of the mesh; -1 takes what the others leave.

  Attributes:
    data: copies of the parameters, each reads its share of the batch.
    fsdp: the batch is split here too, and so are parameters and optimizer state.
    model: heads, MLP and vocabulary are split (tensor parallelism).
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1

  def __post_init__(self):
    sizes = valid.fields(self, *AXES)
    valid.whole(1, **{name: size for name, size in sizes.items() if size != -1})

  @property
  def name(self) -> str:
    """'1x16x1': devices along data, fsdp and model."""
    return f'{self.data}x{self.fsdp}x{self.model}'

  @property
  def shards(self) -> int:
    """Shares into which the rows of a batch are divided."""
    return self.data * self.fsdp

  def of(self, devices: int) -> 'MeshConfig | None':
    """With -1 replaced; None if it is no mesh of so many devices."""
    sizes = [self.data, self.fsdp, self.model]
    fixed = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and devices % fixed == 0:
      sizes[sizes.index(-1)] = devices // fixed
    found = MeshConfig(*sizes)
    return found if -1 not in sizes and math.prod(sizes) == devices else None


def parse_mesh(text: str) -> MeshConfig:
  """'1x-1x4' -> a mesh; -1 takes what the others leave.

  Raises:
    UserError: it is none.
  """
  try:
    data, fsdp, model = (int(size) for size in text.split('x'))
    return MeshConfig(data, fsdp, model)
  except (ValueError, errors.UserError) as error:
    raise errors.UserError(
        f'mesh={text}: give devices along data, fsdp and model, such as 1x16x1; one may be '
        '-1 and takes what the others leave') from error


def check_network(network: models.Config, mesh: MeshConfig) -> None:
  """UserError if the network's sizes cannot be divided among the mesh's devices."""
  for size, what, axis in (
      (network.num_heads, 'attention heads', 'model'), (network.mlp_dim, 'MLP units', 'model'),
      (network.vocab_size, 'vocabulary entries', 'model'), (network.emb_dim, 'features', 'fsdp')):
    devices = getattr(mesh, axis)
    if size % devices:
      raise errors.UserError(
          f'mesh={mesh.name}: {size} {what} cannot be divided among {devices} devices along '
          f'{axis}; {math.gcd(size, devices)} would do')


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh over all devices of all processes, or over these (of a slice that is elsewhere).

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  count = jax.device_count() if devices is None else len(devices)
  found = config.of(count)
  if found is None:
    raise errors.UserError(
        ', '.join(f'{name}={size}' for name, size in valid.fields(config, *AXES).items())
        + f': the product must be the number of devices, {count} (one axis may be -1)')
  return jax.make_mesh(
      (found.data, found.fsdp, found.model), AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices)


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
  def batch(self) -> NamedSharding:
    """Rows over data and fsdp."""
    return NamedSharding(self.mesh, P(('data', 'fsdp')))

  @property
  def shards(self) -> int:
    """Shares into which the rows of a batch are divided."""
    return self.mesh.shape['data'] * self.mesh.shape['fsdp']

  def whole(self, rows: int) -> int:
    """So many rows, rounded up to whole shares."""
    return -(-rows // self.shards) * self.shards

  def params(self, model: models.Network) -> Any:
    """NamedSharding of every parameter, from its logical axis names."""
    boxed = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    specs = nn.get_partition_spec(boxed)
    return nn.logical_to_mesh_sharding(specs, self.mesh, STORAGE_RULES)

  def check_batch(self, batch_size: int, microbatches: int) -> None:
    """UserError unless every device gets whole rows of every microbatch."""
    if batch_size % (self.shards * microbatches):
      whole = math.gcd(batch_size // microbatches, self.mesh.size)
      raise errors.UserError(
          f'DataConfig.batch_size={batch_size} must be a multiple of {self.shards} (mesh data x '
          f'fsdp) times TrainConfig.microbatches={microbatches}: change it (in a new '
          'TrainConfig.model_dir), or split every row over devices, '
          f'MeshConfig.model={self.mesh.size // whole} and MeshConfig.data x MeshConfig.fsdp = '
          f'{whole}')

  def shard_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch, the same in every process -> global arrays, rows split over the mesh.

    Each process hands its devices their rows.
    """
    return {name: jax.make_array_from_callback(rows.shape, self.batch, rows.__getitem__)
            for name, rows in batch.items()}

  @contextlib.contextmanager
  def rules(self):
    """Inside, logical axes of activations mean mesh axes."""
    # `with mesh:` would make the constraints of Flax do nothing, without a word.
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(COMPUTE_RULES):
      yield

  def jit(self, fn: Callable, **options) -> Jitted:
    """`jax.jit` whose traces see the mesh and the rules."""
    return Jitted(jax.jit(fn, **options), self.rules)
