"""Answers that are JSON: {"rationale": ..., "label": ...}, however they are wrapped."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from dss_jax import equations
from dss_jax.teacher.read import table as table_lib

_DECODER = json.JSONDecoder(strict=False, parse_float=str, parse_int=str, parse_constant=str)
_TRAILING_COMMA = re.compile(r',(?=\s*[}\]])')
_MOST_TRIED = 16  # braces of a text at which an object may begin
_LONGEST = 100_000  # characters of a Python literal


def find(text: str, table: table_lib.Table) -> tuple[Mapping[str, Any], int, int] | None:
  """The first object that has a label: its fields by normal keys, and where it stands."""
  for number, brace in enumerate(re.finditer(r'\{', text)):
    if number == _MOST_TRIED:
      break
    value, end = _object(text, brace.start())
    if isinstance(value, dict):
      found = {_key(key): one for key, one in value.items() if isinstance(key, str)}
      if any(key in found for key in table.lists['json_label']):
        return found, brace.start(), end
  return None


def begun(text: str, table: table_lib.Table) -> bool:
  """Whether a text is such an object that breaks off."""
  keys = '|'.join(name.replace('_', '[-_ ]')
                  for name in (*table.lists['json_label'], *table.lists['json_rationale']))
  return bool(re.match(rf'\s*(?:```\w*\s*)?\{{\s*["\'](?:{keys})["\']\s*:', text, re.IGNORECASE))


def labels(found: Mapping[str, Any], table: table_lib.Table) -> list[str]:
  """What the fields that hold a label say, as texts; '' for what is no text."""
  return [_text(found[key]) for key in table.lists['json_label'] if key in found]


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
