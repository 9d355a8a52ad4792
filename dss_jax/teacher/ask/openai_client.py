"""A teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, JetStream, or hosted."""

import argparse
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from dss_jax import errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import dialect, endpoint, prompts, servers
from dss_jax.teacher.read import logprobs

BASE_URL = 'https://api.openai.com/v1'
_NO_KEY = 'none'  # Some key is sent; a local server looks at none.
_FATAL = (401, 402, 403, 404, 405)  # statuses and codes that all requests will meet
_FATAL_CODES = ('insufficient_quota', 'billing_hard_limit_reached')
_LATER = (408, 409, 425, 429)
_LEARNED_FROM = (400, 422)
_THOUGHTS = ('reasoning_content', 'reasoning')  # a thinking model's, by vLLM's parsers and others
_THINKS = re.compile(r'\s*<think(?:ing)?>|</think(?:ing)?>')  # where no parser parts them
_MAY_THINK = re.compile('reason|think', re.IGNORECASE)  # in a response's JSON
# What explains that an answer has no text; without any of it, it is half a response.
_TEXTLESS = ('refusal', 'tool_calls', 'function_call', *_THOUGHTS)
_TEXTLESS_REASONS = ('content_filter', 'length')
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
_LONGEST_TIMEOUT = 8  # times --timeout
_LEAST_ROOM = 128
_T = TypeVar('_T')


