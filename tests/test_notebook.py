"""dss_jax from Python: the package's functions, and docs/first_day.ipynb as a reader runs it."""

import asyncio
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import dss_jax
from dss_jax import datasets, errors, records
from dss_jax.notebook import calls

REPO = pathlib.Path(__file__).parents[1]
ROWS = [{'id': str(i), 'input': f'No. {i} was {word}.', 'label': label} for i, (word, label) in
        enumerate([('charged', 'billing'), ('stuck', 'bug')] * 20)]


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return dss_jax.register('slips', labels=('billing', 'bug'))


def explain(example):
  return f'It was {example.input.split()[-1]} So the answer is {example.label}.'


def teach(**changes):
  return dss_jax.teach(**{'dataset': 'slips', 'split': 'train', 'inputs': ROWS, 'client': explain,
                          'records_dir': 'records', 'num_shards': 1, **changes})


def test_a_function_teaches_rows():
  found = teach(holdout='none')
  assert found.splits['train'].accuracy == {'accuracy': 100.0}
  assert 'slips-train' in repr(found) and '100.00' in repr(found)
  first, *_ = records.read_records('records', 'slips', 'train')
  assert (first.input, first.rationale) == ('No. 0 was charged.', 'It was charged.')
  assert first.teacher_model == 'explain'


def test_inside_a_running_event_loop():
  async def cell():
    return teach()
  assert asyncio.run(cell()).splits.keys() == {'train', 'validation'}


class Table:
  """As pandas' DataFrame."""

  def to_dict(self, orient):
    assert orient == 'records'
    return ROWS


@pytest.mark.parametrize('inputs', [
    Table(), [datasets.Example(**row) for row in ROWS], (row for row in ROWS)])
def test_inputs_in_other_forms(inputs):
  assert teach(inputs=inputs, holdout='none').splits['train'].rows == len(ROWS)


def test_inputs_by_path(tmp_path):
  path = tmp_path / 'slips.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
  assert teach(inputs=path, holdout='none').splits['train'].rows == len(ROWS)
  (tmp_path / 'said.jsonl').write_text(''.join(
      json.dumps({'id': row['id'], 'completion': f'Yes. So the answer is {row["label"]}.'}) + '\n'
      for row in ROWS))
  found = teach(inputs=path, client='recorded', completions=tmp_path / 'said.jsonl')
  assert found.splits['train'].accuracy == {'accuracy': 100.0}


def test_what_is_wrong_is_said_in_one_line():
  with pytest.raises(errors.UserError, match="unknown dataset 'slip'.*did you mean 'slips'"):
    teach(dataset='slip')
  with pytest.raises(errors.UserError, match="--shards: .* did you mean '--num_shards'"):
    teach(shards=2)
  with pytest.raises(errors.UserError, match='inputs: row 2 is str: give dicts'):
    teach(inputs=[ROWS[0], 'a text'])
  with pytest.raises(errors.UserError, match="--gin.TRAIN_STEP: .* did you mean 'TRAIN_STEPS'"):
    dss_jax.train('gin/native/dss.gin', DATASET='slips', TRAIN_STEP=3)
  with pytest.raises(errors.UserError, match="--datset: .* did you mean '--dataset'"):
    dss_jax.train(method='dss', datset='slips')
  with pytest.raises(errors.UserError, match='holds no records, no run and no sweep') as caught:
    dss_jax.show(os.curdir)
  assert caught.value._render_traceback_() == [f'error: {caught.value}']


def test_words():
  assert calls._words({
      'gin_file': ['a.gin', 'b.gin'], 'slots': 2, 'dry_run': True, 'batch': False, 'shard': None,
      'params': {'top_p': 0.9}, 'import_': 'mine', 'SEEDS': (0, 1), 'DATASET': 'cqa',
      'PACK': False, 'TrainConfig.steps': 3, 'out': pathlib.Path('x')}) == [
          '--gin_file=a.gin', '--gin_file=b.gin', '--slots=2', '--dry_run',
          '--params={"top_p": 0.9}', '--import=mine', '--gin.SEEDS=(0, 1)', '--gin.DATASET=cqa',
          '--gin.PACK=False', '--gin.TrainConfig.steps=3', '--out=x']


def test_records_are_shown():
  shown = dss_jax.show(teach(holdout='none'), rows=1)
  assert 'No. 0 was charged.' in repr(shown) and 'No. 1' not in repr(shown)
  assert '<td>No. 0 was charged.</td>' in shown._repr_html_()


