"""What a run survives: kills, signals, damaged checkpoints, a full disk; and what stops it."""

import os
import random
import re
import resource
import shutil
import signal
import time

import jax
import numpy as np
import programs
import pytest
import tensorflow as tf

from dss_jax import errors
from dss_jax.data import pipeline
from dss_jax.train import checkpoints, checksums, config, watchdogs

SHORT = {'TRAIN_STEPS': 6, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 2, 'KEEP_CHECKPOINTS': 3}


@pytest.fixture(scope='module')
def run(toy_records, toy_vocabulary):
  return programs.trainer(toy_records, toy_vocabulary, **SHORT)


@pytest.fixture(scope='module')
def short(run, tmp_path_factory):
  """MODEL_DIR of six steps, checkpoints at 2, 4 and 6, and its final state."""
  model_dir = tmp_path_factory.mktemp('short') / 'run'
  assert run(model_dir) == 0
  return model_dir, programs.final_state(model_dir, 6)


@pytest.fixture
def copied(short, tmp_path):
  shutil.copytree(short[0], tmp_path / 'run')
  return tmp_path / 'run'


@pytest.fixture(scope='module')
def start(toy_records, toy_vocabulary):
  """Starts the program."""
  def begin(model_dir, *flags, devices=1, preexec_fn=None, **settings):
    command = programs.words(model_dir, toy_records, toy_vocabulary, *flags, **settings)
    return programs.start(command, devices, preexec_fn=preexec_fn)
  return begin


@pytest.fixture(scope='module')
def uninterrupted(start, tmp_path_factory):
  """Final state of the program left alone."""
  model_dir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  code, output = programs.finish(start(model_dir))
  assert code == 0, output
  return programs.final_state(model_dir, 300)


# --- Damage ---------------------------------------------------------------------------------------

def largest(folder):
  return max((path for path in folder.rglob('*') if path.is_file()),
             key=lambda path: path.stat().st_size)


def truncate(path):
  path.write_bytes(path.read_bytes()[:100])


def flip_a_bit(path):
  changed = bytearray(path.read_bytes())
  changed[len(changed) // 2] ^= 4
  path.write_bytes(changed)


@pytest.mark.parametrize(('damage', 'told'), [
    (flip_a_bit, 'has other contents than were written'),
    pytest.param(truncate, 'has 100 bytes instead of', marks=pytest.mark.slow),
    pytest.param(lambda path: path.unlink(), 'is gone', marks=pytest.mark.slow)])
def test_of_a_damaged_checkpoint_the_one_before_is_used(short, copied, run, capsys, damage, told):
  damage(largest(copied / 'checkpoints' / '6'))
  assert run(copied) == 0
  output = ''.join(capsys.readouterr())
  assert 'the checkpoint of step 6 is damaged' in output and told in output
  assert f'resuming {copied} at step 4' in output
  assert (copied / 'damaged' / '6').is_dir()
  programs.assert_same(programs.final_state(copied, 6), short[1])


def test_without_a_whole_checkpoint_nothing_is_begun_anew(copied, run):
  for step in (2, 4, 6):
    truncate(largest(copied / 'checkpoints' / str(step)))
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(errors.UserError, match='step 6 is .*step 4 is .*step 2 is .*another MODEL'):
    run(copied)
  assert signal.getsignal(signal.SIGTERM) is before  # What is refused closes what it has.


@pytest.mark.slow
def test_damaged_best_parameters_are_not_tested(run, tmp_path):
  model_dir = tmp_path / 'run'
  run(model_dir, EVAL_PERIOD=6)
  (model_dir / 'test_metrics.json').unlink()
  (best,) = (path for path in (model_dir / 'best').iterdir() if path.is_dir())
  flip_a_bit(largest(best / 'params'))
  with pytest.raises(errors.UserError, match='best/6 is damaged .*other contents.* move it away'):
    run(model_dir, EVAL_PERIOD=6)
  shutil.rmtree(best)
  assert run(model_dir, EVAL_PERIOD=6) == 0
  assert (model_dir / 'test_metrics.json').exists()


def test_checksums_see_every_file(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'one').write_bytes(bytes(range(256)) * 300)
  (tmp_path / 'two').write_bytes(b'')
  checksums.write(tmp_path)
  assert checksums.problems(tmp_path) == []
  flip_a_bit(tmp_path / 'a' / 'one')
  (tmp_path / 'two').write_bytes(b'!')
  assert checksums.problems(tmp_path) == [
      'a/one has other contents than were written', 'two has 1 bytes instead of 0']
  (tmp_path / checksums.FILE).unlink()
  assert checksums.problems(tmp_path) == ['checksums.json is gone']


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoints(start, short, copied):
  """Files of 20 kB at most: the metrics fit, a checkpoint does not."""
  shutil.rmtree(copied / 'checkpoints' / '6')
  code, output = programs.finish(start(
      copied, devices=8, **SHORT, preexec_fn=lambda: (
          signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
          resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))))
  assert code == 2, output
  assert 'the checkpoint of step 6 could not be written' in output
  assert 'those of steps [2, 4] are whole' in output
  assert 'Traceback' not in output
  assert programs.finish(start(copied, devices=8, **SHORT))[0] == 0
  programs.assert_same(programs.final_state(copied, 6), short[1])


