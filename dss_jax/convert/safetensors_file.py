"""safetensors files, one tensor at a time, local or `gs://`.

The `safetensors` package reads local files only, and its NumPy writer holds the whole model
twice; the tests compare both directions with it. A file is

  8 bytes   length n of the header, little-endian
  n bytes   JSON: {name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
  the rest  the tensors' bytes, row-major, little-endian
"""

import contextlib
import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dss_jax import errors

DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16,
    'I64': np.int64, 'I32': np.int32,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_METADATA = '__metadata__'
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True)
class _Place:
  offset: int
  spec: jax.ShapeDtypeStruct


class SafetensorsFile:
  """A file open for reading: `specs` by name, and `read(name)`.

  Raises:
    UserError: the file is cut, or no safetensors file.
  """

  def __init__(self, path: str):
    self.path = path
    self._places = _read_header(path)
    self.specs = {name: place.spec for name, place in self._places.items()}

  def read(self, name: str) -> np.ndarray:
    place = self._places[name]
    array = np.empty(place.spec.shape, place.spec.dtype)
    with epath.Path(self.path).open('rb') as f:
      f.seek(place.offset)
      if not fill(array, f):
        raise errors.UserError(f'{self.path} ends inside {name}: copy or download it again')
    return array

  def place(self, name: str) -> _Place:
    return self._places[name]


def fill(array: np.ndarray, f: Any) -> bool:
  """Reads bytes straight into the array, since `read` would hold them a second time.

  Args:
    array: contiguous.
    f: at the array's first byte.

  Returns: whether the file has them all.
  """
  buffer = _bytes_of(array)
  while len(buffer):
    count = f.readinto(buffer) if hasattr(f, 'readinto') else _read_into(f, buffer)
    if not count:
      return False
    buffer = buffer[count:]
  return True


def _bytes_of(array: np.ndarray) -> memoryview:
  """The array's own memory."""
  return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _read_into(f: Any, buffer: memoryview) -> int:
  """`readinto` for remote files that have `read` alone."""
  data = f.read(min(len(buffer), 1 << 24))
  buffer[:len(data)] = data
  return len(data)


def _read_header(path: str) -> dict[str, _Place]:
  file = epath.Path(path)
  size = file.stat().length
  with file.open('rb') as f:
    start = f.read(8)
    length = struct.unpack('<Q', start)[0] if len(start) == 8 else size
    raw = f.read(length) if length <= size - 8 else b''
  try:
    header = json.loads(raw)
    header.pop(_METADATA, None)
    places = {name: _place(path, entry, 8 + length) for name, entry in header.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
        f'{path}: not a safetensors file, or cut ({size} bytes; {error}): copy or download it again'
    ) from error
  end = max((p.offset + _num_bytes(p.spec) for p in places.values()), default=0)
  if end > size:
    raise errors.UserError(
        f'{path} is cut: its header promises {end} bytes, it has {size}; copy or download it again')
  return places


def _place(path: str, entry: Mapping[str, Any], data_start: int) -> _Place:
  if entry['dtype'] not in DTYPES:
    raise errors.UserError(
        f"{path}: a tensor of dtype {entry['dtype']}, which is not read; known: "
        f'{", ".join(DTYPES)}')
  spec = jax.ShapeDtypeStruct(tuple(entry['shape']), DTYPES[entry['dtype']])
  begin, end = entry['data_offsets']
  if end - begin != _num_bytes(spec):
    raise ValueError(f'{end - begin} bytes for {spec}')
  return _Place(data_start + begin, spec)


def _num_bytes(spec: jax.ShapeDtypeStruct) -> int:
  return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def write(
    path: str, specs: Mapping[str, jax.ShapeDtypeStruct], read: Callable[[str], np.ndarray]
) -> None:
  """Writes a file whose tensors `read(name)` makes, each when it is its turn.

  Args:
    path: of the new file. A failure removes what was written.
    specs: shape and dtype by name, in the order of the file.
    read: the tensor of a name, with the spec's shape and dtype.
  """
  file = epath.Path(path)
  try:
    with file.open('wb') as f:
      f.write(_header(specs))
      for name, spec in specs.items():
        array = np.asarray(read(name), order='C')
        if array.shape != spec.shape or array.dtype != spec.dtype:
          raise ValueError(f'{name}: {array.dtype}{array.shape} is not {spec}')
        f.write(_bytes_of(array))
  except BaseException:
    with contextlib.suppress(OSError):
      file.unlink()
    raise


def _header(specs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
  header: dict[str, Any] = {_METADATA: {'format': 'pt'}}  # transformers asks for it.
  offset = 0
  for name, spec in specs.items():
    end = offset + _num_bytes(spec)
    header[name] = {'dtype': _NAMES[np.dtype(spec.dtype)], 'shape': list(spec.shape),
                    'data_offsets': [offset, end]}
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % _ALIGNMENT)
  return struct.pack('<Q', len(text)) + text
