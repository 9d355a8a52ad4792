"""Which files a name stands for, and each as bytes that can be read at any place.

A name is a path, a glob of several, an address on an object store, or `-`, stdin. What is
compressed, far away or comes through a pipe is copied into a temporary file first, so memory does
not grow with it.
"""

import bz2
import contextlib
import dataclasses
import glob
import gzip
import lzma
import os
import re
import resource
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from etils import epath

from dss_jax import errors, files

STDIN = '-'
BOM = b'\xef\xbb\xbf'
_COPY_BYTES = 1 << 24
_ENDINGS = ('.gz', '.zst', '.bz2', '.xz')


def _zstd(file: IO[bytes]) -> Any:
  import pyarrow  # Late: other verbs do without its 150 MB; TensorFlow Datasets asks for it.
  return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode='r'), 'zstd')


_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {  # by their first bytes
    b'\x1f\x8b': gzip.open, b'\x28\xb5\x2f\xfd': _zstd, b'BZh': bz2.BZ2File,
    b'\xfd7zXZ\0': lzma.LZMAFile}
_OTHERS = {  # first bytes: what is said of the file
    b'PK\x03\x04': 'is an archive or a spreadsheet (.zip, .xlsx); save the table as CSV in UTF-8',
    b'ARROW1': 'is an Arrow or Feather file; write Parquet',
    b'\xff\xfe': 'is UTF-16; save it as UTF-8', b'\xfe\xff': 'is UTF-16; save it as UTF-8'}


@dataclasses.dataclass
class Opened:
  """A file to read at any place.

  Attributes:
    file: its bytes, uncompressed.
    stored: its bytes as they are stored, for their checksum.
    name: its path in lower case, without the ending of a compressed file.
  """

  file: IO[bytes]
  stored: IO[bytes]
  name: str

  def starts_with(self, some: bytes) -> bool:
    self.file.seek(0)
    return self.file.read(len(some)) == some

  def first(self) -> bytes:
    """The first byte that is neither a byte order mark nor blank; b'' if there is none."""
    self.file.seek(len(BOM) if self.starts_with(BOM) else 0)
    while byte := self.file.read(1):
      if not byte.isspace():
        return byte
    return b''


def paths(pattern: str, flag: str) -> list[str]:
  """The files that a name stands for.

  Raises:
    UserError: a glob that no file matches.
  """
  local = pattern == STDIN or not files.is_remote(pattern)
  if not glob.has_magic(pattern) or (local and os.path.exists(os.path.expanduser(pattern))):
    return [pattern]
  if found := natural_glob(pattern):
    _allow_open_files(2 * len(found))  # Each may have a copy.
    return found
  raise errors.UserError(f'{flag}={pattern}: no such file; quote the pattern')


def _allow_open_files(more: int) -> None:
  """A shell's usual limit is 1,024, or 256 on a Mac; a process may raise it to a harder one."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = more + 512  # For what else a program opens.
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  if soft != resource.RLIM_INFINITY and wanted > soft:
    with contextlib.suppress(ValueError, OSError):  # Then the file that is too many is named.
      resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def natural_glob(pattern: str) -> list[str]:
  """Matching files, with numbers in names in numeric order: `x_10.json` after `x_9.json`."""
  if files.is_remote(pattern):
    folder, _, name = pattern.rpartition('/')
    found = [str(path) for path in epath.Path(folder).glob(name)]
  else:
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
  return sorted(found, key=_natural_key)


def _natural_key(path: str) -> list[tuple[int, str]]:
  return [(int(part), '') if part.isdecimal() else (-1, part)
          for part in re.split(r'([0-9]+)', path)]


def open_file(path: str, flag: str) -> Opened:
  """The file, uncompressed.

  Raises:
    UserError: it cannot be read, is cut off, or is of a kind that is not read here.
  """
  stored = _stored(path, flag)
  start = stored.read(8)
  stored.seek(0)
  for mark, says in _OTHERS.items():
    if start.startswith(mark):
      raise errors.UserError(f'{flag}={path}: {says}')
  name = path.lower()
  for ending in _ENDINGS:
    name = name.removesuffix(ending)
  for mark, reader in _COMPRESSED.items():
    if start.startswith(mark):
      try:
        return Opened(_copy(reader(stored)), stored, name)
      except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if getattr(error, 'errno', None):  # Of the disk that it is copied to.
          raise
        raise errors.UserError(f'{flag}={path}: cannot be uncompressed ({error}): it is cut off '
                               'or damaged; copy it again') from error
  return Opened(stored, stored, name)


def _stored(path: str, flag: str) -> IO[bytes]:
  remote = files.is_remote(path)
  try:
    with contextlib.ExitStack() as stack:
      file: Any = sys.stdin.buffer if path == STDIN else stack.enter_context(
          epath.Path(path if remote else os.path.expanduser(path)).open('rb'))
      if not remote and path != STDIN and file.seekable():
        stack.pop_all()
        return file
      return _copy(file)
  except Exception as error:  # Each kind of object store has errors of its own.
    if not remote and not isinstance(error, OSError):
      raise
    says = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    raise errors.UserError(f'{flag}={path}: cannot be read ({says}); check the path') from error


def _copy(file: Any) -> IO[bytes]:
  copy = tempfile.TemporaryFile()  # noqa: SIM115  It lives as long as the rows.
  shutil.copyfileobj(file, copy, _COPY_BYTES)
  copy.seek(0)
  return copy
