"""Where inputs come from: files, TFDS (prepared here, small), and a dataset's own function."""

import json
import subprocess
import sys
import textwrap

import pytest

from dss_jax import datasets, errors
from dss_jax.tasks import anli, cqa, svamp
from dss_jax.teacher.inputs import sources


def test_a_file_comes_first(tmp_path):
  (tmp_path / 'in.jsonl').write_text('{"uid": 7, "premise": "A.", "hypothesis": "B.", "label": 2}')
  found = sources.find(anli.DATASET, 'test', str(tmp_path / 'in.jsonl'), None)
  assert found[0] == datasets.Example('7', 'A.</s>B.', 'contradiction')


def test_a_datasets_own_function_is_called_once(tmp_path):
  calls = []

  def load(split):
    calls.append(split)
    yield from ({'id': i, 'input': f'{split} {i}\u2028'} for i in range(3))
  dataset = datasets.Dataset('own', datasets.read_plain_row, load=load)
  for _ in range(2):
    found = sources.find(dataset, 'train', None, str(tmp_path))
    assert [e.input for e in found] == [f'train {i}\u2028' for i in range(3)]
  assert calls == ['train'] and found.path == str(tmp_path / 'inputs' / 'own-train.jsonl')


def test_half_a_source_leaves_no_file(tmp_path):
  def load(split):
    yield {'id': 1, 'input': 'x'}
    raise RuntimeError('the disk is gone')
  dataset = datasets.Dataset('own', datasets.read_plain_row, load=load)
  with pytest.raises(RuntimeError):
    sources.find(dataset, 'train', None, str(tmp_path))
  assert not list((tmp_path / 'inputs').iterdir())


def test_a_source_without_rows_leaves_no_file(tmp_path):
  rows = []
  dataset = datasets.Dataset('own', datasets.read_plain_row, load=lambda split: rows)
  with pytest.raises(errors.UserError, match='own-train: its source has no rows'):
    sources.find(dataset, 'train', None, str(tmp_path))
  rows.append({'id': 1, 'input': 'x'})
  assert len(sources.find(dataset, 'train', None, str(tmp_path))) == 1


@pytest.mark.parametrize('dataset, split, folder, message', [
    (svamp.DATASET, 'train', 'r', "'svamp' is in neither TFDS .*=FILE, or --inputs=hub .github"),
    (anli.DATASET, 'train', '', 'give --records_dir=DIR'),
    (cqa.DATASET, 'validation', 'r', "cos_e has it as 'validation', which is this dataset's test"),
])
def test_what_cannot_be_found_is_named(tmp_path, dataset, split, folder, message):
  with pytest.raises(errors.UserError, match=message):
    sources.find(dataset, split, None, folder and str(tmp_path / folder))


def _prepare(folder, name, config, splits, features, rows):
  """A prepared TFDS dataset as a download would leave it."""
  script = '''
      import json, sys
      import numpy as np, tensorflow as tf, tensorflow_datasets as tfds
      folder, name, config, splits, features, rows = json.loads(sys.argv[1])
      make = {'text': tfds.features.Text(), 'texts': tfds.features.Sequence(tfds.features.Text()),
              'label': tfds.features.ClassLabel(names=['e', 'n', 'c'])}
      rows = {key: [row[key] for row in rows] for key in features}
      builder = tfds.builder(f'{name}/{config}' if config else name, data_dir=folder)
      tfds.dataset_builders.store_as_tfds_dataset(
          name=name, config=config or None, version=str(builder.version), data_dir=folder,
          features=tfds.features.FeaturesDict({k: make[v] for k, v in features.items()}),
          split_datasets={s: tf.data.Dataset.from_tensor_slices(rows) for s in splits})
  '''
  arguments = json.dumps([str(folder), name, config, splits, features, rows])
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), arguments],
                        capture_output=True, text=True, check=False)
  assert not done.returncode, done.stderr[-2000:]


@pytest.mark.slow
def test_tfds_rows_through_the_real_builders(tmp_path):
  """The real `anli/r1` and `cos_e` builders read data that lies where they would have put it."""
  _prepare(tmp_path / 'tfds', 'anli', 'r1', ['train', 'validation', 'test'],
           {'uid': 'text', 'context': 'text', 'hypothesis': 'text', 'label': 'label',
            'reason': 'text'},
           [{'uid': f'u{i}', 'context': f'Prémisse {i}.', 'hypothesis': 'It is.', 'label': i,
             'reason': ''} for i in range(3)])
  _prepare(tmp_path / 'tfds', 'cos_e', '', ['train', 'validation'],
           {'id': 'text', 'question': 'text', 'choices': 'texts', 'answer': 'text',
            'abstractive_explanation': 'text', 'extractive_explanation': 'text'},
           [{'id': f'c{i}', 'question': 'Where?', 'choices': ['sea', 'nest'], 'answer': 'nest',
             'abstractive_explanation': '', 'extractive_explanation': ''} for i in range(2)])
  common = {'path': None, 'records_dir': str(tmp_path / 'r'),
            'tfds_data_dir': str(tmp_path / 'tfds')}
  found = sources.find(anli.DATASET, 'train', **common)
  assert list(found) == [
      datasets.Example(f'u{i}', f'Prémisse {i}.</s>It is.', label)
      for i, label in enumerate(('entailment', 'neutral', 'contradiction'))]
  found = sources.find(cqa.DATASET, 'test', **common | {'path': 'tfds'})
  assert found[1] == datasets.Example(
      'c1', 'Where?\nAnswer Choices:\n(a) sea\n(b) nest', 'nest', ('sea', 'nest'))
  (tmp_path / 'tfds' / 'esnli').write_text('in the way')  # TFDS tries a network for minutes.
  with pytest.raises(errors.UserError, match="TFDS esnli cannot be prepared here .*--inputs=FILE"):
    sources.find(datasets.get('esnli'), 'train', **common)
