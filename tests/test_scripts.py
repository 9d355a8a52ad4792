"""The scripts outside the package: launch/ prints what it would run, benchmarks/ run."""

import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]


def launch(*flags):
  return subprocess.run(['bash', str(REPO / 'launch/train.sh'), *flags], text=True,
                        capture_output=True, timeout=60)


@pytest.mark.parametrize(('accelerator', 'package'), [('cpu', '.'), ('tpu', '.[tpu]')])
def test_a_dry_run_prints_the_commands(accelerator, package):
  done = launch(f'--accelerator={accelerator}', '--dry_run', '--', '--gin_file=a.gin')
  assert done.returncode == 0
  assert done.stdout.splitlines()[-2:] == [
      f'.venv/bin/python -m pip install --quiet -e {package}',
      '.venv/bin/python -m dss_jax.train --gin_file=a.gin']


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
