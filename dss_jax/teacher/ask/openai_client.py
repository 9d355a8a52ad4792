"""A teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, JetStream, or hosted.

The official SDK on its aiohttp transport, with its retries off: they end at a long Retry-After,
and the job's own are for all requests together.
"""

import argparse
import asyncio
import base64
import email.utils
import json
import math
import os
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from dss_jax import errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint, prompts

BASE_URL = 'https://api.openai.com/v1'
_NO_KEY = 'none'  # The SDK sends some key; a local server looks at none.
_FATAL = (401, 402, 403, 404, 405)  # statuses and codes that all requests will meet
_FATAL_CODES = ('insufficient_quota', 'billing_hard_limit_reached')
_LATER = (408, 409, 425, 429)
# What explains that an answer has no text; without any of it, it is half a response.
_THOUGHTS = ('reasoning_content', 'reasoning')  # a thinking model's, by vLLM's parsers and others
_TEXTLESS = ('refusal', 'tool_calls', 'function_call', *_THOUGHTS)
_TEXTLESS_REASONS = ('content_filter', 'length')
_TEXTLESS_LACKS = ('no content', 'no text')
_BROKEN_OFF = ('error', 'abort')  # finish reasons
_FINISH_REASONS = {'max_tokens': 'length', 'max_output_tokens': 'length', 'model_length': 'length',
                   'safety': 'content_filter'}  # other servers' words for OpenAI's
_NOT_EXTRA = {  # fields of --params: (values that change nothing, why there can be no others)
    'stream': ((False, None), 'answers are read whole; leave it out'),
    'n': ((1, None), 'one answer of a response is read, and all are paid for; use --samples'),
    'model': ((), 'records name the teacher by --model; use that'),
    'messages': ((), 'they are made of --prompt and --inputs; leave it out'),
    'prompt': ((), 'it is made of --prompt and --inputs; leave it out'),
}
_LONGEST_MESSAGE = 300
_SHORTEST_SECRET = 8  # 'EMPTY', 'x': what stands in for a key may be a word of an answer
_SHORTEST_PARAMETER = 20  # of the address that may be a key: 'api-version=2025-01-01' is none


