"""Sets written shard by shard: staged where no reader looks, then published as a whole."""

import dataclasses
import shutil
import subprocess
import sys
import textwrap

import pytest

from dss_jax import errors, records

NAMES = [records.shard_name('d', 'train', i, 3) for i in range(3)]


def _rows(numbers, split='train'):
  return [records.RationaleRecord(id=f'q{i}', input=f'input {i}', dataset='d', split=split)
          for i in numbers]


def _stage(staging, rows_of_a_shard=2):
  return [records.stage_shard(str(staging), name, _rows(range(i * 10, i * 10 + rows_of_a_shard)))
          for i, name in enumerate(NAMES)]


def _publish(folder, shards, staging=None):
  return records.publish(str(folder), 'd', 'train', str(staging or folder / 'staging'), shards,
                         counts={'ok': sum(shard.records for shard in shards)},
                         provenance={'parser': 'strict'})


def _ids(folder):
  return [row.id for row in records.read_records(str(folder), 'd', 'train', verify=True)]


def test_shards_become_a_set_when_they_are_published(tmp_path):
  shards = _stage(tmp_path / 'staging')
  assert records.set_names(str(tmp_path)) == []
  entry = _publish(tmp_path, shards)
  assert entry == records.find_set(str(tmp_path), 'd', 'train').entry == {
      'num_records': 6, 'parse_status': {'ok': 6}, 'parser': 'strict', 'schema_version': 1,
      'shards': [dataclasses.asdict(shard) for shard in shards]}
  assert _ids(tmp_path) == ['q0', 'q1', 'q10', 'q11', 'q20', 'q21']
  assert list((tmp_path / 'staging').iterdir()) == []  # The caller's to remove.


def test_the_bytes_are_those_of_write_records(tmp_path):
  rows = _rows(range(10))
  records.write_records(str(tmp_path / 'a'), 'd', 'train', rows, num_shards=3)
  shards = [records.stage_shard(str(tmp_path / 'b/staging'), name, rows[start:end])
            for name, (start, end) in zip(NAMES, records.shard_bounds(10, 3))]
  _publish(tmp_path / 'b', shards)
  for name in NAMES:
    assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_rows_are_not_all_held(tmp_path):
  class Row(records.RationaleRecord):
    alive = 0

    def __init__(self, i):
      super().__init__(id=str(i), input='x')
      Row.alive += 1
      most.append(Row.alive)

    def __del__(self):
      Row.alive -= 1

  most: list[int] = []
  shard = records.stage_shard(str(tmp_path / 'staging'), NAMES[0], (Row(i) for i in range(100)))
  assert shard.records == 100
  assert max(most) <= 3


def test_a_shard_whose_rows_fail_is_absent_and_can_be_staged_again(tmp_path):
  def rows():
    yield from _rows(range(2))
    raise RuntimeError('the teacher is gone')
  with pytest.raises(RuntimeError):
    records.stage_shard(str(tmp_path), NAMES[0], rows())
  assert list(tmp_path.iterdir()) == []
  whole = records.stage_shard(str(tmp_path), NAMES[0], _rows(range(2)))
  assert whole == records.stage_shard(str(tmp_path), NAMES[0], _rows(range(2)))


def test_a_failure_leaves_the_shard_that_was_staged_before(tmp_path):
  whole = records.stage_shard(str(tmp_path), NAMES[0], _rows(range(2)))
  with pytest.raises(UnicodeEncodeError):
    records.stage_shard(str(tmp_path), NAMES[0], [records.RationaleRecord('q', '\ud800')])
  assert [path.name for path in tmp_path.iterdir()] == [NAMES[0]]
  assert (tmp_path / NAMES[0]).stat().st_size == whole.bytes


def test_a_file_in_the_staging_folders_place_is_named(tmp_path):
  (tmp_path / 'staging').touch()
  with pytest.raises(errors.UserError, match='staging_dir=.*staging: cannot be made'):
    _stage(tmp_path / 'staging')


# --- Killed between the moves --------------------------------------------------------------------


