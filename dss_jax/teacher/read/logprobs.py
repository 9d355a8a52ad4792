"""The tokens of an answer with their probabilities, in whichever layout a server gives them.

Chat completions: {'content': [{'token': ' bug', 'bytes': [32, 98, ...], 'logprob': -0.1,
'top_logprobs': [...]}, ...]}. Legacy completions: {'tokens': [...], 'token_logprobs': [...],
'top_logprobs': [{' bug': -0.1, ' billing': -2.4}, ...]}. In the journal: {'kept': [[' bug', -0.1,
[[' billing', -2.4]]], ...]}, from `kept`.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

LEAST = 1e-4  # the probability under which an alternative is not kept
_KEPT = 'kept'
_BYTES = re.compile(r'bytes:((?:\\x[0-9a-fA-F]{2})+)')  # OpenAI's legacy name for half a character
_Entry = tuple[bytes, float, list[tuple[bytes, float]]]


class Token(NamedTuple):
  """One that was written.

  Attributes:
    text: UTF-8, perhaps half a character.
    probability: of it, after all before it.
    others: what could have stood there instead, likewise.
  """

  text: bytes
  probability: float
  others: tuple[tuple[bytes, float], ...]


def tokens(found: Any) -> list[Token]:
  """The tokens of a `logprobs` field, in order; none of what has another layout."""
  return [Token(text, math.exp(logprob), tuple(
      (other, math.exp(value)) for other, value in more if other != text))
          for text, logprob, more in _read(found)]


def kept(found: Any) -> dict[str, Any] | None:
  """A `logprobs` field as the journal has it: without alternatives of less than LEAST.

  Bytes that are no character are half a surrogate pair each, as Python's 'surrogateescape' has
  them. None of what has no layout that is known.
  """
  least = math.log(LEAST)
  return {_KEPT: [
      [_escaped(text), round(logprob, 4), [[_escaped(other), round(value, 4)]
                                           for other, value in more
                                           if other != text and value >= least]]
      for text, logprob, more in entries]} if (entries := _read(found)) else None


def _read(found: Any) -> list[_Entry]:
  if not isinstance(found, dict):
    return []
  try:
    return list(_entries(found))
  except (TypeError, ValueError, KeyError, AttributeError):
    return []


def _entries(found: dict[str, Any]) -> Iterator[_Entry]:
  if isinstance(known := found.get(_KEPT), list):
    for text, logprob, more in known:
      yield _unescaped(text), logprob, [(_unescaped(other), value) for other, value in more]
  elif isinstance(content := found.get('content'), list):
    for one in content:
      yield _bytes(one), _number(one['logprob']), [
          (_bytes(other), _number(other['logprob'])) for other in one.get('top_logprobs') or ()]
  elif isinstance(texts := found.get('tokens'), list):
    tops = found.get('top_logprobs') or [None] * len(texts)
    for text, logprob, more in zip(texts, found['token_logprobs'], tops, strict=True):
      yield _named(text), _number(logprob), [
          (_named(other), _number(value)) for other, value in (more or {}).items()]


def _number(value: Any) -> float:
  """At most 0, and finite: -9999 is some servers' word for what has no probability."""
  return max(-9999.0, min(0.0, float(value))) if float(value) <= math.inf else -9999.0  # NaN.


def _bytes(token: dict[str, Any]) -> bytes:
  if (given := token.get('bytes')) and isinstance(given, list):
    return bytes(given)
  return token['token'].encode('utf-8', 'surrogatepass')


def _named(text: str) -> bytes:
  if half := _BYTES.fullmatch(text):
    return bytes.fromhex(half[1].replace('\\x', ''))
  return text.encode('utf-8', 'surrogatepass')


def _escaped(text: bytes) -> str:
  return text.decode('utf-8', 'surrogateescape')


def _unescaped(text: str) -> bytes:
  return text.encode('utf-8', 'surrogateescape')
