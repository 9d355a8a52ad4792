"""Sets of records: sharded TFRecords, written whole and read back."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from etils import epath

from dss_jax import errors, files
from dss_jax.records import manifest, tfrecord
from dss_jax.records.manifest import SAMPLES_VERSION, SCHEMA_VERSION, Shard, find_set
from dss_jax.records.record import RationaleRecord, from_bytes, to_bytes

# Few rows in many files are only slower to open. T5X's hosts divide files where there are enough,
# else rows.
_MOST_SHARDS = 16
_LEAST_ROWS = 100


def shard_name(dataset: str, split: str, shard: int, num_shards: int) -> str:
  """`cqa-train.tfrecord-00003-of-00016`."""
  return f'{dataset}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}'


def shard_bounds(num_rows: int, num_shards: int | None) -> list[tuple[int, int]]:
  """(first row, row after the last) of each shard; at most one shard per row.

  Row i is in shard `i * num_shards // num_rows`, so the order of rows survives. Without a number
  there are sixteen, or as many as hold a hundred rows each.

  >>> shard_bounds(10, 4)
  [(0, 3), (3, 5), (5, 8), (8, 10)]
  >>> len(shard_bounds(10, None)), len(shard_bounds(1000, None)), len(shard_bounds(10**6, None))
  (1, 10, 16)
  """
  if num_shards is None:
    num_shards = min(_MOST_SHARDS, num_rows // _LEAST_ROWS)
  count = max(1, min(num_shards, num_rows))
  starts = [-(-i * num_rows // count) for i in range(count + 1)]
  return list(zip(starts, starts[1:]))


# --- Writing ---------------------------------------------------------------------------------


def write_records(
    records_dir: str,
    dataset: str,
    split: str,
    records: Sequence[RationaleRecord],
    *,
    num_shards: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes a whole set and returns its manifest entry.

  Input i goes to shard `i * num_shards // n`, so the order of rows survives. Every shard is
  written aside before any is renamed: a full disk or a kill while writing leaves an earlier
  set intact. It leaves the manifest before the renames, so a kill among them leaves no set,
  which a reader is told, rather than a mixture of two, which it could not see.

  Args:
    records_dir: folder, local or `gs://`; made if absent.
    dataset: with `split` the set's name; also written into every record.
    split: 'train', 'validation' or 'test'.
    records: one per input, whose ids must be unique; or, of schema 2, the samples of each input
      one behind the other, numbered from 0.
    num_shards: files to write, at most one per input; see `shard_bounds`.
    provenance: what the manifest says of the teacher (model, prompt hash, decoding, usage).

  Raises:
    UserError: no records, an id occurs twice, samples are not numbered so, or `records_dir`
      cannot be made.
  """
  _check_rows(dataset, split, records)
  _make_folder(records_dir, 'records_dir')
  first = [i for i, record in enumerate(records) if not record.sample] + [len(records)]
  bounds = [(first[start], first[end])
            for start, end in shard_bounds(len(first) - 1, num_shards)]
  samples = max(b - a for a, b in itertools.pairwise(first)) if any(
      record.schema_version == SAMPLES_VERSION for record in records) else None
  staging_dir = os.path.join(records_dir, f'.{dataset}-{split}.writing-{os.getpid()}')
  try:
    shards = []
    progress = tqdm.tqdm(bounds, desc=f'writing {dataset}-{split}', unit='shard', delay=3,
                         disable=None)
    for i, (start, end) in enumerate(progress):
      rows = (dataclasses.replace(r, dataset=dataset, split=split) for r in records[start:end])
      shards.append(stage_shard(staging_dir, shard_name(dataset, split, i, len(bounds)), rows))
    return publish(records_dir, dataset, split, staging_dir, shards,
                   counts=_count_status(records[i] for i in first[:-1]),
                   max_samples=samples, provenance=provenance)
  finally:
    epath.Path(staging_dir).rmtree(missing_ok=True)


def stage_shard(staging_dir: str, name: str, rows: Iterable[RationaleRecord]) -> Shard:
  """Writes one file of a set where readers do not look yet; `publish` puts it in its place.

  `<staging_dir>/<name>` is complete or absent. Several processes may stage the shards of one
  set; a shard staged again replaces the one that is there.

  Args:
    staging_dir: a folder of this set alone; made if absent. Put it on the file system of the
      records (a hidden folder beside them), since `publish` renames.
    name: from `shard_name`.
    rows: with their `dataset` and `split`; written as they come, never all held.

  Raises:
    UserError: `staging_dir` cannot be made.
  """
  _make_folder(staging_dir, 'staging_dir')
  with files.whole(os.path.join(staging_dir, name)) as aside:
    written = tfrecord.write(str(aside), map(to_bytes, rows))
  return Shard(name, written.records, written.bytes, written.sha256)


