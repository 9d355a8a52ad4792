"""Full queues, slow and vanished clients, a decoder that breaks, and the end of a server."""

import asyncio
import threading

import aiohttp
import pytest
import running

from dss_jax import errors
from dss_jax.serve import server


async def ask(client, text, status=200, **more):
  async with client.post('/predict', json={'input': text, 'rank': False, **more}) as response:
    found = await response.json()
    assert response.status == status, found
    return found, response.headers


async def begun(gate, waiting=0, client=None):
  """Waits until the first batch is at work, and so many inputs wait for the next."""
  await asyncio.to_thread(gate.begun.wait, 10)
  while client and await metric(client, 'dss_queue_length') != waiting:
    await asyncio.sleep(0.02)


async def metric(client, name):
  text = await (await client.get('/metrics')).text()
  values = [line.split()[-1] for line in text.splitlines() if line.startswith(f'{name} ')]
  return float(values[0]) if values else 0.0


async def connect(client):
  address = client._base_url
  return await asyncio.open_connection(address.host, address.port)


def test_a_full_queue_is_429_and_what_waits_is_answered(serve, gate):
  async def main():
    async with serve(gate, queue=20) as client:
      first = asyncio.create_task(ask(client, 'a'))
      await begun(gate)
      others = [asyncio.create_task(ask(client, f'b{i}')) for i in range(20)]
      await begun(gate, 20, client)
      found, headers = await ask(client, 'c', 429)
      assert found['detail'].startswith('the queue is full: 20 inputs wait')
      assert 1 <= int(headers['retry-after']) < 60
      gate.open.set()
      await asyncio.gather(first, *others)
      await ask(client, 'd')
  asyncio.run(main())
  assert sorted(text for batch in gate.seen for text in batch) == sorted(
      ['a', *(f'b{i}' for i in range(20)), 'd'])
  assert max(map(len, gate.seen)) == 8


def test_a_client_that_goes_away_is_dropped_from_the_queue(serve, gate):
  async def main():
    async with serve(gate) as client:
      first = asyncio.create_task(ask(client, 'a'))
      await begun(gate)
      gone, stays = (asyncio.create_task(ask(client, text)) for text in ('gone', 'stays'))
      await begun(gate, 2, client)
      gone.cancel()
      await begun(gate, 1, client)
      gate.open.set()
      await asyncio.gather(first, stays)
      assert await metric(client, 'dss_requests_total{status="499"}') == 1
  asyncio.run(main())
  assert gate.seen == [['a'], ['stays']]


def test_a_timeout_is_504_and_what_had_not_begun_never_does(serve, gate):
  async def main():
    async with serve(gate, timeout=1.5) as client:
      first = asyncio.create_task(ask(client, 'a', 504))
      await begun(gate)
      found = await asyncio.gather(first, *(ask(client, text, 504) for text in 'bc'))
      assert found[0][0]['detail'] == 'no answer within 1.5 s'
      gate.open.set()
      await ask(client, 'after')
  asyncio.run(main())
  assert gate.seen == [['a'], ['after']]


def test_a_batch_that_fails_is_500_for_its_requests_alone(serve, gate, caplog):
  async def main():
    async with serve(gate, max_batch=2) as client:
      first = asyncio.create_task(ask(client, 'a'))
      await begun(gate)
      failing = [asyncio.create_task(ask(client, text, 500)) for text in ('fail', 'mate')]
      await begun(gate, 2, client)
      others = [asyncio.create_task(ask(client, text)) for text in ('longer 1', 'longer 2')]
      await begun(gate, 4, client)
      gate.open.set()
      _, (found, _), *_ = await asyncio.gather(first, *failing, *others)
      assert found['detail'].startswith('the student failed (RuntimeError)')
      assert 'the decoder broke' not in found['detail']
  asyncio.run(main())
  assert 'the decoder broke' in caplog.text


def test_an_input_that_fails_is_500_for_its_request_alone(serve, gate, caplog):
  answer = gate.answer
  gate.answer = lambda questions: [FloatingPointError('NaN') if one.text == 'odd' else found
                                   for one, found in zip(questions, answer(questions))]
  gate.open.set()

  async def main():
    async with serve(gate, max_wait_ms=300) as client:
      await asyncio.gather(ask(client, 'a'), ask(client, 'odd', 500), ask(client, 'b'))
  asyncio.run(main())
  assert sorted(gate.seen[0]) == ['a', 'b', 'odd'] and 'not answered: NaN' in caplog.text


