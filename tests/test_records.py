"""Record sets: what is written is read, and what is not whole is refused by name."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from dss_jax import errors, records
from dss_jax.records import tfrecord

_TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=40)
_RECORDS = st.builds(
    records.RationaleRecord, **dict.fromkeys(records.TEXT_FIELDS, _TEXT),
    schema_version=st.just(records.SCHEMA_VERSION))


_SAMPLES = st.builds(  # of schema 2, an input's at a time
    lambda record, texts, votes: records.numbered(
        [dataclasses.replace(record, rationale=text) for text in texts], votes),
    _RECORDS, st.lists(_TEXT, min_size=1, max_size=4),
    st.lists(st.floats(0, 1e6, width=32), max_size=3))


def _rows(n, prefix='q'):
  return [records.RationaleRecord(id=f'{prefix}{i}', input=f'input {i}', label='yes',
                                  teacher_label='no', rationale=f'because {i}', dataset='d',
                                  split='train') for i in range(n)]


def _write(folder, n=7, num_shards=3, **kwargs):
  return records.write_records(str(folder), 'd', 'train', _rows(n), num_shards=num_shards,
                               **kwargs)


def _read(folder, split='train', **kwargs):
  return list(records.read_records(str(folder), 'd', split, **kwargs))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(_RECORDS)
def test_bytes_round_trip(record):
  assert records.from_bytes(records.to_bytes(record)) == record


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(_RECORDS)
def test_bytes_are_those_of_tensorflows_example(record):
  feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(
      value=[getattr(record, name).encode()])) for name in records.TEXT_FIELDS}
  feature['schema_version'] = tf.train.Feature(
      int64_list=tf.train.Int64List(value=[record.schema_version]))
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  assert records.to_bytes(record) == example.SerializeToString(deterministic=True)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(st.lists(_RECORDS, min_size=1, max_size=9, unique_by=lambda r: r.id),
                  st.integers(1, 5))
def test_set_round_trip_in_order(tmp_path_factory, rows, num_shards):
  folder = str(tmp_path_factory.mktemp('records'))
  records.write_records(folder, 'ü', 'test', rows, num_shards=num_shards)
  want = [dataclasses.replace(row, dataset='ü', split='test') for row in rows]
  assert list(records.read_records(folder, 'ü', 'test', verify=True)) == want


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(_SAMPLES)
def test_bytes_of_samples_round_trip(samples):
  assert [records.from_bytes(records.to_bytes(one)) for one in samples] == samples
  assert [one.sample for one in samples] == list(range(len(samples)))
  plain = dataclasses.replace(samples[0], schema_version=1)  # Has no room for the rest.
  assert records.from_bytes(records.to_bytes(plain)) == dataclasses.replace(plain, label_votes=())


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.lists(_SAMPLES, min_size=1, max_size=6, unique_by=lambda one: one[0].id),
                  st.integers(1, 4))
def test_samples_round_trip_and_stay_in_one_shard(tmp_path_factory, inputs, num_shards):
  folder = str(tmp_path_factory.mktemp('records'))
  rows = [dataclasses.replace(one, dataset='d', split='train') for found in inputs for one in found]
  entry = records.write_records(folder, 'd', 'train', rows, num_shards=num_shards)
  assert list(records.read_records(folder, 'd', 'train', samples=True, verify=True)) == rows
  assert list(records.read_records(folder, 'd', 'train')) == [row for row in rows if not row.sample]
  counts = (entry['num_records'], entry['num_inputs'], entry['max_samples'])
  assert counts == (len(rows), len(inputs), max(map(len, inputs)))
  assert sum(entry['parse_status'].values()) == len(inputs)
  ids = [[one.id for one in map(records.from_bytes, tfrecord.read(path))]
         for path in records.find_set(folder, 'd', 'train').paths]
  assert len({one for found in ids for one in found}) == sum(len(set(found)) for found in ids)


def test_sharding_keeps_order_and_balance(tmp_path):
  entry = _write(tmp_path, n=10, num_shards=4)
  assert [shard['name'] for shard in entry['shards']] == [
      f'd-train.tfrecord-{i:05d}-of-00004' for i in range(4)]
  assert [shard['records'] for shard in entry['shards']] == [3, 2, 3, 2]
  assert [row.id for row in _read(tmp_path)] == [f'q{i}' for i in range(10)]


def test_no_more_shards_than_records(tmp_path):
  assert len(_write(tmp_path, n=2, num_shards=16)['shards']) == 2


def test_manifest_says_what_is_there(tmp_path):
  rows = _rows(4)
  rows[2] = dataclasses.replace(rows[2], parse_status='no_answer_phrase')
  records.write_records(str(tmp_path), 'd', 'train', rows, num_shards=2,
                        provenance={'parser': 'strict', 'num_records': 'not for a job to say'})
  entry = json.loads((tmp_path / 'manifest.json').read_text())['sets']['d-train']
  assert entry['num_records'] == 4
  assert entry['parse_status'] == {'no_answer_phrase': 1, 'ok': 3}
  assert entry['parser'] == 'strict'
  assert entry['schema_version'] == records.SCHEMA_VERSION
  assert [s['bytes'] for s in entry['shards']] == [
      (tmp_path / s['name']).stat().st_size for s in entry['shards']]


def test_sets_of_one_folder_are_kept_apart(tmp_path):
  _write(tmp_path)
  records.write_records(str(tmp_path), 'd', 'test', _rows(2, 't'), num_shards=1)
  assert records.set_names(str(tmp_path)) == ['d-test', 'd-train']
  assert len(_read(tmp_path)) == 7
  assert len(_read(tmp_path, 'test')) == 2


def test_a_new_set_removes_what_the_old_one_and_a_killed_job_left(tmp_path):
  _write(tmp_path, num_shards=5)
  (tmp_path / '.d-train.writing-1').mkdir()
  (tmp_path / '.d-train.writing-1' / '.d-train.tfrecord-00000-of-00009.writing-1').touch()
  _write(tmp_path, n=3, num_shards=2)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      '.manifest.lock', 'd-train.tfrecord-00000-of-00002', 'd-train.tfrecord-00001-of-00002',
      'manifest.json']
  assert len(_read(tmp_path)) == 3


@hypothesis.given(st.integers(1, 200), st.integers(1, 40))
def test_bounds_are_balanced_runs(num_rows, num_shards):
  bounds = records.shard_bounds(num_rows, num_shards)
  count = len(bounds)
  assert count == min(num_shards, num_rows)
  assert [i for i, (start, end) in enumerate(bounds) for _ in range(start, end)] == [
      row * count // num_rows for row in range(num_rows)]
  assert (bounds[0][0], bounds[-1][1]) == (0, num_rows)


@pytest.mark.parametrize('rows, message', [
    ([], 'd-train: no records to write'),
    ([_rows(1)[0], _rows(2)[1], _rows(1)[0]], "id 'q0' occurs in rows 1 and 3"),
    (records.numbered(_rows(1) * 3)[::2], "row 2: sample 2 of id 'q0' does not follow its sampl"),
    ([_rows(1)[0], *records.numbered(_rows(2)[1:] * 2)[1:]], 'row 2: sample 1 .* does not follow'),
    ([_rows(1)[0], dataclasses.replace(_rows(1)[0], sample=1)], "samples of id 'q0' need schema_v"),
    (records.numbered(_rows(1)) * 2, "id 'q0' occurs in rows 1 and 2"),
])
def test_refuses_rows(tmp_path, rows, message):
  with pytest.raises(errors.UserError, match=message):
    records.write_records(str(tmp_path / 'r'), 'd', 'train', rows)
  assert not (tmp_path / 'r').exists()


def test_a_file_in_the_folders_place_is_named(tmp_path):
  (tmp_path / 'r').write_text('a file')
  with pytest.raises(errors.UserError, match='records_dir=.*cannot be made'):
    _write(tmp_path / 'r')


# --- Interrupted writes ------------------------------------------------------------------------


def test_an_exception_while_writing_leaves_the_earlier_set(tmp_path):
  _write(tmp_path)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  rows = _rows(6, 'new')
  rows[4] = dataclasses.replace(rows[4], input='\ud800')  # Cannot be encoded.
  with pytest.raises(UnicodeEncodeError):
    records.write_records(str(tmp_path), 'd', 'train', rows, num_shards=3)
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
  assert len(_read(tmp_path, verify=True)) == 7


def test_kill_9_while_writing_leaves_the_earlier_set(tmp_path):
  _write(tmp_path)
  script = '''
      import os, signal, sys
      from dss_jax import records
      class Bomb(str):
        def encode(self, *args):
          os.kill(os.getpid(), signal.SIGKILL)
      rows = [records.RationaleRecord(id=f'n{i}', input='new') for i in range(8)]
      rows.append(records.RationaleRecord(id='n8', input=Bomb('new')))
      records.write_records(sys.argv[1], 'd', 'train', rows, num_shards=3)
  '''
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), str(tmp_path)],
                        capture_output=True, check=False, env=_env())
  assert done.returncode == -9, done.stderr.decode()
  assert any('.writing-' in p.name for p in tmp_path.iterdir())  # It had begun.
  assert [row.id for row in _read(tmp_path, verify=True)] == [f'q{i}' for i in range(7)]


def test_a_failure_between_the_renames_leaves_no_set_rather_than_a_mixture(tmp_path):
  _write(tmp_path, num_shards=1)
  (tmp_path / 'd-train.tfrecord-00001-of-00002').mkdir()  # The second rename cannot succeed.
  with pytest.raises(Exception, match='d-train.tfrecord-00001-of-00002'):
    _write(tmp_path, num_shards=2)
  with pytest.raises(errors.UserError, match="no record set 'd-train'"):
    _read(tmp_path)


# --- Damage --------------------------------------------------------------------------------------


def _shard(folder, i=1):
  return folder / f'd-train.tfrecord-{i:05d}-of-00003'


def test_missing_shard_is_named(tmp_path):
  _write(tmp_path)
  _shard(tmp_path).unlink()
  with pytest.raises(errors.UserError, match="'d-train' is incomplete: .*00001-of-00003 is miss"):
    _read(tmp_path)


@pytest.mark.parametrize('cut', [1, 40])
def test_truncated_shard_is_named(tmp_path, cut):
  _write(tmp_path)
  data = _shard(tmp_path).read_bytes()
  _shard(tmp_path).write_bytes(data[:-cut])
  with pytest.raises(errors.UserError, match=f'00001-of-00003 has {len(data) - cut} bytes'):
    records.find_set(str(tmp_path), 'd', 'train')


@pytest.mark.parametrize('position', [0, 9, 30, -6, -1])  # length, its CRC, data, data's CRC
def test_flipped_byte_is_found_on_plain_reading_and_by_verify(tmp_path, position):
  _write(tmp_path)
  data = bytearray(_shard(tmp_path).read_bytes())
  data[position] ^= 0x10
  _shard(tmp_path).write_bytes(data)
  with pytest.raises(errors.UserError, match='00001-of-00003: damaged'):
    _read(tmp_path)
  with pytest.raises(errors.UserError, match='00001-of-00003: sha256 is .* damaged'):
    records.find_set(str(tmp_path), 'd', 'train', verify=True)


def test_other_schema_version_is_refused(tmp_path):
  _write(tmp_path)
  manifest = tmp_path / 'manifest.json'
  content = json.loads(manifest.read_text())
  content['sets']['d-train']['schema_version'] = 99
  manifest.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match='has schema version 99, this dss_jax reads 1'):
    _read(tmp_path)


def test_unknown_set_suggests_the_nearest(tmp_path):
  _write(tmp_path)
  with pytest.raises(errors.UserError, match="no record set 'd-trian'; did you mean 'd-train'"):
    _read(tmp_path, 'trian')


def test_folder_without_records_says_how_to_make_them(tmp_path):
  with pytest.raises(errors.UserError, match='manifest.json does not exist.*`dss teacher '):
    _read(tmp_path)
  assert records.set_names(str(tmp_path)) == []


@pytest.mark.parametrize('text', ['{', '[]', '{}', 'null'])
def test_bad_manifest_is_named(tmp_path, text):
  (tmp_path / 'manifest.json').write_text(text)
  with pytest.raises(errors.UserError, match='manifest.json: not a manifest'):
    _read(tmp_path)


def _env():
  return {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3',
          'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
