"""Which record sets a folder holds: `manifest.json`, and whether a set's files are whole.

The manifest lists, for every set, its shards with sizes and checksums. A set exists only once
it is named there, so whoever asks here first never sees half of one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from dss_jax import errors, files

SCHEMA_VERSION = 1  # one record an input
SAMPLES_VERSION = 2  # and further samples of it
MANIFEST = 'manifest.json'
REWRITE = 'run the teacher job for this split again to rewrite it'


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a set, as the manifest lists it."""

  name: str
  records: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class RecordSet:
  """A complete set: shard paths in order, and its manifest entry."""

  name: str
  paths: tuple[str, ...]
  entry: Mapping[str, Any]

  @property
  def num_records(self) -> int:
    return self.entry['num_records']

  @property
  def num_inputs(self) -> int:
    return self.entry.get('num_inputs', self.num_records)

  @property
  def max_samples(self) -> int:
    """Records of one input, at most."""
    return self.entry.get('max_samples', 1)

  @property
  def has_samples(self) -> bool:
    """Whether it is of schema 2: an input may have several records."""
    return self.entry['schema_version'] == SAMPLES_VERSION


def find_set(records_dir: str, dataset: str, split: str, *, verify: bool = False) -> RecordSet:
  """The set's files, after checking that it is whole.

  Args:
    records_dir: where the teacher job wrote.
    dataset: e.g. 'cqa'.
    split: e.g. 'train'.
    verify: also compare every shard's sha256 with the manifest (reads all bytes).

  Raises:
    UserError: no such folder or set, another schema version, a shard that is missing, of
      another size or (with `verify`) of another checksum; the message names the file.
  """
  name = f'{dataset}-{split}'
  check_folder(records_dir)
  sets = _load(records_dir)
  if name not in sets:
    raise errors.UserError(
        f'{records_dir}: no record set {name!r}; {errors.did_you_mean(name, sets)}')
  entry = sets[name]
  if entry.get('schema_version') not in (SCHEMA_VERSION, SAMPLES_VERSION):
    raise errors.UserError(
        f"{records_dir}: set {name!r} has schema version {entry.get('schema_version')}, this "
        f'dss_jax reads {SCHEMA_VERSION} and {SAMPLES_VERSION}; run the teacher job again to '
        'rewrite it')
  for shard in entry['shards']:
    _check_shard(records_dir, name, Shard(**shard), verify)
  paths = tuple(os.path.join(records_dir, shard['name']) for shard in entry['shards'])
  return RecordSet(name, paths, entry)


def check_folder(records_dir: str) -> None:
  """UserError unless a job has written records into the folder."""
  if not _exists(records_dir):
    raise errors.UserError(
        f'{os.path.join(records_dir, MANIFEST)} does not exist: {records_dir!r} holds no finished '
        'record set; write one with `dss teacher --records_dir=...`')


def set_names(records_dir: str) -> list[str]:
  """Names of the finished sets of a folder, e.g. ['cqa-train', 'cqa-validation']."""
  return sorted(_load(records_dir)) if _exists(records_dir) else []


def entry_of(records_dir: str, name: str) -> Mapping[str, Any] | None:
  """The manifest's entry of a set, e.g. 'cqa-train'; None if there is no such set."""
  return _load(records_dir).get(name) if _exists(records_dir) else None


def is_whole(folder: str, shard: Shard, *, verify: bool) -> bool:
  """Whether the folder holds the shard, of its size and (with `verify`) of its checksum."""
  path = os.path.join(folder, shard.name)
  return (epath.Path(path).exists() and _size(path) == shard.bytes
          and (not verify or _sha256(path) == shard.sha256))


def put(records_dir: str, name: str, entry: Mapping[str, Any]) -> None:
  """Names a set, in place of an earlier one of that name; other sets stay."""
  with _lock(records_dir):
    sets = _load(records_dir) if _exists(records_dir) else {}
    sets[name] = entry
    _write(records_dir, sets)


def withdraw(records_dir: str, name: str) -> None:
  """Removes a set's name, so that it does not exist while its files change."""
  with _lock(records_dir):
    sets = _load(records_dir) if _exists(records_dir) else {}
    if sets.pop(name, None):
      _write(records_dir, sets)


def _check_shard(records_dir: str, name: str, shard: Shard, verify: bool) -> None:
  path = os.path.join(records_dir, shard.name)
  if not epath.Path(path).exists():
    raise errors.UserError(f'set {name!r} is incomplete: {path} is missing; {REWRITE}')
  size = _size(path)
  if size != shard.bytes:
    raise errors.UserError(
        f'set {name!r} is incomplete: {path} has {size} bytes, the manifest says {shard.bytes}; '
        f'{REWRITE}')
  if verify and (digest := _sha256(path)) != shard.sha256:
    raise errors.UserError(
        f'{path}: sha256 is {digest[:12]}..., the manifest says {shard.sha256[:12]}...: the file '
        f'was changed or damaged; {REWRITE}')


def _size(path: str) -> int:
  # Not epath for local files: it looks up the owner's name, which a container may not know.
  return epath.Path(path).stat().length if files.is_remote(path) else os.path.getsize(path)


def _sha256(path: str) -> str:
  digest = hashlib.sha256()
  with epath.Path(path).open('rb') as f:
    while block := f.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def _exists(records_dir: str) -> bool:
  return epath.Path(records_dir, MANIFEST).exists()


def _load(records_dir: str) -> dict[str, Any]:
  path = os.path.join(records_dir, MANIFEST)
  try:
    return json.loads(epath.Path(path).read_bytes())['sets']
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
        f'{path}: not a manifest of record sets ({error}); {REWRITE}') from error


def _write(records_dir: str, sets: Mapping[str, Any]) -> None:
  files.write(os.path.join(records_dir, MANIFEST),
               json.dumps({'sets': sets}, indent=2, sort_keys=True) + '\n')


@contextlib.contextmanager
def _lock(records_dir: str) -> Iterator[None]:
  """Two jobs (train and test, say) may finish into one folder at the same moment."""
  if files.is_remote(records_dir):
    yield
    return
  import fcntl  # Not on every platform; only local folders need it.
  with open(os.path.join(records_dir, '.manifest.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
