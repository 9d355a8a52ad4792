"""pytorch_model.bin, one tensor at a time and without PyTorch, local or `gs://`.

Since PyTorch 1.6 a file is a zip archive, whose parts are not compressed:

  NAME/data.pkl   a pickle of {name: tensor}; a tensor is a view of a storage
  NAME/data/KEY   the values of one storage
  NAME/byteorder  'little' or 'big'; little where there is none

Before, it was pickles one after the other (a magic number, the version, the byte order,
{name: tensor}, and the storages' keys), and then for each key the number of its values, in 8
bytes, and these. Tensors may share a storage, and need not be contiguous in it.
"""

import dataclasses
import io
import itertools
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from dss_jax import errors
from dss_jax.convert import safetensors_file, torch_pickle

_ZIP = b'PK\x03\x04'
_LOCAL = struct.Struct('<4s22xHH')  # a zip part's own header: magic, lengths of name and extra
_COUNT = struct.Struct('<q')
_MAGIC, _VERSION = 0x1950a86a20f9469cfc6c, 1001
_MOST_AXES = 32
_AGAIN = 'copy or download it again'


@dataclasses.dataclass(frozen=True)
class _Part:
  """Where a storage is: a header, which is looked at before it is read, and `num_bytes` of it."""

  offset: int
  num_bytes: int
  is_zip: bool


@dataclasses.dataclass(frozen=True)
class _Contents:
  """What a file says of itself."""

  tensors: Any
  parts: Mapping[str, _Part]
  is_big_endian: bool = False


