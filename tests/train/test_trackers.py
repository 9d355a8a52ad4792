"""LOG_TO: the trackers' own libraries, as installed; CI has them beside the tests of parity."""

import json
import os
import subprocess
import sys

import pytest

from dss_jax import errors
from dss_jax.train import trackers


def test_what_is_not_there_is_said(monkeypatch):
  with pytest.raises(errors.UserError, match="log_to='wnadb': did you mean 'wandb'"):
    trackers.check('wnadb')
  monkeypatch.setattr(trackers, 'TRACKERS', {'no_such_package': object})
  with pytest.raises(errors.UserError, match=r"not installed: pip install 'dss_jax\[no_such_pack"):
    trackers.check('no_such_package')
  trackers.check('')


class Broken(trackers.ScalarsOnly):
  """Takes one value."""

  run_id = 'r1'
  seen: list = []

  def __init__(self, name, run_id):
    self.seen.append((name, run_id))

  def write_scalars(self, step, scalars):
    self.seen.append(step)
    if step > 1:
      raise ConnectionError('no\nroute')

  def close(self):
    self.seen.append('close')


def test_one_that_fails_is_left_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(trackers, 'TRACKERS', {'broken': Broken})
  monkeypatch.setattr(Broken, 'seen', [])
  said: list[str] = []
  (tmp_path / 'run').mkdir()
  for _ in range(2):
    tracker = trackers.Tracker('broken', str(tmp_path / 'run'), said.append)
    for step in (1, 2, 3):
      tracker.write_scalars(step, {'loss': 1.0})
    tracker.close()
  assert Broken.seen == [('run', ''), 1, 2, ('run', 'r1'), 1, 2]
  assert said == [
      'warning: LOG_TO=broken: ConnectionError: no route; nothing more is sent there'] * 2


def _write(kind, folder, environment):
  code = ('import sys; from dss_jax.train import trackers; '
          f't = trackers.Tracker({kind!r}, sys.argv[1], print); '
          't.write_hparams({"steps": int(sys.argv[2]), "alpha": 0.5}); '
          't.write_scalars(int(sys.argv[2]), {"train/loss": 2.5}); t.close()')
  for step in ('10', '20'):  # The second start goes on.
    done = subprocess.run([sys.executable, '-c', code, str(folder), step], check=True, text=True,
                          capture_output=True, timeout=300, env={**os.environ, **environment})
    assert 'warning' not in done.stdout, done.stdout
  return json.loads((folder / trackers.FILE).read_text())[kind]


@pytest.mark.slow
def test_wandb(tmp_path):
  pytest.importorskip('wandb')
  (tmp_path / 'run').mkdir()
  run_id = _write('wandb', tmp_path / 'run', {
      'WANDB_MODE': 'offline', 'WANDB_DIR': str(tmp_path), 'WANDB_SILENT': 'true'})
  written = list(tmp_path.glob('wandb/offline-run-*/*.wandb'))
  assert len(written) == 2 and all(path.stem == f'run-{run_id}' for path in written)
  assert all(b'train/loss' in path.read_bytes() for path in written)


@pytest.mark.slow
def test_mlflow(tmp_path):
  pytest.importorskip('mlflow')
  (tmp_path / 'run').mkdir()
  uri = f'file:{tmp_path}/mlruns'
  run_id = _write('mlflow', tmp_path / 'run', {
      'MLFLOW_TRACKING_URI': uri, 'MLFLOW_ALLOW_FILE_STORE': 'true'})
  run, = tmp_path.glob(f'mlruns/*/{run_id}')
  losses = (run / 'metrics/train/loss').read_text().splitlines()
  assert [line.split()[1:] for line in losses] == [['2.5', '10'], ['2.5', '20']]
  assert (run / 'params/steps').read_text() == '10'
  assert 'status: 3' in (run / 'meta.yaml').read_text()  # finished
