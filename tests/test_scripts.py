"""The scripts of benchmarks/ run; those of launch/ have tests/launch."""

import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_packing_benchmark(toy_records, toy_vocabulary):
  done = subprocess.run(
      [sys.executable, str(REPO / 'benchmarks/packing.py'), '--task=dss_toy',
       f'--records_dir={toy_records}', f'--vocabulary={toy_vocabulary}', '--inputs_length=64',
       '--targets_length=24'], text=True, capture_output=True, timeout=600, env=dict(os.environ))
  assert done.returncode == 0, done.stderr
  rows = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()[2:]}
  assert 0 < rows['ours'] <= rows['seqio']
