"""Rationale records: the one contract between the teacher job and training.

A record set is `<dataset>-<split>`: sharded TFRecords of `tf.train.Example`, beside one
`manifest.json` that lists, for every set in the folder, its shards with sizes and checksums.
A shard is complete or absent (written aside, fsynced, renamed), and a set exists only once
the manifest names it, so a reader never sees half of one. Paths may be local or `gs://`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tqdm

from dss_jax import atomic, errors

SCHEMA_VERSION = 1
MANIFEST = 'manifest.json'
PARSED = 'ok'  # parse_status of a row whose completion gave a rationale and a label


@dataclasses.dataclass(frozen=True)
class RationaleRecord:
  """One input with what the teacher said about it. All fields are text, '' where unknown."""

  id: str
  input: str  # what the student reads, without task prefix
  label: str = ''  # gold
  teacher_label: str = ''
  rationale: str = ''
  dataset: str = ''
  split: str = ''
  teacher_model: str = ''
  prompt_sha256: str = ''
  request_key: str = ''
  finish_reason: str = ''
  parse_status: str = PARSED  # or the reason why there is no rationale
  schema_version: int = SCHEMA_VERSION


FIELDS = tuple(field.name for field in dataclasses.fields(RationaleRecord))
TEXT_FIELDS = tuple(name for name in FIELDS if name != 'schema_version')
FEATURE_DESCRIPTION = {  # for tf.io.parse_example
    **{name: tf.io.FixedLenFeature([], tf.string) for name in TEXT_FIELDS},
    'schema_version': tf.io.FixedLenFeature([], tf.int64),
}


def to_bytes(record: RationaleRecord) -> bytes:
  """A serialized tf.train.Example, the same bytes for the same record."""
  feature = {
      name: tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[getattr(record, name).encode('utf-8')]))
      for name in TEXT_FIELDS
  }
  feature['schema_version'] = tf.train.Feature(
      int64_list=tf.train.Int64List(value=[record.schema_version]))
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString(deterministic=True)


def from_bytes(data: bytes) -> RationaleRecord:
  """Inverse of `to_bytes`."""
  feature = tf.train.Example.FromString(data).features.feature
  texts = {name: feature[name].bytes_list.value[0].decode('utf-8') for name in TEXT_FIELDS}
  return RationaleRecord(**texts, schema_version=feature['schema_version'].int64_list.value[0])


def shard_name(dataset: str, split: str, shard: int, num_shards: int) -> str:
  """`cqa-train.tfrecord-00003-of-00016`."""
  return f'{dataset}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}'


# --- Writing ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a set, as the manifest lists it."""

  name: str
  records: int
  bytes: int
  sha256: str


