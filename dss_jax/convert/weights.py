"""Weights by name: what every checkpoint format is read as and written from.

The names are those of our unrolled parameter tree, joined by '/':

  token_embedder/embedding                             [vocab, embed]
  encoder/relpos_bias/rel_embedding                    [heads, buckets]
  encoder/layers_0/attention/query/kernel              [embed, heads * head_dim]
  decoder/layers_0/encoder_decoder_attention/out/kernel
  decoder/layers_0/mlp/wi_0/kernel                     (v1.0: mlp/wi/kernel)
  decoder/decoder_norm/scale
  decoder/logits_dense/kernel                          (not where the head is tied)

One tensor is read at a time, so a model larger than half of the memory can be converted.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from dss_jax import errors, families, models

Specs = Mapping[str, jax.ShapeDtypeStruct]
_LAYER = re.compile(r'^(encoder|decoder)/layers_(\d+)/(.*)$')
_MOST_LISTED = 8


class Weights(Protocol):
  """A checkpoint that is open for reading.

  Attributes:
    path: where it is, for messages.
    config: shape of the network. `scan_layers` is how the checkpoint is stored; names and
      shapes are the unrolled ones either way.
    specs: shape and stored dtype by name.
    says_activation: whether something beside the shapes tells the MLP's activation.
  """

  path: str
  config: models.Config
  specs: Specs
  says_activation: bool = True

  def read(self, name: str) -> np.ndarray:
    """One tensor in host memory, in its stored dtype."""
    ...

  def stored_as(self, name: str) -> str:
    """What the checkpoint's own files call a tensor."""
    return name


class FiniteWeights(Weights):
  """Weights that are looked at as they are read.

  `read` raises UserError: names the tensor that holds NaN or infinity, and how many of its values.
  """

  def __init__(self, weights: Weights):
    self._weights = weights
    self.path, self.config, self.specs = weights.path, weights.config, weights.specs
    self.says_activation = weights.says_activation

  def stored_as(self, name: str) -> str:
    return self._weights.stored_as(name)

  def read(self, name: str) -> np.ndarray:
    array = self._weights.read(name)
    with np.errstate(invalid='ignore', over='ignore'):
      total = np.sum(array, dtype=np.float64)  # Takes no memory; no number if a term is none.
    if not np.isfinite(total) and (bad := np.count_nonzero(~np.isfinite(array))):
      kind = 'NaN' if np.isnan(array).any() else 'infinite'
      raise errors.UserError(
          f'{self.path}: {self.stored_as(name)} holds {bad:,} values of '
          f'{array.size:,} that are no numbers ({kind}): the training of these weights, or a cast '
          'to float16, failed; take an earlier checkpoint')
    return array


class ArrayWeights(Weights):
  """Parameters in memory, such as a trainer's, for writing them in any format.

  Args:
    params: the tree, unboxed, in the layout that config.scan_layers says.
    config: the network.
  """

  def __init__(self, params: Any, config: models.Config):
    self.path, self.config = 'memory', config
    unrolled = models.unstack_layers(params) if config.scan_layers else params
    self.arrays = {name: np.asarray(x)
                   for name, x in traverse_util.flatten_dict(unrolled, sep='/').items()}
    self.specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self.arrays.items()}

  def read(self, name: str) -> np.ndarray:
    return self.arrays[name]


@functools.cache
def expected_specs(config: models.Config) -> Specs:
  """Unrolled names and shapes of a network's parameters; float32, as in training."""
  unrolled = dataclasses.replace(config, scan_layers=False)
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  tree = jax.eval_shape(families.network(unrolled).init, jax.random.key(0), tokens, tokens)
  flat = traverse_util.flatten_dict(nn.unbox(tree['params']), sep='/')
  return {name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for name, leaf in flat.items()}


