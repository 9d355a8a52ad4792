"""`--batch`: request files go up to the server, which makes batches of them."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

import tqdm
from etils import epath

from dss_jax import errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import asking, endpoint, limits
from dss_jax.teacher.ask.batch import api, intake, lines, packing, state
from dss_jax.teacher.ask.batch import client as client_lib

_MOST_FAILURES = 3  # batches in which a request meets an error before it is given up
_FIRST_LOOK, _LOOKS, _SLOWER = 1.0, 60.0, 1.2  # seconds between looks, at first and at most
_LOG_SECONDS = 30.0
_LISTED_AFTER = 5.0  # seconds until a server lists what it has made
_TRIES = 6  # to make one batch
_LATER = (endpoint.TryLater,)
_REFUSED = (endpoint.Rejected, endpoint.Fatal)


class Uploads(client_lib.Filler):
  """Sends what is wanted, waits for all batches, reads them."""

  def __init__(self, client: client_lib.BatchClient, wait: bool = True):
    self._client = client
    self._wait_for = wait
    self._server = api.Server(client.endpoint, client.say)
    self._batches = state.Batches(client.journal.folder)
    self._most = lines.MOST_REQUESTS  # of a batch, as the server turns out to take them
    self._cancelled: list[str] = []
    self._probed = False
    self._progress = _Progress(client)

  def on_their_way(self) -> Iterable[str]:
    return [key for batch in self._batches.open for key in batch.ids]

  async def begin(self) -> None:
    """Finds again what earlier runs have sent, and sends what they were about to."""
    self._batches.load()
    for batch in self._batches.open:
      self._client.budget.hold(self._client.budget.cost(*batch.most), len(batch.ids))
    for batch in self._batches.open:
      if batch.step == state.CREATING and (found := await self._find(batch)):
        self._made(batch, found)
      elif batch.step != state.CREATED:
        await self._make(batch)

  async def fill(self, wanted: Mapping[str, asking.Question]) -> None:
    stopped = await self._send(wanted)
    self._stop_if_interrupted()
    if not self._batches.open:
      if stopped:
        raise stopped
      return  # The first question was all.
    before = self._client.journal.usage().requests, self._batches.all_failures
    most = self._most
    await self._wait()
    if self._cancelled:
      raise protocol.Unfinished('; '.join(self._cancelled))
    after = self._client.journal.usage().requests, self._batches.all_failures
    if after == before and self._most == most:
      raise protocol.Unfinished('the batches brought no answer')

  async def _send(self, wanted: Mapping[str, asking.Question]) -> protocol.Unfinished | None:
    """Why not all of it was sent, if it was not."""
    wanted = dict(wanted)
    if wanted and not self._probed:
      self._probed = True
      await self._client.probe(wanted)
    packer = packing.Packer(self._client, wanted)
    while not self._client.interrupted.is_set():
      path = self._batches.new_path()
      pack = await packer.write(path, self._most)
      if pack is None:
        break
      batch = state.Batch(path.stem, self._client.endpoint.base_url,
                          self._client.endpoint.batch_url, pack.ids,
                          (pack.prompt_tokens, pack.completion_tokens))
      self._batches.add(batch)
      await self._make(batch)
    return packer.stopped

  async def _make(self, batch: state.Batch) -> None:
    """From a file on our side to a batch on the other."""
    try:
      if not batch.file:
        batch.file = await self._server.upload(self._batches.path(batch))
        self._batches.note(batch, state.PREPARED)
      for tried in range(1, _TRIES):
        self._batches.note(batch, state.CREATING)
        try:
          return self._made(batch, await self._server.create(batch))
        except _LATER as error:  # It may have come through all the same.
          self._client.say(f'{error}; looking whether the batch was made')
          await asyncio.sleep(max(error.after or 0.0, limits.back_off(tried)))
          if found := await self._find(batch):
            return self._made(batch, found)
          why = str(error)
    except _LATER as error:
      why = str(error)
    except _REFUSED as error:
      self._batches.drop(batch)
      raise errors.UserError(
          f'{batch.base_url}: makes no batch of {len(batch.ids)} requests ({error}); without '
          '--batch they are asked one by one') from error
    raise protocol.Unfinished(f'a batch of {len(batch.ids)} requests could not be made ({why})')

  def _made(self, batch: state.Batch, name: str) -> None:
    batch.id = name
    self._batches.note(batch, state.CREATED)
    self._client.say(f'batch {name}: {len(batch.ids):,} requests')

  async def _find(self, batch: state.Batch) -> str | None:
    """The batch that an earlier try may have made."""
    begun = batch.since
    try:
      while (found := await self._server.find(batch.name)) is None:
        if time.time() - begun > _LISTED_AFTER:
          return None
        await asyncio.sleep(1.0)
      return found
    except _LATER as error:
      raise protocol.Unfinished(f'the server does not list its batches now ({error})') from error
    except _REFUSED as error:
      raise errors.UserError(
          f'{self._batches.note_path(batch)}: a batch of {len(batch.ids)} requests may have been '
          f'made at {batch.base_url}, which lists none ({error}); if you find there that it was '
          'not, remove that file') from error

  async def _wait(self) -> None:
    """Until all batches are read.

    Raises:
      Unfinished: interrupted, or it is not to wait.
    """
    seconds = _FIRST_LOOK
    self._progress.begin(sum(len(batch.ids) for batch in self._batches.open))
    try:
      while True:
        for batch in self._batches.open:
          await self._look(batch)
        if not self._batches.open:
          return
        self._stop_if_interrupted()
        if not self._wait_for:
          raise protocol.Unfinished(self._at_work())
        self._progress.show(len(self._batches.open))
        with contextlib.suppress(TimeoutError):
          await asyncio.wait_for(self._client.interrupted.wait(), seconds)
        seconds = min(_LOOKS, seconds * _SLOWER)
    finally:
      self._progress.close()

  def _stop_if_interrupted(self) -> None:
    if self._client.interrupted.is_set():
      raise protocol.Unfinished(f'interrupted; {self._at_work()}')

  def _at_work(self) -> str:
    waiting = self._batches.open
    return (f'{len(waiting)} batch(es) with {sum(len(batch.ids) for batch in waiting):,} requests '
            f'are at work at {self._client.endpoint.base_url}')

  async def _look(self, batch: state.Batch) -> None:
    """Reads a batch, if it is done."""
    try:
      found = await self._server.get(batch.id)
    except _LATER as error:
      return self._client.say(f'{error}; looking again')
    except _REFUSED as error:
      raise errors.UserError(
          f'{self._batches.note_path(batch)}: batch {batch.id} of {len(batch.ids)} requests, made '
          f'at {batch.base_url}, cannot be read ({error}); go on with the --base_url and key of '
          'then, or remove that file to ask for them again') from error
    counts = found.request_counts
    self._progress.count(batch.id, counts.completed + counts.failed if counts else 0)
    if found.status == 'failed':
      await self._refused(batch, found)
    elif found.status in ('completed', 'expired', 'cancelled'):
      await self._read(batch, found)

  async def _refused(self, batch: state.Batch, found: Any) -> None:
    """The server has looked at the file and will not begin."""
    said, full = api.validation_errors(found)
    count = len(batch.ids)
    self._close(batch, {})
    if not full or count == 1:
      raise errors.UserError(
          f'batch {batch.id} of {count} requests was refused by {batch.base_url} ({said})')
    self._most = min(self._most, max(1, count // 2))
    self._client.say(f'batch {batch.id} is too much at once ({said}); going on with batches of '
                     f'{self._most:,} requests')

  async def _read(self, batch: state.Batch, found: Any) -> None:
    taken, ids = intake.Intake(self._client, f'batch {batch.id}'), batch.ids
    with tempfile.TemporaryDirectory() as folder:
      path = epath.Path(os.path.join(folder, 'results.jsonl'))
      for name in filter(None, (found.output_file_id, found.error_file_id)):
        await self._download(batch, name, path)
        await taken.read(path, ids, 2 * batch.most[0] / len(ids))
    try:
      await taken.finish()
      if found.status == 'completed':
        await self._count_failures(batch, taken)
    finally:
      self._close(batch, taken.paid)
    done = len(self._client.journal.has(ids))
    if done < len(ids) or found.status != 'completed':
      why = f' ({taken.reasons})' if taken.reasons else ''
      self._client.say(f'batch {batch.id} {found.status}: {done:,} of {len(ids):,} requests are '
                       f'done{why}')
    if found.status == 'cancelled' and done < len(ids):
      self._cancelled.append(f'batch {batch.id} was cancelled at the server when {done:,} of its '
                             f'{len(ids):,} requests were done')

  async def _count_failures(self, batch: state.Batch, taken: intake.Intake) -> None:
    """A request that meets an error in every batch would keep the job from its end."""
    lacking = batch.ids.keys() - self._client.journal.has(batch.ids)
    batch.failed = {key: taken.failed.setdefault(key, 'the batch has no result of it')
                    for key in lacking}
    for key in lacking:
      if self._batches.failures(key) >= _MOST_FAILURES:
        await taken.give_up(key, batch.ids[key])
    await self._client.journal.settle()

  async def _download(self, batch: state.Batch, name: str, path: epath.Path) -> None:
    try:
      await self._server.download(name, path)
    except _LATER as error:
      raise protocol.Unfinished(f'the results of batch {batch.id} do not come ({error})') from error
    except _REFUSED as error:
      raise errors.UserError(
          f'{self._batches.note_path(batch)}: the results of batch {batch.id} are not at '
          f'{batch.base_url} any more ({error}); remove that file to ask for them again') from error

  def _close(self, batch: state.Batch, paid: Mapping[str, tuple[int, int]]) -> None:
    """Writes down that it is read, and what it has cost."""
    budget = self._client.budget
    share = budget.cost(*batch.most) / len(batch.ids)
    for key in batch.ids:
      budget.settle(share, budget.cost(*paid.get(key, (0, 0))))
    self._batches.note(batch, state.READ)


class _Progress:
  """How many requests of all batches are done: a bar on a terminal, else a line now and then."""

  def __init__(self, client: client_lib.BatchClient):
    self._client = client
    self._bar: tqdm.tqdm | None = None
    self._done: dict[str, int] = {}
    self._total, self._said = 0, 0.0

  def begin(self, total: int) -> None:
    self._total, self._done, self._said = total, {}, time.monotonic()

  def count(self, name: str, done: int) -> None:
    self._done[name] = done

  def show(self, batches: int) -> None:
    done = sum(self._done.values())
    if sys.stderr.isatty():
      self._bar = self._bar or tqdm.tqdm(total=self._total, desc='teacher', unit='request')
      self._bar.n = done
      self._bar.set_postfix_str(f'{batches} batch(es) at work', refresh=True)
    elif time.monotonic() - self._said > _LOG_SECONDS:
      self._said = time.monotonic()
      self._client.say(f'{done:,} of {self._total:,} done, {batches} batch(es) at work')

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
      self._bar = None
