"""Request and result files of a batch: JSON lines, as OpenAI's Batch API has them.

A request and its result; `vllm run-batch` reads and writes the same:

  {"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}
  {"custom_id": KEY, "response": {"status_code": 200, "body": {...}}, "error": null}
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a file; OpenAI's limits
_EXPIRED = ('batch_expired', 'batch_cancelled', 'batch_canceled')


@dataclasses.dataclass(frozen=True)
class Result:
  """A line of a result or error file.

  Attributes:
    key: of the request.
    status: as HTTP has them; 0 if the request was never worked on.
    body: the response, or what the server says of the error.
  """

  key: str
  status: int
  body: Any


def request_line(key: str, url: str, body: Mapping[str, Any]) -> bytes:
  line = {'custom_id': key, 'method': 'POST', 'url': url, 'body': body}
  return json.dumps(line).encode('ascii') + b'\n'


def results(path: epath.Path) -> Iterator[Result | None]:
  """A file's lines in order; None for one that is no result."""
  with path.open('rb') as f:
    for line in f:
      if line.strip():
        yield _result(line)


def _result(line: bytes) -> Result | None:
  try:
    found = json.loads(line)
    response, error, key = found.get('response') or {}, found.get('error'), found['custom_id']
    body = response.get('body')
    status = int(response.get('status_code') or 0)
  except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
    return None
  if not isinstance(key, str):
    return None
  if error and not (body and status >= 400):
    code = error.get('code') if isinstance(error, dict) else None
    body = {'error': error}
    status = 0 if code in _EXPIRED else status if status >= 400 else (
        code if isinstance(code, int) and code >= 400 else 500)
  return Result(key, status, body)
