"""flax_model.msgpack of transformers before 5, whose T5 for Flax is no more.

The whole file is in memory while it is open: a tensor of more than 1 GB is in several parts.
"""

from typing import Any

import jax
import numpy as np
from etils import epath
from flax import serialization, traverse_util

from dss_jax import errors


class FlaxFile:
  """A file open for reading: `specs` by name, and `read(name)`, with PyTorch's names and layout.

  Raises:
    UserError: the file is cut, or is none of Flax's.
  """

  def __init__(self, path: str):
    try:
      tree = serialization.msgpack_restore(epath.Path(path).read_bytes())
      flat = traverse_util.flatten_dict(tree, sep='/')
    except Exception as error:  # Of any kind, as msgpack's and those of what it makes of bytes.
      raise errors.UserError(
          f'{path}: not a file of Flax, or cut ({type(error).__name__}: {str(error)[:120]!a}): '
          'copy or download it again') from error
    if odd := [name for name, array in flat.items() if not isinstance(array, np.ndarray)]:
      raise errors.UserError(f'{path}: {odd[0]!a} is a {type(flat[odd[0]]).__name__}, not a tensor')
    self._arrays = {their_name(name): array.T if name.endswith('/kernel') else array
                    for name, array in flat.items()}
    self.specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self._arrays.items()}

  def read(self, name: str) -> np.ndarray:
    return np.ascontiguousarray(self._arrays[name])

  def place(self, name: str) -> str:
    return name


def their_name(name: str) -> str:
  """PyTorch's name of a parameter of Flax's.

  >>> their_name('encoder/block/3/layer/1/DenseReluDense/wo/kernel')
  'encoder.block.3.layer.1.DenseReluDense.wo.weight'
  """
  parts: list[Any] = name.split('/')
  if parts[-1] in ('kernel', 'embedding'):
    parts[-1] = 'weight'
  return '.'.join(parts)