class OpenAIEndpoint:
  """An `endpoint.Endpoint` for /chat/completions or /completions of a server, or of several.

  Attributes:
    say: tells the user what was learned of the server.
    label_logprobs: alternatives to each token that are asked for, and kept.
  """

  name = 'openai'
  first_alone = gives_logprobs = True
  label_logprobs = 0

  def __init__(self, model: str, base_url: str | Sequence[str] | None, api_key: str, kind: str,
               timeout: float, max_in_flight: int, headers: Mapping[str, str] | None = None,
               room: int = 0, reasoning_effort: str = ''):
    """Connects to nothing yet.

    Args:
      model: its name at the server.
      base_url: up to /v1, with `user:password@` and `?query` where a proxy wants them; several
        are asked in turns; None is OpenAI's.
      api_key: the key.
      kind: 'chat' or 'completions'.
      timeout: seconds for one request, from connecting to the last byte; doubled each time that
        it was not answered within them.
      max_in_flight: connections at most; more requests wait for one.
      headers: more of them.
      room: tokens that a model that thinks may write beyond `max_tokens`.
      reasoning_effort: the server's word for how long it is to think; '' says nothing.

    Raises:
      UserError: a base_url that is none, or aiohttp is not installed.
    """
    self.model = model
    self.say: Callable[[str], None] = lambda line: None
    self._chat = kind == 'chat'
    self._timeout = timeout
    self._effort = reasoning_effort
    self._most_room, self._thinks, self._without_logprobs = room, False, False
    self._dialect = dialect.Dialect()
    self._sdk: Any = None
    urls = [base_url or BASE_URL] if isinstance(base_url, str | None) else base_url
    self._servers = servers.Servers(urls, api_key, headers or {}, max_in_flight)

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'OpenAIEndpoint':
    if not flags.model:
      raise errors.UserError('--client=openai needs --model=NAME, what the server calls its model')
    base_urls = flags.base_url or [
        one for one in (os.environ.get('OPENAI_BASE_URL'),) if one]
    variable = flags.api_key_env
    key = os.environ.get(variable, '').strip()
    if not key and not base_urls and not flags.batch:  # --batch=DIR asks no server.
      raise errors.UserError(f'--client=openai: put the key into the environment as {variable}, or '
                             'set --base_url to a server that needs none')
    if flags.timeout <= 0:
      raise errors.UserError(f'--timeout={flags.timeout:g}: give seconds above 0')
    if not all('!' <= character <= '~' for character in key):
      raise errors.UserError(f'{variable} holds a space or another character that no key has')
    made = cls(flags.model, base_urls or None, key or _NO_KEY, flags.endpoint, flags.timeout,
               flags.in_flight, servers.headers(flags.header), flags.thinking_room,
               flags.reasoning_effort)
    made.label_logprobs = flags.label_logprobs
    return made

  @property
  def room(self) -> int:
    """Tokens beyond `max_tokens`: none, unless the model was seen to think."""
    return self._most_room if self._thinks else 0

  def request(
      self, prompt: prompts.Prompt, text: str, decoding: endpoint.Decoding
  ) -> dict[str, Any]:
    # A chat model ends its turn by itself, and a stop string would cut its thoughts.
    asked: dict[str, Any] = {'messages': prompt.as_messages(text)} if self._chat else {
        'prompt': prompt.as_text(text), 'stop': list(prompt.stop) or None}
    fields = {'model': self.model, **asked, 'max_tokens': decoding.max_tokens,
              'temperature': decoding.temperature, 'reasoning_effort': self._effort or None,
              **decoding.extra}
    for name, (harmless, why) in _NOT_EXTRA.items():
      if name in decoding.extra and decoding.extra[name] not in harmless:
        raise errors.UserError(f'--params: {name!r}: {why}')
    return {name: value for name, value in fields.items() if value is not None}

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> dict[str, Any]:
    """See `Endpoint`; `seed` is not sent, as servers draw each sample anew."""
    seconds = self._timeout * min(2 ** timeouts, _LONGEST_TIMEOUT)
    path = '/chat/completions' if self._chat else '/completions'
    room = most = self.room
    while True:
      version = self._dialect.version
      body = self._dialect.body(request, room)
      reply = await self._servers.post(path, json.dumps(body).encode(), seconds)
      if reply.status not in _LEARNED_FROM:
        break
      says, error = _error(reply.text)
      words = f'{says} {error.get("code") or ""} {error.get("param") or ""}'
      if self._dialect.version != version:  # Another request has learned it meanwhile.
        continue
      if learned := self._dialect.learn(words, body):
        self.say(f'{self._message(str(reply.status), says)}; {learned}')
      elif room and dialect.too_many_tokens(words):
        room = room // 2 if room >= 2 * _LEAST_ROOM else 0
      else:
        break
    if reply.status >= 300:
      raise self._refused(reply.status, _retry_after(reply.headers, reply.text), reply)
    if room < most:  # The next need not find it out again.
      self._most_room = min(self._most_room, max(room, _LEAST_ROOM))
    response = self._parsed(reply)
    if _MAY_THINK.search(reply.text):  # Most responses need no second look.
      self._look(response, room)
    return response

  async def call(self, send: Callable[[Any], Awaitable[_T]]) -> _T:
    """What `send` returns, handed OpenAI's SDK for the first server; errors are those of `ask`."""
    import openai
    self._sdk = self._sdk or openai.AsyncOpenAI(max_retries=0, **self._servers.for_sdk())
    try:
      return await send(self._sdk)
    except openai.APIStatusError as error:
      response = error.response  # LiteLLM's have none, or one without text.
      reply = servers.Reply(error.status_code, response.headers if response is not None else {},
                            (response.text if response is not None else '') or error.message)
      failure = self._refused(reply.status, _retry_after(reply.headers, reply.text), reply)
    except (openai.OpenAIError, OSError) as error:
      cause = error.__cause__ or error
      failure = endpoint.TryLater(self._message('connection', str(cause) or type(cause).__name__))
    raise failure  # Out here: the SDK's error holds the key, and would be this one's context.

  @property
  def base_url(self) -> str:
    """The first server's, without secrets."""
    return self._servers.urls[0]

  @property
  def batch_url(self) -> str:
    """What the requests of a batch are for."""
    return '/v1/chat/completions' if self._chat else '/v1/completions'

  def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent for a request, with what was learned of the server."""
    return self._dialect.body(request, self.room)

  def judge(self, status: int, body: Any) -> dict[str, Any]:
    """The response of a batch's result; raises what `ask` would."""
    reply = servers.Reply(status, {}, json.dumps(body))
    if status >= 300:
      raise self._refused(status, None, reply)
    return self._parsed(reply)

  @staticmethod
  def read(response: Mapping[str, Any]) -> endpoint.Answer:
    choice = response['choices'][0]
    message = choice.get('message') or choice
    content = message.get('content', message.get('text')) or ''
    thoughts = next((said for name in _THOUGHTS
                     if isinstance(said := message.get(name), str) and said), '')
    if isinstance(content, list):
      thoughts = thoughts or _thinking_parts(content)
      content = ''.join(str(part.get('text', '')) for part in content
                        if isinstance(part, dict) and part.get('type') in ('text', 'output_text'))
    content = content if isinstance(content, str) else ''
    refused = bool(message.get('refusal'))
    prompt_tokens, completion_tokens = _tokens(response)
    return endpoint.Answer(
        text='' if refused else content,
        finish_reason='refusal' if refused else _finish_reason(choice),
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, thoughts=thoughts,
        logprobs=choice.get('logprobs'))

  def provenance(self) -> dict[str, Any]:
    urls = self._servers.urls
    return {'endpoint': 'chat' if self._chat else 'completions',
            'base_url': urls[0] if len(urls) == 1 else urls}

  async def close(self) -> None:
    await self._servers.close()
    if self._sdk is not None:
      await self._sdk.close()

  def _look(self, response: dict[str, Any], room: int) -> None:
    """Does it think? What ends in the middle of its thoughts is asked for again, with room."""
    answer = self.read(response)
    if not self._thinks and _thought(response, answer):
      self._thinks = True
      if self._most_room:
        self.say(f'the model thinks before it answers: it may write {self._most_room} tokens more '
                 'than --max_tokens (--thinking_room)')
    if answer.finish_reason == 'length' and room < self.room and not room and (
        _thought(response, answer)):
      raise endpoint.TryLater('the model was cut while it thought', after=0.0,
                              paid=(answer.prompt_tokens, answer.completion_tokens))

  def _parsed(self, reply: servers.Reply) -> dict[str, Any]:
    """The response as JSON, without secrets.

    Raises:
      TryLater: it is not a completion.
      Fatal, Rejected: an error that came with status 200.
    """
    response: Any = None
    try:
      response = json.loads(reply.text.removeprefix('\ufeff'))  # A byte order mark.
      if self._servers.echoes(reply.text):
        response = self._servers.scrubbed(response)
      lack, says = _lack(response, self._chat), _says(response)
    except (ValueError, RecursionError):
      page = reply.text.lstrip().startswith('<')
      lack = 'not JSON' + ' but a web page' * page
      says = self._servers.scrubbed(reply.text.strip())[:80]
    if lack and isinstance(response, dict) and not response.get('choices') and type(
        code := _error(reply.text)[1].get('code')) is int and 400 <= code < 600:
      raise self._refused(code, None, reply)
    if lack:
      raise endpoint.TryLater(
          self._message(f'the response is no answer: {lack}', says), strange=True,
          paid=tokens if isinstance(response, dict) and any(tokens := _tokens(response)) else None)
    if self.label_logprobs:
      choice = response['choices'][0]
      choice['logprobs'] = logprobs.kept(choice.get('logprobs'))
      if choice['logprobs'] is None and not self._without_logprobs:
        self._without_logprobs = True
        self.say('--label_logprobs: an answer came without logprobs, so its label counts whole')
    return response

  def _refused(self, status: int, after: float | None, reply: servers.Reply) -> Exception:
    """What an error status means to the job."""
    says, error = _error(reply.text)
    if status < 400:
      return endpoint.Fatal(self._message(f'{status}: moved to {reply.headers.get("location")}',
                                          'give that as --base_url'))
    if status in _FATAL or error.get('code') in _FATAL_CODES or error.get('type') in _FATAL_CODES:
      hint = {401: ' (a wrong API key?)', 404: f': no model {self.model!r}, or a wrong '
              f'--base_url={self._servers.urls[0]} (most end in /v1)'}
      return endpoint.Fatal(self._message(f'{status}{hint.get(status, "")}', says))
    if status in _LATER or status >= 500:
      limited = status == 429 or (status == 503 and after is not None)
      return endpoint.TryLater(self._message(str(status), says), after, limited)
    if (number := self.label_logprobs) and 'logprob' in f'{says} {error.get("param")}':
      return endpoint.Fatal(self._message(
          f'{status}, with --label_logprobs={number}: drop it, or give a smaller number', says))
    return endpoint.Rejected(self._message(str(status), says))

  def _message(self, what: str, says: str) -> str:
    """One line; secrets go before the cut, which could leave half of one."""
    line = ' '.join(self._servers.scrubbed(f'{what}: {says}' if says else what).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE - 3] + '...'


