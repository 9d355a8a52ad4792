"""A teacher for tests: an OpenAI-compatible server on 127.0.0.1, in a thread or as a program.

  with server.Server(answers=lambda question: 'Birds build nests.') as teacher:
    teacher.base_url      # http://127.0.0.1:40123/v1
    teacher.peak          # the most requests that were there at once

  python tests/teacher/server.py --answers=answers.json --latency=0.1    # prints `port 40123`

`answers` maps a question (the last user message, or the last question of a completions prompt)
to a completion, or to [completion, finish_reason] for one that no stop string ends. `faults` are
what goes wrong: a function of the request's number (from 1) and body to None, or to one of the
functions at the end of this file. GET /stats has the counts.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import streams
from aiohttp import web

Body = dict[str, Any]
Fault = Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]]
_FIELDS = {'/v1/chat/completions': 'messages', '/v1/completions': 'prompt'}
ANSWER = ('Birds make nests where they are safe and raise their young there. '
          'So the answer is (a) nest.')


class Server:
  """The server; a context manager that runs it in a thread.

  Attributes:
    requests: how many came, in all.
    questions: how often each was asked.
    in_flight, peak: requests being answered, now and at most.
    first, end: when the first came and the last was answered, in seconds of one clock.
    last: body and headers of the request that came last.
    stream: question -> the tokens of its answer, see `streams`, for requests with `logprobs`.
  """

  def __init__(
      self,
      answers: Callable[[str], Any] | Mapping[str, Any] | str = ANSWER,
      latency: float | Callable[[str], float] = 0.0,
      faults: Callable[[int, Body], Fault | None] = lambda number, body: None,
      model: str = 'teacher',
  ):
    self._answers = answers if callable(answers) else (
        answers.__getitem__ if isinstance(answers, Mapping) else lambda question: answers)
    self._latency = latency if callable(latency) else lambda question: latency
    self.faults = faults
    self.model = model
    self.port = 0
    self.requests = self.in_flight = self.peak = 0
    self.first = self.end = 0.0
    self.questions: collections.Counter[str] = collections.Counter()
    self.last: tuple[Body, Mapping[str, str]] = ({}, {})
    self.stream: Callable[[str], list[Any]] | None = None

  @property
  def base_url(self) -> str:
    return f'http://127.0.0.1:{self.port}/v1'

  def __enter__(self) -> 'Server':
    started = threading.Event()
    self._loop = asyncio.new_event_loop()
    self._stop = asyncio.Event()

    async def main():
      await self.serve(0, started.set, self._stop)

    self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(main()))
    self._thread.start()
    assert started.wait(10)
    return self

  def __exit__(self, *error) -> None:
    self._loop.call_soon_threadsafe(self._stop.set)
    self._thread.join()
    self._loop.close()

  async def serve(self, port: int, started: Callable[[], None], stop: asyncio.Event) -> None:
    """Serves until `stop`; `port` 0 is any that is free."""
    # web.Server, not web.Application: its routing would double what a request costs.
    runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, '127.0.0.1', port, backlog=1024)
    await site.start()
    self.port = runner.addresses[0][1]
    started()
    await stop.wait()
    await runner.cleanup()

  async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
    if request.method == 'GET':
      return self._get(request.path)
    if request.path not in _FIELDS:
      return _json({'detail': 'Not Found'}, 404)
    body = json.loads(await request.read())
    if _FIELDS[request.path] not in body:
      return _json({'detail': f'no {_FIELDS[request.path]!r}'}, 422)
    self.requests += 1
    self.in_flight += 1
    self.peak = max(self.peak, self.in_flight)
    self.first = self.first or time.monotonic()
    self.last = body, request.headers
    try:
      fault = self.faults(self.requests, body)
      return await fault(request) if fault else await self.answer(body)
    finally:
      self.in_flight -= 1
      self.end = time.monotonic()

  def _get(self, path: str) -> web.Response:
    if path == '/stats':
      return _json({'requests': self.requests, 'in_flight': self.in_flight, 'peak': self.peak,
                    'seconds': self.end - self.first, 'questions': self.questions})
    if path == '/v1/models':
      return _json({'object': 'list', 'data': [{'id': self.model, 'object': 'model'}]})
    return _json({'detail': 'Not Found'}, 404)

  async def answer(self, body: Body) -> web.Response:
    """What is said if nothing goes wrong."""
    question = _question(body)
    self.questions[question] += 1
    text, finish_reason = _cut(self._answers(question), body)
    seconds = self._latency(question)
    if seconds:
      await asyncio.sleep(seconds)
    return _json(completion(text, finish_reason, body, self.stream and self.stream(question)))


def _question(body: Body) -> str:
  if 'messages' in body:
    return next((one['content'] for one in reversed(body['messages']) if one['role'] == 'user'), '')
  # The last paragraph, but for the lead-in at its end: 'Q: Where do birds live?\nA:'.
  return body['prompt'].rpartition('\n\n')[2].rpartition('\n')[0]


def _cut(answer: Any, body: Body) -> tuple[str, str]:
  """Ends the text as a model would: before a stop string, or where its tokens, words here, end."""
  text, reason = (answer, 'stop') if isinstance(answer, str) else answer
  limit = body.get('max_completion_tokens', body.get('max_tokens'))
  words = text.split()
  if limit and len(words) > limit:
    text, reason = ' '.join(words[:limit]), 'length'
  stops = body.get('stop') or []
  places = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops)]
  found = [place for place in places if place >= 0]
  return (text[:min(found)], 'stop') if found else (text, reason)


def completion(text: str | None, finish_reason: str | None, body: Body,
               stream: list[Any] | None = None) -> Body:
  """A response as the real servers lay it out."""
  prompt = ' '.join(str(one['content']) for one in body['messages']) if 'messages' in body else (
      body['prompt'])
  counts = len(prompt.split()), len((text or '').split())
  choice: Body = {'index': 0, 'logprobs': None, 'finish_reason': finish_reason}
  if stream and body.get('logprobs'):
    choice['logprobs'] = streams.chat(stream, body['top_logprobs']) if 'messages' in body else (
        streams.legacy(stream, body['logprobs']))
  if 'messages' in body:
    choice['message'] = {'role': 'assistant', 'content': text, 'refusal': None}
  else:
    choice['text'] = text
  return {
      'id': 'cmpl-1', 'created': 0, 'model': body['model'], 'choices': [choice],
      'object': 'chat.completion' if 'messages' in body else 'text_completion',
      'usage': {'prompt_tokens': counts[0], 'completion_tokens': counts[1],
                'total_tokens': sum(counts)}}


def _json(value: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
  return web.Response(body=json.dumps(value).encode(), status=code, headers=headers,
                      content_type='application/json')


# Faults: what `faults` may return.


def status(code: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Fault:
  """An error response; `body` is JSON, or a string that is sent as it is, or OpenAI's own form."""
  async def fault(request):
    del request
    if isinstance(body, str):
      return web.Response(text=body, status=code, headers=headers)
    return _json(body or error(f'status {code}'), code, headers)
  return fault


