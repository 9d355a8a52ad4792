"""Being told to stop: SIGTERM (preemption, maintenance, the end of a SLURM job) and Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from dss_jax import errors

RESTART_ME = 75  # EX_TEMPFAIL of sysexits.h: the launch scripts start the same command again.
INTERRUPTED = 130


class Preemption:
  """Notices signals; the second one of a kind stops the program at once.

  With several processes, any of them may be told; all stop at the same step.
  """

  def __init__(self) -> None:
    self._signal: int | None = None
    self._asked = 0
    self._handlers: dict[int, Any] = {}
    self._several = jax.process_count() > 1  # Then JAX listens to SIGTERM, and tells the others.
    if not self._several and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._handlers[number] = signal.signal(number, self._noticed)

  def _noticed(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._signal = number
    signal.signal(number, signal.SIG_DFL)

  def check(self) -> None:
    """Raises Stop if the run was told to. All processes must call it equally often."""
    self._asked += 1
    if self._signal == signal.SIGINT:
      raise errors.Stop(INTERRUPTED, 'interrupted')
    if self._signal is not None or self._several and (
        multihost_utils.reached_preemption_sync_point(self._asked)):
      raise errors.Stop(RESTART_ME, 'told to stop (SIGTERM)')

  def close(self) -> None:
    """Gives the signals back."""
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
