"""Errors that are the user's to fix: one line, naming the file, row, field or flag."""

import difflib
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """What to append to "unknown X": the nearest known names, or all if none is near.

  >>> did_you_mean('dss_cka', ['dss_cqa', 'dss_svamp'])
  "did you mean 'dss_cqa'?"
  """
  names = sorted(known)
  nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
  if nearest:
    return 'did you mean ' + ' or '.join(repr(one) for one in nearest) + '?'
  return f"known: {', '.join(names) or 'none'}"
