"""Whole runs on records with several rationales of an input."""

import dataclasses
import json

import programs
import pytest

from dss_jax import errors, records

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(toy_records, tmp_path_factory):
  """The toy records, with two more rationales of each training input."""
  made = str(tmp_path_factory.mktemp('several'))
  for split in ('train', 'validation', 'test'):
    rows = list(records.read_records(str(toy_records), 'toy', split))
    if split == 'train':
      words = [(row, row.rationale.split()) for row in rows]
      rows = [one for row, said in words for one in records.numbered(
          [row, *(dataclasses.replace(row, rationale=' '.join(said[i:] + said[:i]))
                  for i in (1, 2))])]
    records.write_records(made, 'toy', split, rows, num_shards=2)
  return made


@pytest.fixture
def train(folder, toy_vocabulary, tmp_path):
  run = programs.trainer(folder, toy_vocabulary, SCHEDULE='constant', DROPOUT_RATE=0)
  def of(name, **settings):
    assert run(tmp_path / name, **settings) == 0
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    return [line for line in map(json.loads, lines) if 'train/loss' in line]
  return of


def test_all_in_parts_and_whole(train):
  settings = {'RATIONALE_SAMPLES': 'all', 'TRAIN_STEPS': 3, 'BATCH_SIZE': 16}
  whole = train('whole', **settings)
  for line in whole:
    assert line['train/loss'] == pytest.approx(
        0.5 * line['train/label_loss'] + 0.5 * line['train/rationale_loss'], rel=1e-5)
    assert line['train/rationale_tokens'] > 6 * line['train/label_tokens']  # 3 of 7 to one of 2.
  parts = train('parts', **settings, MICROBATCHES=2, LOSS_CHUNK=5)
  for one, other in zip(whole, parts, strict=True):
    for name in ('loss', 'label_loss', 'rationale_loss'):
      assert other[f'train/{name}'] == pytest.approx(one[f'train/{name}'], rel=2e-4)


def test_a_resumed_run_goes_on_in_its_epoch(train, tmp_path):
  """Epochs of some eight steps; the second start is in the second of them."""
  settings = {'RATIONALE_SAMPLES': 'cycle', 'AGREEING': 'label'}
  train('whole', TRAIN_STEPS=20, **settings)
  train('parts', TRAIN_STEPS=11, **settings)
  train('parts', TRAIN_STEPS=20, **settings)
  programs.assert_same(programs.final_state(tmp_path / 'parts', 20),
                       programs.final_state(tmp_path / 'whole', 20))
  with pytest.raises(errors.UserError, match=r"data.rationales was 'cycle', is 'all'"):
    train('whole', TRAIN_STEPS=20, **{**settings, 'RATIONALE_SAMPLES': 'all'})


def test_a_run_that_knew_of_one_rationale_goes_on(train, tmp_path):
  train('run', TRAIN_STEPS=2)
  path = tmp_path / 'run' / 'run.json'
  run = json.loads(path.read_text())
  for name in ('rationales', 'agreeing'):
    del run['identity'][f'data.{name}'], run['config']['data'][name]
  path.write_text(json.dumps(run))
  assert [line['step'] for line in train('run', TRAIN_STEPS=3)] == [1, 2, 3]
