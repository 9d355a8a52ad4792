"""The scripts outside the package: launch/ prints what it would run, benchmarks/ run."""

import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]


def launch(*flags, script='train.sh'):
  return subprocess.run(['bash', str(REPO / 'launch' / script), *flags], text=True,
                        capture_output=True, timeout=60,
                        env={name: value for name, value in os.environ.items()
                             if name != 'PYTHONPATH'})


@pytest.mark.parametrize(('accelerator', 'package'), [('cpu', '.'), ('tpu', '.[tpu]')])
def test_a_dry_run_prints_the_commands(accelerator, package):
  done = launch(f'--accelerator={accelerator}', '--dry_run', '--', '--gin_file=a.gin')
  assert done.returncode == 0
  assert done.stdout.splitlines()[-2:] == [
      f'.venv/bin/python -m pip install --quiet -e {package}',
      '.venv/bin/python -m dss_jax.train --gin_file=a.gin']


def test_a_dry_run_of_t5x_prints_the_commands(tmp_path):
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
    (['--fast'], 'unknown flag --fast'),
    (['--dry_run'], 'nothing to train')])
def test_wrong_flags_are_named(flags, message):
  done = launch(*flags)
  assert done.returncode == 2 and message in done.stderr


def test_packing_benchmark(toy_records, toy_vocabulary):
  done = subprocess.run(
      [sys.executable, str(REPO / 'benchmarks/packing.py'), '--task=dss_toy',
       f'--records_dir={toy_records}', f'--vocabulary={toy_vocabulary}', '--inputs_length=64',
       '--targets_length=24'], text=True, capture_output=True, timeout=120, env=dict(os.environ))
  assert done.returncode == 0, done.stderr
  rows = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()[2:]}
  assert 0 < rows['ours'] <= rows['seqio']
