"""A client that gathers what the journal lacks, and who goes through the shards with it.

Shards are gone through as ever, against the journal; what it lacks is sent as batches, and once
those are done the shards are gone through again, until nothing is lacking. So samples, further
attempts, failed rows and records are the same as with a teacher that is asked one by one.
"""

import asyncio
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dss_jax import datasets, files
from dss_jax.teacher import job, protocol
from dss_jax.teacher import plan as plan_lib
from dss_jax.teacher import shard as shard_lib
from dss_jax.teacher.ask import asking, openai_client
from dss_jax.teacher.ask import endpoint as endpoint_lib


class BatchClient(asking.AskingClient):
  """Asks nobody by itself.

  Attributes:
    endpoint: of the server, or of none: it says what requests and results look like.
    wanted: request key -> question, of one pass over the shards.
    interrupted: Ctrl-C or SIGTERM came.
  """

  endpoint: openai_client.OpenAIEndpoint

  def __init__(self, *args: Any, **settings: Any):
    super().__init__(*args, **settings)
    self.wanted: dict[str, asking.Question] = {}
    self.interrupted = asyncio.Event()
    self._on_their_way: set[str] = set()

  def begin(self, on_their_way: Iterable[str]) -> None:
    """Before a pass; what is on its way is not wanted."""
    self.wanted, self._on_their_way = {}, set(on_their_way)

  def most_tokens(self, request: Mapping[str, Any]) -> tuple[float, float]:
    """Read and written, at most."""
    return self.sender.most_tokens(request)

  @property
  def stopped(self) -> str:
    """Why nothing more is to be sent."""
    return self.sender.stopped

  def tokens(self, answer: endpoint_lib.Answer, characters: float) -> tuple[int, int]:
    """Read and written, for a request of about so many characters."""
    return self.sender.counted(answer, round(characters))

  async def probe(self, wanted: dict[str, asking.Question]) -> None:
    """Asks the first question at once: what it meets, thousands need not wait a day for.

    Raises:
      Unfinished: it is not answered.
    """
    key, question = next(iter(wanted.items()))
    await self.sender.send(key, question.example.id, self.request(question))
    await self.sender.finish()
    if not self.journal.has([key]):
      raise protocol.Unfinished(self.sender.why_unfinished(), self.sender.mend)
    del wanted[key]

  def say(self, line: str) -> None:
    self.progress.say(line)

  async def _ask(self, examples, keys, answered: set[str], attempt: int) -> None:
    for example, row in zip(examples, keys, strict=True):
      for key, question in zip(row, self.questions(example, attempt), strict=True):
        if key not in answered and key not in self._on_their_way:
          self.wanted[key] = question

  def _interrupted(self, number: int) -> None:
    asyncio.get_running_loop().remove_signal_handler(number)
    self.stop(f'interrupted by {signal.Signals(number).name}')
    self.interrupted.set()


class Filler:
  """Fills the journal."""

  def on_their_way(self) -> Iterable[str]:
    """Keys of requests that were sent and whose results are not read."""
    return ()

  async def begin(self) -> None:
    """Before the first pass."""

  async def fill(self, wanted: Mapping[str, asking.Question]) -> None:
    """Returns when there is something new in the journal.

    Raises:
      Unfinished: not in this run.
      UserError: the server takes no request as things are.
    """
    raise NotImplementedError


class Runner:
  """A `job.Runner`."""

  def __init__(self, filler: Filler):
    self._filler = filler

  async def __call__(
      self, plan: plan_lib.Plan, examples: Sequence[datasets.Example], client: protocol.Client
  ) -> Sequence[shard_lib.Result]:
    assert isinstance(client, BatchClient)
    with files.lock(client.journal.folder, 'batches'):  # Two jobs would make the same ones.
      await self._filler.begin()
      while True:
        client.begin(self._filler.on_their_way())
        try:
          return await job.run_here(plan, examples, client)
        except protocol.Unfinished:
          if client.stopped or not (client.wanted or self._filler.on_their_way()):
            raise
        # In an order that threads do not decide: a file that is made again is the same.
        await self._filler.fill(dict(sorted(client.wanted.items())))