def _thinking_parts(parts: Any) -> str:
  """Of content in parts: {'type': 'thinking', 'thinking': TEXT or [{'type': 'text', ...}]}."""
  said = [part.get('thinking') for part in parts
          if isinstance(part, dict) and part.get('type') == 'thinking']
  texts = [one if isinstance(one, str) else ''.join(
      str(part.get('text', '')) for part in one if isinstance(part, dict))
           for one in said if isinstance(one, str | list)]
  return '\n'.join(filter(None, texts))


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


def _tokens(response: Mapping[str, Any]) -> tuple[int, int]:
  """Read and written, as they are billed: thoughts are written, though some servers count them
  in the total alone."""
  usage = response.get('usage')
  usage = usage if isinstance(usage, dict) else {}
  read, written, total = (
      max(endpoint.token_count(usage.get(name)) for name in names)
      for names in (('prompt_tokens', 'input_tokens'), ('completion_tokens', 'output_tokens'),
                    ('total_tokens',)))
  return read, max(written, total - read)


def _thought(response: Mapping[str, Any], answer: endpoint.Answer) -> bool:
  usage = response.get('usage')
  details = usage.get('completion_tokens_details') if isinstance(usage, dict) else None
  counted = details.get('reasoning_tokens') if isinstance(details, dict) else None
  return bool(answer.thoughts or endpoint.token_count(counted) or _THINKS.search(answer.text))


