"""Whether a checkpoint's files are what was written: sizes and CRC-32Cs, kept beside them.

A changed byte in an array file is not noticed by the libraries that read it. Of remote files only
the sizes are kept: reading them back would cost as much as writing them, and object stores watch
over their contents.
"""

import json

import google_crc32c
from etils import epath

from dss_jax import files

FILE = 'checksums.json'
STILL_WRITTEN = ('_CHECKPOINT_METADATA', 'commit_success.txt')  # by Orbax, at the very end
_BLOCK = 2**24  # bytes read at a time


def write(directory: epath.PathLike) -> None:
  """Describes all files under `directory` in `directory/checksums.json`."""
  root = epath.Path(directory)
  found = {name: _measure(root / name) for name in _files(root)}
  (root / FILE).write_text(json.dumps(found, indent=0, sort_keys=True))


def problems(directory: epath.PathLike) -> list[str]:
  """['state/d/4eac is gone', ...]; [] for files that are as written."""
  root = epath.Path(directory)
  if not (root / FILE).exists():
    return [f'{FILE} is gone']
  try:
    described = json.loads((root / FILE).read_text())
  except ValueError:
    return [f'{FILE} cannot be read']
  found = []
  for name, (size, crc) in sorted(described.items()):
    path = root / name
    if not path.exists():
      found.append(f'{name} is gone')
    elif path.stat().length != size:
      found.append(f'{name} has {path.stat().length} bytes instead of {size}')
    elif crc is not None and _measure(path)[1] != crc:
      found.append(f'{name} has other contents than were written')
  return found


def _files(root: epath.Path, prefix: str = '') -> list[str]:
  found = []
  for path in sorted(root.iterdir()):
    name = f'{prefix}{path.name}'
    if path.is_dir():
      found += _files(path, f'{name}/')
    elif name not in (FILE, *STILL_WRITTEN):
      found.append(name)
  return found


def _measure(path: epath.Path) -> list[int | None]:
  """[bytes, CRC-32C or None]."""
  if files.is_remote(path):
    return [path.stat().length, None]
  size = crc = 0
  with path.open('rb') as f:
    while block := f.read(_BLOCK):
      size += len(block)
      crc = google_crc32c.extend(crc, block)
  return [size, crc]