def error(message: str, kind: str = 'invalid_request_error', code: str | None = None) -> Body:
  return {'error': {'message': message, 'type': kind, 'param': None, 'code': code}}


def reply(text: str, content_type: str = 'application/json') -> Fault:
  """Status 200 with this body."""
  async def fault(request):
    del request
    return web.Response(text=text, content_type=content_type)
  return fault


def without_choices() -> Fault:
  return reply('{"id": "cmpl-1", "choices": []}')


def html() -> Fault:
  return reply('<!DOCTYPE html><html><body>Log in first</body></html>', 'text/html')


def echo_key(code: int = 401) -> Fault:
  """A server that repeats the Authorization header in its message."""
  async def fault(request):
    given = request.headers.get('Authorization')
    return _json(error(f'Incorrect API key provided: {given}', code='invalid_api_key'), code)
  return fault


def unknown_model() -> Fault:
  return status(404, error('The model `x` does not exist', 'NotFoundError', 'model_not_found'))


def too_long() -> Fault:
  return status(400, error('This model\'s maximum context length is 4096 tokens',
                           code='context_length_exceeded'))


def hang() -> Fault:
  """Never answers."""
  async def fault(request):
    del request
    await asyncio.Event().wait()
    raise AssertionError
  return fault


def reset() -> Fault:
  """Half a response, then RST."""
  async def fault(request):
    response = await _half(request)
    linger = struct.pack('ii', 1, 0)  # Closing then resets the connection.
    request.transport.get_extra_info('socket').setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.transport.abort()
    return response
  return fault


def truncated() -> Fault:
  """Half of what Content-Length promises, then an orderly end."""
  async def fault(request):
    response = await _half(request)
    request.transport.close()
    return response
  return fault


async def _half(request: web.BaseRequest) -> web.StreamResponse:
  response = web.StreamResponse(headers={'Content-Type': 'application/json',
                                         'Content-Length': '1000'})
  await response.prepare(request)
  await response.write(b'{"id": "cmpl-1", "choices": [{"index": 0, "mess')
  return response


def main() -> None:
  """The program."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--port', type=int, default=0)
  parser.add_argument('--answers', metavar='FILE',
                      help='JSON: question -> completion, or one for all')
  parser.add_argument('--latency', type=float, default=0.0, metavar='SECONDS')
  args = parser.parse_args()
  given = {'answers': json.loads(pathlib.Path(args.answers).read_text())} if args.answers else {}
  teacher = Server(latency=args.latency, **given)

  async def serve():
    await teacher.serve(args.port, lambda: print(f'port {teacher.port}', flush=True),
                        asyncio.Event())
  with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(serve())


if __name__ == '__main__':
  main()