def check(found: Specs, config: models.Config, where: str) -> None:
  """Compares a checkpoint with a network.

  Raises:
    UserError: lists the parameters that are missing, not wanted, or of another shape, with
      what was expected and what was found.
  """
  expected = expected_specs(config)
  lines = [f'{name}: expected {spec.shape}, found {found[name].shape}'
           for name, spec in expected.items()
           if name in found and found[name].shape != spec.shape]
  lines += [f'{name}: expected {spec.shape}, not found'
            for name, spec in expected.items() if name not in found]
  lines += [f'{name}: not a parameter of this network, found {spec.shape}'
            for name, spec in found.items() if name not in expected]
  if lines:
    more = f'\n  ... and {len(lines) - _MOST_LISTED} more' if len(lines) > _MOST_LISTED else ''
    raise errors.UserError(
        f'{where} does not fit the network ({len(lines)} parameters differ; set the model size, '
        'version and VOCAB_SIZE to those of the checkpoint):\n  '
        + '\n  '.join(lines[:_MOST_LISTED]) + more)


def check_network(weights: Weights, config: models.Config) -> None:
  """Compares a checkpoint, as it describes itself, with a network.

  Raises:
    UserError: see `check`; or names the field that is another, with both values.
  """
  check(weights.specs, config, weights.path)
  for name in families.of(config).unseen:
    found, expected = getattr(weights.config, name), getattr(config, name)
    if found != expected:
      raise errors.UserError(
          f'{weights.path} was made with {name}={found!r}, the network has {expected!r}: set '
          f'{type(config).__name__}.{name} to that of the checkpoint')


def layer_of(name: str) -> tuple[str, int] | None:
  """'encoder/layers_3/mlp/wo/kernel' -> ('encoder/layers/mlp/wo/kernel', 3); else None."""
  match = _LAYER.match(name)
  return (f'{match[1]}/layers/{match[3]}', int(match[2])) if match else None


def is_stack(name: str) -> bool:
  """Whether a stored tensor holds all layers: 'encoder/layers/mlp/wo/kernel'."""
  return '/layers/' in name


def tensor_groups(names: Iterable[str], *, scanned: bool) -> dict[str, list[str]]:
  """Names as stored -> the unrolled names that each is made of, in layer order.

  With `scanned`, the tensors of all layers are stacked along axis 0 under `layers/`.
  """
  groups: dict[str, list[tuple[int, str]]] = {}
  for name in names:
    stored, index = (layer_of(name) if scanned else None) or (name, 0)
    groups.setdefault(stored, []).append((index, name))
  return {stored: [name for _, name in sorted(parts)] for stored, parts in groups.items()}


def read_group(weights: Weights, stored: str, parts: list[str], dtype: Any = None) -> np.ndarray:
  """The tensor of one group, [layers, ...] for a stack, cast to `dtype`.

  Layers are written into their place one by one: memory is the result and one layer.
  """
  if not is_stack(stored):
    return _cast(weights.read(parts[0]), dtype)
  spec = weights.specs[parts[0]]
  stacked = np.empty((len(parts), *spec.shape), dtype or spec.dtype)
  for index, name in enumerate(parts):
    stacked[index] = weights.read(name)
  return stacked


def to_dtype(name: str) -> np.dtype:
  """'bfloat16' -> its NumPy dtype."""
  return np.dtype(jnp.dtype(name))


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
  return array if dtype is None else array.astype(dtype, copy=False)


def load_params(
    weights: Weights,
    config: models.Config,
    *,
    dtype: Any = jnp.float32,
    place: Callable[[str, np.ndarray], Any] = lambda name, array: array,
) -> Any:
  """The parameter tree of a network, read tensor by tensor.

  Args:
    weights: open for reading.
    config: the network; its scan_layers decides the layout of the tree.
    dtype: of the parameters.
    place: puts a tensor (name as in the tree, '/'-joined) on its devices.

  Raises:
    UserError: see `check_network`.
  """
  check_network(weights, config)
  groups = tensor_groups(weights.specs, scanned=config.scan_layers)
  flat = {stored: place(stored, read_group(weights, stored, parts, dtype))
          for stored, parts in groups.items()}
  return traverse_util.unflatten_dict(flat, sep='/')
