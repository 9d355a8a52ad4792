"""`seqio_cache_tasks` on our tasks, and what it wrote in place of the records."""

import dataclasses
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

pytest.importorskip('apache_beam', reason="needs Apache Beam: pip install -e '.[test,beam]'")

from dss_jax import data, errors, records
from dss_jax.data import settings

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 't5x.md'
LENGTHS = {'inputs': 64, 'targets': 24}
TASKS = ('dss_toy_label', 'dss_toy_rationale')
ROWS = {'dss_toy_label': 96 - 9, 'dss_toy_rationale': 96 - 14}


def with_failures(rows):
  """Every seventh failed, every eleventh has no gold label."""
  for number, row in enumerate(rows):
    failed = {'parse_status': 'truncated', 'rationale': '', 'teacher_label': ''}
    yield dataclasses.replace(row, **(failed if number % 7 == 3 else {}),
                              **({'label': ''} if number % 11 == 5 else {}))


@pytest.fixture(scope='module')
def folder(toy_records, toy_vocabulary, tmp_path_factory):
  """Folder with both tasks of the mixture, by the command of docs/t5x.md."""
  folder = tmp_path_factory.mktemp('cached')
  (text,) = re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL)
  (folder / 'my_data.py').write_text(text)
  for split in ('train', 'validation', 'test'):
    records.write_records(str(folder / 'records'), 'toy', split, list(with_failures(
        records.read_records(str(toy_records), 'toy', split))), num_shards=3)
  (folder / 'svamp.model').symlink_to(toy_vocabulary)
  program = pathlib.Path(sys.executable).with_name('seqio_cache_tasks')
  done = subprocess.run(
      [str(program), f'--tasks={",".join(TASKS)}', f'--output_cache_dir={folder}',
       '--module_import=my_data', '--min_shards=2'],
      cwd=folder, env={'PYTHONPATH': str(folder), 'PATH': '/usr/bin:/bin', 'HOME': str(folder)},
      capture_output=True, text=True, check=False, timeout=600)
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


@pytest.fixture
def cache(folder, toy_vocabulary):
  data.configure(records_dir=str(folder / 'records'), vocabulary=toy_vocabulary)
  seqio.add_global_cache_dirs([str(folder)])
  yield folder
  seqio.set_global_cache_dirs([])


def rows(name, use_cached, **arguments):
  found = seqio.get_mixture_or_task(name).get_dataset(
      LENGTHS, split='train', use_cached=use_cached, **arguments)
  return [str({key: np.asarray(row[key]).tolist() for key in sorted(row)})
          for row in found.as_numpy_iterator()]


@pytest.mark.parametrize('task', TASKS)
def test_a_cached_task_is_the_task(cache, task):
  fresh, cached = (rows(task, use_cached, shuffle=False) for use_cached in (False, True))
  assert sorted(cached) == sorted(fresh)
  assert len(fresh) == ROWS[task]


def test_cached_rows_are_shuffled_by_seed(cache):
  orders = [rows(TASKS[0], True, shuffle=True, seed=seed) for seed in (1, 1, 2)]
  in_order = rows(TASKS[0], True, shuffle=False)
  assert orders[0] == orders[1] != orders[2]
  assert sorted(orders[0]) == sorted(in_order)
  neighbours = set(zip(in_order, in_order[1:]))
  assert sum(pair in neighbours for pair in zip(orders[0], orders[0][1:])) < len(in_order) / 10


def inputs_side_by_side(cached, epochs, **arguments):
  """[(id, its objectives)] of a mixture's stream; neighbours of one id are taken together."""
  found = seqio.get_mixture_or_task('dss_toy').get_dataset(
      LENGTHS, use_cached=cached, num_epochs=epochs, passthrough_features=['id'], **arguments)
  stream = [(row['id'], int(row['objective'][0])) for row in found.as_numpy_iterator()]
  return [(key, tuple(task for _, task in of_one))
          for key, of_one in itertools.groupby(stream, lambda pair: pair[0])]


@pytest.mark.parametrize('hosts', [1, 5])
def test_the_cached_mixture_keeps_an_inputs_examples_together(cache, hosts):
  """In all epochs, though Beam has written the two tasks in different orders."""
  wanted = sorted(2 * inputs_side_by_side(False, 1, shuffle=False))
  found = [inputs_side_by_side(True, 2, seed=4, shard_info=seqio.ShardInfo(index, hosts))
           for index in range(hosts)]
  assert sorted(sum(found, [])) == wanted
  assert {tasks for _, tasks in wanted} == {(1, 2), (1,), (2,)}
  assert found[0] != inputs_side_by_side(True, 2, seed=5, shard_info=seqio.ShardInfo(0, hosts))


def copy(cache, tmp_path, change, monkeypatch):
  """The cache with other rows of the rationale task."""
  shutil.copytree(cache / TASKS[0], tmp_path / TASKS[0])
  made = tmp_path / TASKS[1]
  shutil.copytree(cache / TASKS[1], made)
  for path in made.glob('*.tfrecord-*'):
    kept = [change(tf.train.Example.FromString(data.numpy()))
            for data in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
      for example in kept:
        writer.write(example.SerializeToString())
  for task in TASKS:  # SeqIO remembers where it once found a cache.
    monkeypatch.setattr(seqio.TaskRegistry.get(task), '_cache_dir', str(tmp_path / task))
  return made


def test_caches_of_different_records_are_refused(cache, tmp_path, monkeypatch):
  def change(example):
    example.features.feature['record'].int64_list.value[0] += 1
    return example
  copy(cache, tmp_path, change, monkeypatch)
  with pytest.raises(tf.errors.InvalidArgumentError, match='made from different records'):
    rows('dss_toy', True, num_epochs=1)


def test_a_cache_of_an_earlier_version_is_refused(cache, tmp_path, monkeypatch):
  made = copy(cache, tmp_path, lambda example: example, monkeypatch)
  info = made / 'info.train.json'
  found = json.loads(info.read_text())
  del found['features']['record'], found['features']['keep']
  info.write_text(json.dumps(found))
  with pytest.raises(errors.UserError, match=r"dss_toy_rationale' was made by an earlier version"):
    rows('dss_toy', True, num_epochs=None)


@pytest.mark.parametrize('other', [
    {'vocabulary': 'bytes'}, {'label_prefix': 'predict: '}, {'train_fraction': 0.5}])
def test_a_cache_of_other_settings_is_refused(cache, other):
  now = settings.current()
  data.configure(**{'records_dir': now.records_dir, 'vocabulary': now.vocabulary, **other})
  with pytest.raises(tf.errors.InvalidArgumentError, match='made with other settings'):
    rows(TASKS[0], True)
