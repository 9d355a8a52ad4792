"""`seqio_cache_tasks` on our tasks, and what it wrote in place of the records."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

pytest.importorskip('apache_beam', reason="needs Apache Beam: pip install -e '.[test,beam]'")

from dss_jax import data
from dss_jax.data import settings

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 't5x.md'
LENGTHS = {'inputs': 64, 'targets': 24}
TASKS = ('dss_toy_label', 'dss_toy_rationale')


@pytest.fixture(scope='module')
def folder(toy_records, toy_vocabulary, tmp_path_factory):
  """Folder with both tasks of the mixture, by the command of docs/t5x.md."""
  folder = tmp_path_factory.mktemp('cached')
  (text,) = re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL)
  (folder / 'my_data.py').write_text(text)
  (folder / 'records').symlink_to(toy_records)
  (folder / 'svamp.model').symlink_to(toy_vocabulary)
  program = pathlib.Path(sys.executable).with_name('seqio_cache_tasks')
  done = subprocess.run(
      [str(program), f'--tasks={",".join(TASKS)}', f'--output_cache_dir={folder}',
       '--module_import=my_data', '--min_shards=2'],
      cwd=folder, env={'PYTHONPATH': str(folder), 'PATH': '/usr/bin:/bin', 'HOME': str(folder)},
      capture_output=True, text=True, check=False, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


@pytest.fixture
def cache(folder, toy_data):
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
  assert len(fresh) == 96


def test_cached_rows_are_shuffled_by_seed(cache):
  orders = [rows(TASKS[0], True, shuffle=True, seed=seed) for seed in (1, 1, 2)]
  in_order = rows(TASKS[0], True, shuffle=False)
  assert orders[0] == orders[1] != orders[2]
  assert sorted(orders[0]) == sorted(in_order)
  neighbours = set(zip(in_order, in_order[1:]))
  assert sum(pair in neighbours for pair in zip(orders[0], orders[0][1:])) < len(in_order) / 10


def test_the_mixture_reads_the_cache(cache):
  found = rows('dss_toy', True, shuffle=True, seed=0, num_epochs=1)
  assert len(found) == sum(len(rows(task, False)) for task in TASKS)
  labels = ["'objective': [1" in row for row in found]
  assert labels[:8] == [True, False] * 4


@pytest.mark.parametrize('other', [
    {'vocabulary': 'bytes'}, {'label_prefix': 'predict: '}, {'train_fraction': 0.5}])
def test_a_cache_of_other_settings_is_refused(cache, other):
  now = settings.current()
  data.configure(**{'records_dir': now.records_dir, 'vocabulary': now.vocabulary, **other})
  with pytest.raises(tf.errors.InvalidArgumentError, match='made with other settings'):
    rows(TASKS[0], True)
