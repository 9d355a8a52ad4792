"""Sends requests: in turn, retried, within the budget, and journaled."""

import asyncio
import collections
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import tqdm

from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint as endpoint_lib
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.teacher.ask import limits

_FIRST_RATIO = 4.0  # characters a token, until answers tell
_FIRST_LENGTH = 80.0  # tokens of an answer, likewise
_MOST_TOLD = 5  # kinds of failures
_FIRST_SECONDS = 20.0  # that the others wait for the first answer
_LONGEST_TOLD_WAIT = 900.0  # seconds; a server that asks for more ends the run
_LONGEST_REFUSED_WAIT = 16.0  # of one request after 429s: the pace does the rest
_KNOCKS = 3  # at a door behind which perhaps nobody is
_GUESSED_RATIO = 3.0  # characters a token, where a server counts none: rather too many


@dataclasses.dataclass(frozen=True)
class Options:
  """How a teacher is asked.

  Attributes:
    samples: completions of every input.
    decoding: of the first attempt.
    retry_decoding: of further attempts at what did not parse.
    in_flight: requests at a time.
    max_retries: of one request, after failures other than "too many requests".
    max_fatal: requests in a row without an answer after which it is tried whether any is answered.
    patience: seconds of "too many requests" without one answer after which it stops.
    go_on: even if most of the first answers cannot be read.
  """

  samples: int = 1
  decoding: endpoint_lib.Decoding = endpoint_lib.Decoding()
  retry_decoding: endpoint_lib.Decoding = endpoint_lib.Decoding(max_tokens=512, temperature=0.7)
  in_flight: int = 64
  max_retries: int = 8
  max_fatal: int = 5
  patience: float = 3600.0
  go_on: bool = False


