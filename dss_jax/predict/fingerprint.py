"""What tells one checkpoint from another without reading all of it."""

import hashlib
import itertools
from concurrent import futures
from typing import Any

from etils import epath

from dss_jax import student_info
from dss_jax.convert import formats, hugging_face

_WHOLE = 1 << 20  # bytes; files up to this size are read from end to end
_BLOCK = 1 << 12
_BLOCKS = 1024  # of all files together
_LONGEST_HEADER = 1 << 27  # safetensors' own limit is 100 MB
_THREADS = 16  # An object store answers slowly, but many at a time.


def fingerprint(path: str) -> str:
  """SHA-256 of the network, the vocabulary and samples of the parameters.

  Small files count whole, of large ones blocks at even distances: further training moves nearly
  every weight, so nearly every block. Where the folder lies, when it was copied and what else is
  in it (a README, a run's logs and other steps) does not matter.

  Args:
    path: where the parameters lie: the `path` of `convert.weights.Weights`.
  """
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    files = {**_arrays(epath.Path(path), pool), **_beside(path)}
    names = sorted(files)
    lengths = pool.map(lambda name: files[name].stat().length, names)
    sizes = dict(zip(names, lengths))
    total = sum(sizes.values())
    digests = pool.map(lambda name: _digest(files[name], sizes[name], total), names)
    lines = [f'{name} {sizes[name]} {digest}\n' for name, digest in zip(names, digests)]
  return hashlib.sha256(''.join(lines).encode()).hexdigest()


def _arrays(root: epath.Path, pool: futures.Executor) -> dict[str, epath.Path]:
  """The files of the parameters."""
  kind = formats.format_of(str(root))
  if kind and kind.files:
    found = kind.files(root)
  else:
    found, folders = [], [root]
    while folders:  # Level by level; `glob` would pass over zarr's .zarray.
      inside = [one for listed in pool.map(lambda f: list(f.iterdir()), folders) for one in listed]
      is_folder = list(pool.map(lambda one: one.is_dir(), inside))
      folders = list(itertools.compress(inside, is_folder))
      found += [one for one, folder in zip(inside, is_folder) if not folder]
  return {f'arrays/{file.relative_to(root)}': file for file in found}


def _beside(path: str) -> dict[str, epath.Path]:
  """The network and the vocabulary."""
  found = {}
  for folder in reversed(student_info.folders(path)):  # The nearest is the one that is used.
    for name in (student_info.FILE, student_info.VOCABULARY_FILE, hugging_face.TOKENIZER_FILE):
      if (folder / name).exists():
        found[f'beside/{name}'] = folder / name
  return found


def _digest(file: epath.Path, size: int, total: int) -> str:
  """SHA-256 of a file's part in the samples."""
  content = hashlib.sha256()
  with file.open('rb') as f:
    if size <= _WHOLE:
      content.update(f.read())
      return content.hexdigest()
    if file.suffix == '.safetensors':
      content.update(_header(f))
    last = max(1, _BLOCKS * size // total)
    for i in range(last + 1):
      f.seek((size - _BLOCK) * i // last)
      content.update(f.read(_BLOCK))
  return content.hexdigest()


def _header(f: Any) -> bytes:
  """Names, types and places of a safetensors file's tensors: its length in 8 bytes, then JSON."""
  length = int.from_bytes(f.read(8), 'little')
  return f.read(min(length, _LONGEST_HEADER))
