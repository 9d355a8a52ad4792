"""The teacher for tests with OpenAI's /files and /batches, whose batches end as a test wants.

  with batch_server.Server(live.answer) as teacher:
    teacher.questions     # how often each was answered: what is paid for
    teacher.batches       # as the server keeps them

A batch's requests are worked on one after the other, `seconds` each. Results come in another
order than the requests.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any

import server
from aiohttp import web


class Server(server.Server):
  """See `server.Server`.

  Attributes:
    line: (question, how often it was asked before) -> None, or (status, error) instead of the
      answer.
    plan: number of the batch, from 1 -> None, or {'end': 'expired' | 'cancelled' | 'failed',
      'after': answered requests, 'errors': of 'failed'}.
    hold: stage -> when a request gets there, it waits for ever (for a kill); see `_at`.
    reached: stages that were.
    lists: whether GET /batches is there.
    seconds: for one request.
  """

  def __init__(self, *args: Any, seconds: float = 0.0, **settings: Any):
    super().__init__(*args, **settings)
    self.line: Callable[[str, int], tuple[int, Any] | None] = lambda question, before: None
    self.plan: Callable[[int], dict[str, Any] | None] = lambda number: None
    self.hold: set[str] = set()
    self.reached: list[str] = []
    self.lists = True
    self.seconds = seconds
    self.files: dict[str, bytes] = {}
    self.batches: dict[str, dict[str, Any]] = {}
    self.keys: list[str] = []  # of all requests that were worked on
    self._work: list[asyncio.Task[None]] = []

  async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
    parts = request.path.removeprefix('/v1/').split('/')
    if parts[0] == 'files':
      return await self._files(request, parts[1:])
    if parts[0] == 'batches':
      return await self._batches(request, parts[1:])
    if request.method == 'POST':
      await self._at('probe')
    return await super()._handle(request)

  async def _at(self, stage: str) -> None:
    self.reached.append(stage)
    if stage in self.hold:
      await asyncio.Event().wait()

  async def _files(self, request: web.BaseRequest, rest: list[str]) -> web.StreamResponse:
    if request.method == 'POST':
      form = await request.post()
      await self._at('uploading')
      name = f'file-{len(self.files)}'
      assert form['purpose'] == 'batch'
      self.files[name] = form['file'].file.read()
      await self._at('uploaded')
      return _json({'id': name, 'object': 'file', 'bytes': len(self.files[name]), 'created_at': 0,
                    'filename': form['file'].filename, 'purpose': 'batch', 'status': 'processed'})
    if rest[0] not in self.files or rest[1:] != ['content']:
      return _json(server.error('no such file'), 404)
    data = self.files[rest[0]]
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(data[:len(data) // 2])
    await self._at(f'half of {rest[0].partition("-")[0]}')
    await response.write(data[len(data) // 2:])
    return response

  async def _batches(self, request: web.BaseRequest, rest: list[str]) -> web.StreamResponse:
    if request.method == 'POST':
      await self._at('creating')
      body = json.loads(await request.read())
      made = self._make(body)
      await self._at('created')
      return _json(made)
    if not rest:
      if not self.lists:
        return _json(server.error('Not Found'), 404)
      found = sorted(self.batches.values(), key=lambda one: -one['created_at'])
      return _json({'object': 'list', 'data': found, 'has_more': False})
    if rest[0] not in self.batches:
      return _json(server.error('no such batch'), 404)
    await self._at('looking')
    return _json(self.batches[rest[0]])

  def _make(self, body: dict[str, Any]) -> dict[str, Any]:
    name = f'batch-{len(self.batches) + 1}'
    requests = [json.loads(line) for line in self.files[body['input_file_id']].splitlines()]
    assert body['completion_window'] == '24h'
    assert all(one['url'] == body['endpoint'] and one['method'] == 'POST' for one in requests)
    assert len({one['custom_id'] for one in requests}) == len(requests)
    self.batches[name] = {
        'id': name, 'object': 'batch', 'status': 'in_progress', 'created_at': int(time.time()),
        'completion_window': '24h', 'endpoint': body['endpoint'],
        'input_file_id': body['input_file_id'], 'metadata': body.get('metadata'),
        'request_counts': {'total': len(requests), 'completed': 0, 'failed': 0},
        'output_file_id': None, 'error_file_id': None, 'errors': None}
    self._work.append(asyncio.ensure_future(
        self._run(self.batches[name], requests, self.plan(len(self.batches)) or {})))
    return self.batches[name]

  async def _run(
      self, batch: dict[str, Any], requests: list[dict[str, Any]], plan: dict[str, Any]
  ) -> None:
    end = plan.get('end', 'completed')
    output, errors = [], []
    for i, one in enumerate([] if end == 'failed' else requests):
      if self.seconds:
        await asyncio.sleep(self.seconds)
      if i >= plan.get('after', len(requests)):
        errors.append({'custom_id': one['custom_id'], 'response': None,
                       'error': {'code': f'batch_{end}', 'message': 'was not executed'}})
        continue
      asked = server._question(one['body'])
      fault = self.line(asked, self.questions[asked])
      self.questions[asked] += 1
      self.keys.append(one['custom_id'])
      status, body = fault or (200, server.completion(
          *server._cut(self._answers(asked), one['body']), one['body'],
          self.stream and self.stream(asked)))
      (errors if fault else output).append({
          'id': f'r{i}', 'custom_id': one['custom_id'], 'error': None,
          'response': {'status_code': status, 'request_id': f'q{i}', 'body': body}})
      batch['request_counts']['failed' if fault else 'completed'] += 1
    for field, found in (('output_file_id', output), ('error_file_id', errors)):
      random.Random(0).shuffle(found)
      if found:
        batch[field] = f'{field.partition("_")[0]}-{batch["id"]}'
        self.files[batch[field]] = b''.join(json.dumps(one).encode() + b'\n' for one in found)
    batch['errors'] = {'object': 'list', 'data': plan['errors']} if 'errors' in plan else None
    batch['status'] = end


def _json(value: Any, code: int = 200) -> web.Response:
  return web.Response(body=json.dumps(value).encode(), status=code,
                      content_type='application/json')