class TorchFile:
  """A file open for reading: `specs` by name, and `read(name)`. Nothing in it is run.

  Raises:
    UserError: the file is cut, is none of PyTorch's, or holds something else than tensors.
  """

  def __init__(self, path: str):
    self.path = path
    found = _open(path)
    self._parts, self._is_big_endian = found.parts, found.is_big_endian
    self._tensors: dict[str, torch_pickle.Tensor] = {}
    dtypes: dict[str, np.dtype] = {}
    for name, tensor in found.tensors.items():
      if why := _what_is_wrong(tensor, found.parts, dtypes):
        raise errors.UserError(f'{path}: {str(name)[:80]!a} {why}')
      self._tensors[str(name)] = tensor
    self.specs = {name: jax.ShapeDtypeStruct(tensor.shape, tensor.storage.dtype)
                  for name, tensor in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    tensor = self._tensors[name]
    size = tensor.storage.dtype.itemsize
    if 0 in tensor.shape:
      return np.empty(tensor.shape, tensor.storage.dtype)
    values = np.empty(_span(tensor), tensor.storage.dtype)
    with epath.Path(self.path).open('rb') as f:
      start = self._start(f, name)
      f.seek(start + tensor.offset * size)
      if not safetensors_file.fill(values, f):
        raise errors.UserError(f'{self.path} ends inside {name}: {_AGAIN}')
    if self._is_big_endian:
      values.view(f'u{size}').byteswap(inplace=True)
    strides = tuple(stride * size for stride in tensor.strides)
    view: np.ndarray = np.ndarray(tensor.shape, values.dtype, values, strides=strides)
    return np.asarray(view, order='C')

  def place(self, name: str) -> torch_pickle.Tensor:
    return self._tensors[name]

  def _start(self, f: Any, name: str) -> int:
    """Where the values of a tensor's storage begin."""
    storage = self._tensors[name].storage
    part = self._parts[storage.key]
    f.seek(part.offset)
    if not part.is_zip:
      is_right = f.read(_COUNT.size) == struct.pack(
          '>q' if self._is_big_endian else '<q', storage.size)
      start = part.offset + _COUNT.size
    else:
      header = f.read(_LOCAL.size)
      magic, name_length, extra_length = (
          _LOCAL.unpack(header) if len(header) == _LOCAL.size else (b'', 0, 0))
      is_right = magic == _ZIP
      start = part.offset + _LOCAL.size + name_length + extra_length
    if not is_right:
      raise errors.UserError(f'{self.path}: no values where those of {name} should be: {_AGAIN}')
    return start


def _open(path: str) -> _Contents:
  size = epath.Path(path).stat().length
  try:
    with epath.Path(path).open('rb') as f:
      is_zip = f.read(len(_ZIP)) == _ZIP
      f.seek(0)
      found = _zip_contents(f, size) if is_zip else _legacy_contents(f, size)
    if type(found.tensors) is not dict:
      raise ValueError(f'a {type(found.tensors).__name__}, not the tensors of a model')
    return found
  except torch_pickle.PickleError as error:
    raise errors.UserError(f'{path}: {error}; nothing of it was run. Take the file from where it '
                           'can be trusted') from error
  except (ValueError, KeyError, TypeError, OSError, EOFError, NotImplementedError, struct.error,
          zipfile.BadZipFile) as error:
    raise errors.UserError(
        f'{path}: not a file of torch.save, or cut ({str(error)[:120]!a}): {_AGAIN}') from error


def _zip_contents(f: Any, file_size: int) -> _Contents:
  with zipfile.ZipFile(f) as archive:
    parts = archive.infolist()
    if len({part.filename for part in parts}) < len(parts):
      raise ValueError('two parts of one name')
    pickles = [part for part in parts if part.filename.endswith('/data.pkl')]
    if len(pickles) != 1:
      raise ValueError(f'{len(pickles)} parts with the name data.pkl')
    for part in parts:
      if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size or (
          part.flag_bits & 1):
        raise ValueError(f'{part.filename[:40]} is compressed, which torch.save never does')
      if not 0 <= part.header_offset <= file_size - part.file_size:
        raise ValueError(f'{part.filename[:40]} lies outside of the file')
    root = pickles[0].filename.removesuffix('data.pkl')
    order = f'{root}byteorder'
    return _Contents(
        torch_pickle.load(_head(archive, pickles[0])),
        {part.filename.removeprefix(f'{root}data/'): _Part(
            part.header_offset, part.file_size, is_zip=True)
         for part in parts if part.filename.startswith(f'{root}data/')},
        order in archive.namelist() and archive.read(order) == b'big')


def _head(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> io.BytesIO:
  if part.file_size > torch_pickle.LONGEST:
    raise ValueError(f'{part.filename[:40]} has {part.file_size} bytes')
  return io.BytesIO(archive.read(part))


def _legacy_contents(f: Any, file_size: int) -> _Contents:
  head = io.BytesIO(f.read(torch_pickle.LONGEST))
  load = torch_pickle.load
  start = head.read(12)
  head.seek(0)
  if start[:1] != b'\x80' or load(head) != _MAGIC or load(head) != _VERSION:
    raise ValueError(f'it begins with {start!r}')
  system, tensors, keys = load(head), load(head), load(head)
  sizes = {tensor.storage.key: tensor.storage.size * tensor.storage.dtype.itemsize
           for tensor in _of_storages(tensors)}
  parts, offset = {}, head.tell()
  for key in itertools.takewhile(sizes.__contains__, keys):  # The rest is of no tensor.
    parts[key] = _Part(offset, sizes[key], is_zip=False)
    offset += _COUNT.size + sizes[key]
  if offset > file_size:
    raise ValueError(f'it promises {offset} bytes and has {file_size}')
  return _Contents(tensors, parts, not system['little_endian'])


def _of_storages(tensors: Any) -> Iterator[torch_pickle.Tensor]:
  for tensor in tensors.values() if type(tensors) is dict else ():
    if isinstance(tensor, torch_pickle.Tensor) and isinstance(tensor.storage, torch_pickle.Storage):
      yield tensor


def _span(tensor: torch_pickle.Tensor) -> int:
  """How many values of the storage lie from the first to the last of a tensor that has some."""
  return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))


def _what_is_wrong(
    tensor: Any, parts: Mapping[str, _Part], dtypes: dict[str, np.dtype]) -> str:
  """Why an entry cannot be read; '' if it can. `dtypes` is of the storages seen so far."""
  if type(tensor) is not torch_pickle.Tensor:
    return f'is a {type(tensor).__name__}, not a tensor: save `model.state_dict()` alone'
  storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
  if type(storage) is not torch_pickle.Storage or not all(
      type(x) is tuple and all(type(n) is int and n >= 0 for n in x)
      for x in (shape, strides, (tensor.offset,))) or not len(strides) == len(shape) <= _MOST_AXES:
    return 'is a malformed tensor'
  if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
    return f'is {storage.dtype} in a storage of {dtypes[storage.key]}'
  if storage.key not in parts:
    return f'has no values in the file: {_AGAIN}'
  if storage.size * storage.dtype.itemsize > parts[storage.key].num_bytes:
    return f'has a storage of {storage.size} values, of which the file lacks some: {_AGAIN}'
  # A stride of 0 repeats values: few bytes would fill any memory.
  if 0 not in shape and max(tensor.offset + _span(tensor), math.prod(shape)) > storage.size:
    return f'of shape {shape} is larger than its storage of {storage.size} values'
  return ''
