"""What the tests of a running server share."""

import os
import signal
import threading

from dss_jax.serve import service

LIMITS = service.Limits(max_batch=8, timeout=20, grace=20, max_body=5000, queue=64, max_inputs=20)


def tell_to_stop():
  os.kill(os.getpid(), signal.SIGTERM)


class Gate:
  """The engine behind a gate: batches wait until it is open. `seen`: their texts."""

  def __init__(self, engine):
    self._engine = engine
    self.open = threading.Event()
    self.begun = threading.Event()
    self.seen = []

  def answer(self, questions):
    self.seen.append([one.text for one in questions])
    self.begun.set()
    assert self.open.wait(20)
    if any(one.text == 'fail' for one in questions):
      raise RuntimeError('the decoder broke')
    return self._engine.answer(questions)

  def programs(self):
    return []

  def __getattr__(self, name):
    return getattr(self._engine, name)
