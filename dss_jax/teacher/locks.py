"""One job at a time on a set: the second is told so instead of asking everything again."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator

from dss_jax import errors


@contextlib.contextmanager
def hold(folder: str, name: str) -> Iterator[None]:
  """Holds `<folder>/.<name>.lock` until the block ends; the system frees a killed job's.

  An object store has no locks: there it is left to the user not to start two.

  Raises:
    UserError: another job holds it, or the folder cannot be written.
  """
  if '://' in folder:
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
