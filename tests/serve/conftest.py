"""One small student, and servers of it in the test's event loop, asked over real connections."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import aiohttp
import pytest

import dss_jax
from dss_jax import models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.predict import options as options_lib

pytest.importorskip('fastapi', reason="dss serve needs pip install -e '.[serve]'")
from dss_jax.serve import engine as engine_lib
from dss_jax.serve import server

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import running

CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=1, num_decoder_layers=1)
INFO = student_info.StudentInfo(
    model=CONFIG, vocabulary='bytes', label_prefix='[label] ', rationale_prefix='[rationale] ',
    labels=('left', 'right'), input_length=64, target_length=6)


@pytest.fixture(scope='session')
def folder(random_weights, tmp_path_factory):
  """A student's folder."""
  weights = random_weights(CONFIG, seed=1)
  weights.arrays['decoder/logits_dense/kernel'] = 3 * weights.arrays['decoder/logits_dense/kernel']
  folder = tmp_path_factory.mktemp('student') / 'native'
  convert_main.convert(weights, str(folder), 'native', info=INFO)
  return str(folder)


@pytest.fixture(scope='session')
def engine(folder):
  """Of that student; it also ranks, if asked."""
  options = dataclasses.replace(options_lib.Options(), rank=True)
  return engine_lib.Engine(dss_jax.load(folder), options, max_batch=running.LIMITS.max_batch,
                           max_labels=3, max_label_tokens=8)


@pytest.fixture
def gate(engine):
  made = running.Gate(engine)
  yield made
  made.open.set()


@pytest.fixture
def serve(engine):
  """`async with serve() as client`: a client of a server, which is told to stop at the end.

  With told=True the test does that. `code` is what the server is to end with.
  """
  @contextlib.asynccontextmanager
  async def serving(engine=engine, code=0, told=False, **limits):
    sock = server.bind('127.0.0.1', 0)
    served = asyncio.create_task(
        server.run(sock, dataclasses.replace(running.LIMITS, **limits), lambda: engine))
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(server.url(sock), connector=connections) as client:
      try:
        while (await client.get('/readyz')).status != 200:
          await asyncio.sleep(0.02)
        yield client
      finally:
        if not told:
          running.tell_to_stop()
        assert await served == code
  return serving


@pytest.fixture
def program(folder, tmp_path):
  """Starts `dss serve`: (the process, its address, once it is ready)."""
  started = []

  def start(*flags):
    log = (tmp_path / 'log').open('w')
    process = subprocess.Popen(
        [sys.executable, '-m', 'dss_jax.serve', f'--model_dir={folder}', '--port=0', *flags],
        stdout=subprocess.PIPE, stderr=log, text=True,
        env={**os.environ, 'XLA_FLAGS': ''})  # One device, so that batches have all sizes.
    started.append(process)
    for line in process.stdout:
      if found := re.match(r'ready: POST (http://\S+)/predict', line):
        return process, found[1]
    raise AssertionError((tmp_path / 'log').read_text())
  yield start
  for process in started:
    process.kill()
    process.wait()