class OpenAIEndpoint:
  """An `endpoint.Endpoint` for /chat/completions or /completions of a server.

  One event loop: connections belong to that of the first request.
  """

  name = 'openai'

  def __init__(self, model: str, base_url: str | None, api_key: str, kind: str, timeout: float,
               max_in_flight: int):
    """Connects to nothing yet.

    Args:
      model: its name at the server.
      base_url: up to /v1, with `user:password@` and `?query` where a proxy wants them; None is
        OpenAI's.
      api_key: the key.
      kind: 'chat' or 'completions'.
      timeout: seconds for one request, from connecting to the last byte.
      max_in_flight: connections at most; more requests wait for one.

    Raises:
      UserError: a base_url that is none, or the SDK is not installed.
    """
    self.model = model
    self._chat = kind == 'chat'
    self._timeout = timeout
    self._base_url, userinfo, query = _address(base_url or BASE_URL)
    headers, secrets = {}, [api_key]
    secrets += [value for value in query.values() if len(value) >= _SHORTEST_PARAMETER]
    if userinfo:  # Left in the URL, aiohttp would refuse it beside the SDK's own header.
      token = base64.b64encode(userinfo.encode()).decode()
      headers['Authorization'] = f'Basic {token}'
      secrets += [token, userinfo, userinfo.partition(':')[2]]
    secrets = [one for one in secrets if len(one) >= _SHORTEST_SECRET]
    self._secrets = sorted(secrets, key=len, reverse=True)  # One may be part of another.
    self._client = _connect(max_in_flight, timeout, api_key=api_key, base_url=self._base_url,
                            default_headers=headers, default_query=query)

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'OpenAIEndpoint':
    if not flags.model:
      raise errors.UserError('--client=openai needs --model=NAME, what the server calls its model')
    base_url = flags.base_url or os.environ.get('OPENAI_BASE_URL')
    variable = flags.api_key_env
    key = os.environ.get(variable, '').strip()
    if not key and not base_url:
      raise errors.UserError(f'--client=openai: put the key into the environment as {variable}, or '
                             'set --base_url to a server that needs none')
    if flags.timeout <= 0:
      raise errors.UserError(f'--timeout={flags.timeout:g}: give seconds above 0')
    if not all('!' <= character <= '~' for character in key):
      raise errors.UserError(f'{variable} holds a space or another character that no key has')
    return cls(flags.model, base_url, key or _NO_KEY, flags.endpoint, flags.timeout,
               flags.in_flight)

  def request(
      self, prompt: prompts.Prompt, text: str, decoding: endpoint.Decoding
  ) -> dict[str, Any]:
    asked = {'messages': prompt.as_messages(text)} if self._chat else {
        'prompt': prompt.as_text(text)}
    fields = {'model': self.model, **asked, 'max_tokens': decoding.max_tokens,
              'temperature': decoding.temperature, 'stop': list(prompt.stop) or None,
              **decoding.extra}
    for name, (harmless, why) in _NOT_EXTRA.items():
      if name in decoding.extra and decoding.extra[name] not in harmless:
        raise errors.UserError(f'--params: {name!r}: {why}')
    return {name: value for name, value in fields.items() if value is not None}

  async def ask(self, request: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """See `Endpoint`; `seed` is not sent, as servers draw each sample anew."""
    import aiohttp
    import openai
    chat = 'messages' in request
    try:
      # `post`, not `chat.completions.create`: that looks for files among the messages and makes
      # objects of the response, which takes five times as long as all the rest.
      async with asyncio.timeout(self._timeout):
        text = await self._client.post('/chat/completions' if chat else '/completions',
                                       cast_to=str, content=json.dumps(request).encode())
    except openai.APIStatusError as error:
      failure = self._refused(error)
    except TimeoutError:
      failure = endpoint.TryLater(f'no answer within {self._timeout:g} s')
    except (openai.OpenAIError, aiohttp.ClientError, OSError) as error:
      cause = error.__cause__ or error
      says = str(cause).replace(' ssl:default', '') or type(cause).__name__
      failure = endpoint.TryLater(self._message('connection', says))
    else:
      return self._parsed(text, chat)
    raise failure  # Out here: the SDK's error holds the key, and would be this one's context.

  @staticmethod
  def read(response: Mapping[str, Any]) -> endpoint.Answer:
    choice = response['choices'][0]
    message = choice.get('message') or choice
    usage = response.get('usage')
    usage = usage if isinstance(usage, dict) else {}
    content = message.get('content', message.get('text')) or ''
    if isinstance(content, list):
      content = ''.join(part.get('text', '') for part in content if part.get('type') == 'text')
    refused = bool(message.get('refusal'))
    return endpoint.Answer(
        text='' if refused else content,
        finish_reason='refusal' if refused else _finish_reason(choice),
        prompt_tokens=endpoint.token_count(usage.get('prompt_tokens')),
        completion_tokens=endpoint.token_count(usage.get('completion_tokens')),
        thoughts=next((said for name in _THOUGHTS
                       if isinstance(said := message.get(name), str) and said), ''))

  def provenance(self) -> dict[str, Any]:
    return {'endpoint': 'chat' if self._chat else 'completions', 'base_url': self._base_url}

  async def close(self) -> None:
    await self._client.close()

  def _parsed(self, text: str, chat: bool) -> dict[str, Any]:
    """The response as JSON, without secrets.

    Raises:
      TryLater: it is not a completion.
    """
    response: Any = None
    try:
      response = self._scrubbed(json.loads(text.removeprefix('\ufeff')))  # A byte order mark.
      lack, says = _lack(response, chat), _says(response)
    except (ValueError, RecursionError):
      page = text.lstrip().startswith('<')
      lack, says = 'not JSON' + ' but a web page' * page, self._scrubbed(text.strip())[:80]
    if lack:
      raise endpoint.TryLater(self._message(f'the response is no answer: {lack}', says),
                              response=response if lack in _TEXTLESS_LACKS else None)
    return response

  def _refused(self, error: Any) -> Exception:
    """What an error status means to the job."""
    status, after = error.status_code, _retry_after(error.response.headers)
    says = _says(error.body)
    if status < 400 or status in _FATAL or error.code in _FATAL_CODES or (
        error.type in _FATAL_CODES):
      hint = {401: ' (a wrong API key?)', 404: f': no model {self.model!r}, or a wrong '
              f'--base_url={self._base_url} (most end in /v1)'}
      return endpoint.Fatal(self._message(f'{status}{hint.get(status, "")}', says))
    if status in _LATER or status >= 500:
      limited = status == 429 or (status == 503 and after is not None)
      return endpoint.TryLater(self._message(str(status), says), after, limited)
    return endpoint.Rejected(self._message(str(status), says))

  def _message(self, what: str, says: str) -> str:
    """One line; secrets go before the cut, which could leave half of one."""
    line = ' '.join(self._scrubbed(f'{what}: {says}' if says else what).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE - 3] + '...'

  def _scrubbed(self, value: Any) -> Any:
    """A JSON value with *** for what a server echoes of the key."""
    if isinstance(value, str):
      for secret in self._secrets:
        value = value.replace(secret, '***')
      return value
    if isinstance(value, list):
      return [self._scrubbed(one) for one in value]
    if isinstance(value, dict):
      return {self._scrubbed(name): self._scrubbed(one) for name, one in value.items()}
    return value


def _address(base_url: str) -> tuple[str, str, dict[str, str]]:
  """A base_url without its secrets, its `user:password`, and its query."""
  try:
    parts = urllib.parse.urlsplit(base_url.strip())
    usable = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
  except ValueError:  # The port is no number, or half an IPv6 address.
    usable = False
  if not usable:
    shown = base_url.rpartition('@')[2].partition('?')[0]
    raise errors.UserError(f'--base_url={shown}: no address; give it as http://localhost:8000/v1')
  userinfo, _, host = parts.netloc.rpartition('@')
  return (f'{parts.scheme}://{host}{parts.path.rstrip("/")}', urllib.parse.unquote(userinfo),
          dict(urllib.parse.parse_qsl(parts.query)))


def _connect(max_in_flight: int, timeout: float, **arguments: Any) -> Any:
  """The SDK's client."""
  try:
    import aiohttp  # noqa: F401
    import httpx2  # The SDK's own dependency, for its limits.
    import openai
  except ImportError as error:
    raise errors.UserError(
        f"--client=openai needs the OpenAI SDK ({error}): pip install 'openai[aiohttp]'") from error
  # uvicorn, on which vLLM and SGLang run, closes connections that were idle for 5 s: sooner than
  # that, or requests would be sent down a connection that is just being closed.
  limits = httpx2.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight,
                         keepalive_expiry=4.0)
  return openai.AsyncOpenAI(
      http_client=openai.DefaultAioHttpClient(limits=limits), max_retries=0,
      timeout=openai.Timeout(None, connect=min(timeout, 30.0)), **arguments)


