"""TFRecord files: TensorFlow reads ours and we read TensorFlow's; damage is found."""

import hashlib
import os

import google_crc32c
import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from dss_jax.records import tfrecord

_ROWS = st.lists(st.binary(max_size=200), max_size=8)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  """A file that every example of a property test writes anew."""
  return str(tmp_path_factory.mktemp('tfrecord') / 'file')


def _bytes(path):
  with open(path, 'rb') as f:
    return f.read()


def _replace(path, data):
  with open(path, 'wb') as f:
    f.write(data)


def test_the_checksum_is_computed_in_c():
  assert google_crc32c.implementation == 'c'


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(_ROWS)
def test_the_bytes_are_tensorflows_and_are_read_back(path, rows):
  with tf.io.TFRecordWriter(path) as writer:
    for row in rows:
      writer.write(row)
  theirs = _bytes(path)
  assert list(tfrecord.read(path)) == rows
  written = tfrecord.write(path, iter(rows))
  assert _bytes(path) == theirs
  assert written == tfrecord.Written(
      len(rows), len(theirs), hashlib.sha256(theirs).hexdigest())
  assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == rows
  assert list(tfrecord.read(path)) == rows


def test_a_record_larger_than_any_buffer(path):
  rows = [b'', bytes(range(256)) * (1 << 14), b'last']
  tfrecord.write(path, rows)
  assert list(tfrecord.read(path)) == rows
  assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == rows


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(_ROWS.filter(len), st.data())
def test_a_cut_file_gives_its_whole_records_and_then_an_error(path, rows, data):
  tfrecord.write(path, rows)
  whole = _bytes(path)
  ends = [0]  # Where a cut cannot be seen; the manifest knows the size.
  for row in rows:
    ends.append(ends[-1] + 16 + len(row))
  cut = data.draw(st.integers(0, len(whole) - 1))
  _replace(path, whole[:cut])
  before = sum(end <= cut for end in ends[1:])
  reading = tfrecord.read(path)
  assert [next(reading) for _ in range(before)] == rows[:before]
  if cut in ends:
    assert list(reading) == []
  else:
    with pytest.raises(tfrecord.DamagedError, match=f'ends inside record {before + 1}$'):
      next(reading)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(_ROWS.filter(len), st.data())
def test_a_changed_byte_is_found_in_its_record_where_tensorflow_finds_it(path, rows, data):
  tfrecord.write(path, rows)
  changed = bytearray(_bytes(path))
  changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
  _replace(path, changed)
  with pytest.raises(tfrecord.DamagedError, match='wrong checksum in record') as caught:
    list(tfrecord.read(path))
  assert str(caught.value).endswith(f'record {_whole_records(path) + 1}')


def _whole_records(path):
  count = 0
  with pytest.raises(tf.errors.DataLossError):
    for _ in tf.data.TFRecordDataset(path):
      count += 1
  return count


def test_rows_are_written_as_they_come(path):
  def rows():
    for _ in range(50):
      yield b'x' * 100_000
      sizes.append(os.path.getsize(path))
  sizes = []
  tfrecord.write(path, rows())
  assert all(size >= i * 100_000 for i, size in enumerate(sizes))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    next(tfrecord.read(str(tmp_path / 'none')))
