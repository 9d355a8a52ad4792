"""Files that are whole or absent, on local disks and object stores."""

import os

from etils import epath


def write(path: str, data: bytes | str) -> None:
  """Writes aside, fsyncs, renames: a kill or a full disk leaves the earlier file intact."""
  aside = epath.Path(f'{path}.writing-{os.getpid()}')
  try:
    aside.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)
    fsync(str(aside))
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)


def fsync(path: str) -> None:
  """Forces a local file to disk; an object store keeps an object whole once it is closed."""
  if '://' in path:
    return
  with open(path, 'rb') as f:
    os.fsync(f.fileno())
