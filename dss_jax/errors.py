"""Errors that are the user's to fix: one line, naming the file, row, field or flag."""

import difflib
import errno
import os
import re
from collections.abc import Iterable


class _InOneLine(Exception):

  def _render_traceback_(self) -> list[str]:
    """What a notebook shows (an IPython protocol): the message is what the user can use."""
    return [f'error: {self}']


class UserError(_InOneLine):
  """Wrong input or settings. `dss_jax.cli.run` prints the message and exits with 2."""


class Stop(_InOneLine):
  """The program was told to stop, and has saved its work. `dss_jax.cli.run` exits with the code."""

  def __init__(self, exit_code: int, why: str):
    super().__init__(why)
    self.exit_code = exit_code


class Collected:
  """Errors of many rows, so that all are told at once: `with` it around each row, then `check()`.

  An error about one row is raised as it is; of several the first ten are listed.
  """

  _SHOWN = 10

  def __init__(self, what: str):
    """`what` they are: 'rows of in.jsonl'."""
    self._what = what
    self._texts: list[str] = []
    self._count = 0

  def __enter__(self) -> 'Collected':
    return self

  def __exit__(self, kind, error, trace) -> bool:
    if not isinstance(error, UserError):
      return False
    self._count += 1
    if self._count <= self._SHOWN:
      self._texts.append(str(error))
    return True

  def check(self) -> None:
    """Raises UserError if there were errors."""
    if self._count == 1:
      raise UserError(self._texts[0])
    if self._count:
      more = self._count - len(self._texts)
      raise UserError('\n  '.join([f'{self._count:,} {self._what} cannot be used:', *self._texts,
                                   *([f'and {more:,} more'] if more else [])]))


def system_error(error: Exception) -> str:
  """'No space left on device: Error writing ...': the system's words, which libraries put last.

  Returns: '' where the error is not about a disk that is full, gone or not to be written.
  """
  text = ' '.join(re.sub(r'\{\{.*?\}\}', '', str(error)).split())  # Without TensorFlow's node.
  for number in _OF_DISKS:
    if (says := os.strerror(number)) in text:
      return text[:200] if says in text[:200] else f'{says}: {text[:160]}...'
  return ''


_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """What to append to "unknown X": the nearest known names, or all if none is near.

  >>> did_you_mean('dss_cka', ['dss_cqa', 'dss_svamp'])
  "did you mean 'dss_cqa'?"
  """
  names = sorted(known)
  nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
  if nearest:
    return 'did you mean ' + ' or '.join(repr(one) for one in nearest) + '?'
  shown = [repr(one) if ',' in one else one for one in names]
  return f"known: {', '.join(shown) or 'none'}"
