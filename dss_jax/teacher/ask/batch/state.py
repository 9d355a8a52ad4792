"""What is known of the batches of a journal, in its folder `batches`: a small file for each.

Every step is written down before it is taken, so that a run that is killed, or one on another
machine, knows what may have been sent.
"""

import dataclasses
import json
import time
import uuid

from etils import epath

from dss_jax import files

PREPARED, CREATING, CREATED, READ = 'prepared', 'creating', 'created', 'read'


@dataclasses.dataclass
class Batch:
  """One batch.

  Attributes:
    name: which the batch also carries as metadata, so that it can be found at the server.
    base_url: of the server.
    url: what its requests are for, '/v1/chat/completions'.
    ids: request key -> id of the row, until the results are read.
    most: tokens that its requests may read and write at most.
    step: how far it is.
    since: when that was, seconds.
    file: the request file's name at the server, once it is there.
    id: the batch's name at the server, likewise.
    failed: request key -> why, of those that got an error which repeating may mend.
  """

  name: str
  base_url: str
  url: str
  ids: dict[str, str]
  most: tuple[float, float]
  step: str = PREPARED
  since: float = 0.0
  file: str = ''
  id: str = ''
  failed: dict[str, str] = dataclasses.field(default_factory=dict)


class Batches:
  """All of a journal's; `open` are those whose results are not read."""

  def __init__(self, journal_folder: str):
    self._folder = epath.Path(journal_folder) / 'batches'
    self._all: list[Batch] = []

  def load(self) -> None:
    paths = sorted(self._folder.glob('*.json')) if self._folder.exists() else []
    self._all = [Batch(**json.loads(path.read_text())) for path in paths]
    known = {batch.name for batch in self.open}
    for path in self._folder.glob('*.jsonl') if self._folder.exists() else ():
      if path.name.removesuffix('.jsonl') not in known:  # Of a run that was killed before it sent.
        path.unlink()

  @property
  def open(self) -> list[Batch]:
    return [batch for batch in self._all if batch.step != READ]

  def failures(self, key: str) -> int:
    """In how many batches a request met an error."""
    return sum(key in batch.failed for batch in self._all)

  @property
  def all_failures(self) -> int:
    return sum(len(batch.failed) for batch in self._all)

  def new_path(self) -> epath.Path:
    """Where to write the requests of the next one."""
    self._folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime('%Y%m%d-%H%M%S', time.gmtime())
    return self._folder / f'{stamp}-{uuid.uuid4().hex[:8]}.jsonl'

  def path(self, batch: Batch) -> epath.Path:
    """Its requests, until it is made at the server."""
    return self._folder / f'{batch.name}.jsonl'

  def note_path(self, batch: Batch) -> epath.Path:
    return self._folder / f'{batch.name}.json'

  def drop(self, batch: Batch) -> None:
    """Forgets one that was never made."""
    self._all.remove(batch)
    self.note_path(batch).unlink()
    self.path(batch).unlink(missing_ok=True)

  def add(self, batch: Batch) -> None:
    self._all.append(batch)
    self.note(batch, PREPARED)

  def note(self, batch: Batch, step: str) -> None:
    """Writes down how far it is."""
    batch.step, batch.since = step, time.time()
    if step == READ:
      batch.ids = {}
    files.write(str(self.note_path(batch)), json.dumps(dataclasses.asdict(batch)))
    if step in (CREATED, READ):
      self.path(batch).unlink(missing_ok=True)
