"""Many coroutines' items, gathered into batches for one thread. No JAX here."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

_QUIET = 0.1  # seconds without a newcomer after which a batch leaves as it is


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item]):
  item: Item
  kind: Hashable
  length: int
  result: asyncio.Future[Any]
  since: float = dataclasses.field(default_factory=time.monotonic)


class Batches(Generic[Item, Result]):
  """A batch leaves when it is full, or when nobody else seems to be coming.

  The next one gathers while the thread is at work, so that twice as many items in flight as a
  batch has rows keep it busy. The item that waits longest is always of the next batch, with
  those nearest to it in length.
  """

  def __init__(
      self, work: Callable[[Sequence[Item]], Sequence[Result | Exception]], rows: int, *,
      kind: Callable[[Item], Hashable], length: Callable[[Item], int],
      wait: float | None = None):
    """The thread begins with the first item.

    Args:
      work: called in the thread; a result, or an exception to raise, for each item.
      rows: items of a batch at most.
      kind: what all items of a batch have in common.
      length: of an item; a batch costs what its longest does.
      wait: seconds that an item waits for others while the thread is idle; None for as long as
        others keep coming.
    """
    self._work = work
    self._rows = rows
    self._kind = kind
    self._length = length
    self._wait = wait
    self._waiting: list[_Waiting[Item]] = []
    self._arrived = asyncio.Event()
    self._serving: asyncio.Task[None] | None = None
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='batches')

  @property
  def waiting(self) -> int:
    """Items that are in no batch yet."""
    return len(self._waiting)

  async def put(self, item: Item) -> Result:
    """The item's result, when its batch is done."""
    return await self.submit(item)

  def submit(self, item: Item) -> asyncio.Future[Result]:
    """The result to come. The item waits from now on; cancelling the future drops it."""
    one = _Waiting(item, self._kind(item), self._length(item),
                   asyncio.get_running_loop().create_future())
    one.result.add_done_callback(lambda _: self._forget(one))
    self._waiting.append(one)
    self._arrived.set()
    if self._serving is None or self._serving.done():
      self._serving = asyncio.create_task(self._serve())
    return one.result

  def _forget(self, one: _Waiting[Item]) -> None:
    if one in self._waiting:  # Cancelled.
      self._waiting.remove(one)

  async def close(self) -> None:
    """Ends the thread, after the batch that it is at."""
    await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

  async def _serve(self) -> None:
    self._arrived = asyncio.Event()  # Of this event loop.
    while self._waiting:
      await self._gather()
      if not (batch := self._take()):  # All were cancelled.
        return
      results: Sequence[Any]
      try:
        results = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._work, [one.item for one in batch])
      except Exception as error:  # Whatever it is, those who wait must know.
        results = [error] * len(batch)
      for one, result in zip(batch, results, strict=True):
        if one.result.done():  # Cancelled.
          continue
        if isinstance(result, Exception):
          one.result.set_exception(result)
        else:
          one.result.set_result(result)

  async def _gather(self) -> None:
    """Returns when a batch is full, or nobody else is about to come."""
    while self._waiting and len(self._alike()) < self._rows:
      left = _QUIET
      if self._wait is not None:
        left = self._waiting[0].since + self._wait - time.monotonic()
        if left <= 0:
          return
      self._arrived.clear()
      try:
        await asyncio.wait_for(self._arrived.wait(), left)
      except TimeoutError:
        return

  def _take(self) -> list[_Waiting[Item]]:
    """The next batch, in the order of arrival."""
    # A cancelled one is forgotten a moment after.
    self._waiting = [one for one in self._waiting if not one.result.done()]
    alike = sorted(self._alike(), key=lambda one: one.length)
    first = alike.index(self._waiting[0]) if alike else 0
    begin = max(0, min(first - self._rows // 2, len(alike) - self._rows))
    chosen = set(alike[begin:begin + self._rows])
    batch = [one for one in self._waiting if one in chosen]
    self._waiting = [one for one in self._waiting if one not in chosen]
    return batch

  def _alike(self) -> list[_Waiting[Item]]:
    """Those who can share a batch with the one that waits longest."""
    return [one for one in self._waiting if one.kind == self._waiting[0].kind]