def test_a_run_is_shown(tmp_path):
  (tmp_path / 'run.json').write_text('{}')
  (tmp_path / 'metrics.jsonl').write_text(
      '{"step": 10, "train/label_loss": 2.0}\n{"step": 20, "train/label_loss": 1.0}\n'
      '{"step": 20, "validation/accuracy": 60.0}\n')
  (tmp_path / 'test_metrics.json').write_text('{"metrics": {"accuracy": 50.0}}')
  folder = tmp_path / 'predictions/test'
  folder.mkdir(parents=True)
  (folder / 'slips_finetune-000020.jsonl').write_text(''.join(json.dumps(
      {'input': {'id': str(i), 'text': f'<{i}>'}, 'target': 'bug', 'output': said,
       'prediction': said}) + '\n' for i, said in enumerate(('bug', 'billing'))))
  (folder / 'slips_finetune-metrics.jsonl').write_text('{"step": 20, "accuracy": 50.0}\n')
  shown = dss_jax.show(tmp_path)
  assert 'test/accuracy: 50' in repr(shown) and '1 of 2 test rows wrong' in repr(shown)
  page = shown._repr_html_()
  assert '&lt;1&gt;' in page and '&lt;0&gt;' not in page and page.count('<svg') == 1
  assert 'accuracy, validation' in page and 'validation/accuracy: 60' in repr(shown)


@pytest.mark.slow
def test_the_notebook(tmp_path):
  """As it stands, in a fresh kernel; what it says about its students is so."""
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  book = nbformat.read(REPO / 'docs/first_day.ipynb', as_version=4)
  environment = {**os.environ, 'XLA_FLAGS': ''}
  kernel = nbclient.NotebookClient(
      book, timeout=600, resources={'metadata': {'path': str(tmp_path)}})
  kernel.execute(env=environment)
  if path := os.environ.get('DSS_NOTEBOOK_OUT'):
    nbformat.write(book, path)
  outputs = [json.dumps(cell.outputs) for cell in book.cells if cell.cell_type == 'code']
  accuracies = [float(words.split()[-4]) for words in _texts(book) if '% of test' in words]
  assert len(accuracies) == 2 and accuracies[1] > accuracies[0]
  assert 'billing' in outputs[-1] and 'charged twice' in outputs[-1]
  assert not any('WARNING' in one or 'Traceback' in one for one in outputs)


def _texts(book):
  for cell in book.cells:
    for output in cell.get('outputs', ()):
      yield from output.get('text', '').splitlines()


def test_importing_the_package_is_cheap():
  code = ('import sys, dss_jax; dss_jax.register("x", labels=("a", "b")); '
          'assert not {"tensorflow", "seqio", "jax", "matplotlib"} & set(sys.modules)')
  subprocess.run([sys.executable, '-c', code], check=True, timeout=600)


def test_train_is_a_function_and_a_package():
  from dss_jax.train import config
  assert callable(dss_jax.train) and dss_jax.train.config is config


def test_what_a_function_gives_is_checked():
  def bad(example):
    raise ValueError('mine')
  null = r"client: the function gave null for row '\d+': return"
  with pytest.raises(errors.UserError, match=null):
    teach(client=lambda example: None)
  with pytest.raises(ValueError, match='mine') as caught:
    teach(client=bad)
  # Rows are asked about side by side: whichever is answered first ends it.
  assert re.match(r"The teacher was asked about row '\d+'; noth", caught.value.__notes__[0])
  with pytest.raises(errors.UserError, match=r'40 no_answer_phrase'):  # Said, and not cut off.
    teach(client=lambda example: 'blah')


def test_gaps_and_numbers_of_tables():
  numpy = pytest.importorskip('numpy')
  rows = [{**row, 'id': numpy.int64(row['id']), 'label': row['label'] if i else float('nan')}
          for i, row in enumerate(ROWS)]
  found = teach(inputs=rows, client='none', holdout='none').splits['train']
  assert (found.rows, found.gold) == (40, 39)
  with pytest.raises(errors.UserError, match="^inputs, row 2: field 'input' is null .*remove the"):
    teach(inputs=[ROWS[0], {**ROWS[1], 'input': float('nan')}])
  with pytest.raises(errors.UserError, match='^inputs: no rows'):
    teach(inputs=[])
  with pytest.raises(errors.UserError, match='row 1: object is no text'):
    teach(inputs=[{'input': object()}])


def test_arguments_that_there_are_not():
  import dss_jax.inspect  # It has the name of a module of Python's.
  with pytest.raises(errors.UserError, match="no argument 'label': did you mean 'labels'"):
    dss_jax.register('q', label=('a', 'b'))
  with pytest.raises(errors.UserError, match='int is nothing that can be shown'):
    dss_jax.show(3)
  assert 'MODEL_DIR=' in dss_jax.train.__doc__
