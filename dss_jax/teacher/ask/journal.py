"""The journal of answered requests: what was paid for once is never asked again.

A folder of files that are only ever added to, one line for each answer, raw and before any
parsing, compressed (`journal_lines`); `python -m dss_jax.teacher.ask.journal FOLDER` prints them.

Every process writes files of its own, so none continues a line that a killed one left half
written: such a tail is cut off when reading. On a local disk a line is handed to the system at
once (a killed process loses nothing) and forced to disk in groups (`settle`; a power cut loses a
fraction of a second). On an object store lines go up as immutable part files.
"""

import argparse
import asyncio
import dataclasses
import errno
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from etils import epath

from dss_jax import errors, files
from dss_jax.teacher.ask import journal_lines

_SYNC_SECONDS = 0.1
_PART_LINES = 100
_PART_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Usage:
  """What the answers of a journal cost."""

  requests: int
  prompt_tokens: int
  completion_tokens: int


class Journal:
  """Answers by key. One process writes through one Journal; several may share the folder.

  Attributes:
    folder: where the files lie, local or `gs://`.
    damaged: places of lines that were not what was written: '.../x.jsonl, line 3'.
    torn: files whose last line is not complete: a kill or a power cut.
    full: '', or that the disk is full: what was set aside by `reserve` is being used up, and no
      further answer may be asked for.
  """

  def __init__(self, folder: str):
    """Reads nothing yet: see `refresh`."""
    self.folder = folder
    self.damaged: list[str] = []
    self.torn: list[str] = []
    self.full = ''
    self._names: list[str] = []
    self._numbers: dict[str, int] = {}  # their places in `_names`
    self._read: dict[str, tuple[int, int]] = {}  # file name: bytes and lines read so far
    # Shards look for their answers in threads of their own, and two threads that run the same SQL
    # are handed one cached statement. Python 3.11's sqlite3 marks it as taken, later ones ask
    # SQLite, which knows only once it runs: then the other's row is read, or its binding fails.
    self._lock = threading.Lock()
    # On disk once it is large: 550,000 keys are no burden.
    self._index = sqlite3.connect('', check_same_thread=False, isolation_level=None)
    self._index.execute(
        'CREATE TABLE answers (key BLOB PRIMARY KEY, file INT, start INT, size INT, '
        'prompt_tokens INT, completion_tokens INT) WITHOUT ROWID')
    second, nanosecond = divmod(time.time_ns(), 10 ** 9)  # Sorted by time: the first answer stays.
    stamp = time.strftime('%Y%m%d-%H%M%S', time.gmtime(second))
    name = f'{stamp}.{nanosecond:09d}-{os.getpid()}-{uuid.uuid4().hex[:8]}'
    self._writer = (_Parts if files.is_remote(folder) else _Segment)(folder, name)
    self._spare = _Spare(folder)

  def refresh(self) -> None:
    """Reads what has been added to the folder, by whatever process."""
    folder = epath.Path(self.folder)
    names = sorted(path.name for path in folder.glob('*.jsonl')) if folder.exists() else []
    self.torn = []
    with tqdm.tqdm(names, desc='reading journal', unit='file', delay=3, disable=None) as bar:
      for name in bar:
        if not self._writer.owns(name):  # Those are in the index already.
          self._read_file(name)

  def has(self, keys: Iterable[str]) -> set[str]:
    """Those of the keys that are answered."""
    return {key for key in keys if self._find(key)}

  def read(self, keys: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The entries of keys; `settle` first for those added just now."""
    places: dict[int, list[tuple[int, int, str]]] = {}
    for key in keys:
      if found := self._find(key):
        places.setdefault(found[0], []).append((found[1], found[2], key))
    entries: dict[str, Mapping[str, Any]] = {}
    for number, wanted in places.items():
      with (epath.Path(self.folder) / self._names[number]).open('rb') as f:
        for start, size, key in sorted(wanted):
          f.seek(start)
          entry = journal_lines.decode(f.read(size))  # None: damaged since it was indexed.
          if entry is not None and entry['key'] == key:  # Never another request's answer.
            entries[key] = entry
    return entries

  async def add(
      self, key: str, entry: Mapping[str, Any], prompt_tokens: int = 0, completion_tokens: int = 0
  ) -> None:
    """Writes an answer down.

    Raises:
      UserError: the disk is full or cannot be written; nothing of the line is left.
    """
    line = journal_lines.encode(key, entry, prompt_tokens, completion_tokens)
    try:
      try:
        name, start = await self._writer.write(line)
      except OSError as error:
        if error.errno not in _FULL or not self._spare.give_up():
          raise
        self.full = self._says(error)
        name, start = await self._writer.write(line)
    except OSError as error:
      raise errors.UserError(self._says(error)) from error
    self._insert([(bytes.fromhex(key), self._number(name), start, len(line), prompt_tokens,
                   completion_tokens)])

  def reserve(self, size: int) -> None:
    """Sets so many bytes of the disk aside, for answers that are in flight when it is full.

    Once: later calls do nothing, as when another has taken them up.

    Raises:
      UserError: there is no such room.
    """
    try:
      self._spare.take(size)
    except OSError as error:
      if error.errno not in _FULL:
        return  # A file system that cannot set anything aside.
      raise errors.UserError(
          f'{self.folder}: no room for the answers of the requests in flight '
          f'({error.strerror or error}); make room or name another --journal') from error

  async def settle(self) -> None:
    """Returns once everything added so far survives a power cut, and can be read."""
    await self._writer.settle()

  async def close(self) -> None:
    self._spare.give_up()
    await self._writer.close()

  def usage(self, keys: Iterable[str] | None = None) -> Usage:
    """Of all that is in the journal, or of some answers; what has no tokens is no request then."""
    if keys is not None:
      query = 'SELECT prompt_tokens, completion_tokens FROM answers WHERE key = ?'
      found = [row for key in keys if (row := self._one(query, (bytes.fromhex(key),))) and row[1]]
      return Usage(len(found), sum(row[0] for row in found), sum(row[1] for row in found))
    return Usage(*self._one(
        'SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) '
        'FROM answers'))

  def _says(self, error: OSError) -> str:
    return (f'{self.folder}: an answer could not be written down ({error.strerror or error}); make '
            'room or name another --journal, then run the same command again')

  def _find(self, key: str) -> tuple[int, int, int] | None:
    return self._one('SELECT file, start, size FROM answers WHERE key = ?', (bytes.fromhex(key),))

  def _one(self, query: str, values: Sequence[Any] = ()) -> Any:
    """The first row, or None."""
    with self._lock:
      return self._index.execute(query, values).fetchone()

  def _insert(self, rows: Sequence[tuple]) -> None:
    with self._lock:
      self._index.executemany('INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)', rows)

  def _number(self, name: str) -> int:
    if name not in self._numbers:
      self._numbers[name] = len(self._names)
      self._names.append(name)
    return self._numbers[name]

  def _read_file(self, name: str) -> None:
    start, number = self._read.get(name, (0, 0))
    file, rows = self._number(name), []
    with (epath.Path(self.folder) / name).open('rb') as f:
      f.seek(start)
      for line in f:
        if not line.endswith(b'\n'):
          self.torn.append(f'{self.folder}/{name}')
          break
        number += 1
        found = journal_lines.index(line)
        if found is None:
          self.damaged.append(f'{self.folder}/{name}, line {number}')
        else:
          rows.append((found[0], file, start, len(line), *found[1:]))
        start += len(line)
        if len(rows) == 10_000:
          self._insert(rows)
          rows = []
    self._insert(rows)
    self._read[name] = (start, number)


def entries(folder: str) -> Iterator[Mapping[str, Any]]:
  """All entries of a journal that can be read, for looking at it."""
  for path in sorted(epath.Path(folder).glob('*.jsonl')):
    with path.open('rb') as f:
      yield from (entry for line in f if (entry := journal_lines.decode(line)) is not None)


class _Spare:
  """Room on a local disk that is kept for bad times; a kill gives it back too."""

  def __init__(self, folder: str):
    self._folder = folder
    self._fd = -1
    self._taken = files.is_remote(folder)

  def take(self, size: int) -> None:
    if self._taken:
      return
    os.makedirs(self._folder, exist_ok=True)
    path = os.path.join(self._folder, f'.spare-{os.getpid()}-{uuid.uuid4().hex[:8]}')
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)  # Without a name it lasts as long as this process.
    try:
      if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(fd, 0, size)
      else:
        os.write(fd, bytes(size))
    except OSError:
      os.close(fd)
      raise
    self._fd, self._taken = fd, True

  def give_up(self) -> bool:
    """Whether there was any."""
    if self._fd < 0:
      return False
    os.close(self._fd)
    self._fd = -1
    return True


class _Segment:
  """One growing file on a local disk."""

  def __init__(self, folder: str, name: str):
    self._name = f'{name}.jsonl'
    self._path = os.path.join(folder, self._name)
    self._fd = -1
    self._end = self._synced = 0
    self._syncing: asyncio.Task[None] | None = None

  def owns(self, name: str) -> bool:
    return name == self._name

  async def write(self, line: bytes) -> tuple[str, int]:
    if self._fd < 0:
      self._open()
    start = self._end
    try:
      written = 0
      while written < len(line):
        written += os.write(self._fd, line[written:])
    except OSError:
      os.ftruncate(self._fd, start)  # A full disk can take half a line.
      raise
    self._end += len(line)
    if self._syncing is None or self._syncing.done():
      self._syncing = asyncio.create_task(self._sync_soon())
    return self._name, start

  async def settle(self) -> None:
    if self._syncing is not None and self._syncing.done():
      self._syncing.result()  # Raises if the disk failed.
    while self._synced < self._end:
      await self._sync()

  async def close(self) -> None:
    if self._fd >= 0:
      await self.settle()
      if self._syncing is not None:
        self._syncing.cancel()
      os.close(self._fd)
      self._fd = -1

  def _open(self) -> None:
    folder = os.path.dirname(self._path)
    os.makedirs(folder, exist_ok=True)
    self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    directory = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(directory)  # The file's name survives a power cut too.
    finally:
      os.close(directory)

  async def _sync_soon(self) -> None:
    await asyncio.sleep(_SYNC_SECONDS)
    await self._sync()

  async def _sync(self) -> None:
    end = self._end
    await asyncio.to_thread(os.fsync, self._fd)
    self._synced = max(self._synced, end)


class _Parts:
  """Immutable files of some lines each: an object cannot be added to."""

  def __init__(self, folder: str, name: str):
    self._folder, self._name = epath.Path(folder), name
    self._lines: list[bytes] = []
    self._size = 0
    self._pending: set[asyncio.Task[None]] = set()
    self._timer: asyncio.TimerHandle | None = None
    self._part = 0

  def owns(self, name: str) -> bool:
    return name.startswith(self._name)

  async def write(self, line: bytes) -> tuple[str, int]:
    name, start = self._part_name(), self._size
    self._lines.append(line)
    self._size += len(line)
    if len(self._lines) >= _PART_LINES:
      self._flush()
    elif self._timer is None:
      self._timer = asyncio.get_running_loop().call_later(_PART_SECONDS, self._flush)
    for task in [task for task in self._pending if task.done()]:
      self._pending.discard(task)
      task.result()  # Raises what the upload raised.
    return name, start

  async def settle(self) -> None:
    self._flush()
    pending, self._pending = self._pending, set()
    await asyncio.gather(*pending)

  async def close(self) -> None:
    await self.settle()

  def _flush(self) -> None:
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None
    if not self._lines:
      return
    data, name = b''.join(self._lines), self._part_name()
    self._lines, self._size = [], 0
    self._part += 1
    self._pending.add(asyncio.create_task(asyncio.to_thread(self._upload, name, data)))

  def _part_name(self) -> str:
    return f'{self._name}-{self._part:06d}.jsonl'

  def _upload(self, name: str, data: bytes) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    (self._folder / name).write_bytes(data)


if __name__ == '__main__':
  asked = argparse.ArgumentParser(description='Prints the entries of a journal as JSON lines.')
  asked.add_argument('folder')
  for one in entries(asked.parse_args().folder):
    print(json.dumps(one))
