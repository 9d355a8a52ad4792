"""Which paths can be read and written: on this machine's disks, and Google's object store."""

import re

from dss_jax import errors

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):/(/?)')  # 's3:/x' too: a slash was lost.


def check(name: str, path: str | None, *, local: bool = False) -> None:
  """Refuses an address that nothing here reads, before anything is read or made.

  Args:
    name: what the user set it with: a flag, a variable, a macro.
    path: its value.
    local: whether it must be on this machine.

  Raises:
    UserError: the path has a scheme other than `gs://`, or any if it must be local.
  """
  found = _SCHEME.match(path or '')
  if not found or (found[0] == 'gs://' and not local):
    return
  takes = 'a copy of it on this machine' if local else (
      "a path on this machine's disks, or gs://BUCKET/...")
  raise errors.UserError(f'{name}={path}: {found[1]}:// cannot be read or written here; use '
                         f'{takes}')
