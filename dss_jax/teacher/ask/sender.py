"""Sends requests: in turn, retried, within the budget, and journaled."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint as endpoint_lib
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.teacher.ask import limits

_FIRST_RATIO = 4.0  # characters a token, until answers tell
_FIRST_LENGTH = 80.0  # tokens of an answer, likewise
_MOST_TOLD = 5  # kinds of failures


@dataclasses.dataclass(frozen=True)
class Options:
  """How a teacher is asked.

  Attributes:
    samples: completions of every input.
    decoding: of the first attempt.
    retry_decoding: of further attempts at what did not parse.
    in_flight: requests at a time.
    max_retries: of one request, after failures other than "too many requests".
    max_fatal: consecutive fatal errors after which the job stops.
    patience: seconds of "too many requests" without one answer after which it stops.
  """

  samples: int = 1
  decoding: endpoint_lib.Decoding = endpoint_lib.Decoding()
  retry_decoding: endpoint_lib.Decoding = endpoint_lib.Decoding(max_tokens=512, temperature=0.7)
  in_flight: int = 64
  max_retries: int = 8
  max_fatal: int = 5
  patience: float = 3600.0


class Sender:
  """What all shards of a process share: slots, pace, budget, counters, and the reason to stop.

  Attributes:
    in_flight, answered, failed, retried: requests, for the progress line.
    repeated: requests that turned out to be another input's, word for word.
    say: tells the user something.
    prompt_tokens, completion_tokens: of this run's answers.
    stopped: why nothing more is sent, '' while it is.
  """

  def __init__(
      self, endpoint: endpoint_lib.Endpoint, journal: journal_lib.Journal,
      options: Options, pace: limits.Pace, budget: limits.Budget):
    self._endpoint = endpoint
    self._journal = journal
    self._options = options
    self.pace = pace
    self.budget = budget
    self.in_flight = self.answered = self.failed = self.retried = self.repeated = 0
    self.say: Callable[[str], None] = lambda line: None
    self.prompt_tokens = self.completion_tokens = 0
    self.stopped = ''
    self._given_up = False
    self._slots = asyncio.Semaphore(options.in_flight)
    self._fatal = 0  # in a row
    self._limited_since: float | None = None
    self._rejections: list[tuple[str, dict[str, Any]]] = []
    self._reasons: collections.Counter[str] = collections.Counter()
    self._told: set[str] = set()
    self._begun: dict[str, asyncio.Future[None]] = {}  # keys on their way
    self._ratio, self._length = _FIRST_RATIO, _FIRST_LENGTH
    self._waiting: set[asyncio.Task[Any]] = set()

  def learn(self, used: journal_lib.Usage) -> None:
    """Earlier answers tell how long the next will be."""
    if used.completion_tokens and used.requests:
      self._length = used.completion_tokens / used.requests

  def stop(self, why: str, *, finish: bool = False) -> None:
    """No further request is begun.

    Args:
      why: for the user.
      finish: those that were begun may still wait their turn and be sent again; otherwise they
        are given up unless they are on the wire.
    """
    self.stopped = self.stopped or why
    if not finish:
      self._given_up = True
      for task in self._waiting:
        task.cancel()

  def why_unfinished(self) -> str:
    if self.stopped:
      return self.stopped
    reasons = '; '.join(f'{count} times {reason}'
                        for reason, count in self._reasons.most_common(3))
    return f'{self.failed} request(s) stayed without an answer ({reasons})'

  async def send(self, key: str, example_id: str, request: Mapping[str, Any]) -> bool:
    """Asks until there is an answer in the journal, or there is none to be had.

    Returns: False if nothing more is to be sent at all.
    """
    if key in self._begun or self._journal.has([key]):  # Another input is the same, word for word.
      if key in self._begun:
        await asyncio.shield(self._begun[key])
      self.repeated += bool(self._journal.has([key]))
      return not self.stopped
    self._begun[key] = asyncio.get_running_loop().create_future()
    try:
      return await self._send(key, example_id, request)
    finally:
      self._begun.pop(key).set_result(None)

  async def _send(self, key: str, example_id: str, request: Mapping[str, Any]) -> bool:
    characters = len(request.get('prompt', '')) + sum(
        len(message['content']) for message in request.get('messages', ()))
    async with self._slots:
      if self.stopped:
        return False
      # At most: one token for two characters, and all that the teacher may write.
      most = self.budget.cost(characters / 2, self._most_tokens(request))
      try:
        await self.budget.reserve(most)
      except protocol.Unfinished as error:
        self.stop(str(error), finish=True)
        return False
      self.in_flight += 1
      paid = 0.0
      try:
        answer = await self._until_answered(key, example_id, request, characters)
        if answer is not None:
          paid = self.budget.cost(answer.prompt_tokens, answer.completion_tokens)
      finally:
        self.in_flight -= 1
        self.budget.settle(most, paid)
    return not self.stopped

  async def _until_answered(
      self, key: str, example_id: str, request: Mapping[str, Any], characters: int
  ) -> endpoint_lib.Answer | None:
    failures = 0
    while not self._given_up:
      tokens = characters / self._ratio + self._length
      await self._wait(self.pace.turn(tokens))
      if self._given_up:
        break
      try:
        response = await self._endpoint.ask(request, seed=int(key[:8], 16))
      except endpoint_lib.TryLater as error:
        self.retried += 1
        self._tell(str(error))
        failures += not error.limited
        if failures > self._options.max_retries:
          if error.response is not None and self._journal.usage().requests:
            # Others are answered: asked for ever, this one would keep the job from its end.
            return await self._accept(key, example_id, error.response, tokens, characters)
          self._fail(str(error))
          if not self.answered:  # Nothing ever was: the server is not there.
            self._count_fatal(str(error))
          return None
        await self._back_off(error, failures)
      except endpoint_lib.Rejected as error:
        await self._reject(key, example_id, str(error))
        return None
      except endpoint_lib.Fatal as error:
        self._fail(str(error))
        self._count_fatal(str(error))
        return None
      else:
        return await self._accept(key, example_id, response, tokens, characters)
    return None

  async def _accept(
      self, key: str, example_id: str, response: Mapping[str, Any], tokens: float, characters: int
  ) -> endpoint_lib.Answer:
    answer = self._endpoint.read(response)
    await self._journal.add(key, {'id': example_id, 'response': response},
                            answer.prompt_tokens, answer.completion_tokens)
    if self._journal.full:  # What is in flight has room yet, and no more.
      self.stop(self._journal.full)
    await self._count(answer, tokens, characters)
    return answer

  async def _count(self, answer: endpoint_lib.Answer, tokens: float, characters: int) -> None:
    self.answered += 1
    self.prompt_tokens += answer.prompt_tokens
    self.completion_tokens += answer.completion_tokens
    if answer.prompt_tokens:
      self.pace.correct(answer.prompt_tokens + answer.completion_tokens - tokens)
      self._ratio += 0.05 * (characters / answer.prompt_tokens - self._ratio)
      self._length += 0.05 * (answer.completion_tokens - self._length)
    elif self.budget.max_usd:
      self.stop('the server does not say how many tokens it counts, so that --budget_usd cannot be '
                'kept; use --max_requests in its place')
    self._fatal, self._limited_since = 0, None
    await self.accept_rejections()  # Others are answered: these requests are at fault.

  async def accept_rejections(self) -> None:
    """Writes down that some requests are not taken, unless the job stopped because of them."""
    if self._given_up:
      return
    rejections, self._rejections = self._rejections, []
    for key, entry in rejections:
      await self._journal.add(key, entry)
      self.answered += 1

  async def _reject(self, key: str, example_id: str, message: str) -> None:
    """Is the request at fault, or the settings of all? The next answers tell."""
    self._rejections.append((key, {'id': example_id, 'rejected': message}))
    self._reasons[message] += 1
    self._count_fatal(message)

  def _count_fatal(self, message: str) -> None:
    self._fatal += 1
    if self._fatal >= self._options.max_fatal:
      self.stop(f'{self._fatal} requests in a row met an error that repeating does not mend: '
                f'{message}')

  def _tell(self, message: str) -> None:
    """What goes wrong, when it first does: the user may know more than a retry does."""
    if message not in self._told and len(self._told) < _MOST_TOLD:
      self._told.add(message)
      self.say(f'{message}; asking again')

  def _fail(self, message: str) -> None:
    self.failed += 1
    self._reasons[message] += 1

  async def _back_off(self, error: endpoint_lib.TryLater, failures: int) -> None:
    loop = asyncio.get_running_loop()
    if not error.limited:
      await self._wait(asyncio.sleep(max(error.after or 0.0, limits.back_off(failures))))
      return
    self._limited_since = self._limited_since or loop.time()
    waited = loop.time() - self._limited_since
    if waited > self._options.patience:
      self.stop(f'for {waited / 60:.0f} minutes the endpoint has answered nothing but "too many '
                f'requests" ({error}); lower --rpm, --tpm or --in_flight')
      return
    # All wait: 64 requests that each find out by themselves are 64 more refusals.
    self.pace.pause(limits.back_off(3) if error.after is None else error.after)

  async def _wait(self, waiting) -> None:
    """Waits, or not, if the job is stopped meanwhile."""
    if self._given_up:
      waiting.close()
      return
    task = asyncio.ensure_future(waiting)
    self._waiting.add(task)
    try:
      await task
    except asyncio.CancelledError:
      if not self._given_up:
        raise
    finally:
      self._waiting.discard(task)

  def _most_tokens(self, request: Mapping[str, Any]) -> float:
    return request.get('max_tokens') or request.get('max_completion_tokens') or self._length
