"""What the released code reads from a completion, defects included.

github.com/google-research/distilling-step-by-step (ef94426), `data_utils.py`, the
`_parse_llm_output` of each loader, re-implemented; for comparison with the paper's numbers.
"""

import re
from collections.abc import Callable

from dss_jax import datasets, errors
from dss_jax.teacher.read import parsed

RAISES = 'released_raises'
BLANK = 'released_blank'

_LETTER = re.compile(r'\(.\)')
_PARENTHESES = re.compile(r'\(.*\)')  # '.' stops at a line end


def parse_released(completion: str, dataset: datasets.Dataset) -> parsed.Parsed:
  """Rationale and label exactly as the released code reads them.

  >>> parse_released('Both smell. So the answer is (a) perfume or (b) soap.', cqa)
  Parsed(rationale='Both smell.', label='perfume or', status='ok')

  Its fallbacks are kept: ' ' (cqa label; svamp and asdiv label or both), '' (anli, both).
  The status is `released_blank` where either is blank, since the released code then trains on
  an empty target, and `released_raises` where it stops with an exception (cqa without exactly
  one answer phrase).

  Raises:
    UserError: a dataset that the released code has no parser for.
  """
  if dataset.name not in _PARSERS:
    raise errors.UserError(
        f'--parser=released has no rules for dataset {dataset.name!r}: '
        f'{errors.did_you_mean(dataset.name, _PARSERS)}; use --parser=strict')
  pair = _PARSERS[dataset.name](completion)
  if pair is None:
    return parsed.failed(RAISES)
  rationale, label = pair
  if rationale.strip() and label.strip():
    return parsed.Parsed(rationale, label)
  return parsed.Parsed(rationale, label, BLANK)


def _cqa(completion: str) -> tuple[str, str] | None:
  halves = _halves(completion, 'Q:', 'So the answer is')
  if halves is None:
    return None
  rationale, answer = halves
  # What lies between the first "(x)" and the second, if there is one: hence "perfume or".
  between = _LETTER.split(answer)[1:2]
  label = between[0].strip() if between else ''
  return rationale, label.removesuffix('.') if label else ' '


def _svamp(completion: str) -> tuple[str, str]:
  halves = _halves(completion, 'Q:', 'The answer is')
  if halves is None:
    return ' ', ' '
  rationale, answer = halves
  found = _PARENTHESES.search(answer)
  return rationale, found[0] if found else ' '


def _anli(completion: str) -> tuple[str, str]:
  rationale, answer = _halves(completion, 'Premise:', 'So the answer is') or ('', '')
  return rationale, answer.lstrip()[:-1]  # Takes a period for granted: 'neutra' without one.


def _esnli(completion: str) -> tuple[str, str]:
  rationale = completion.partition('Answer:')[0].rstrip()
  _, phrase, rest = completion.partition('Answer: ')
  if not phrase:
    return rationale, ' '
  return rationale, rest.partition('Answer: ')[0].partition('Premise')[0].rstrip()


def _halves(completion: str, end_marker: str, phrase: str) -> tuple[str, str] | None:
  """Around the answer phrase, if it occurs exactly once before the end marker."""
  body = completion.partition(end_marker)[0].rstrip()
  if body.count(phrase) != 1:
    return None
  rationale, _, answer = body.partition(phrase)
  return rationale.rstrip(), answer


_PARSERS: dict[str, Callable[[str], tuple[str, str] | None]] = {
    'cqa': _cqa,
    'svamp': _svamp,
    'asdiv': _svamp,
    'anli': _anli,
    'esnli': _esnli,
}
