"""Batches out of many coroutines."""

import asyncio
import threading
import time

import pytest

from dss_jax.predict import gathering


def batches(work, rows=4):
  return gathering.Batches(work, rows, kind=type, length=abs)


def run(items, rows=4, work=list):
  """(results, the batches)."""
  seen = []

  def noted(batch):
    seen.append(list(batch))
    return work(batch)

  async def main():
    made = batches(noted, rows)
    try:
      return await asyncio.gather(*map(made.put, items), return_exceptions=True)
    finally:
      await made.close()
  return asyncio.run(main()), seen


def test_results_go_to_those_who_asked():
  assert run([3, 1, 2], work=lambda batch: [-one for one in batch])[0] == [-3, -1, -2]


def test_the_oldest_comes_first_with_those_nearest_in_length():
  results, seen = run([50, 1, 90, 51, 2, 91, 49, 3, 92], rows=3)
  assert results == [50, 1, 90, 51, 2, 91, 49, 3, 92]
  assert seen == [[50, 51, 49], [1, 2, 3], [90, 91, 92]]


def test_one_kind_a_batch():
  assert run([1, 1.0, 2, 2.0])[1] == [[1, 2], [1.0, 2.0]]


def test_a_full_batch_does_not_wait(monkeypatch):
  monkeypatch.setattr(gathering, '_QUIET', 1000)
  assert run(range(4))[1] == [[0, 1, 2, 3]]


def test_late_comers_are_waited_for_while_they_come(monkeypatch):
  monkeypatch.setattr(gathering, '_QUIET', 0.5)

  async def main():
    seen = []
    made = batches(lambda batch: seen.append(list(batch)) or batch)

    async def late(item):
      await asyncio.sleep(item / 10)
      return await made.put(item)
    await asyncio.gather(*map(late, [0, 1, 2, 12]))
    return seen
  assert asyncio.run(main()) == [[0, 1, 2], [12]]


def test_the_next_batch_gathers_while_one_is_at_work():
  begin, seen = threading.Event(), []

  def work(batch):
    begin.wait(10)  # Of the event loop, which must not wait for this.
    seen.append(len(batch))
    return batch

  async def main():
    made = batches(work)
    first = [asyncio.ensure_future(made.put(1)) for _ in range(4)]
    await asyncio.sleep(0.05)
    others = [asyncio.ensure_future(made.put(2)) for _ in range(4)]
    await asyncio.sleep(0.05)
    begin.set()
    await asyncio.gather(*first, *others)
    await made.close()
  asyncio.run(main())
  assert seen == [4, 4]


def test_errors_of_one_and_of_all():
  odd = ValueError('odd')
  results, _ = run([1, 2, 3, 4], work=lambda batch: [odd if i % 2 else i for i in batch])
  assert results == [odd, 2, odd, 4]

  def fail(batch):
    raise odd
  assert run([1, 2], work=fail)[0] == [odd, odd]


def test_cancelled_items_are_dropped():
  async def main():
    seen = []
    made = batches(lambda batch: seen.append(list(batch)) or batch)
    tasks = [asyncio.ensure_future(made.put(i)) for i in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled() and [task.result() for task in tasks[1:]] == [1, 2]
    alone = asyncio.ensure_future(made.put(7))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.sleep(2 * gathering._QUIET)
    assert await made.put(8) == 8
    return seen
  assert asyncio.run(main()) == [[1, 2], [8]]


def test_it_works_in_one_event_loop_after_another_and_until_it_is_closed():
  made = batches(list)
  for i in range(3):
    assert asyncio.run(made.put(i)) == i
  asyncio.run(made.close())
  with pytest.raises(RuntimeError):
    asyncio.run(made.put(1))


def test_closing_waits_for_the_batch_at_work():
  done = []

  def slow(batch):
    time.sleep(0.3)
    done.extend(batch)
    return batch

  async def main():
    made = batches(slow, rows=1)
    asking = asyncio.ensure_future(made.put(5))
    await asyncio.sleep(0.05)
    await made.close()
    assert done == [5] and await asking == 5
  asyncio.run(main())


def test_an_item_waits_for_others_no_longer_than_is_said(monkeypatch):
  """Although others keep coming."""
  monkeypatch.setattr(gathering, '_QUIET', 1000)

  async def main():
    made = gathering.Batches(lambda batch: batch, 1000, kind=type, length=abs, wait=0.2)
    first = asyncio.ensure_future(made.put(1))
    others = []
    while not first.done() and len(others) < 300:
      others.append(asyncio.ensure_future(made.put(2)))
      await asyncio.sleep(0.02)
      assert made.waiting <= len(others) + 1
    assert first.done() and len(others) > 1
    assert await asyncio.gather(*others) == [2] * len(others)
    assert made.waiting == 0
    await made.close()
  asyncio.run(main())


def test_a_submitted_item_waits_at_once_and_a_cancelled_one_is_never_worked_on():
  async def main():
    seen = []
    made = batches(lambda batch: seen.append(list(batch)) or batch)
    futures = [made.submit(i) for i in range(3)]
    assert made.waiting == 3
    futures[1].cancel()
    assert await asyncio.gather(futures[0], futures[2]) == [0, 2]
    assert made.waiting == 0
    return seen
  assert asyncio.run(main()) == [[0, 2]]
