"""launch/train.sh and launch/t5x_train.sh: what they would run, and restarts on one machine."""

import os
import pathlib
import shlex
import signal
import subprocess

import pytest

REPO = pathlib.Path(__file__).parents[2]
ODD = """--gin.TASK_FEATURE_LENGTHS={'inputs': 64, "targets": $HOME*}"""


def launch(*flags, script='train.sh'):
  return subprocess.run(['bash', str(REPO / 'launch' / script), *flags], text=True,
                        capture_output=True, timeout=600)


@pytest.mark.parametrize(('accelerator', 'package'), [('cpu', '.'), ('tpu', '.[tpu]')])
def test_a_dry_run_prints_the_commands(accelerator, package):
  done = launch(f'--accelerator={accelerator}', '--dry_run', '--', '--gin_file=a.gin', ODD)
  assert done.returncode == 0
  assert [shlex.split(line) for line in done.stdout.splitlines()[-2:]] == [
      ['.venv/bin/python', '-m', 'pip', 'install', '--quiet', '-e', package],
      ['.venv/bin/python', '-m', 'dss_jax.train', '--gin_file=a.gin', ODD]]


def test_a_dry_run_of_t5x_prints_the_commands(tmp_path, monkeypatch):
  monkeypatch.delenv('PYTHONPATH', raising=False)
  done = launch('--accelerator=gpu', f'--t5x={tmp_path}', '--dry_run', '--', '--gin_file=a.gin',
                script='t5x_train.sh')
  assert done.returncode == 0, done.stderr
  clone, *_, requirements, program = done.stdout.splitlines()
  assert clone.endswith(f'github.com/google-research/t5x {tmp_path}/t5x')
  assert f'git -C {tmp_path}/t5x checkout --quiet cc342d4' in done.stdout
  assert requirements.endswith('--no-deps -r launch/t5x_requirements.txt')
  assert (REPO / 'launch/t5x_requirements.txt').exists()
  assert program == (
      f'env PYTHONPATH={tmp_path}/t5x:{tmp_path}/airio:{tmp_path}/jestimator .venv/bin/python '
      f'{tmp_path}/t5x/t5x/train.py --gin_file=a.gin')
  assert launch('--program=serve', '--', 'x', script='t5x_train.sh').returncode == 2


@pytest.mark.parametrize(('flags', 'message'), [
    (['--accelerator=abacus', '--', 'x'], 'use cpu, gpu or tpu'),
    (['--restarts=often', '--', 'x'], '--restarts=often: give a whole number'),
    (['--fast'], 'unknown flag --fast'),
    (['--dry_run'], 'nothing to train')])
def test_wrong_flags_are_named(flags, message):
  done = launch(*flags)
  assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize('script', ['train.sh', 'tpu_vm.sh', 'tpu_worker.sh', 'slurm.sh'])
def test_help_is_the_head_of_the_script(script, tmp_path):
  done = subprocess.run(['bash', str(REPO / 'launch' / script), '--help'], text=True,
                        capture_output=True, cwd=tmp_path, env={'HOME': str(tmp_path),
                                                                'PATH': '/usr/bin:/bin'})
  assert done.returncode == 0 and script in done.stdout and 'xample' in done.stdout
  assert '#' not in done.stdout and 'set -euo' not in done.stdout


# --- Restarts ------------------------------------------------------------------------------------


@pytest.fixture
def machine(cloud):
  """A checkout whose .venv is there, with the fake trainer in it."""
  python = cloud.checkout / '.venv/bin/python'
  python.parent.mkdir(parents=True)
  python.symlink_to(pathlib.Path(__file__).parent / 'fakes/trainer')
  return cloud


@pytest.mark.parametrize(('restarts', 'plan', 'code', 'starts'), [
    (3, [75, 75, 0], 0, 3),
    (3, [75, 1], 1, 2),
    (3, [1], 1, 1),
    (2, [75] * 9, 75, 3),
    (0, [75], 75, 1)])
def test_75_is_started_again_and_nothing_else_is(machine, restarts, plan, code, starts):
  machine.plan(*plan)
  done = machine.run('train.sh', f'--restarts={restarts}', '--', '--gin_file=a.gin', ODD)
  assert done.returncode == code, done.stderr
  assert machine.starts() == starts
  assert ('not restarted' in done.stderr) == (starts > restarts > 0)
  assert machine.words('arguments-0') == ['-m', 'dss_jax.train', '--gin_file=a.gin', ODD]


@pytest.mark.parametrize('sent', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_the_end(machine, sent):
  machine.plan('wait', 0)
  running = subprocess.Popen(
      ['bash', str(machine.checkout / 'launch/train.sh'), '--restarts=3', '--', 'x'],
      env=machine.environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
      # Where the tests run in the background, Ctrl-C is ignored, and that is inherited.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
  machine.wait_for('home/training')
  if sent == signal.SIGTERM:
    running.send_signal(sent)  # To the script alone.
  else:
    os.killpg(running.pid, sent)  # As a terminal does.
  printed, _ = running.communicate(timeout=20)
  assert machine.starts() == 1
  if sent == signal.SIGTERM:
    assert running.returncode == 75 and 'saved' in printed
  else:
    assert running.returncode == 128 + signal.SIGINT
