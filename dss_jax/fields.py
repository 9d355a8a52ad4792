"""What a field of a row may be: one reading for inputs, completions, prompts and predictions.

A value that is no text is never turned into one by Python's `str`: null, NaN, true, lists and
objects would become 'None', 'nan', 'True' and "['a']", and a model would learn them. Numbers are
taken as they are written.
"""

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from dss_jax import errors


class WrittenFloat(float):
  """A number that is printed as it stands in its file: '1.0', '1e3', not '1000.0'."""

  _written: str

  def __new__(cls, written: str):
    self = super().__new__(cls, written)
    self._written = written
    return self

  def __str__(self) -> str:
    return self._written

  def __getnewargs__(self):
    return (self._written,)


def parse_json(line: str) -> Any:
  """`json.loads` that keeps how numbers are written; raises ValueError."""
  return json.loads(line, parse_float=WrittenFloat)


def text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
  """The row's field as text.

  {'id': 7} -> '7', {'label': 1e3} -> '1e3' if that is what the file says.

  Args:
    row: a JSON object, or what a `load` function or TFDS gives.
    name: of the field.
    default: of a row without it; None if the field is needed.

  Raises:
    KeyError: no such field, and no default.
    UserError: null, true or false, NaN, a list, an object; names the field.
  """
  if name not in row and default is not None:
    return default
  return as_text(row[name], f'field {name!r}')


def label(row: Mapping[str, Any], name: str = 'label') -> str:
  """The gold label; '' where it is not known: the field is absent, null or ''."""
  return '' if row.get(name) is None else text(row, name)


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
  """The row's field as a list of texts: ['yes', 1] -> ('yes', '1').

  Raises:
    KeyError: no such field.
    UserError: not a list, or one with an entry that is no text or blank.
  """
  return as_texts(row[name], f'field {name!r}')


def as_text(value: Any, where: str) -> str:
  """A text as it is, a number as it is written; UserError, with `where`, for anything else."""
  if isinstance(value, str):
    return str(value)
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if number and (isinstance(value, WrittenFloat) or math.isfinite(value)):
    return str(value)
  if value is None:
    raise errors.UserError(f'{where} is null (of a table: an empty cell): fill it in, or remove '
                           'the row')
  raise errors.UserError(f'{where} is {describe(value)}: write it as text, "..."')


def as_texts(value: Any, where: str) -> tuple[str, ...]:
  """A list of texts, in order; UserError for a single text, or what has no order."""
  if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
    raise errors.UserError(f'{where} is {describe(value)}: give a list of texts, ["...", "..."]')
  found = tuple(as_text(one, f'{where}, entry {i}') for i, one in enumerate(value, 1))
  for i, one in enumerate(found, 1):
    if not one.strip():
      raise errors.UserError(f'{where}, entry {i}, is blank: fill it in, or remove it')
  return found


def label_set(value: Any, where: str) -> tuple[str, ...]:
  """A closed label set, each label exactly as it is given, spaces included; numbers as text.

  Raises:
    UserError: no list (a set has no order), empty, a label that is no text, blank, half a
      surrogate pair, or there twice.
  """
  found = as_texts(value, where)
  if not found:
    raise errors.UserError(f'{where} is empty: leave it out where any text is a label')
  for i, one in enumerate(found):
    if one in found[:i]:
      raise errors.UserError(f'{where}: {one!r} is there twice')
    check_unicode(one, f'{where}: {one!r}')
  return found


def check_unicode(value: str, where: str) -> None:
  """UserError for half a surrogate pair."""
  try:
    value.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.UserError(
        f'{where} holds half of a surrogate pair at character {error.start}, which no text file '
        'can; remove it') from error


def unicode(value: Any, where: str) -> str:
  """`as_text` of what must be UTF-8, see `check_unicode`."""
  text = as_text(value, where)
  check_unicode(text, where)
  return text


def describe(value: Any) -> str:
  """What a value is, in the words of its file: 'null', 'true', 'NaN', 'a list (["a"])'."""
  if value is None or isinstance(value, bool):
    return {None: 'null', True: 'true', False: 'false'}[value]
  if isinstance(value, float) and not math.isfinite(value):
    return 'NaN' if math.isnan(value) else 'infinite'
  kinds = ((str, 'one text'), (bytes, 'bytes'), (numbers.Real, 'the number'),
           (Mapping, 'an object'), (Set, 'a set, which has no order,'), (Sequence, 'a list'))
  kind = next((name for of, name in kinds if isinstance(value, of)), type(value).__name__)
  shown = repr(value)
  return f'{kind} {shown if len(shown) <= 40 else shown[:37] + "..."}'
