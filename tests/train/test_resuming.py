"""What a second start in a MODEL_DIR may change, and that a run takes the advice it is given."""

import json
import re
import shutil

import numpy as np
import programs
import pytest

from dss_jax import errors
from dss_jax.precompile import advice
from dss_jax.train import __main__ as train_main
from dss_jax.train import config, identity

SHORT = {'TRAIN_STEPS': 6, 'EVAL_PERIOD': 3, 'CHECKPOINT_PERIOD': 2, 'KEEP_CHECKPOINTS': 9}
CONSTANT = {**SHORT, 'SCHEDULE': 'constant', 'EVAL_PERIOD': 6}


@pytest.fixture(scope='module')
def run(toy_records, toy_vocabulary):
  """Trains in this process; returns the exit code."""
  def train(model_dir, vocabulary=toy_vocabulary, **settings):
    command = programs.words(model_dir, toy_records, vocabulary, **{**SHORT, **settings})
    return train_main.main(command[3:])
  return train


@pytest.fixture(scope='module')
def finished(run, tmp_path_factory):
  """MODEL_DIR of a run that started from a checkpoint, and that checkpoint's."""
  folder = tmp_path_factory.mktemp('resuming')
  assert run(folder / 'first', TRAIN_STEPS=1, EVAL_PERIOD=0) == 0
  assert run(folder / 'run', INITIAL_CHECKPOINT_PATH=folder / 'first') == 0
  return folder / 'run', folder / 'first'


@pytest.fixture
def stopped(finished, tmp_path):
  """A copy of the run that stopped at step 4, and the settings to continue it."""
  folder, first = finished
  copy = tmp_path / 'run'
  shutil.copytree(folder, copy)
  shutil.rmtree(copy / 'checkpoints' / '6')
  (copy / 'test_metrics.json').unlink()
  return copy, {'INITIAL_CHECKPOINT_PATH': first}


def change_run_json(model_dir, change):
  path = model_dir / 'run.json'
  run = json.loads(path.read_text())
  change(run)
  path.write_text(json.dumps(run))


# --- Settings that are no part of the run ---------------------------------------------------------


@pytest.mark.parametrize('settings', [
    {'REMAT': 'full'}, {'T5Config.one_hot_embedding': True}, {'LOSS_CHUNK': 4}])
def test_what_changes_no_number_may_change(stopped, finished, run, settings):
  model_dir, same = stopped
  assert run(model_dir, **same, **settings) == 0
  found, wanted = (programs.final_state(folder, 6) for folder in (model_dir, finished[0]))
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_run_json_from_when_they_counted(stopped, run):
  """And one from before a field existed: it had its default."""
  model_dir, same = stopped
  def earlier(run):
    run['identity'] |= {'model.remat': 'none', 'model.one_hot_embedding': False}
    del run['identity']['optimizer.epsilon'], run['initial_checkpoint_sha256']
  change_run_json(model_dir, earlier)
  assert run(model_dir, **same, REMAT='dots') == 0
  change_run_json(model_dir, lambda run: run['identity'].update({'optimizer.gone': 1}))
  with pytest.raises(errors.UserError, match=r'settings: optimizer.gone was 1, is None\.'):
    run(model_dir, **same)


def test_every_field_is_counted_or_free():
  """A new field must be thought about: those that are free are listed here."""
  free = {name for name, field in identity._fields(config.TrainConfig)
          if field.metadata.get('free')}
  assert free == {
      'model_dir', 'data.records_dir', 'data.verify_records', 'model.remat',
      'model.one_hot_embedding', 'mesh', 'evaluation.batch_size', 'evaluation.test_at_end',
      'checkpoints', 'microbatches', 'loss_chunk', 'log_every'}


# --- The same thing in another place --------------------------------------------------------------


def test_the_same_vocabulary_under_another_path(stopped, run, toy_vocabulary, tmp_path):
  model_dir, same = stopped
  shutil.copy(toy_vocabulary, tmp_path / 'moved.model')
  for vocabulary in (tmp_path / 'moved.model', model_dir / 'vocabulary.model'):
    assert run(model_dir, vocabulary, **same) == 0
  with pytest.raises(errors.UserError, match="data.vocabulary was .*words.model', is 'bytes'"):
    run(model_dir, 'bytes', VOCAB_SIZE=384, **same)


