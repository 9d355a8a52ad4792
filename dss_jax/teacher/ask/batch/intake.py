"""Results of batches on their way into the journal."""

import collections
import hashlib
from collections.abc import Mapping

from etils import epath

from dss_jax import errors
from dss_jax.teacher.ask import endpoint
from dss_jax.teacher.ask.batch import client as client_lib
from dss_jax.teacher.ask.batch import lines


class Intake:
  """Reads result and error files, in any order and as often as one likes.

  Attributes:
    paid: request key -> (prompt tokens, completion tokens) of those.
    failed: request key -> why, of those that met an error which repeating may mend.
  """

  def __init__(self, client: client_lib.BatchClient, where: str):
    """`where` names the batch or the folder, for messages."""
    self._client = client
    self._where = where
    self._rejected: dict[str, tuple[str, str]] = {}
    self._strange = 0
    self.paid: dict[str, tuple[int, int]] = {}
    self.failed: dict[str, str] = {}

  async def read(self, path: epath.Path, ids: Mapping[str, str], characters: float) -> None:
    """Reads a file.

    Args:
      path: of the file.
      ids: request key -> id of the row; results of other requests are passed over.
      characters: of a request, about: for servers that count no tokens.
    """
    for result in lines.results(path):
      if result is None:
        self._strange += 1
      elif result.status and result.key in ids and not self._client.journal.has([result.key]):
        await self._take(result, ids[result.key], characters)
    await self._client.journal.settle()

  async def _take(self, result: lines.Result, example_id: str, characters: float) -> None:
    client = self._client
    try:
      response = client.endpoint.judge(result.status, result.body)
    except endpoint.Rejected as error:
      self._rejected[result.key] = example_id, str(error)
    except (endpoint.TryLater, endpoint.Fatal) as error:
      self.failed[result.key] = str(error)
      if paid := getattr(error, 'paid', None):
        await self._lose(result.key, example_id, str(error), paid)
    else:
      self.paid[result.key] = client.tokens(client.endpoint.read(response), characters)
      await client.journal.add(result.key, {'id': example_id, 'response': response},
                               *self.paid[result.key])

  async def _lose(self, key: str, example_id: str, why: str, paid: tuple[int, int]) -> None:
    """What is paid for though it is no answer counts for later runs' budgets too."""
    name = hashlib.sha256(f'{self._where}/{key}'.encode()).hexdigest()  # Once, if read again.
    if not self._client.journal.has([name]):
      self.paid[name] = paid
      await self._client.journal.add(name, {'id': example_id, 'lost': why}, *paid)

  @property
  def reasons(self) -> str:
    """Why requests were not answered, the commonest first."""
    said = [why for _, why in self._rejected.values()] + list(self.failed.values())
    return '; '.join(f'{count} times {why}'
                     for why, count in collections.Counter(said).most_common(3))

  async def finish(self) -> None:
    """Writes down which requests the server does not take, unless it takes none at all.

    Raises:
      UserError: it takes none: the settings are at fault, not the requests.
    """
    if self._strange:
      self._client.say(f'{self._where}: {self._strange} line(s) are no results and are passed over')
    nothing = not self._client.journal.usage().requests and (self._rejected or self.failed)
    # That one request was answered says little where thousands were not.
    if nothing or not self.paid and len(self._rejected) >= self._client.options.max_fatal:
      raise errors.UserError(f'{self._where}: no request was answered ({self.reasons}); mend that, '
                             'or ask one by one, without --batch')
    for key, (example_id, why) in self._rejected.items():
      await self._client.journal.add(key, {'id': example_id, 'rejected': why})
    await self._client.journal.settle()

  async def give_up(self, key: str, example_id: str) -> None:
    """Writes down that a request met an error too often."""
    await self._client.journal.add(key, {'id': example_id, 'unanswered': self.failed[key]})
