"""What ends a run before its last step, and which parameters are the student's then."""

import json
import shutil

import numpy as np
import programs
import pytest

import dss_jax
from dss_jax import errors
from dss_jax.train import checksums, early_stopping
from dss_jax.train import config as config_lib

# At a rate of 0 no evaluation is better than the first: the run stops at step 3.
STANDS_STILL = {'TRAIN_STEPS': 20, 'EVAL_PERIOD': 1, 'CHECKPOINT_PERIOD': 2, 'EARLY_STOPPING': 2,
                'LEARNING_RATE': 0.0, 'EVAL_METRIC': 'loss'}


@pytest.mark.parametrize(('metric', 'values', 'wanted'), [
    ('accuracy', [50, 60, 60, 40], (60, 20, 2)), ('accuracy', [50, 40, 51], (51, 30, 0)),
    ('label_loss', [2.0, 1.0, 1.5], (1.0, 20, 1)), ('label_loss', [2.0], (2.0, 10, 0))])
def test_progress_is_of_the_first_best(metric, values, wanted):
  progress = early_stopping.Progress()
  for i, value in enumerate(values, 1):
    progress = progress.after(10 * i, metric, {metric: value, 'other': 1.0})
  assert (progress.best, progress.step, progress.waited) == wanted
  assert progress.newest == {metric: values[-1], 'other': 1.0}


@pytest.mark.parametrize(('fields', 'message'), [
    ({'early_stopping': 2, 'every': 0}, 'EvalConfig.early_stopping=2: it waits .*every=0'),
    ({'early_stopping': -1}, 'early_stopping=-1: use a whole number of at least 0'),
    ({'test_with': 'lats'}, "test_with='lats': did you mean 'last'")])
def test_what_cannot_be_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.EvalConfig(**fields)


@pytest.fixture(scope='module')
def train(toy_records, toy_vocabulary):
  return programs.trainer(toy_records, toy_vocabulary)


def of_test(model_dir):
  return json.loads((model_dir / 'test_metrics.json').read_text())


@pytest.mark.slow
def test_a_run_that_learns_no_more_ends_and_stays_ended(train, tmp_path, capsys):
  run, cut = tmp_path / 'run', tmp_path / 'cut'
  assert train(run, **STANDS_STILL) == 0
  said = capsys.readouterr().out
  assert 'stopped early, at step 3 of 20: no better loss than ' in said
  assert ' of step 1 in 2 evaluations\n' in said and 'done: 3 steps of dss_toy' in said
  assert json.loads((run / 'run.json').read_text())['stopped_at'] == 3
  assert of_test(run)['stopped_at'] == 3 and of_test(run)['step'] == 1
  assert programs.logged_steps(run) == [1, 2, 3] and programs.saved_steps(run) == [2, 3]
  shutil.copytree(run, cut)

  lines = (run / 'metrics.jsonl').read_bytes()
  assert train(run, **STANDS_STILL) == 0  # It does not go on.
  assert 'stopped early, at step 3 of 20' in capsys.readouterr().out
  assert (run / 'metrics.jsonl').read_bytes() == lines

  shutil.rmtree(cut / 'checkpoints' / '3')  # Killed at step 3: by then one evaluation had waited.
  (cut / 'test_metrics.json').unlink()
  assert train(cut, **STANDS_STILL) == 0
  assert 'stopped early, at step 3 of 20' in capsys.readouterr().out
  programs.assert_same(programs.final_state(cut, 3), programs.final_state(run, 3))
  assert of_test(cut) == of_test(run)


@pytest.mark.slow
def test_a_run_that_still_learns_goes_on_by_the_same_schedule(train, tmp_path):
  settings = {'TRAIN_STEPS': 4, 'EVAL_PERIOD': 1, 'EVAL_METRIC': 'loss', 'LEARNING_RATE': 1e-3}
  for name, more in (('with', {'EARLY_STOPPING': 1}), ('without', {})):
    assert train(tmp_path / name, **settings, **more) == 0
  assert 'stopped_at' not in of_test(tmp_path / 'with')
  programs.assert_same(*(programs.final_state(tmp_path / name, 4) for name in ('with', 'without')))


def load_average(model_dir, step):
  """The average of a checkpoint, by its parameters' names, and the parameters themselves."""
  state = programs.final_state(model_dir, step)
  def under(prefix):
    return {name.removeprefix(prefix): value for name, value in state.items()
            if name.startswith(prefix)}
  return under("['opt_state']['average']"), under("['params']")


@pytest.mark.slow
def test_the_last_average_is_the_student(train, tmp_path, capsys):
  """Tested, loaded, and after a resumption the same to the bit."""
  run, cut = tmp_path / 'run', tmp_path / 'cut'
  settings = {'TRAIN_STEPS': 4, 'EVAL_PERIOD': 2, 'CHECKPOINT_PERIOD': 2, 'TEST_WITH': 'last',
              'EMA_DECAY': 0.5, 'LEARNING_RATE': 1e-2}
  assert train(run, **settings) == 0
  assert 'last validation at step 4: ' in capsys.readouterr().out
  assert of_test(run)['step'] == 4 and not list((run / 'best').glob('*'))
  average, params = load_average(run, 4)
  assert max(np.abs(average[name] - params[name]).max() for name in params) > 1e-3
  programs.assert_same(programs.by_name(dss_jax.load(str(run)).params), average)

  shutil.copytree(run, cut)
  shutil.rmtree(cut / 'checkpoints' / '4')
  (cut / 'test_metrics.json').unlink()
  assert train(cut, **settings) == 0
  programs.assert_same(programs.final_state(cut, 4), programs.final_state(run, 4))
  assert of_test(cut) == of_test(run)


@pytest.mark.slow
def test_the_best_average_is_kept_and_another_run_starts_from_the_last(train, tmp_path):
  run, next_run = tmp_path / 'run', tmp_path / 'next'
  settings = {'TRAIN_STEPS': 2, 'EVAL_PERIOD': 2, 'LEARNING_RATE': 1e-2}
  assert train(run, EMA_DECAY=0.5, **settings) == 0
  average, _ = load_average(run, 2)
  programs.assert_same(programs.by_name(dss_jax.load(str(run)).params), average)
  assert train(next_run, **{**settings, 'LEARNING_RATE': 0.0},
               INITIAL_CHECKPOINT_PATH=run / 'checkpoints' / '2') == 0
  _, params = load_average(next_run, 2)
  programs.assert_same(params, average)


@pytest.mark.slow
def test_a_checkpoint_of_before_there_were_any_goes_on(train, tmp_path):
  run, cut = tmp_path / 'run', tmp_path / 'cut'
  settings = {'TRAIN_STEPS': 4, 'EVAL_PERIOD': 2, 'CHECKPOINT_PERIOD': 2}
  assert train(run, **settings) == 0
  shutil.copytree(run, cut)
  shutil.rmtree(cut / 'checkpoints' / '4')
  step = cut / 'checkpoints' / '2'
  clock = json.loads((step / 'clock' / 'metadata').read_text())
  del clock['progress']
  (step / 'clock' / 'metadata').write_text(json.dumps(clock))
  checksums.write(step)
  run_json = json.loads((cut / 'run.json').read_text())
  for name in ('evaluation.early_stopping', 'evaluation.test_with', 'optimizer.ema_decay',
               'label_smoothing', 'z_loss'):
    del run_json['identity'][name]
  (cut / 'run.json').write_text(json.dumps(run_json))
  (cut / 'test_metrics.json').unlink()
  assert train(cut, **settings) == 0
  programs.assert_same(programs.final_state(cut, 4), programs.final_state(run, 4))
