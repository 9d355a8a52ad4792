"""Answers that are JSON: {"rationale": ..., "label": ...}, however they are wrapped."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, equations
from dss_jax.teacher.read import table as table_lib


def _pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
  """A key that is there twice, with two values, has both."""
  made: dict[str, Any] = {}
  for key, value in found:
    made[key] = [made[key], value] if key in made and made[key] != value else value
  return made


_DECODER = json.JSONDecoder(strict=False, parse_float=str, parse_int=str, parse_constant=str,
                            object_pairs_hook=_pairs)
_BEGINS = re.compile(r'\s*(?:```\w*\s*)?(?=\{)')
_TRAILING_COMMA = re.compile(r',(?=\s*[}\]])')
_MOST_TRIED = 16  # braces of a text at which an object may begin
_LONGEST = 100_000  # characters of a Python literal


def find(text: str, keys: Sequence[str]) -> list[tuple[Mapping[str, Any], int, int]]:
  """The objects that have a label under one of the keys: fields by normal keys, start, end."""
  found: list[tuple[Mapping[str, Any], int, int]] = []
  for number, brace in enumerate(re.finditer(r'\{', text)):
    if number == _MOST_TRIED:
      break
    if found and brace.start() < found[-1][2]:
      continue
    value, end = _object(text, brace.start())
    if isinstance(value, dict):
      fields = {_key(key): one for key, one in value.items() if isinstance(key, str)}
      if any(key in fields for key in keys):
        found.append((fields, brace.start(), end))
  return found


def keys_of(form: datasets.CompletionFormat, table: table_lib.Table) -> tuple[str, ...]:
  """The keys of a label: those of the table, and what the answer phrase calls it: 'So the level is'
  -> 'level'."""
  small = {word for name in ('connectives', 'articles', 'adjectives', 'verbs', 'joints')
           for one in table.lists[name] for word in one.split()}
  words = [word for word in _key(form.answer_phrase).split('_') if word and word not in small]
  return (*table.lists['json_label'], *(['_'.join(words)] if 0 < len(words) < 3 else []))


def begun(text: str, keys: Sequence[str], table: table_lib.Table) -> bool:
  """Whether a text is such an object that breaks off."""
  names = '|'.join(re.escape(name).replace('_', '[-_ ]')
                   for name in (*keys, *table.lists['json_rationale']))
  return bool(re.match(rf'\s*(?:```\w*\s*)?\{{\s*["\'](?:{names})["\']\s*:', text, re.IGNORECASE))


def is_object(text: str) -> bool:
  """Whether a text begins with an object that is complete."""
  start = _BEGINS.match(text)
  return start is not None and isinstance(_object(text, start.end())[0], dict)


def labels(found: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
  """What the fields that hold a label say, as texts; '' for what is no text."""
  return [_text(found[key]) for key in keys if key in found]


def rationale(found: Mapping[str, Any], table: table_lib.Table) -> str:
  for key in table.lists['json_rationale']:
    if said := _text(found.get(key, ''), joined=True).strip():
      return said
  return ''


def _object(text: str, start: int) -> tuple[Any, int]:
  try:
    return _DECODER.raw_decode(text, start)
  except (ValueError, RecursionError):
    pass
  end = text.rfind('}') + 1
  said = text[start:end]
  for read in (lambda: _DECODER.decode(_TRAILING_COMMA.sub('', said)),
               lambda: ast.literal_eval(equations.parse(said)) if len(said) < _LONGEST else None):
    try:
      return read(), end
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      continue
  return None, start


def _key(name: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', name.strip().lower()).strip('_')


def _text(value: Any, joined: bool = False) -> str:
  if isinstance(value, str):
    return value
  if isinstance(value, bool):
    return 'true' if value else 'false'
  if isinstance(value, int | float):
    return str(value)
  if isinstance(value, list) and value and (joined or len(value) == 1):
    return ' '.join(_text(one) for one in value)
  return ''
