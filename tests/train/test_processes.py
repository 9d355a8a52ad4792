"""Several processes as one run, on localhost."""

import contextlib
import shutil

import programs
import pytest

from dss_jax import errors
from dss_jax.predict import student as student_lib
from dss_jax.train import processes

SETTINGS = {'TRAIN_STEPS': 60, 'CHECKPOINT_PERIOD': 20, 'EVAL_PERIOD': 30, 'MESH_DATA': 2,
            'MESH_FSDP': 2, 'DROPOUT_RATE': 0.0}


@pytest.mark.parametrize(('flags', 'message'), [
    ({'num_processes': 2}, 'need --coordinator=HOST:PORT'),
    ({'coordinator': 'host:1'}, 'needs --num_processes=N and --process_id=I'),
    ({'coordinator': 'host:1', 'num_processes': 2, 'process_id': 2}, '--process_id=2: .* 0 to 1'),
    ({'coordinator': 'host', 'num_processes': 2, 'process_id': 0}, 'give HOST:PORT'),
])
def test_flags_that_do_not_fit_together(flags, message):
  with pytest.raises(errors.UserError, match=message):
    processes.start(processes.Start(**flags))


def test_one_process_needs_no_flags():
  processes.start(processes.Start())
  assert processes.is_main() and not processes.any_process(False) and processes.any_process(True)
  processes.wait_for_all('here')


@contextlib.contextmanager
def two(toy_records, toy_vocabulary, model_dir, **settings):
  """Both processes, with two devices each."""
  address = programs.free_address()
  started = [
      programs.start(programs.words(
          model_dir, toy_records, toy_vocabulary, f'--coordinator={address}', '--num_processes=2',
          f'--process_id={i}', **{**SETTINGS, **settings}), devices=2) for i in range(2)]
  try:
    yield started
  finally:
    for process in started:
      if process.poll() is None:
        programs.kill(process)


def train(*args, **settings):
  with two(*args, **settings) as started:
    outputs = [programs.finish(process) for process in started]
  assert [code for code, _ in outputs] == [0, 0], outputs
  return outputs[0][1]


@pytest.mark.slow
def test_two_processes_are_one_run(toy_records, toy_vocabulary, tmp_path):
  """Killed, told to stop and restarted they end where they would have; another number goes on."""
  data = toy_records, toy_vocabulary
  whole = tmp_path / 'whole'
  output = train(*data, whole)
  assert 'done: 60 steps' in output and 'test: accuracy' in output
  wanted = programs.final_state(whole, 60)
  lines = (whole / 'metrics.jsonl').read_text().splitlines()
  assert len([line for line in lines if 'train/loss' in line]) == 60

  model_dir = tmp_path / 'run'
  with two(*data, model_dir) as started:
    programs.wait_until(lambda: programs.saved_steps(model_dir) >= [20], started[0])
    programs.kill(started[1])
  with two(*data, model_dir) as started:
    programs.wait_until(lambda: programs.steps_done(model_dir) > 25, started[0])
    started[1].terminate()  # One is told; both save and stop.
    outputs = [programs.finish(process) for process in started]
  assert [code for code, _ in outputs] == [75, 75], outputs
  stopped_at = programs.saved_steps(model_dir)[-1]
  shutil.copytree(model_dir, tmp_path / 'one')
  assert f'at step {stopped_at}' in train(*data, model_dir)
  programs.assert_same(programs.final_state(model_dir, 60), wanted)

  code, output = programs.finish(programs.start(
      programs.words(tmp_path / 'one', *data, **SETTINGS), devices=4))
  assert code == 0 and f'at step {stopped_at}' in output, output
  found = programs.final_state(tmp_path / 'one', 60)
  for name, value in wanted.items():
    assert abs(found[name] - value).max() <= 1e-4, name
  answers = student_lib.load(str(whole)).predict(['0 1 2 3'])
  assert len(answers) == 1  # Other programs read what several processes wrote.
