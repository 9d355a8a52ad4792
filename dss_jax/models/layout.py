"""Conversion between the two parameter layouts: a tree per layer, or one stacked tree."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dss_jax.models.stack import LAYERS_AXIS

_STACKS = ('encoder', 'decoder')
_LAYER = re.compile(r'layers_(\d+)')
_AXIS_METADATA = {nn.PARTITION_NAME: LAYERS_AXIS}


def stack_layers(params):
  """{encoder: {layers_0: x, layers_1: y, ..}, ..} -> {encoder: {layers: [x, y]}, ..}.

  For `scan_layers=True`. Pure: no copy of what is outside the layers, no change of any bit.
  Works for any tree with the structure of the parameters (Adam's moments, for one), on numpy
  arrays (which stay numpy), on JAX arrays, and on boxed ones, which get the axis name 'layers'.

  Raises:
    ValueError: if a stack has no layers_0..layers_{n-1}, or is stacked already.
  """
  return _convert(params, _stack)


def unstack_layers(params):
  """The inverse of `stack_layers`, for `scan_layers=False`.

  Raises:
    ValueError: if a stack has no `layers`.
  """
  return _convert(params, _unstack)


def is_stacked(path) -> bool:
  """Whether the leaf at this path of `jax.tree_util` is of all layers, with them as first axis."""
  return any(getattr(key, 'key', None) == 'layers' for key in path)


def _convert(params, convert):
  missing = [name for name in _STACKS if name not in params]
  if missing:
    raise ValueError(
      f'The tree has no {missing[0]!r}, only {sorted(params)}: pass the parameters themselves, '
      "such as variables['params']."
    )
  return {k: convert(k, v) if k in _STACKS else v for k, v in params.items()}


def _stack(name, tree):
  found = sorted(int(m.group(1)) for k in tree if (m := _LAYER.fullmatch(k)))
  if not found or found != list(range(len(found))):
    raise ValueError(
      f'{name} has layers {found}: expected layers_0, layers_1, .. without a gap (a tree with '
      '`layers` is stacked already).'
    )
  layers = [tree[f'layers_{i}'] for i in found]
  stacked = jax.tree.map(_stack_arrays, *layers)
  rest = {k: v for k, v in tree.items() if not _LAYER.fullmatch(k)}
  return {**rest, 'layers': nn.meta.add_axis(stacked, 0, _AXIS_METADATA)}


def _unstack(name, tree):
  if 'layers' not in tree:
    raise ValueError(f'{name} has no `layers`, only {sorted(tree)}: it is not stacked.')
  stacked = nn.meta.remove_axis(tree['layers'], 0, _AXIS_METADATA)
  count = jax.tree.leaves(stacked)[0].shape[0]
  layers = {
    f'layers_{i}': jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)
  }
  return {**{k: v for k, v in tree.items() if k != 'layers'}, **layers}


def _stack_arrays(*arrays):
  on_host = all(isinstance(x, np.ndarray) for x in arrays)
  return (np if on_host else jnp).stack(arrays)