@pytest.mark.parametrize('moved', range(4))
@pytest.mark.parametrize('earlier', [False, True])
def test_the_same_call_finishes_what_a_killed_one_began(tmp_path, moved, earlier):
  if earlier:  # A set of the same file names, of which moved shards have replaced some.
    _publish(tmp_path, _stage(tmp_path / 'staging', 5))
  shards = _stage(tmp_path / 'staging')
  for name in NAMES[:moved]:
    shutil.move(tmp_path / 'staging' / name, tmp_path / name)
  first = _publish(tmp_path, shards)
  assert _ids(tmp_path) == ['q0', 'q1', 'q10', 'q11', 'q20', 'q21']
  before = sorted(path.name for path in tmp_path.iterdir())
  assert _publish(tmp_path, shards) == first  # And once more, with all in place.
  assert sorted(path.name for path in tmp_path.iterdir()) == before
  assert len(_ids(tmp_path)) == 6


def _lose(folder):
  (folder / 'staging' / NAMES[1]).unlink()


def _cut(folder):
  path = folder / 'staging' / NAMES[1]
  path.write_bytes(path.read_bytes()[:-1])


def _another(folder):
  (folder / 'staging' / NAMES[1]).unlink()
  records.stage_shard(str(folder), NAMES[1], _rows([98, 99]))  # Of the right size.


@pytest.mark.parametrize('harm', [_lose, _cut, _another])
@pytest.mark.parametrize('earlier', [False, True])
def test_a_shard_that_is_nowhere_is_named_and_nothing_changes(tmp_path, harm, earlier):
  if earlier:
    _publish(tmp_path, _stage(tmp_path / 'staging', 5))
  shards = _stage(tmp_path / 'staging')
  assert len({shard.bytes for shard in shards[1:]}) == 1
  harm(tmp_path)
  before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
  with pytest.raises(errors.UserError, match=f"'d-train' is incomplete: {NAMES[1]} is, as it was"):
    _publish(tmp_path, shards)
  assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before
  assert records.set_names(str(tmp_path)) == (['d-train'] if earlier else [])


# --- What else is in the folder ------------------------------------------------------------------


def test_only_what_is_left_of_the_set_is_removed(tmp_path):
  others = ['d-train-x.tfrecord-00000-of-00001', 'd-test.tfrecord-00000-of-00001',
            'd-train.tfrecord-notes-of-mine', '.d-test.writing-1', '.d-train.lock']
  for name in [*others, 'd-train.tfrecord-00000-of-00009', '.d-train.writing-1']:
    (tmp_path / name).touch()
  staging = tmp_path / '.d-train.writing-2'
  _publish(tmp_path, _stage(staging), staging)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
      [*others, *NAMES, staging.name, 'manifest.json', '.manifest.lock'])


def test_a_folder_whose_name_is_a_pattern(tmp_path):
  folder = tmp_path / 'run[1]*'
  _publish(folder, _stage(folder / 'staging', 5))
  shards = [records.stage_shard(str(folder / 'staging'), 'd-train.tfrecord-00000-of-00001',
                                _rows(range(2)))]
  _publish(folder, shards)
  assert _ids(folder) == ['q0', 'q1']
  assert not any((folder / name).exists() for name in NAMES)


def test_two_sets_published_at_the_same_moment_are_both_named(tmp_path):
  script = '''
      import os, sys, time
      from dss_jax import records
      folder, split = sys.argv[1:]
      name = records.shard_name('d', split, 0, 1)
      rows = [records.RationaleRecord(id='q', input='x', dataset='d', split=split)]
      open(f'{folder}/{split} is ready', 'w').close()
      while sum(one.endswith('ready') for one in os.listdir(folder)) < 2:
        time.sleep(0.001)
      for _ in range(100):
        shard = records.stage_shard(f'{folder}/{split}', name, rows)
        records.publish(folder, 'd', split, f'{folder}/{split}', [shard], counts={'ok': 1})
        assert f'd-{split}' in records.set_names(folder)
  '''
  jobs = [subprocess.Popen([sys.executable, '-c', textwrap.dedent(script), str(tmp_path), split])
          for split in ('train', 'test')]
  assert [job.wait(120) for job in jobs] == [0, 0]
  assert records.set_names(str(tmp_path)) == ['d-test', 'd-train']
  for split in ('train', 'test'):
    assert len(list(records.read_records(str(tmp_path), 'd', split, verify=True))) == 1