def test_the_same_checkpoint_under_another_path(stopped, run, tmp_path):
  model_dir, same = stopped
  shutil.copytree(same['INITIAL_CHECKPOINT_PATH'], tmp_path / 'moved')
  assert run(model_dir, INITIAL_CHECKPOINT_PATH=tmp_path / 'moved') == 0
  from dss_jax.convert import __main__ as convert
  convert.main([f'--input={tmp_path / "moved"}', f'--output={tmp_path / "hf"}', '--to=hf'])
  assert run(model_dir, INITIAL_CHECKPOINT_PATH=tmp_path / 'hf') == 0
  for other in (model_dir, ''):
    with pytest.raises(errors.UserError, match='settings: initial_checkpoint_path was '):
      run(model_dir, INITIAL_CHECKPOINT_PATH=other)


# --- Longer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('schedule', ['constant', 'rsqrt'])
def test_a_run_is_made_longer(run, tmp_path, capsys, schedule):
  """It comes to what one that was as long from the start comes to; test is read at each end."""
  settings = {**CONSTANT, 'SCHEDULE': schedule, 'WARMUP_STEPS': 2}
  long, short = tmp_path / 'long', tmp_path / 'short'
  assert run(long, **{**settings, 'TRAIN_STEPS': 12}) == 0
  assert run(short, **settings) == 0
  first = json.loads((short / 'test_metrics.json').read_text())
  assert run(short, **{**settings, 'TRAIN_STEPS': 12}) == 0
  assert f'resuming {short} at step 6' in capsys.readouterr().out
  programs.assert_same(programs.final_state(short, 12), programs.final_state(long, 12))
  assert json.loads((short / 'test_metrics-6.json').read_text()) == first
  assert (short / 'test_metrics.json').read_text() == (long / 'test_metrics.json').read_text()
  assert json.loads((short / 'run.json').read_text())['steps_before'] == [6]
  assert run(short, **{**settings, 'TRAIN_STEPS': 12}) == 0
  with pytest.raises(errors.UserError, match='TRAIN_STEPS=12, not 6: .* longer, not shorter; use'):
    run(short, **settings)


@pytest.mark.parametrize(('schedule', 'steps'), [('linear', 12), ('linear', 3), ('cosine', 12)])
def test_a_run_whose_rate_ends_is_not(stopped, run, tmp_path, schedule, steps):
  """The error says why, and what it advises works."""
  model_dir, same = stopped
  change_run_json(
      model_dir, lambda run: run['identity'].update({'optimizer.schedule': schedule}))
  before = (model_dir / 'run.json').read_text()
  with pytest.raises(errors.UserError, match=(
      f'TRAIN_STEPS=6, not {steps}: SCHEDULE={schedule} comes to 0')) as caught:
    run(model_dir, **same, TRAIN_STEPS=steps, SCHEDULE=schedule)
  assert (model_dir / 'run.json').read_text() == before
  advised = re.findall('(INITIAL_CHECKPOINT_PATH)=([^ ]+)', str(caught.value))
  assert run(tmp_path / 'new', **dict(advised), TRAIN_STEPS=1, EVAL_PERIOD=0) == 0


# --- Advice ---------------------------------------------------------------------------------------


def test_advice_after_out_of_memory_is_taken_by_the_same_run(stopped, run):
  model_dir, same = stopped
  kept, _, in_another = advice.NONE_FITS.partition('; ')
  settings = dict(re.findall(r'--gin\.(\w+)=(\w+)', kept))
  assert set(settings) == {'REMAT', 'LOSS_CHUNK'} and 'along MESH_FSDP' in kept
  assert run(model_dir, **same, **settings, MESH_DATA=2, MESH_FSDP=4, MICROBATCHES=1) == 0
  assert 'TASK_FEATURE_LENGTHS' in in_another and 'in another MODEL_DIR' in in_another


def test_advice_after_a_loss_that_is_no_number(run, tmp_path):
  settings = {'CLIP_NORM': 0, 'DROPOUT_RATE': 0.0, 'CHECKPOINT_PERIOD': 1, 'EVAL_PERIOD': 0}
  with pytest.raises(errors.UserError, match='is nan.*DTYPE=float32, in another MODEL_DIR') as bad:
    run(tmp_path / 'run', LEARNING_RATE=1e30, **settings)
  advised = dict(re.findall('(INITIAL_CHECKPOINT_PATH)=([^ ]+)', str(bad.value)))
  assert run(tmp_path / 'other', **{**settings, **advised, 'TRAIN_STEPS': 1}) == 0