def write_records(
    records_dir: str,
    dataset: str,
    split: str,
    records: Sequence[RationaleRecord],
    *,
    num_shards: int = 16,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes a whole set and returns its manifest entry.

  Row i goes to shard `i * num_shards // n`, so the order of rows survives. Every shard is
  written aside before any is renamed: a full disk or a kill while writing leaves an earlier
  set intact. It leaves the manifest before the renames, so a kill among them leaves no set,
  which a reader is told, rather than a mixture of two, which it could not see.

  Args:
    records_dir: folder, local or `gs://`; made if absent.
    dataset: with `split` the set's name; also written into every record.
    split: 'train', 'validation' or 'test'.
    records: one per input; ids must be unique.
    num_shards: files to write, at most one per record.
    provenance: what the manifest says of the teacher (model, prompt hash, decoding, usage).

  Raises:
    UserError: no records, an id occurs twice, or `records_dir` cannot be made.
  """
  _check_rows(dataset, split, records)
  num_shards = max(1, min(num_shards, len(records)))
  _make_folder(records_dir)
  names = [shard_name(dataset, split, i, num_shards) for i in range(num_shards)]
  bounds = [-(-i * len(records) // num_shards) for i in range(num_shards + 1)]
  pending = {name: _aside(records_dir, name) for name in names}
  try:
    shards = []
    progress = tqdm.tqdm(names, desc=f'writing {dataset}-{split}', unit='shard', delay=3,
                         disable=None)
    for i, name in enumerate(progress):
      rows = [dataclasses.replace(r, dataset=dataset, split=split)
              for r in records[bounds[i]:bounds[i + 1]]]
      shards.append(_write_aside(pending[name], name, rows))
    _withdraw(records_dir, f'{dataset}-{split}')
    for name in names:
      tf.io.gfile.rename(pending[name], os.path.join(records_dir, name), overwrite=True)
  finally:
    for path in pending.values():
      if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)
  return commit(records_dir, dataset, split, shards,
                counts=_count_status(records), provenance=provenance)


def write_shard(records_dir: str, name: str, records: Sequence[RationaleRecord]) -> Shard:
  """Writes one shard, complete or not at all; `commit` later makes the set readable."""
  path = _aside(records_dir, name)
  shard = _write_aside(path, name, records)
  tf.io.gfile.rename(path, os.path.join(records_dir, name), overwrite=True)
  return shard


def commit(
    records_dir: str,
    dataset: str,
    split: str,
    shards: Sequence[Shard],
    *,
    counts: Mapping[str, int],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Names the set in the manifest; removes what an earlier or a killed job left of the set."""
  entry = {
      **(provenance or {}),
      'schema_version': SCHEMA_VERSION,
      'num_records': sum(shard.records for shard in shards),
      'parse_status': dict(sorted(counts.items())),
      'shards': [dataclasses.asdict(shard) for shard in shards],
  }
  with _manifest_lock(records_dir):
    sets = _load_manifest(records_dir) if _has_manifest(records_dir) else {}
    sets[f'{dataset}-{split}'] = entry
    _write_manifest(records_dir, sets)
  kept = {shard.name for shard in shards}
  for pattern in (f'{dataset}-{split}.tfrecord-*-of-*', f'.{dataset}-{split}.tfrecord-*.writing-*'):
    for path in tf.io.gfile.glob(os.path.join(records_dir, pattern)):
      if os.path.basename(path) not in kept:
        tf.io.gfile.remove(path)
  return entry


def _withdraw(records_dir: str, name: str) -> None:
  with _manifest_lock(records_dir):
    sets = _load_manifest(records_dir) if _has_manifest(records_dir) else {}
    if sets.pop(name, None):
      _write_manifest(records_dir, sets)


def _make_folder(records_dir: str) -> None:
  try:
    tf.io.gfile.makedirs(records_dir)
  except (tf.errors.OpError, OSError) as error:
    raise errors.UserError(
        f'records_dir={records_dir}: cannot be made ({error}); name a folder that can') from error


def _check_rows(dataset: str, split: str, records: Sequence[RationaleRecord]) -> None:
  if not records:
    raise errors.UserError(f'{dataset}-{split}: no records to write; check the inputs file')
  first_row: dict[str, int] = {}
  for row, record in enumerate(records):
    if record.id in first_row:
      raise errors.UserError(
          f'{dataset}-{split}: id {record.id!r} occurs in rows {first_row[record.id] + 1} and '
          f'{row + 1}; ids must be unique, since rationales are joined by id')
    first_row[record.id] = row


def _count_status(records: Iterable[RationaleRecord]) -> dict[str, int]:
  counts: dict[str, int] = {}
  for record in records:
    counts[record.parse_status] = counts.get(record.parse_status, 0) + 1
  return counts


def _aside(records_dir: str, name: str) -> str:
  return os.path.join(records_dir, f'.{name}.writing-{os.getpid()}')


def _write_aside(path: str, name: str, records: Sequence[RationaleRecord]) -> Shard:
  with tf.io.TFRecordWriter(path) as writer:
    for record in records:
      writer.write(to_bytes(record))
  atomic.fsync(path)
  return Shard(name, len(records), tf.io.gfile.stat(path).length, _sha256(path))


def _write_manifest(records_dir: str, sets: Mapping[str, Any]) -> None:
  atomic.write(os.path.join(records_dir, MANIFEST),
               json.dumps({'sets': sets}, indent=2, sort_keys=True) + '\n')


@contextlib.contextmanager
def _manifest_lock(records_dir: str) -> Iterator[None]:
  """Two jobs (train and test, say) may finish into one folder at the same moment."""
  if '://' in records_dir:
    yield
    return
  import fcntl  # Not on every platform; only local folders need it.
  with open(os.path.join(records_dir, '.manifest.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


# --- Reading ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RecordSet:
  """A complete set: shard paths in order, and its manifest entry."""

  name: str
  paths: tuple[str, ...]
  entry: Mapping[str, Any]

  @property
  def num_records(self) -> int:
    return self.entry['num_records']


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
  if not _has_manifest(records_dir):
    raise errors.UserError(
        f'{os.path.join(records_dir, MANIFEST)} does not exist: {records_dir!r} holds no finished '
        'record set; write one with `python -m dss_jax.teacher --records_dir=...`')
  sets = _load_manifest(records_dir)
  if name not in sets:
    raise errors.UserError(
        f'{records_dir}: no record set {name!r}; {errors.did_you_mean(name, sets)}')
  entry = sets[name]
  if entry.get('schema_version') != SCHEMA_VERSION:
    raise errors.UserError(
        f"{records_dir}: set {name!r} has schema version {entry.get('schema_version')}, this "
        f'dss_jax reads {SCHEMA_VERSION}; run the teacher job again to rewrite it')
  for shard in entry['shards']:
    _check_shard(records_dir, name, Shard(**shard), verify)
  paths = tuple(os.path.join(records_dir, shard['name']) for shard in entry['shards'])
  return RecordSet(name, paths, entry)


def set_names(records_dir: str) -> list[str]:
  """Names of the finished sets of a folder, e.g. ['cqa-train', 'cqa-validation']."""
  return sorted(_load_manifest(records_dir)) if _has_manifest(records_dir) else []


def read_records(
    records_dir: str, dataset: str, split: str, *, verify: bool = False
) -> Iterator[RationaleRecord]:
  """The set's records in order; raises UserError as `find_set`, and for damaged bytes."""
  for path in find_set(records_dir, dataset, split, verify=verify).paths:
    try:
      for data in tf.data.TFRecordDataset(path).as_numpy_iterator():
        yield from_bytes(data)
    except tf.errors.DataLossError as error:
      raise errors.UserError(f'{path}: damaged ({error.message}); {_REWRITE}') from error


_REWRITE = 'run the teacher job for this split again to rewrite it'


def _check_shard(records_dir: str, name: str, shard: Shard, verify: bool) -> None:
  path = os.path.join(records_dir, shard.name)
  if not tf.io.gfile.exists(path):
    raise errors.UserError(f'set {name!r} is incomplete: {path} is missing; {_REWRITE}')
  size = tf.io.gfile.stat(path).length
  if size != shard.bytes:
    raise errors.UserError(
        f'set {name!r} is incomplete: {path} has {size} bytes, the manifest says {shard.bytes}; '
        f'{_REWRITE}')
  if verify and (digest := _sha256(path)) != shard.sha256:
    raise errors.UserError(
        f'{path}: sha256 is {digest[:12]}..., the manifest says {shard.sha256[:12]}...: the file '
        f'was changed or damaged; {_REWRITE}')


def _sha256(path: str) -> str:
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, 'rb') as f:
    while block := f.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def _has_manifest(records_dir: str) -> bool:
  return tf.io.gfile.exists(os.path.join(records_dir, MANIFEST))


def _load_manifest(records_dir: str) -> dict[str, Any]:
  path = os.path.join(records_dir, MANIFEST)
  try:
    with tf.io.gfile.GFile(path, 'r') as f:
      return json.loads(f.read())['sets']
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
        f'{path}: not a manifest of record sets ({error}); {_REWRITE}') from error