def publish(
    records_dir: str,
    dataset: str,
    split: str,
    staging_dir: str,
    shards: Sequence[Shard],
    *,
    counts: Mapping[str, int],
    max_samples: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Makes staged shards the set that readers see; returns its manifest entry.

  An earlier set of the name leaves the manifest before the first file moves. Killed anywhere,
  the same call finishes the work: shards that have moved are known by their checksums. What
  the earlier set or a killed `write_records` left of the set is removed; `staging_dir` is the
  caller's to remove.

  Args:
    records_dir: folder, local or `gs://`; made if absent.
    dataset: with `split` the set's name.
    split: 'train', 'validation' or 'test'.
    staging_dir: where `stage_shard` wrote.
    shards: what it returned, in the order of the rows.
    counts: inputs by the `parse_status` of their sample 0.
    max_samples: records of one input, at most; None: the set is of schema 1.
    provenance: more for the manifest.

  Raises:
    UserError: a shard is neither staged nor, as it was written, in `records_dir`; nothing is
      changed then.
  """
  name = f'{dataset}-{split}'
  _make_folder(records_dir, 'records_dir')
  staged = [shard for shard in shards if _is_staged(records_dir, name, staging_dir, shard)]
  if staged:
    manifest.withdraw(records_dir, name)
  for shard in staged:
    epath.Path(staging_dir, shard.name).replace(os.path.join(records_dir, shard.name))
  entry = {
      **(provenance or {}),
      'schema_version': SCHEMA_VERSION if max_samples is None else SAMPLES_VERSION,
      **({} if max_samples is None else {
          'num_inputs': sum(counts.values()), 'max_samples': max_samples}),
      'num_records': sum(shard.records for shard in shards),
      'parse_status': dict(sorted(counts.items())),
      'shards': [dataclasses.asdict(shard) for shard in shards],
  }
  manifest.put(records_dir, name, entry)
  kept = {shard.name for shard in shards} | {epath.Path(staging_dir).name}
  _remove_leftovers(records_dir, name, kept)
  return entry


def _is_staged(records_dir: str, name: str, staging_dir: str, shard: Shard) -> bool:
  """Whether the shard is still to be moved; UserError if it has not been moved either."""
  if manifest.is_whole(staging_dir, shard, verify=False):
    return True
  if manifest.is_whole(records_dir, shard, verify=True):
    return False
  raise errors.UserError(
      f'set {name!r} is incomplete: {shard.name} is, as it was written, neither in {staging_dir} '
      f'nor in {records_dir}; {manifest.REWRITE}')


def _remove_leftovers(records_dir: str, name: str, kept: set[str]) -> None:
  """Removes an earlier set's shards, and the staging folders of killed jobs."""
  shard = re.compile(re.escape(name) + r'\.tfrecord-\d+-of-\d+')
  staging = re.compile(re.escape(f'.{name}.writing-') + r'\d+')
  for path in list(epath.Path(records_dir).iterdir()):
    if path.name in kept:
      continue
    if shard.fullmatch(path.name):
      path.unlink()
    elif staging.fullmatch(path.name):
      path.rmtree(missing_ok=True)


def _make_folder(folder: str, name: str) -> None:
  try:
    epath.Path(folder).mkdir(parents=True, exist_ok=True)
  except Exception as error:  # Each kind of object store has errors of its own.
    raise errors.UserError(
        f'{name}={folder}: cannot be made ({" ".join(str(error).split())}); name a folder that '
        'can') from error


def _check_rows(dataset: str, split: str, records: Sequence[RationaleRecord]) -> None:
  if not records:
    raise errors.UserError(f'{dataset}-{split}: no records to write; check the inputs file')
  first_row: dict[str, int] = {}
  for row, record in enumerate(records):
    if record.sample:
      _check_sample(f'{dataset}-{split}: row {row + 1}', records[row - 1] if row else None, record)
      continue
    if record.id in first_row:
      raise errors.UserError(
          f'{dataset}-{split}: id {record.id!r} occurs in rows {first_row[record.id] + 1} and '
          f'{row + 1}; ids must be unique, since rationales are joined by id')
    first_row[record.id] = row


def _check_sample(where: str, before: RationaleRecord | None, record: RationaleRecord) -> None:
  """A further sample stands behind the one before it, of the same input."""
  if before is None or (before.id, before.input, before.sample) != (
      record.id, record.input, record.sample - 1):
    raise errors.UserError(
        f'{where}: sample {record.sample} of id {record.id!r} does not follow its sample '
        f'{record.sample - 1}; the samples of an input stand together, numbered from 0')
  if {before.schema_version, record.schema_version} != {SAMPLES_VERSION}:
    raise errors.UserError(f'{where}: several samples of id {record.id!r} need '
                           f'schema_version={SAMPLES_VERSION}')


def _count_status(records: Iterable[RationaleRecord]) -> dict[str, int]:
  counts: dict[str, int] = {}
  for record in records:
    counts[record.parse_status] = counts.get(record.parse_status, 0) + 1
  return counts


# --- Reading ---------------------------------------------------------------------------------


def read_records(
    records_dir: str, dataset: str, split: str, *, samples: bool = False, verify: bool = False
) -> Iterator[RationaleRecord]:
  """The set's records in order; raises UserError as `find_set`, and for damaged bytes.

  One of each input, its sample 0; with `samples` also the others, behind it.
  """
  for path in find_set(records_dir, dataset, split, verify=verify).paths:
    try:
      yield from (record for record in map(from_bytes, tfrecord.read(path))
                  if samples or not record.sample)
    except tfrecord.DamagedError as error:
      raise errors.UserError(f'{path}: damaged ({error}); {manifest.REWRITE}') from error
