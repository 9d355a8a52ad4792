"""Being told to stop: SIGTERM (preemption, maintenance, the end of a SLURM job) and Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

RESTART_ME = 75  # EX_TEMPFAIL of sysexits.h: the launch scripts start the same command again.
INTERRUPTED = 130


class Stop(Exception):
  """The run is to stop here. `exit_code` is that of the program."""

  def __init__(self, exit_code: int, why: str):
    super().__init__(why)
    self.exit_code = exit_code


class Preemption:
  """Notices signals; the second one of a kind stops the program at once.

  With several processes, any of them may be told; all stop at the same step.
  """

  def __init__(self) -> None:
    self._signal: int | None = None
    self._asked = 0
    self._handlers: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
      return  # Signals are for whoever has started us.
    numbers = [signal.SIGINT]
    if jax.process_count() == 1:  # Else JAX listens to SIGTERM, and tells the others.
      numbers.append(signal.SIGTERM)
    for number in numbers:
      self._handlers[number] = signal.signal(number, self._noticed)

  def _noticed(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._signal = number
    signal.signal(number, signal.SIG_DFL)

  def check(self) -> None:
    """Raises Stop if the run was told to. All processes must call it equally often."""
    self._asked += 1
    if self._signal == signal.SIGINT:
      raise Stop(INTERRUPTED, 'interrupted')
    several = jax.process_count() > 1
    if self._signal is not None or several and (
        multihost_utils.reached_preemption_sync_point(self._asked)):
      raise Stop(RESTART_ME, 'told to stop (SIGTERM)')

  def close(self) -> None:
    """Gives the signals back."""
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