def test_a_data_position_of_another_pipeline_is_refused(tmp_path):
  handler, rows = checkpoints.DataPositionHandler(), tf.data.Dataset.range(9)
  handler.save(tmp_path, checkpoints.DataPositionSave(iter(rows.map(lambda n: n + 1).batch(2))))
  other = checkpoints.DataPositionRestore(iter(rows.batch(2).filter(lambda n: True)))
  with pytest.raises(errors.UserError, match='position does not fit .*this version.*MODEL_DIR'):
    handler.restore(tmp_path, other)


def test_the_data_position_is_that_of_the_step(short, toy_data, tmp_path, monkeypatch):
  """However late it is written: the iterator moves on meanwhile."""
  save = checkpoints.DataPositionHandler.save

  def late(self, directory, args):
    time.sleep(0.5)
    save(self, directory, args)
  monkeypatch.setattr(checkpoints.DataPositionHandler, 'save', late)

  def iterator():
    return pipeline.train_iterator('dss_toy', {'inputs': 64, 'targets': 24}, batch_size=2,
                                   pack=True, seed=0)
  saved = checkpoints.Checkpoints(str(tmp_path), config.CheckpointConfig(), 'accuracy')
  rows = iterator()
  next(rows)
  saved.save(1, {'x': np.ones(3)}, rows, checkpoints.RunTime())
  wanted = pipeline.to_numpy(next(rows))
  saved.wait()
  fresh = iterator()
  saved.restore({'x': jax.ShapeDtypeStruct((3,), float)}, fresh)
  saved.close()
  found = pipeline.to_numpy(next(fresh))
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value)


# --- Kills and signals ----------------------------------------------------------------------------

def saving(model_dir):
  return list((model_dir / 'checkpoints').glob('*tmp*'))


