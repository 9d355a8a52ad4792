"""`dss serve` as a program: what it refuses at the start, and how it ends under load."""

import asyncio
import importlib.util
import signal
import socket
import subprocess
import time
import urllib.request

import aiohttp
import pytest

import dss_jax
from dss_jax import errors
from dss_jax.serve import __main__ as serve_main
from dss_jax.serve import server


@pytest.mark.parametrize(('flags', 'why'), [
    (['--port=70000'], '--port=70000: use one from 1 to 65535'),
    (['--host=no.such.host.invalid'], '--host=no.such.host.invalid: .*; give an address of this'),
    (['--host=a..b'], '--host=a..b: .*; give an address of this'),
    (['--host=192.0.2.1'], '--host=192.0.2.1: Cannot assign requested address; give'),
    (['--max_batch=0'], '--max_batch=0: use a whole number'),
    (['--timeout=0'], '--timeout=0.0: use a number above 0'),
    (['--max_inputs=300'], '--max_inputs=300 do not fit into queue=256'),
    (['--rank_by=sum'], '--rank_by is how --rank compares'),
    (['--max_labels=-1'], '--max_labels=-1: use a whole number'),
    (['--rank', '--max_target_length=2'], "--rank: label 'left' .* has 5 tokens"),
    (['--model_dir={folder}/nothing'], 'nothing does not exist')])
def test_what_cannot_be_served_is_one_line(folder, flags, why):
  flags = [flag.format(folder=folder) for flag in flags]
  with pytest.raises(errors.UserError, match=why):
    serve_main.main([f'--model_dir={folder}', '--port=0', *flags])


def test_a_port_in_use_is_one_line(folder):
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    with pytest.raises(errors.UserError, match=f'--port={port}: Address already in use at 127'):
      serve_main.main([f'--model_dir={folder}', f'--port={port}'])


def test_an_answer_of_two_packets_does_not_wait_for_the_first_one_to_be_acknowledged():
  with server.bind('127.0.0.1', 0) as listening, \
      socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_its_extra_it_says_what_to_install(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec',
                      lambda name, *rest: None if name == 'uvicorn' else find(name, *rest))
  with pytest.raises(errors.UserError, match=r"dss serve needs uvicorn: .*'dss_jax\[serve\]'"):
    serve_main.main(['--model_dir=x'])


async def _load(address, texts, clients, told):
  """What clients got, each of which asks again and again until it is turned away."""
  found, refused = {}, 0

  async def client(number):
    nonlocal refused
    for text in texts[number::clients]:
      try:
        async with session.post('/predict', json={'input': text}) as response:
          answer = await response.json()
      except aiohttp.ClientOSError:  # It does not listen any more, or ended before it accepted.
        assert len(found) >= len(texts) // 4
        refused += 1
        return
      if response.status == 503 and 'draining' in answer['detail']:
        refused += 1
        return
      assert response.status == 200, answer
      found[text] = answer
      if len(found) == len(texts) // 4:
        told()

  async with aiohttp.ClientSession(
      address, connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
    await asyncio.gather(*map(client, range(clients)))
  return found, refused


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_under_load_no_request_that_was_taken_is_lost(folder, program, number):
  process, address = program('--max_batch=8')
  texts = [f'the {"left " * (i % 9)}ball {i}' for i in range(4000)]
  found, refused = asyncio.run(_load(address, texts, 32, lambda: process.send_signal(number)))
  assert refused == 32 and 1000 <= len(found) < 4000
  assert process.wait(20) == 0
  student = dss_jax.load(folder)
  asked = list(found)
  for text, one in zip(asked, student.predict(asked)):
    assert found[text]['predicted_label'] == one.label
    assert found[text]['probability'] == pytest.approx(one.probability, rel=1e-5)


@pytest.mark.slow
def test_a_second_signal_kills(program):
  process, address = program('--max_batch=1', '--grace=60')
  host, port = address.removeprefix('http://').split(':')
  with socket.create_connection((host, int(port))) as slow:
    slow.sendall(b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{')
    while b'dss_requests_in_flight 1.0' not in urllib.request.urlopen(f'{address}/metrics').read():
      time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):  # It waits for the rest of that request.
      process.wait(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM
