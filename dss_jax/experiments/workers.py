"""Runs side by side, each worker process one at a time; what kills a worker fails its cell only."""

import concurrent.futures
import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Workers:
  """`slots` processes of `worker.py`, kept from run to run: starting one costs seconds."""

  def __init__(self, slots: int, environments: Sequence[Mapping[str, str]]):
    """environments: of each slot, whole."""
    self._environments = environments
    self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(slots):
      self._free.put(slot)
    self._processes: dict[int, subprocess.Popen[str]] = {}
    self._threads = concurrent.futures.ThreadPoolExecutor(slots)
    self._lock = threading.RLock()  # `stop` runs in signal handlers.
    self._stopped = False

  def run(self, requests: Mapping[Any, dict[str, Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(name, answer) of every request, as they come; see `worker`. {'stopped': ...} after stop."""
    futures = {self._threads.submit(self._ask, request): name
               for name, request in requests.items()}
    for future in concurrent.futures.as_completed(futures):
      yield futures[future], future.result()

  def stop(self, number: int) -> None:
    """Passes a signal on to the runs; they save, and nothing new begins."""
    with self._lock:
      self._stopped = True
      for process in self._processes.values():
        with contextlib.suppress(ProcessLookupError):
          process.send_signal(number)

  def close(self) -> None:
    """Ends the processes, which are idle."""
    self._threads.shutdown(cancel_futures=True)
    for process in self._processes.values():
      if process.stdin:
        with contextlib.suppress(OSError):
          process.stdin.close()
      process.wait()

  def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
    slot = self._free.get()
    try:
      process = self._process(slot)
      if process is None:
        return {'stopped': 0}
      assert process.stdin and process.stdout
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + '\n')
        process.stdin.flush()
      line = process.stdout.readline()
      if line:
        return json.loads(line)
      return {'error': f'its process ended with {_how(process.wait())}; see {request["log"]}'}
    finally:
      self._free.put(slot)

  def _process(self, slot: int) -> subprocess.Popen[str] | None:
    """The slot's process, a new one if the last is gone; None after `stop`."""
    with self._lock:
      if self._stopped:
        return None
      process = self._processes.get(slot)
      if process is None or process.poll() is not None:
        process = self._processes[slot] = subprocess.Popen(
            [sys.executable, '-m', 'dss_jax.experiments.worker'], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environments[slot],
            start_new_session=True)  # Ctrl-C comes from us, once.
      return process


def _how(code: int) -> str:
  return signal.Signals(-code).name if code < 0 else f'exit code {code}'