@pytest.mark.slow
def test_kill_9_at_random_moments(start, uninterrupted, tmp_path):
  """`DSS_KILLS=20` for more; every third one inside a save."""
  model_dir = tmp_path / 'run'
  kills = int(os.environ.get('DSS_KILLS', '3'))
  chosen = random.Random(0)
  told = []
  for number in range(kills):
    process = start(model_dir)
    before = programs.steps_done(model_dir)
    programs.wait_until(lambda at=before: programs.steps_done(model_dir) != at, process)
    step = before + chosen.uniform(0, (260 - before) / (kills - number))
    programs.wait_until(lambda at=step: programs.steps_done(model_dir) >= at, process)
    time.sleep(chosen.uniform(0, 0.2))  # Steps are told of by the ten.
    if number % 3 == 2:
      programs.wait_until(lambda: saving(model_dir), process)
    told.append(f'{programs.steps_done(model_dir)}{" in a save" if saving(model_dir) else ""}')
    programs.kill(process)
  code, output = programs.finish(start(model_dir))
  assert code == 0 and 'resuming' in output, output
  programs.assert_same(programs.final_state(model_dir, 300), uninterrupted)
  assert programs.logged_steps(model_dir) == list(range(1, 301))
  print(f'\nkilled at steps {", ".join(told)}: bit-identical')


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_told_to_stop(start, uninterrupted, tmp_path, number, code):
  """In the middle of the steps; and once more in the middle of an evaluation."""
  model_dir = tmp_path / 'run'
  process = start(model_dir)
  programs.wait_until(lambda: programs.steps_done(model_dir) > 30, process)
  process.send_signal(number)
  begun = time.monotonic()
  found, output = programs.finish(process)
  seconds = time.monotonic() - begun
  assert (found, 'saved; start the same command again' in output) == (code, True), output
  assert seconds < 10
  stopped_at = programs.saved_steps(model_dir)[-1]
  assert stopped_at >= programs.steps_done(model_dir) - 1
  assert 'Traceback' not in output
  print(f'\nsaved step {stopped_at} and ended in {seconds:.1f} s')
  code, output = programs.finish(start(model_dir))
  assert code == 0 and f'at step {stopped_at}' in output, output
  programs.assert_same(programs.final_state(model_dir, 300), uninterrupted)
  assert programs.logged_steps(model_dir) == list(range(1, 301))


@pytest.mark.slow
def test_told_to_stop_while_it_evaluates(run, copied, monkeypatch, tmp_path, capsys):
  """The evaluation that was cut short is done by the next start."""
  from dss_jax.train import evaluation
  losses = evaluation.Evaluator.losses

  def interrupted(self, params):
    os.kill(os.getpid(), signal.SIGTERM)
    return losses(self, params)
  monkeypatch.setattr(evaluation.Evaluator, 'losses', interrupted)
  model_dir = tmp_path / 'evaluated'
  with pytest.raises(errors.Stop, match='told to stop') as stop:
    run(model_dir, EVAL_PERIOD=3)
  assert stop.value.exit_code == 75
  assert programs.saved_steps(model_dir) == [2, 3]
  monkeypatch.undo()
  assert run(model_dir, EVAL_PERIOD=3) == 0
  told = re.findall(r'step (\d+) validation: ', ''.join(capsys.readouterr()))
  assert told == ['3', '6']


# --- Guards ---------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_loss_that_is_no_number_names_its_step_and_records(run, tmp_path):
  with pytest.raises(errors.UserError, match=(
      r'step 2: .* is nan.* records toy-1-\d+, .*The last checkpoint, of step 1, is from')):
    run(tmp_path / 'run', LEARNING_RATE=1e30, CLIP_NORM=0, CHECKPOINT_PERIOD=1, DROPOUT_RATE=0.0)
  for step in programs.saved_steps(tmp_path / 'run'):
    assert all(np.isfinite(leaf).all()
               for leaf in programs.final_state(tmp_path / 'run', step).values())


@pytest.mark.parametrize('pack', [True, False])
def test_records_of_a_batch(toy_data, pack):
  lengths = {'inputs': 64, 'targets': 24}
  batch = pipeline.to_numpy(next(pipeline.train_iterator(
      'dss_toy', lengths, batch_size=2, pack=pack, seed=0)))
  found = watchdogs.batch_ids('dss_toy', lengths, batch)
  if not pack:  # One input, as label and as rationale.
    assert len(found) == 1
  else:
    assert len(found) > 2 and len(found) == len(set(found))


def test_an_input_pipeline_that_hangs_is_named():
  told = []
  watch = watchdogs.SlowInput('the disk', told.append, after=0.05)

  def rows():
    yield 1
    time.sleep(0.4)
    yield 2
  iterator = rows()
  assert [watch.next(iterator), watch.next(iterator)] == [1, 2]
  watch.close()
  assert 2 <= len(told) <= 8 and 'the disk is slow or hangs' in told[0]
