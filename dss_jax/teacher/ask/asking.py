"""The client that asks a live teacher: journal first, then requests for what is missing."""

import asyncio
import dataclasses
import hashlib
import itertools
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.teacher import first_look, protocol
from dss_jax.teacher.ask import endpoint as endpoint_lib
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.teacher.ask import limits, progress, prompts, room, sender
from dss_jax.teacher.read import parsing


@dataclasses.dataclass(frozen=True)
class Question:
  """One request to be: an input, and the how-manieth sample and attempt."""

  example: datasets.Example
  sample: int
  attempt: int


class AskingClient(protocol.Client):
  """Completions from an `Endpoint`, each paid for once.

  The key of a request is the SHA-256 of all that decides its answer: the request itself (exact
  prompt, model, decoding parameters), the sample and the attempt.

  Attributes:
    passed_on: statuses of rows that somebody else is asked about.
  """

  passed_on: Sequence[str] = ()

  def __init__(
      self,
      endpoint: endpoint_lib.Endpoint,
      prompt: prompts.Prompt,
      journal: journal_lib.Journal,
      options: sender.Options,
      pace: limits.Pace | None = None,
      budget: limits.Budget | None = None,
  ):
    self.name = endpoint.name
    self.model = endpoint.model
    self.folders = (journal.folder,)
    self.prompt = prompt
    self.endpoint = endpoint
    self.options = options
    self.journal = journal
    self.budget = budget or limits.Budget()
    self._prompt_sha256 = prompt.sha256()
    self.sender = sender.Sender(endpoint, journal, options, pace or limits.Pace(), self.budget,
                                 endpoint.request(prompt, prompt.any_input, options.decoding))
    self.progress = progress.Progress(self.sender)
    self.sender.say = self.progress.say
    if hasattr(endpoint, 'say'):
      endpoint.say = self.progress.say
    self._catching = False
    self._first_shard = True
    self._look: first_look.FirstLook | None = None
    self._looked_for: dict[str, datasets.Example] = {}
    self._looking, self._looked = 0, asyncio.Event()  # shards that look for earlier answers

  def prepare(self, ids: Sequence[str]) -> None:
    """Reads the journal, so that a run that cannot go on fails before it writes anything."""
    self.journal.refresh()
    used = self.journal.usage()
    self.budget.spent = self.budget.cost(used.prompt_tokens, used.completion_tokens)
    self.sender.learn(used)
    self.expect(len(ids) * self.options.samples)
    for line in journal_notes(self.journal):
      self.progress.say(line)

  def expect(self, answers: int) -> None:
    """So many are wanted in all."""
    self.progress.begin(answers)

  def watch(self, read: first_look.Read) -> None:
    """The first answers are looked at as they come."""
    self._look = first_look.FirstLook(read, self.passed_on)
    self.sender.heard = self._hear

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[tuple[protocol.Completion, ...]]:
    self._catch_signals()
    self.journal.refresh()  # Another worker may have been at this shard before.
    keys, answered = await self._known(examples, attempt)
    await self._ask(examples, keys, answered, attempt)
    await self.journal.settle()
    entries = await asyncio.to_thread(self.journal.read, [key for row in keys for key in row])
    missing = sum(key not in entries for row in keys for key in row)
    if missing:
      raise protocol.Unfinished(self.sender.why_unfinished(), self.sender.mend)
    return [tuple(self._completion(key, entries[key]) for key in row) for row in keys]

  async def _known(
      self, examples: Sequence[datasets.Example], attempt: int
  ) -> tuple[list[list[str]], set[str]]:
    """The keys of all requests, and those that are answered; no shard asks before all looked."""
    self._looking += 1
    self._looked.clear()
    try:
      found = await self._look_up(examples, attempt)
    finally:
      self._looking -= 1
      if not self._looking:
        self._looked.set()
    await self._looked.wait()
    return found

  async def _look_up(
      self, examples: Sequence[datasets.Example], attempt: int
  ) -> tuple[list[list[str]], set[str]]:
    # In a thread, as other shards' answers come in meanwhile.
    keys = await asyncio.to_thread(
        lambda: [[self.key(question) for question in self.questions(example, attempt)]
                 for example in examples])
    answered = self.journal.has(key for row in keys for key in row)
    self.progress.known(len(answered), extra=attempt > 0)
    if self._first_shard:
      self._first_shard = False
      if not answered and await asyncio.to_thread(self._answered_otherwise, examples):
        self.progress.say('the journal has answers to these inputs, but under other settings '
                          '(prompt, model, decoding): they are asked for, and paid for, again')
    if attempt == 0 and self._look and not self._look.done:
      await asyncio.to_thread(self._look_back, examples, keys, answered)
    return keys, answered

  def key(self, question: Question) -> str:
    """Of the request; 64 hexadecimal digits."""
    content = [self.request(question), question.sample, question.attempt]
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, ensure_ascii=False).encode(
            'utf-8', 'surrogatepass')).hexdigest()

  def request(self, question: Question) -> dict[str, Any]:
    decoding = self.options.decoding
    if question.attempt and not self._had_no_answer(question):  # Room and chance mend no refusal.
      decoding = self.options.retry_decoding
    if fields := self.prompt.fields(question.example):
      decoding = dataclasses.replace(decoding, extra={**fields, **decoding.extra})
    return self.endpoint.request(self.prompt, question.example.input, decoding)

  def answered(self, examples: Sequence[datasets.Example]) -> Iterator[protocol.Completion]:
    """What the journal has of first attempts; sends nothing."""
    for example in examples:
      for key, entry in self.journal.read(map(self.key, self.questions(example, 0))).items():
        yield self._completion(key, entry)

  def _had_no_answer(self, question: Question) -> bool:
    """Whether the last attempt ended so: the server would not, or could not."""
    before = self.key(dataclasses.replace(question, attempt=question.attempt - 1))
    entry = self.journal.read([before]).get(before, {})
    return 'rejected' in entry or 'unanswered' in entry

  def provenance(self) -> Mapping[str, Any]:
    chosen = self.options
    return {**self.endpoint.provenance(), 'answer': self.prompt.form,
            'samples': chosen.samples, 'decoding': dataclasses.asdict(chosen.decoding),
            'retry_decoding': dataclasses.asdict(chosen.retry_decoding)}

  def stop(self, why: str, mend: bool = False) -> None:
    """Sends nothing more; what is in flight is waited for."""
    self.sender.stop(why, mend=mend)

  def paid(self) -> str:
    if not (self.budget.prompt_price or self.budget.completion_price):
      return ''
    return f'paid: {self.budget.spent:.4f} USD for all that is in the journal'

  async def close(self) -> None:
    self.progress.close()
    if self.sender.stopped and self._look and not self._look.done and (
        table := self._look.table()):  # All that were in flight have come.
      self.progress.say(table)
    if self.sender.lost:
      self.progress.say(f'{self.sender.lost} request(s) of this run were paid for without an '
                         'answer of use; they are in the count')
    try:
      await self.journal.close()
    finally:
      await self.endpoint.close()

  def questions(self, example: datasets.Example, attempt: int) -> list[Question]:
    return [Question(example, sample, attempt) for sample in range(self.options.samples)]

  async def _ask(self, examples, keys, answered: set[str], attempt: int) -> None:
    """Sends what the journal does not have, a bounded number at a time."""
    def missing() -> Iterator[tuple[str, Question]]:
      for example, row in zip(examples, keys, strict=True):
        for key, question in zip(row, self.questions(example, attempt), strict=True):
          if key not in answered:
            yield key, question
    todo = missing()
    count = sum(len(row) for row in keys) - len(answered)

    async def work() -> None:
      for key, question in todo:
        if attempt == 0 and self._look and not self._look.done:
          self._looked_for[key] = question.example
        if not await self.sender.send(key, question.example.id, self.request(question)):
          return

    self.progress.more(count, extra=attempt > 0)
    if count:
      self.journal.reserve(self.options.in_flight * room.most_bytes(self.options))
    workers = [asyncio.ensure_future(work())
               for _ in range(min(self.options.in_flight, count))]
    try:
      await asyncio.gather(*workers)
    finally:
      for worker in workers:
        worker.cancel()
    await self.sender.finish()

  def _answered_otherwise(self, examples: Sequence[datasets.Example]) -> bool:
    """Whether most of a look into the journal are answers to rows of these ids."""
    ids = {example.id for example in examples}
    seen = [entry.get('id') in ids for entry in itertools.islice(
        journal_lib.entries(self.journal.folder), len(ids)) if 'response' in entry]
    return sum(seen) > len(seen) / 2

  def _look_back(self, examples, keys, answered: set[str]) -> None:
    """Answers of earlier runs are as good to look at."""
    found = {key: example for example, row in zip(examples, keys, strict=True)
             for key in row if key in answered}
    first = dict(list(found.items())[:first_look.ANSWERS])
    self._looked_for.update(first)
    for key, entry in self.journal.read(first).items():
      self._hear(key, entry)

  def _hear(self, key: str, entry: Mapping[str, Any]) -> None:
    example = self._looked_for.pop(key, None)
    if example is None or not self._look:
      return
    if self._look.add(example, self._completion(key, entry)):
      self._looked_for.clear()
      self.progress.say(self._look.table())
      if self._look.mostly_unread and not self.options.go_on:
        self.stop('most of the first answers cannot be read: see the one above; mend the prompt, '
                  'or --go_on', mend=True)

  def _catch_signals(self) -> None:
    """The first Ctrl-C or SIGTERM lets what is in flight, and paid for, come in; the next kills."""
    if self._catching or threading.current_thread() is not threading.main_thread():
      return
    self._catching = True
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
      loop.add_signal_handler(number, self._interrupted, number)

  def _interrupted(self, number: int) -> None:
    asyncio.get_running_loop().remove_signal_handler(number)
    self.progress.say(f'{signal.Signals(number).name}: waiting for the requests in flight; '
                       'once more to kill')
    self.stop(f'interrupted by {signal.Signals(number).name}')

  def _completion(self, key: str, entry: Mapping[str, Any]) -> protocol.Completion:
    for kind in (parsing.REJECTED, parsing.UNANSWERED):
      if kind in entry:
        return protocol.Completion('', kind, self._prompt_sha256, key, error=entry[kind])
    answer = self.endpoint.read(entry['response'])
    read, written = entry['usage']  # Guessed, where the server does not count.
    return protocol.Completion(
        protocol.clean(answer.text).strip(), answer.finish_reason, self._prompt_sha256, key,
        endpoint_lib.token_count(read), endpoint_lib.token_count(written),
        protocol.clean(answer.thoughts), logprobs=answer.logprobs)


def journal_notes(journal: journal_lib.Journal) -> list[str]:
  """What a user should know of a journal's state."""
  notes = [f'{place}: cut off by a kill or a power cut; that answer is asked for again'
           for place in journal.torn]
  if journal.damaged:
    shown = '; '.join(journal.damaged[:3]) + ('; ...' if len(journal.damaged) > 3 else '')
    notes.append(f'{len(journal.damaged)} damaged line(s) in the journal are passed over and '
                 f'their answers asked for again: {shown}')
  return notes
