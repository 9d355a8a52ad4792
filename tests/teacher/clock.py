"""An event loop that does not wait: its clock jumps to the next timer when nothing else happens."""

import asyncio
import selectors

_GRACE_SECONDS = 0.02  # for sockets to report


class _Selector(selectors.DefaultSelector):
  """Jumps instead of sleeping, but not while a thread is at work."""

  skipped = 0.0
  threads = 0

  def select(self, timeout=None):
    if not timeout or timeout < _GRACE_SECONDS:
      return super().select(timeout)
    events = super().select(_GRACE_SECONDS)
    if not events and not self.threads:
      self.skipped += timeout - _GRACE_SECONDS
    return events


class Loop(asyncio.SelectorEventLoop):
  """`time()` runs ahead of the real clock by what was skipped."""

  def __init__(self):
    self._jumping = _Selector()
    super().__init__(self._jumping)

  def time(self) -> float:
    return super().time() + self._jumping.skipped

  def run_in_executor(self, executor, func, *args):
    def finished(_):
      self._jumping.threads -= 1
    self._jumping.threads += 1
    future = super().run_in_executor(executor, func, *args)
    future.add_done_callback(finished)
    return future


def run(main):
  """`asyncio.run` on such a loop."""
  with asyncio.Runner(loop_factory=Loop) as runner:
    return runner.run(main)