def _lack(response: Any, chat: bool) -> str:
  """What keeps a response from being an answer, or ''."""
  if not isinstance(response, dict):
    return 'no JSON object'
  choices = response.get('choices')
  if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
    return 'empty choices'
  field = 'content' if chat else 'text'
  message = choices[0].get('message') if chat else choices[0]
  if not isinstance(message, dict):
    return 'no message'
  content, reason = message.get(field), _finish_reason(choices[0])
  if reason in _BROKEN_OFF:
    return f'finish_reason {reason}'
  if content is None:
    textless = any(message.get(one) for one in _TEXTLESS) or reason.startswith(_TEXTLESS_REASONS)
    return '' if textless else f'no {field}'
  parts = chat and isinstance(content, list) and all(
      isinstance(part, dict) and isinstance(part.get('text', ''), str) for part in content)
  return '' if parts or isinstance(content, str) else f'{field} is {type(content).__name__}'


def _finish_reason(choice: Mapping[str, Any]) -> str:
  """In OpenAI's words where there is one for it; '' if it is no text or number."""
  value = choice.get('finish_reason')
  text = protocol.clean(value) if isinstance(value, str) else (
      str(value) if isinstance(value, int | float) else '')
  return _FINISH_REASONS.get(text.lower(), text)


def _says(body: Any) -> str:
  """The server's own words: OpenAI's {'error': {'message': ...}}, FastAPI's {'detail': ...}."""
  if isinstance(body, dict):
    for name in ('error', 'message', 'detail'):
      if body.get(name):
        return _says(body[name])
    return ''
  return '' if body is None else str(body)


def _retry_after(headers: Mapping[str, str]) -> float | None:
  """Seconds that a response asks to wait: a number, or the date until which."""
  for name, unit in (('retry-after-ms', 1e-3), ('retry-after', 1.0)):
    try:
      seconds = float(headers.get(name, '')) * unit
    except ValueError:
      continue
    return max(0.0, seconds) if math.isfinite(seconds) else None
  until = _seconds(headers.get('retry-after'))
  # By the server's clock, if it says what time it has.
  return None if until is None else max(0.0, until - (_seconds(headers.get('date')) or time.time()))


def _seconds(date: str | None) -> float | None:
  try:
    return email.utils.parsedate_to_datetime(date or '').timestamp()
  except (TypeError, ValueError, OverflowError):
    return None
