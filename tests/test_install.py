"""A wheel built from the tree and installed elsewhere has the tasks and the gin files."""

import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]

CODE = """
import os, pathlib, sys
import dss_jax, dss_jax.tasks, seqio
assert dss_jax.__file__.startswith(sys.argv[1]), dss_jax.__file__
assert dss_jax.tasks.__file__.startswith(sys.argv[1]), dss_jax.tasks.__file__
assert seqio.get_mixture_or_task('dss_anli').tasks
from dss_jax import gin_files
from dss_jax.train import gin_config
assert str(gin_files.configs_dir()).startswith(sys.argv[1])
config = gin_config.parse(['gin/native/dss.gin'], ['DATASET=anli', 'MODEL_DIR=run'])
assert config.data.mixture_or_task == 'dss_anli'
assert not os.listdir('.'), os.listdir('.')
print(len(list(gin_files.configs_dir().rglob('*.gin'))), 'gin files')
"""


@pytest.mark.slow
def test_wheel(tmp_path):
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
  # From a copy of the tracked files: a build must not leave anything in the tree.
  tree = tmp_path / 'tree'
  tree.mkdir()
  archive = subprocess.run(['git', 'ls-files', '-z'], cwd=REPO, check=True, capture_output=True)
  for name in archive.stdout.decode().split('\0'):
    if name and (REPO / name).is_file():
      (tree / name).parent.mkdir(parents=True, exist_ok=True)
      (tree / name).write_bytes((REPO / name).read_bytes())
  subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(tmp_path), '.'],
                 cwd=tree, check=True)
  wheel, = tmp_path.glob('dss_jax-*.whl')
  target = tmp_path / 'installed'
  subprocess.run([*pip, 'install', '--no-deps', '--target', str(target), str(wheel)], check=True)
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  result = subprocess.run(
      [sys.executable, '-c', CODE, str(target)], cwd=elsewhere, check=True, text=True,
      capture_output=True, env={**os.environ, 'PYTHONPATH': str(target)})
  assert int(result.stdout.split()[0]) == len(list((REPO / 'gin').rglob('*.gin')))
