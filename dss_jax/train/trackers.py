"""Experiment trackers beside TensorBoard: a run's metrics and settings to W&B or MLflow.

Where they send it is their own business: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME and the like. A run that goes on is the same run there, by `tracker.json`.
A tracker that fails is left alone, and the training goes on.
"""

import contextlib
import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from clu import metric_writers

from dss_jax import errors, files

FILE = 'tracker.json'
_PROJECT = 'dss_jax'


class ScalarsOnly(metric_writers.MetricWriter):
  """A writer of numbers; images, texts and the like go to TensorBoard only."""

  def flush(self):
    pass

  def _not_scalars(self, *unused_args, **unused_kwargs):
    pass

  write_images = write_videos = write_audios = write_texts = _not_scalars
  write_histograms = write_summaries = write_pointcloud = write_hparams = _not_scalars


class _Wandb(ScalarsOnly):

  def __init__(self, name: str, run_id: str):
    import wandb
    self._run = wandb.init(
        id=run_id or uuid.uuid4().hex[:12], resume='allow', name=name,
        project=os.environ.get('WANDB_PROJECT', _PROJECT))
    self.run_id = self._run.id

  def write_scalars(self, step: int, scalars: Mapping[str, Any]):
    self._run.log({name: float(value) for name, value in scalars.items()}, step=int(step))

  def write_hparams(self, hparams: Mapping[str, Any]):
    self._run.config.update(dict(hparams), allow_val_change=True)

  def close(self):
    self._run.finish()


class _Mlflow(ScalarsOnly):

  def __init__(self, name: str, run_id: str):
    import mlflow
    self._entities = mlflow.entities
    self._client = mlflow.MlflowClient()
    if not run_id:
      experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
      found = self._client.get_experiment_by_name(experiment)
      run_id = self._client.create_run(
          found.experiment_id if found else self._client.create_experiment(experiment),
          run_name=name).info.run_id
    self._client.update_run(run_id, status='RUNNING')
    self.run_id = run_id

  def write_scalars(self, step: int, scalars: Mapping[str, Any]):
    now = int(1000 * time.time())
    self._client.log_batch(self.run_id, metrics=[
        self._entities.Metric(name, float(value), now, int(step))
        for name, value in scalars.items()])

  def write_hparams(self, hparams: Mapping[str, Any]):
    known = self._client.get_run(self.run_id).data.params  # One that is there stays as it began.
    params = [self._entities.Param(name, str(value)) for name, value in hparams.items()
              if name not in known]
    for first in range(0, len(params), 100):  # The server takes no more at once.
      self._client.log_batch(self.run_id, params=params[first:first + 100])

  def close(self):
    self._client.set_terminated(self.run_id)


TRACKERS: dict[str, Any] = {'wandb': _Wandb, 'mlflow': _Mlflow}


class Tracker(ScalarsOnly):
  """The tracker of a name in TRACKERS, under a run's name, until it fails."""

  def __init__(self, kind: str, model_dir: str, say: Callable[[str], None]):
    self._kind, self._say = kind, say
    self._writer: Any = None
    with self._until_it_fails():
      self._writer = _begin(kind, model_dir)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]):
    with self._until_it_fails():
      if self._writer:
        self._writer.write_scalars(step, scalars)

  def write_hparams(self, hparams: Mapping[str, Any]):
    with self._until_it_fails():
      if self._writer:
        self._writer.write_hparams(hparams)

  def close(self):
    with self._until_it_fails():
      if self._writer:
        self._writer.close()

  @contextlib.contextmanager
  def _until_it_fails(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Of whatever kind: it is another program's, and beside the point.
      self._writer = None
      why = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
      self._say(f'warning: LOG_TO={self._kind}: {why}; nothing more is sent there')


def _begin(kind: str, model_dir: str) -> Any:
  """A writer that goes on with the run of that folder, or begins one."""
  path = os.path.join(model_dir, FILE)
  known: dict[str, str] = {}
  if tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as f:
      known = json.loads(f.read())
  writer = TRACKERS[kind](os.path.basename(os.path.normpath(model_dir)), known.get(kind, ''))
  files.write(path, json.dumps({**known, kind: writer.run_id}) + '\n')
  return writer


def check(kind: str) -> None:
  """UserError if there is no such tracker, or its package is not installed."""
  if kind and kind not in TRACKERS:
    raise errors.UserError(
        f'TrainConfig.log_to={kind!r}: {errors.did_you_mean(kind, TRACKERS)}')
  if kind and importlib.util.find_spec(kind) is None:
    raise errors.UserError(f"TrainConfig.log_to={kind!r}: not installed: pip install '{_PROJECT}"
                           f"[{kind}]', or leave it out")
