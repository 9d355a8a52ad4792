"""Files that are whole or absent, locks, and which paths can be read and written here.

A path is on this machine's disks, or an address on an object store (`gs://BUCKET/...`).
"""

import contextlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator

from etils import epath

from dss_jax import errors

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):/(/?)')  # 's3:/x' too: a slash was lost.


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether it is an address, which this machine's own file functions do not know."""
  return '://' in os.fspath(path)


def real(folder: str) -> str:
  """What tells whether two names are of one folder."""
  return folder.rstrip('/') if is_remote(folder) else os.path.realpath(folder)


def check_path(name: str, path: str | None, *, local: bool = False, hub: bool = False) -> None:
  """Refuses an address that nothing here reads, before anything is read or made.

  Args:
    name: what the user set it with: a flag, a variable, a macro.
    path: its value.
    local: whether it must be on this machine.
    hub: whether it may be a model at the Hugging Face hub, hf://OWNER/NAME.

  Raises:
    UserError: the path has a scheme other than `gs://`, or any if it must be local.
  """
  found = _SCHEME.match(path or '')
  if not found or (found[0] == 'gs://' and not local) or (found[0] == 'hf://' and hub):
    return
  takes = 'a copy of it on this machine' if local else (
      "a path on this machine's disks, or gs://BUCKET/...")
  raise errors.UserError(f'{name}={path}: {found[1]}:// cannot be read or written here; use '
                         f'{takes}')


def check_writable(name: str, folder: str) -> None:
  """Sees that files can be made in a folder, which need not be there; makes none.

  Args:
    name: what the user set it with: a flag, a macro.
    folder: its value; nothing is tried on an object store.

  Raises:
    UserError: the folder cannot be made or written, or is a file.
  """
  if is_remote(folder):
    return
  there = os.path.abspath(folder)
  while not os.path.lexists(there):
    there = os.path.dirname(there)
  try:
    with tempfile.TemporaryFile(dir=there):
      pass
  except OSError as error:
    what = f'{there} is a file' if os.path.isfile(there) else error.strerror
    raise errors.UserError(f'{name}={folder}: cannot be written ({what}); name a folder that can'
                           ) from error


def check_writable_file(name: str, path: str) -> None:
  """As `check_writable`, of the folder of a file; UserError also if the file is a folder."""
  if is_remote(path):
    return
  if os.path.isdir(path):
    raise errors.UserError(f'{name}={path} is a folder: name a file')
  try:
    check_writable(name, os.path.dirname(os.path.abspath(path)))
  except errors.UserError as error:
    why = str(error).partition(': ')[2].replace('a folder that', 'a place that')
    raise errors.UserError(f'{name}={path}: {why}') from error


def check_new_folder(name: str, folder: str) -> None:
  """UserError unless the folder, which must not be there, can be made where it is to be."""
  if epath.Path(folder).exists():
    raise errors.UserError(f'{name}={folder} exists: give a new folder, or remove it')
  check_writable_file(name, folder)


def write(path: str, data: bytes | str) -> None:
  """Writes a whole file, see `whole`."""
  with whole(path) as aside:
    aside.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[epath.Path]:
  """A file to write aside; fsynced and renamed to `path` when the block ends well.

  A kill, an error or a full disk leaves an earlier file intact.
  """
  target = epath.Path(path)
  aside = target.parent / f'.{target.name}.writing-{os.getpid()}'
  try:
    yield aside
    fsync(str(aside))
    aside.replace(target)
  finally:
    aside.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[epath.Path]:
  """A new folder to write aside; renamed to `path` when the block ends well, else removed.

  An object store cannot rename a folder: there it is `path` itself, and a file that is written
  last must mark a whole one.
  """
  target = epath.Path(path)
  aside = target if is_remote(path) else (
      target.parent / f'.{target.name}.writing-{os.getpid()}')
  aside.mkdir(parents=True)
  try:
    yield aside
    if aside != target:
      aside.rename(target)
  except BaseException:
    aside.rmtree(missing_ok=True)
    raise


def fsync(path: str) -> None:
  """Forces a local file to disk; an object store keeps an object whole once it is closed."""
  if is_remote(path):
    return
  with open(path, 'rb') as f:
    os.fsync(f.fileno())


@contextlib.contextmanager
def lock(folder: str, name: str) -> Iterator[None]:
  """One job at a time: holds `<folder>/.<name>.lock` until the block ends.

  The system frees a killed job's, and the second job is told whose it is.
  An object store has no locks: there it is left to the user not to start two.

  Raises:
    UserError: another job holds it, or the folder cannot be written.
  """
  if is_remote(folder):
    yield
    return
  import fcntl  # Not on every platform; only local folders need it.
  path = os.path.join(folder, f'.{name}.lock')
  try:
    os.makedirs(folder, exist_ok=True)
    file = open(path, 'a+')  # noqa: SIM115  Closed below.
  except OSError as error:
    raise errors.UserError(
        f'{folder}: cannot be written ({error.strerror}); name a folder that can') from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.seek(0)
      raise errors.UserError(
          f'{path}: another job is at work on {name} ({_holder(file.read())}); wait for it, or '
          'write to another folder') from None
    file.seek(0)
    file.truncate()
    json.dump({'process': os.getpid(), 'host': platform.node(),
               'since': time.strftime('%Y-%m-%d %H:%M:%S')}, file)
    file.flush()
    yield


def _holder(text: str) -> str:
  try:
    return ', '.join(f'{key} {value}' for key, value in json.loads(text).items())
  except ValueError:
    return 'it has just begun'