def _error(text: str) -> tuple[str, Mapping[str, Any]]:
  """The server's own words, and its error object."""
  try:
    body = json.loads(text)
  except (ValueError, RecursionError):
    return text, {}
  body = body[0] if isinstance(body, list) and body else body
  error = body.get('error', body) if isinstance(body, dict) else {}
  return _says(body), error if isinstance(error, dict) else {}


def _says(body: Any) -> str:
  """OpenAI's {'error': {'message': ...}}, FastAPI's {'detail': ...}, or what else it is."""
  if isinstance(body, dict):
    for name in ('error', 'message', 'detail'):
      if body.get(name):
        return _says(body[name])
    return ''
  return '' if body is None else str(body)


def _retry_after(headers: Mapping[str, str], text: str) -> float | None:
  """Seconds that a response asks to wait: a number, the date until which, or Google's in text."""
  for name, unit in (('retry-after-ms', 1e-3), ('retry-after', 1.0)):
    try:
      seconds = float(headers.get(name, '')) * unit
    except ValueError:
      continue
    return max(0.0, seconds) if math.isfinite(seconds) else None
  if (until := _seconds(headers.get('retry-after'))) is not None:
    # By the server's clock, if it says what time it has.
    return max(0.0, until - (_seconds(headers.get('date')) or time.time()))
  told = re.search(r'"retryDelay":\s*"([0-9]+(?:\.[0-9]+)?)s"', text)
  return float(told[1]) if told else None


def _seconds(date: str | None) -> float | None:
  try:
    return email.utils.parsedate_to_datetime(date or '').timestamp()
  except (TypeError, ValueError, OverflowError):
    return None
