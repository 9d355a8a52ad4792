"""Requests, put into files within the limits of a file and of the budget."""

import dataclasses
from collections.abc import Mapping

from etils import epath

from dss_jax.teacher import protocol
from dss_jax.teacher.ask import asking
from dss_jax.teacher.ask.batch import client as client_lib
from dss_jax.teacher.ask.batch import lines


@dataclasses.dataclass
class Pack:
  """A file's requests.

  Attributes:
    ids: request key -> id of the row.
    prompt_tokens, completion_tokens: at most.
  """

  ids: dict[str, str] = dataclasses.field(default_factory=dict)
  prompt_tokens: float = 0.0
  completion_tokens: float = 0.0


class Packer:
  """Takes questions in their order, until none is left or the budget has no room.

  Attributes:
    stopped: why it took no more, None if none is left.
  """

  def __init__(self, client: client_lib.BatchClient, wanted: Mapping[str, asking.Question]):
    self._client = client
    self._todo = list(wanted.items())[::-1]
    self.stopped: protocol.Unfinished | None = None

  async def write(self, path: epath.Path, most: int = lines.MOST_REQUESTS) -> Pack | None:
    """Writes the next file, of at most so many requests; None if there is none for it."""
    pack, size = Pack(), 0
    if not self._todo or self.stopped:
      return None
    endpoint = self._client.endpoint
    with path.open('wb') as f:
      while self._todo and len(pack.ids) < most:
        key, question = self._todo[-1]
        request = self._client.request(question)
        line = lines.request_line(key, endpoint.batch_url, endpoint.body(request))
        if size and size + len(line) > lines.MOST_BYTES:
          break
        tokens = self._client.most_tokens(request)
        if not await self._may_spend(self._client.budget.cost(*tokens)):
          break
        f.write(line)
        size += len(line)
        pack.ids[key] = question.example.id
        pack.prompt_tokens += tokens[0]
        pack.completion_tokens += tokens[1]
        self._todo.pop()
    if not pack.ids:
      path.unlink()
      return None
    return pack

  async def _may_spend(self, cost: float) -> bool:
    budget = self._client.budget
    if not budget.fits(cost):  # Until others have turned out to cost less.
      self.stopped = protocol.Unfinished(
          f'--budget_usd={budget.max_usd:g} has no room for more requests now')
      return False
    try:
      await budget.reserve(cost)
    except protocol.Unfinished as error:
      self.stopped = error
      return False
    return True
