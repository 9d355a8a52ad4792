"""Errors that are the user's to fix: one line, naming the file, row, field or flag."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """Wrong input or settings. `dss_jax.cli.run` prints the message and exits with 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """What to append to "unknown X": the nearest known name, or all of them.

  >>> did_you_mean('dss_cka', ['dss_cqa', 'dss_svamp'])
  "did you mean 'dss_cqa'? (known: dss_cqa, dss_svamp)"
  """
  names = sorted(known)
  nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  question = f"did you mean '{nearest[0]}'? " if nearest else ''
  listed = ', '.join(names[:40]) + (', ...' if len(names) > 40 else '')
  return f"{question}(known: {listed or 'none'})"