class Sender:
  """What all shards of a process share: slots, pace, budget, counters, and the reason to stop.

  Attributes:
    in_flight, answered, failed, retried: requests, for the progress line.
    repeated: requests that turned out to be another input's, word for word.
    say: tells the user something.
    heard: is told the key and entry of every request that is done with.
    prompt_tokens, completion_tokens: paid for in this run.
    lost: of them, requests that were paid for without an answer: too late, or half of one.
    guessed: answers whose tokens the server does not count.
    stopped: why nothing more is sent, '' while it is.
    mend: whether something must be changed before it goes on.
  """

  def __init__(
      self, endpoint: endpoint_lib.Endpoint, journal: journal_lib.Journal,
      options: Options, pace: limits.Pace, budget: limits.Budget,
      witness: Mapping[str, Any]):
    """`witness` is a request that is answered if any is."""
    self._endpoint = endpoint
    self._journal = journal
    self._options = options
    self._witness = witness
    self.pace = pace
    self.budget = budget
    self.in_flight = self.answered = self.failed = self.retried = self.repeated = 0
    self.say: Callable[[str], None] = lambda line: None
    self.heard: Callable[[str, Mapping[str, Any]], None] = lambda key, entry: None
    self.prompt_tokens = self.completion_tokens = self.lost = self.guessed = 0
    self.stopped, self.mend = '', False
    self._given_up = False
    self._slots = asyncio.Semaphore(options.in_flight)
    self._first: asyncio.Future[None] | None = None
    self._any = False  # Whether this run had an answer.
    self._unanswered, self._may_pass = 0, False  # in a row; of the last one's error
    self._at_fault = asyncio.Lock()
    self._limited_since: float | None = None
    self._pending: list[tuple[str, dict[str, Any]]] = []
    self._reasons: collections.Counter[str] = collections.Counter()
    self._told: set[str] = set()
    self._begun: dict[str, asyncio.Future[None]] = {}  # keys on their way
    self._ratio, self._length, self._longest = _FIRST_RATIO, _FIRST_LENGTH, 0.0
    self._waiting: set[asyncio.Task[Any]] = set()

  def learn(self, used: journal_lib.Usage) -> None:
    """Earlier answers tell how long the next will be."""
    if used.completion_tokens and used.requests:
      self._length = used.completion_tokens / used.requests

  def stop(self, why: str, *, finish: bool = False, mend: bool = False) -> None:
    """No further request is begun.

    Args:
      why: for the user.
      finish: those that were begun may still wait their turn and be sent again; otherwise they
        are given up unless they are on the wire.
      mend: the same command would stop again.
    """
    if not self.stopped:
      self.stopped, self.mend = why, mend
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
    """Asks until the journal has an answer, or that there is none to be had.

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
    characters = _characters(request)
    async with self._slots, self._in_turn():
      async with self._at_fault:  # Or wait until it is known whether anything is answered.
        pass
      if self.stopped:
        return False
      most = self.budget.cost(*self.most_tokens(request))
      try:
        await self.budget.reserve(most)
      except protocol.Unfinished as error:
        self.stop(str(error), finish=True, mend=error.mend)
        return False
      self.in_flight += 1
      paid = 0.0
      try:
        tokens = await self._until_answered(key, example_id, request, characters)
        paid = self.budget.cost(*tokens)
      finally:
        self.in_flight -= 1
        self.budget.settle(most, paid)
    return not self.stopped

  @contextlib.asynccontextmanager
  async def _in_turn(self) -> AsyncIterator[None]:
    """The first goes alone for a while: what it meets, and costs, the others need not."""
    if self._first is None and getattr(self._endpoint, 'first_alone', False):
      self._first = asyncio.get_running_loop().create_future()
      try:
        yield
      finally:
        self._first.set_result(None)
      return
    if self._first is not None and not self._first.done():
      await asyncio.wait([self._first], timeout=_FIRST_SECONDS)
    yield

  async def _until_answered(
      self, key: str, example_id: str, request: Mapping[str, Any], characters: int
  ) -> tuple[int, int]:
    """Tokens read and written, (0, 0) if there is no answer."""
    failures = refusals = timeouts = 0
    while not self._given_up:
      tokens = characters / self._ratio + self._length
      await self._wait(self.pace.turn(tokens))
      if self._given_up:
        break
      try:
        response = await self._endpoint.ask(request, seed=int(key[:8], 16), timeouts=timeouts)
      except endpoint_lib.TryLater as error:
        self.retried += 1
        self._tell(str(error))
        await self._lose(example_id, error, characters)
        failures += not error.limited
        refusals += error.limited
        timeouts += error.timed_out
        if error.unreachable and not self._any and failures >= _KNOCKS:
          self.stop(f'{error}: nobody answers there; start the server, or correct its address',
                    mend=True)
        elif failures > self._options.max_retries:
          await self._give_up_on(key, example_id, 'unanswered', error)
          break
        else:
          await self._back_off(error, failures, refusals)
      except endpoint_lib.Rejected as error:
        await self._give_up_on(key, example_id, 'rejected', error)
        break
      except endpoint_lib.Fatal as error:
        await self._give_up_on(key, example_id, 'unanswered', error)
        break
      else:
        return await self._accept(key, example_id, response, tokens, characters)
    return 0, 0

  async def _accept(
      self, key: str, example_id: str, response: Mapping[str, Any], tokens: float, characters: int
  ) -> tuple[int, int]:
    answer = self._endpoint.read(response)
    read, written = self.counted(answer, characters)
    await self._journal.add(key, {'id': example_id, 'response': response}, read, written)
    if self._journal.full:  # What is in flight has room yet, and no more.
      self.stop(self._journal.full, mend=True)
    self.pace.correct(read + written - tokens)
    self._ratio += 0.05 * (characters / max(read, 1) - self._ratio)
    self._length += (0.05 if self._any else 1.0) * (written - self._length)
    self._longest = max(self._longest, written)
    self.answered += 1
    self.prompt_tokens += read
    self.completion_tokens += written
    self._any, self._unanswered, self._limited_since = True, 0, None
    self.heard(key, {'response': response, 'usage': (read, written)})
    await self._settle_pending()  # Others are answered: these requests are at fault.
    return read, written

  def counted(self, answer: endpoint_lib.Answer, characters: int) -> tuple[int, int]:
    """Tokens that are paid for, as the server says, or rather too many if it does not."""
    if answer.prompt_tokens or answer.completion_tokens:
      return answer.prompt_tokens, answer.completion_tokens
    if not self.guessed:
      self.say('the server does not say how many tokens it counts: they are guessed, '
               f'{_GUESSED_RATIO:g} characters each')
    self.guessed += 1
    return (round(characters / _GUESSED_RATIO),
            round((len(answer.text) + len(answer.thoughts)) / _GUESSED_RATIO))

  async def _lose(
      self, example_id: str, error: endpoint_lib.TryLater, characters: int
  ) -> None:
    """What is paid for though it is no answer is written down too, for later runs' budgets."""
    if error.paid is None and not error.timed_out:
      return
    await self._lose_tokens(example_id, str(error), *(
        error.paid or (round(characters / self._ratio), round(self._length))))

  async def _lose_tokens(self, example_id: str, why: str, read: int, written: int) -> None:
    key = uuid.uuid4().hex * 2  # Of no request: it is only counted.
    await self._journal.add(key, {'id': example_id, 'lost': why}, read, written)
    self.lost += 1
    self.prompt_tokens += read
    self.completion_tokens += written
    self.budget.spent += self.budget.cost(read, written)
    if self.budget.exceeded:
      self.stop(f'--budget_usd={self.budget.max_usd:g} would be exceeded: {self.lost} requests '
                f'were paid for without an answer ({why}): raise it to go on', mend=True)

  async def finish(self) -> None:
    """Writes down which requests have no answer, if it is they that are at fault."""
    if self._pending and not self._any:
      await self._find_fault(self._reasons.most_common(1)[0][0])
    await self._settle_pending()

  async def _settle_pending(self) -> None:
    if self._given_up:
      return
    pending, self._pending = self._pending, []
    for key, entry in pending:
      await self._journal.add(key, entry)
      self.answered += 1
      self.heard(key, entry)

  async def _give_up_on(self, key: str, example_id: str, kind: str, error: Exception) -> None:
    """Is the request at fault, or the server, or the settings of all? The next answers tell."""
    self._pending.append((key, {'id': example_id, kind: str(error)}))
    self.failed += 1
    self._reasons[str(error)] += 1
    self._unanswered += 1
    self._may_pass = isinstance(error, endpoint_lib.TryLater) and (self._any or not error.strange)
    if self._unanswered >= self._options.max_fatal:
      await self._find_fault(str(error))

  async def _find_fault(self, message: str) -> None:
    """Stops, unless a request that is surely answered if any is, is answered."""
    async with self._at_fault:
      count = self._unanswered
      if self._given_up or not count:
        return
      try:
        answer = self._endpoint.read(await self._ask_witness())
      except (endpoint_lib.TryLater, endpoint_lib.Rejected, endpoint_lib.Fatal):
        self.stop(f'{count} request(s) in a row had no answer, nor had one that is sure to be '
                  f'answered if any is: {message}', mend=not self._may_pass)
        return
      read, written = self.counted(answer, _characters(self._witness))
      await self._lose_tokens('', 'asked to see whether anything is answered', read, written)
      self._any, self._unanswered = True, 0
      await self._settle_pending()

  async def _ask_witness(self) -> Mapping[str, Any]:
    for tried in range(1, _KNOCKS):
      try:
        return await self._endpoint.ask(self._witness)
      except endpoint_lib.TryLater as error:
        await asyncio.sleep(max(error.after or 0.0, limits.back_off(tried)))
    return await self._endpoint.ask(self._witness)

  def _tell(self, message: str) -> None:
    """What goes wrong, when it first does: the user may know more than a retry does."""
    if message not in self._told and len(self._told) < _MOST_TOLD:
      self._told.add(message)
      self.say(f'{message}; asking again')

  async def _back_off(self, error: endpoint_lib.TryLater, failures: int, refusals: int) -> None:
    loop = asyncio.get_running_loop()
    if error.after is not None and error.after > _LONGEST_TOLD_WAIT:
      self.stop(f'the server asks to wait {tqdm.tqdm.format_interval(error.after)} ({error})')
      return
    if not error.limited:
      await self._wait(asyncio.sleep(max(error.after or 0.0, limits.back_off(failures))))
      return
    self._limited_since = self._limited_since or loop.time()
    waited = loop.time() - self._limited_since
    if waited > self._options.patience:
      self.stop(f'for {waited / 60:.0f} minutes the endpoint has answered nothing but "too many '
                f'requests" ({error}); lower --rpm, --tpm or --in_flight')
    elif error.after is not None:
      # All wait: 64 requests that each find out by themselves are 64 more refusals.
      self.pace.pause(error.after)
    else:
      self.pace.refused()
      await self._wait(asyncio.sleep(limits.back_off(refusals, _LONGEST_REFUSED_WAIT)))

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

  def most_tokens(self, request: Mapping[str, Any]) -> tuple[float, float]:
    """Read and written at most: one for two characters, and all that the teacher may write.

    One that thinks out of sight has been seen to write more than that.
    """
    asked = request.get('max_tokens') or request.get('max_completion_tokens') or self._length
    return _characters(request) / 2, max(asked + getattr(self._endpoint, 'room', 0), self._longest)


def _characters(request: Mapping[str, Any]) -> int:
  return len(request.get('prompt', '')) + sum(
      len(message['content']) for message in request.get('messages', ()))