def test_the_end_does_not_turn_away_a_request_whose_body_is_on_its_way(serve):
  async def main():
    async with serve(told=True) as client:
      body = b'{"input": "a", "rank": false}'
      reader, writer = await connect(client)
      writer.write(b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n' % len(body))
      while await metric(client, 'dss_requests_in_flight') != 1:
        await asyncio.sleep(0.02)
      running.tell_to_stop()
      while (await client.get('/readyz')).status != 503:
        await asyncio.sleep(0.02)
      writer.write(body)
      assert b' 200 ' in await reader.readline()
      writer.close()
  asyncio.run(main())


def test_a_slow_body_is_408_and_slow_headers_are_closed(serve, monkeypatch):
  monkeypatch.setattr(server, '_HEADERS', 0.6)

  async def main():
    async with serve(timeout=1.0) as client:
      reader, writer = await connect(client)
      writer.write(b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"input')
      assert b'408' in await reader.readline()
      for before, some in ((b'', b''), (b'', b'POST /pre'),
                           (b'GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n', b'GET /he')):
        reader, writer = await connect(client)
        writer.write(before)
        if before:
          await reader.readuntil(b'alive"}')
        writer.write(some)
        assert await asyncio.wait_for(reader.read(), 4) == b''  # It is closed.
        writer.close()
      await ask(client, 'a')
  asyncio.run(main())


def test_garbage_is_400_and_harms_nobody(serve):
  async def main():
    async with serve() as client:
      for garbage in (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', b'\x00' * 3000 + b'\r\n\r\n',
                      b'hello\r\n\r\n', b'A' * 100_000):
        reader, writer = await connect(client)
        writer.write(garbage)
        if garbage[0] != 0x16:  # TLS to a port without: it waits for a line that does not come.
          assert b'400' in await asyncio.wait_for(reader.readline(), 5), garbage
        writer.close()
      await ask(client, 'a')
  asyncio.run(main())


def test_told_to_stop_it_answers_what_it_took_and_refuses_the_rest(serve, gate):
  async def main():
    async with serve(gate, told=True) as client:
      first = asyncio.create_task(ask(client, 'a'))
      await begun(gate)
      others = [asyncio.create_task(ask(client, f'b{i}')) for i in range(10)]
      await begun(gate, 10, client)
      running.tell_to_stop()
      while (await client.get('/readyz')).status != 503:
        await asyncio.sleep(0.02)
      assert (await client.get('/healthz')).status == 200
      found, headers = await ask(client, 'late', 503)
      assert found['detail'].startswith('draining') and headers['connection'] == 'close'
      gate.open.set()
      answers = await asyncio.gather(first, *others)
      assert all('predicted_label' in found for found, _ in answers)
  asyncio.run(main())
  assert 'late' not in [text for batch in gate.seen for text in batch]


def test_after_the_grace_the_rest_is_told_so(serve, gate, capsys):
  async def main():
    async with serve(gate, told=True, grace=0.3, code=1) as client:
      waiting = asyncio.create_task(ask(client, 'a', 503))
      await begun(gate)
      running.tell_to_stop()
      found, _ = await waiting
      assert '--grace is over' in found['detail']
  asyncio.run(main())
  assert '1 requests were not answered within --grace=0.3' in capsys.readouterr().err


def test_while_it_loads_it_is_alive_but_not_ready(engine, serve):
  class Slow:
    def __getattr__(self, name):
      return getattr(engine, name)

    def programs(self):
      return [(1, 32, False)]

    def compile(self, *program):
      assert go_on.wait(20)

  go_on = threading.Event()

  async def main():
    sock = server.bind('127.0.0.1', 0)
    served = asyncio.create_task(server.run(sock, running.LIMITS, Slow))
    async with aiohttp.ClientSession(server.url(sock)) as client:
      async with client.get('/readyz') as response:
        assert response.status == 503
      assert (await client.get('/healthz')).status == 200
      found, _ = await ask(client, 'a', 503)
      assert found['detail'].startswith('loading')
      go_on.set()
      while (await client.get('/readyz')).status != 200:
        await asyncio.sleep(0.02)
    running.tell_to_stop()
    assert await served == 0
  asyncio.run(main())


def test_what_cannot_be_loaded_ends_the_server():
  def load():
    raise errors.UserError('no student there')

  async def main():
    sock = server.bind('127.0.0.1', 0)
    address = sock.getsockname()
    with pytest.raises(errors.UserError, match='no student there'):
      await server.run(sock, running.LIMITS, load)
    server.bind(*address[:2]).close()  # The port is free again.
  asyncio.run(main())


def test_told_to_stop_while_it_compiles_it_compiles_no_more():
  compiled, compiles, go_on = [], threading.Event(), threading.Event()

  class Slow:
    def programs(self):
      return [(1, 32, False), (2, 32, False), (4, 32, False)]

    def compile(self, *program):
      compiled.append(program)
      compiles.set()
      assert go_on.wait(20)

  async def main():
    served = asyncio.create_task(server.run(server.bind('127.0.0.1', 0), running.LIMITS, Slow))
    await asyncio.to_thread(compiles.wait, 10)
    running.tell_to_stop()
    await asyncio.sleep(0.2)
    go_on.set()
    assert await served == 0
  asyncio.run(main())
  assert compiled == [(1, 32, False)]
