"""The progress line of a job that asks: done, failed, in flight, rate, tokens, cost, time left."""

import asyncio
import collections
import sys
import time
from typing import TYPE_CHECKING

import tqdm

if TYPE_CHECKING:
  from dss_jax.teacher.ask import sender

_TERMINAL_SECONDS, _LOG_SECONDS = 0.5, 30.0
_WINDOW_SECONDS = 30.0  # over which the rate is taken


class Progress:
  """A bar on a terminal, a line every half minute in a log; written to stderr."""

  def __init__(self, counts: 'sender.Sender'):
    self._counts = counts
    self._total = self._known = 0
    self._seen: collections.deque[tuple[float, int]] = collections.deque()
    self._bar: tqdm.tqdm | None = None
    self._task: asyncio.Task[None] | None = None

  def begin(self, total: int) -> None:
    """So many answers are wanted in all."""
    self._total = total

  def known(self, count: int, extra: bool) -> None:
    """So many were in the journal; `extra`: of a further attempt, not counted at first."""
    self._known += count
    self._total += count if extra else 0

  def more(self, count: int, extra: bool) -> None:
    """So many are about to be asked for."""
    self._total += count if extra else 0
    if count and self._task is None:
      self._seen.append((time.monotonic(), self._counts.answered))
      self._task = asyncio.ensure_future(self._show())

  def say(self, line: str) -> None:
    """A line for the user, above the bar."""
    tqdm.tqdm.write(f'teacher: {line}', file=sys.stderr)

  def close(self) -> None:
    if self._task is not None:
      self._task.cancel()
      self._refresh()
    if self._bar is not None:
      self._bar.close()

  def line(self) -> str:
    """'3,201 of 9,741 done, 64 in flight, 45.2/s, 1,204,551 tokens, 0.42 USD, 2:24 left'."""
    counts = self._counts
    done = self._done
    rate = self._rate()
    parts = [f'{done:,} of {self._total:,} done']
    if counts.failed:
      parts.append(f'{counts.failed:,} failed')
    parts += [f'{counts.in_flight} in flight', f'{rate:.1f}/s',
              f'{counts.prompt_tokens + counts.completion_tokens:,} tokens']
    if counts.budget.prompt_price or counts.budget.completion_price:
      parts.append(f'{counts.budget.spent:.2f} USD')
    if counts.retried:
      parts.append(f'{counts.retried:,} asked again')
    if (pause := counts.pace.paused) > 1:
      parts.append(f'told to wait {pause:.0f} s')
    if rate > 0 and done < self._total:
      parts.append(f'{tqdm.tqdm.format_interval((self._total - done) / rate)} left')
    return ', '.join(parts)

  @property
  def _done(self) -> int:
    return self._known + self._counts.answered + self._counts.repeated

  def _rate(self) -> float:
    """Answers a second, over the last half minute."""
    now = time.monotonic()
    while len(self._seen) > 1 and now - self._seen[1][0] > _WINDOW_SECONDS:
      self._seen.popleft()
    if not self._seen or now <= self._seen[0][0]:
      return 0.0
    return (self._counts.answered - self._seen[0][1]) / (now - self._seen[0][0])

  async def _show(self) -> None:
    on_terminal = sys.stderr.isatty()
    while True:
      await asyncio.sleep(_TERMINAL_SECONDS if on_terminal else _LOG_SECONDS)
      self._seen.append((time.monotonic(), self._counts.answered))
      if on_terminal:
        self._refresh()
      else:
        self.say(self.line())

  def _refresh(self) -> None:
    if not sys.stderr.isatty():
      return
    if self._bar is None:
      self._bar = tqdm.tqdm(bar_format='teacher: {percentage:3.0f}%|{bar:20}| {postfix}')
    self._bar.total = self._total
    self._bar.n = self._done
    self._bar.set_postfix_str(self.line(), refresh=True)
