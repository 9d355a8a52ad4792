"""JSON files the job reads, a value at a time: local paths, or object stores (`gs://...`)."""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from etils import epath

from dss_jax import errors, fields, files

_BOM = b'\xef\xbb\xbf'
_COPY_BYTES = 1 << 24


class JsonFile(Sequence[Any]):
  """The values of a JSON-lines file, or of a file that is one JSON list.

  JSON lines stay in the file: 550,000 of them cost a few MB here, and any of them can be read.
  A list is read whole. `where(i)` says where value i stands, for messages: 'x.json, line 3'.

  Attributes:
    path: as given.
    is_list: whether it is one JSON list.
    sha256: of the file's bytes.
  """

  def __init__(self, path: str, flag: str):
    """Finds the lines; parses only a list.

    Args:
      path: the file; blank lines in it are skipped.
      flag: what the user set it with, e.g. '--inputs', for messages.

    Raises:
      UserError: no such file, empty, or a bad JSON list.
    """
    self.path = path
    self._flag = flag
    self._file = _open(path, flag)
    self._lock = threading.Lock()
    start, self.is_list = _layout(self._file)
    self._list: list[Any] = []
    if self.is_list:
      self._read_list()
    else:
      self._find_lines(start)
    if not len(self):
      what = 'the JSON list is empty' if self.is_list else (
          'the file is empty; expected JSON lines or a JSON list')
      raise errors.UserError(f'{flag}={path}: {what}')

  def __len__(self) -> int:
    return len(self._list) if self.is_list else len(self._offsets)

  def __getitem__(self, index):
    """Value `index`; UserError if its line is not JSON."""
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if self.is_list:
      return self._list[index]
    with self._lock:  # Shards are read and written by several threads.
      self._file.seek(int(self._offsets[index]))
      line = self._file.readline()
    try:
      return fields.parse_json(line.decode('utf-8'))
    except UnicodeDecodeError as error:
      raise errors.UserError(f'{self._flag}={self.path}: not UTF-8 (byte '
                             f'{self._offsets[index] + error.start}); save it as UTF-8') from error
    except ValueError as error:
      raise errors.UserError(
          f'{self.where(index)}: not JSON ({error}); each line must be one object') from error

  def where(self, index: int) -> str:
    if self.is_list:
      return f'{self.path}, item {index + 1}'
    return f'{self.path}, line {self._numbers[index]}'

  def _find_lines(self, start: int) -> None:
    digest, offsets, numbers = hashlib.sha256(), [], []
    self._file.seek(0)
    offset = 0
    for number, line in enumerate(self._file, 1):  # Bytes: a JSON string may hold U+2028.
      digest.update(line)
      if line.strip() and line.strip() != _BOM:
        offsets.append(offset + (start if number == 1 else 0))
        numbers.append(number)
      offset += len(line)
    self.sha256 = digest.hexdigest()
    self._offsets, self._numbers = np.array(offsets, np.int64), np.array(numbers, np.int32)

  def _read_list(self) -> None:
    self._file.seek(0)
    data = self._file.read()
    self.sha256 = hashlib.sha256(data).hexdigest()
    try:
      self._list = fields.parse_json(data.decode('utf-8-sig'))
    except UnicodeDecodeError as error:
      raise errors.UserError(f'{self._flag}={self.path}: not UTF-8 (byte {error.start}); '
                             'save it as UTF-8') from error
    except ValueError as error:
      raise errors.UserError(f'{self.path}: not a JSON list ({error})') from error


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


def _open(path: str, flag: str) -> IO[bytes]:
  """The file for random access: an object, or what comes through a pipe, is copied aside first."""
  remote = files.is_remote(path)
  try:
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(
          epath.Path(path if remote else os.path.expanduser(path)).open('rb'))
      if not remote and file.seekable():
        stack.pop_all()
        return file
      copy = tempfile.TemporaryFile()  # noqa: SIM115  It lives as long as the JsonFile.
      shutil.copyfileobj(file, copy, _COPY_BYTES)
    copy.seek(0)
    return copy
  except Exception as error:  # Each kind of object store has errors of its own.
    if not remote and not isinstance(error, OSError):
      raise
    says = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    raise errors.UserError(f'{flag}={path}: cannot be read ({says}); check the path') from error


def _layout(file: IO[bytes]) -> tuple[int, bool]:
  """(length of the byte order mark, whether the file is one list)."""
  start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
  file.seek(start)
  while byte := file.read(1):
    if not byte.isspace():
      return start, byte == b'['
  return start, False


