"""`--batch=DIR`: request files for a program that somebody else runs, and what it wrote."""

import collections
import hashlib
import re
from collections.abc import Mapping

from etils import epath

from dss_jax.teacher import protocol
from dss_jax.teacher.ask import asking
from dss_jax.teacher.ask.batch import client as client_lib
from dss_jax.teacher.ask.batch import intake, packing

_OURS = re.compile(r'requests-[0-9a-f]{8}\.jsonl')
_MOST_FAILURES = 3  # result files in which a request meets an error before it is given up


class Folder(client_lib.Filler):
  """Every `*.jsonl` there that is no request file of ours is taken for results."""

  def __init__(self, client: client_lib.BatchClient, folder: str):
    self._client = client
    self._folder = epath.Path(folder)

  async def fill(self, wanted: Mapping[str, asking.Question]) -> None:
    if not await self._read(wanted):
      raise await self._write(wanted)

  async def _read(self, wanted: Mapping[str, asking.Question]) -> bool:
    """Whether there was anything new."""
    ids = {key: question.example.id for key, question in wanted.items()}
    client, found = self._client, intake.Intake(self._client, str(self._folder))
    characters = 2 * client.most_tokens(client.request(next(iter(wanted.values()))))[0]
    failures: collections.Counter[str] = collections.Counter()
    for path in sorted(self._folder.glob('*.jsonl')):
      if not _OURS.fullmatch(path.name):
        found.failed = {}
        await found.read(path, ids, characters)
        failures.update(found.failed.keys())
    client.budget.spent += sum(client.budget.cost(*tokens) for tokens in found.paid.values())
    await found.finish()
    return bool(client.journal.has(ids))

  async def _write(self, wanted: Mapping[str, asking.Question]) -> protocol.Unfinished:
    """What to do now."""
    self._folder.mkdir(parents=True, exist_ok=True)
    packer = packing.Packer(self._client, wanted)
    written: list[str] = []
    count, aside = 0, self._folder / '.requests.writing'
    while pack := await packer.write(aside):
      # Of what it asks: made again, it has the same name.
      digest = hashlib.sha256('\n'.join(pack.ids).encode()).hexdigest()[:8]
      aside.replace(self._folder / f'requests-{digest}.jsonl')
      written.append(digest)
      count += len(pack.ids)
    for path in self._folder.glob('requests-*.jsonl'):
      if _OURS.fullmatch(path.name) and path.stem.removeprefix('requests-') not in written:
        path.unlink()  # Some of its requests are answered by now.
    if packer.stopped and not written:
      return packer.stopped
    run = '\n'.join(f'  vllm run-batch --model={self._client.model} -i {self._folder}/requests-'
                    f'{one}.jsonl -o {self._folder}/results-{one}.jsonl' for one in written)
    more = f'; {packer.stopped}' if packer.stopped else ''
    return protocol.Unfinished(
        f'{count:,} requests are in {self._folder}{more}. Have them answered, in whatever '
        f'order, for instance by\n{run}')
