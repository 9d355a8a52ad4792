"""What one server takes of what the OpenAI API has, learned from what it refuses.

A request is the same for all servers, and so is its key in the journal; what is sent of it is a
matter of the dialect. Everything here was said by some server in a status 400 or 422.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_REFUSES = re.compile(
    r"unsupported|not (?:be )?supported|n[o']t support|not (?:permitted|allowed|accepted|enabled)|"
    r'unrecognized|unknown|unexpected|extra (?:inputs|fields)|deprecated|only (?:the )?default|'
    r'(?:may|can|must) (?:only )?be|invalid|unavailable', re.IGNORECASE)
_TOO_MANY_TOKENS = re.compile(
    r'context|too (?:long|large|many)|exceed|at most|less than or equal|(?:greater|more) than',
    re.IGNORECASE)
_NO_SYSTEM = re.compile(
    r'system.{0,40}(?:not|unsupported|invalid)|(?:not|unsupported|invalid).{0,40}system|'
    r'roles must alternate', re.IGNORECASE | re.DOTALL)


class Dialect:
  """What has been learned of a server; applied to every request that is sent to it.

  Attributes:
    version: how many things were learned.
  """

  def __init__(self) -> None:
    self.version = 0
    self._known: list[Callable[[dict[str, Any]], None]] = []

  def body(self, request: Mapping[str, Any], room: int = 0) -> dict[str, Any]:
    """What is sent for a request; `room` tokens more than it asks for are allowed."""
    body = dict(request)
    for name in ('max_tokens', 'max_completion_tokens'):
      if room and body.get(name):
        body[name] += room
    for change in self._known:
      change(body)
    return body

  def learn(self, says: str, body: Mapping[str, Any]) -> str:
    """How requests are sent from now on, in words, after one was refused; '' if as before.

    Args:
      says: the server's words, with the name of the parameter if it gave one.
      body: what it refused.
    """
    for name, change, words in _CHANGES:
      if change in self._known or not _concerns(name, says, body):
        continue
      self._known.append(change)
      self.version += 1
      return words
    return ''


def too_many_tokens(says: str) -> bool:
  """Whether the server refused for want of room."""
  return bool(_TOO_MANY_TOKENS.search(says))


def _concerns(name: str, says: str, body: Mapping[str, Any]) -> bool:
  if name == 'system':
    return body.get('messages', [{}])[0].get('role') == 'system' and bool(_NO_SYSTEM.search(says))
  # As a field: in quotes, first or last of all, or after the word for one; not in a prompt's words.
  named = re.search(rf'[\'"`]{name}[\'"`]|^{name}\b|\b{name}$|'
                    rf'(?:parameter|argument|field|option)s?\b.{{0,40}}\b{name}\b', says.strip())
  refuses = _REFUSES.search(says) and not (name.startswith('max') and too_many_tokens(says))
  return name in body and bool(named) and bool(refuses)


def _rename_limit(body: dict[str, Any]) -> None:
  if 'max_tokens' in body:
    body['max_completion_tokens'] = body.pop('max_tokens')


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
  def change(body: dict[str, Any]) -> None:
    body.pop(name, None)
  return change


def _any_json(body: dict[str, Any]) -> None:
  if 'response_format' in body:
    body['response_format'] = {'type': 'json_object'}


def _no_system(body: dict[str, Any]) -> None:
  messages = [dict(one) for one in body.get('messages', ())]
  if len(messages) > 1 and messages[0]['role'] == 'system':
    first = messages.pop(0)
    messages[0]['content'] = f'{first["content"]}\n\n{messages[0]["content"]}'
    body['messages'] = messages


# Field, what is done, and the words for it; in this order, each at most once.
_CHANGES: tuple[tuple[str, Callable[[dict[str, Any]], None], str], ...] = (
    ('max_tokens', _rename_limit, 'the limit of tokens goes as max_completion_tokens'),
    ('temperature', _drop('temperature'), 'no temperature is sent: it draws at its own'),
    ('stop', _drop('stop'), 'no stop strings are sent: answers are cut when they are read'),
    ('system', _no_system, "the instruction goes into the first user's turn: it takes no system "
     'role'),
    ('response_format', _any_json, 'any JSON is asked for: it takes no schema'),
    ('response_format', _drop('response_format'), 'JSON is asked for in words alone'),
)
