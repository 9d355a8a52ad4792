"""Between the HTTP of `app.py` and the engine: the queue, its bounds, and the server's state."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from dss_jax import errors, valid
from dss_jax.predict import gathering
from dss_jax.serve import engine as engine_lib
from dss_jax.serve import metrics as metrics_lib

LOADING, READY, DRAINING = 'loading', 'ready', 'draining'
GONE = 499  # the client; never sent, but counted
_log = logging.getLogger(__name__)
T = TypeVar('T')


class Engine(Protocol):
  """See `engine.Engine`."""

  def programs(self) -> Sequence[tuple[int, int, bool]]:
    ...

  def compile(self, rows: int, width: int, rank: bool) -> None:
    ...

  def question(self, text: str, *, rationale: bool | None, rank: bool | None,
               labels: Sequence[str]) -> engine_lib.Question:
    ...

  def answer(self, questions: Sequence[Any]) -> Sequence[engine_lib.Answer | Exception]:
    ...


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a server takes on.

  Attributes:
    max_batch: inputs in one batch.
    max_wait_ms: milliseconds that an input waits for others while the decoder is idle.
    queue: inputs that wait for a batch.
    max_inputs: of one request.
    max_body: bytes of one request.
    timeout: seconds to send a request's body, and then to answer it.
    grace: seconds to finish what is in flight when the server is told to stop.
  """

  max_batch: int = 32
  max_wait_ms: float = 5.0
  queue: int = 256
  max_inputs: int = 64
  max_body: int = 1_000_000
  timeout: float = 30.0
  grace: float = 30.0

  def __post_init__(self):
    valid.whole(1, max_batch=self.max_batch, queue=self.queue, max_inputs=self.max_inputs,
                max_body=self.max_body)
    valid.number(lambda x: x >= 0, 'of at least 0', max_wait_ms=self.max_wait_ms, grace=self.grace)
    valid.number(lambda x: x > 0, 'above 0', timeout=self.timeout)
    if self.max_inputs > self.queue:
      raise errors.UserError(f'max_inputs={self.max_inputs} do not fit into queue={self.queue}: '
                             'raise it')


class Refused(Exception):
  """A request that is not answered: its HTTP status, why, and when to come again."""

  def __init__(self, status: int, why: str, retry_after: int | None = None):
    super().__init__(why)
    self.status = status
    self.headers = {} if retry_after is None else {'retry-after': str(retry_after)}


class Service:
  """Lives in one event loop.

  Attributes:
    state: LOADING, READY or DRAINING.
    progress: what is being loaded, for /readyz.
    metrics: see `Metrics`.
  """

  def __init__(self, limits: Limits):
    self.limits = limits
    self.state = LOADING
    self.progress = ''
    self.engine: Engine | None = None
    self._batches = gathering.Batches[Any, engine_lib.Answer](
        self._work, limits.max_batch, kind=lambda one: one.kind, length=lambda one: one.tokens,
        wait=limits.max_wait_ms / 1000)
    self.metrics = metrics_lib.Metrics(limits.max_batch, lambda: self._batches.waiting)
    self._in_flight = 0
    self._idle = asyncio.Event()
    self._idle.set()
    self._abandoned = asyncio.Event()
    self._seconds_per_input = 0.1  # a guess until the first batch

  def check_ready(self) -> None:
    """Raises Refused unless questions are answered."""
    if self.state == LOADING:
      raise Refused(503, f'loading: {self.progress}', retry_after=5)
    if self.state == DRAINING:
      raise Refused(503, 'draining: this server was told to stop', retry_after=1)

  @contextlib.contextmanager
  def request(self) -> Iterator[None]:
    """Within it a request is in flight: draining waits for it."""
    self._in_flight += 1
    self.metrics.in_flight.inc()
    self._idle.clear()
    try:
      yield
    finally:
      self.metrics.in_flight.dec()
      self._in_flight -= 1
      if not self._in_flight:
        self._idle.set()

  async def questions(self, texts: Sequence[str], **asked: Any) -> list[engine_lib.Question]:
    """Tokenizes, in a thread: megabytes take a while. Raises Refused; after `check_ready`."""
    if len(texts) > self.limits.max_inputs:
      raise Refused(413, f'inputs: {len(texts)} of them, at most {self.limits.max_inputs} in a '
                         'request')
    assert self.engine is not None
    engine = self.engine
    try:
      return await asyncio.to_thread(lambda: [engine.question(text, **asked) for text in texts])
    except errors.UserError as error:
      raise Refused(422, str(error)) from error

  async def answers(
      self, questions: Sequence[engine_lib.Question], gone: Callable[[], Awaitable[Any]]
  ) -> list[engine_lib.Answer]:
    """The answers in order; raises Refused.

    Args:
      questions: of one request.
      gone: returns when nobody waits for the answers any more; what has not begun is dropped.
    """
    waiting = self._batches.waiting
    if waiting + len(questions) > self.limits.queue:
      seconds = math.ceil(waiting * self._seconds_per_input)
      raise Refused(429, f'the queue is full: {waiting} inputs wait, at most {self.limits.queue}',
                    retry_after=max(1, seconds))
    results = [self._batches.submit(one) for one in questions]
    work = asyncio.gather(*results)
    ends = {asyncio.ensure_future(gone()): Refused(GONE, 'the client went away'),
            asyncio.ensure_future(self._abandoned.wait()):
                Refused(503, 'this server was told to stop, and --grace is over', retry_after=1)}
    try:
      done, _ = await asyncio.wait([work, *ends], timeout=self.limits.timeout,
                                   return_when=asyncio.FIRST_COMPLETED)
      if work in done:
        return self._counted(questions, work)
      raise next((ends[one] for one in ends if one in done),
                 Refused(504, f'no answer within {self.limits.timeout:g} s', retry_after=1))
    finally:
      for one in (*results, *ends):  # After a failure of one, also what else was asked.
        one.cancel()
      await asyncio.gather(work, *results, *ends, return_exceptions=True)

  async def drain(self) -> int:
    """Takes no more requests and ends those in flight; the number that could not be finished."""
    self.state = DRAINING
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._idle.wait(), self.limits.grace)
    lost = self._in_flight
    self._abandoned.set()
    return lost

  async def close(self) -> None:
    """Ends the engine's thread, after the batch that it is at."""
    await self._batches.close()

  def _counted(self, questions, work) -> list[engine_lib.Answer]:
    try:
      answers = work.result()
    except Exception as error:
      raise Refused(500, f'the student failed ({type(error).__name__}): the log of the server has '
                         'more') from error
    self.metrics.tokens.labels('read').inc(sum(one.tokens for one in questions))
    self.metrics.tokens.labels('written').inc(sum(one.tokens for one in answers))
    return answers

  def _work(self, questions: Sequence[Any]) -> Sequence[engine_lib.Answer | Exception]:
    """In the engine's thread."""
    assert self.engine is not None
    began = time.perf_counter()
    try:
      answers = self.engine.answer(questions)
      for answer in answers:
        if isinstance(answer, Exception):
          _log.error('an input was not answered: %s', answer)
      return answers
    except Exception:
      _log.exception('a batch of %d failed', len(questions))
      raise
    finally:
      took = time.perf_counter() - began
      self._seconds_per_input += 0.2 * (took / len(questions) - self._seconds_per_input)
      self.metrics.batch_seconds.observe(took)
      self.metrics.batch_size.observe(len(questions))
