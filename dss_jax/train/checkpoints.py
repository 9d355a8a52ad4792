"""Where a checkpoint is written: (state, data position) every N steps, and the best parameters.

Orbax makes a step's folder whole or absent. Under MODEL_DIR:

  checkpoints/<step>/state   TrainState        checkpoints/<step>/data   tf.data position
  best/<step>/params         parameters of the best validation so far, with its metrics
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorflow as tf

from dss_jax import errors
from dss_jax.train import config as config_lib
from dss_jax.train import state as state_lib


class DataPositionHandler(ocp.CheckpointHandler):
  """Saves the position of a tf.data iterator, one file per process."""

  def _prefix(self, directory) -> str:
    return os.path.join(str(directory), f'process_{jax.process_index()}')

  def save(self, directory, args: 'DataPositionSave'):
    tf.train.Checkpoint(iterator=args.iterator).write(self._prefix(directory))

  def restore(self, directory, args: 'DataPositionRestore'):
    tf.train.Checkpoint(iterator=args.iterator).read(self._prefix(directory)).assert_consumed()
    return args.iterator


@ocp.args.register_with_handler(DataPositionHandler, for_save=True)
@dataclasses.dataclass
class DataPositionSave(ocp.args.CheckpointArgs):
  iterator: tf.data.Iterator


@ocp.args.register_with_handler(DataPositionHandler, for_restore=True)
@dataclasses.dataclass
class DataPositionRestore(ocp.args.CheckpointArgs):
  iterator: tf.data.Iterator


class Checkpoints:
  """The checkpoints of one run; saving is asynchronous."""

  def __init__(self, model_dir: str, config: config_lib.CheckpointConfig, metric: str):
    model_dir = model_dir if '://' in model_dir else os.path.abspath(model_dir)
    self.every = config.every
    self._metric = metric
    self._steps = ocp.CheckpointManager(
        os.path.join(model_dir, 'checkpoints'),
        options=ocp.CheckpointManagerOptions(max_to_keep=config.keep))
    self._best = ocp.CheckpointManager(
        os.path.join(model_dir, 'best'),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=1, best_fn=lambda metrics: metrics[metric], best_mode='max'))

  def latest_step(self) -> int | None:
    return self._steps.latest_step()

  def save(self, step: int, state: state_lib.TrainState, iterator: tf.data.Iterator) -> None:
    """Starts writing state and data position; returns when the arrays are off the device."""
    if step in self._steps.all_steps():
      return
    self._steps.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), data=DataPositionSave(iterator)))

  def restore(
      self, abstract_state: state_lib.TrainState, iterator: tf.data.Iterator
  ) -> state_lib.TrainState:
    """The newest state, and the iterator moved to where it stood.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to.
      iterator: a fresh iterator of the same pipeline.
    """
    restored = self._steps.restore(self._steps.latest_step(), args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state), data=DataPositionRestore(iterator)))
    return restored.state

  def save_best(self, step: int, params: Any, metrics: Mapping[str, float]) -> bool:
    """Keeps the parameters if they beat the best so far by the chosen metric."""
    value = metrics[self._metric]
    best_step = self._best.best_step()
    if step in self._best.all_steps():  # A killed run got this far before; same parameters.
      return best_step == step
    if best_step is not None and self._best.metrics(best_step)[self._metric] >= value:
      return False
    self._best.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)),
                    metrics=dict(metrics))
    self._best.wait_until_finished()  # Small and rare; its metrics are read at the next one.
    return True

  def restore_best(self, abstract_params: Any) -> tuple[int, Any, Mapping[str, float]] | None:
    """(step, parameters, validation metrics), or None if nothing was evaluated."""
    step = self._best.best_step()
    if step is None:
      return None
    restored = self._best.restore(step, args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract_params)))
    return step, restored.params, self._best.metrics(step)

  def wait(self) -> None:
    self._steps.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    self._steps.close()
    self._best.close()


def abstract(tree: Any, shardings: Any) -> Any:
  """Shapes, dtypes and shardings to restore into."""
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      tree, shardings)


def check_model_dir(model_dir: str) -> None:
  """UserError if checkpoints are there without the run.json that says what they are."""
  checkpoints = os.path.join(model_dir, 'checkpoints')
  run_file = os.path.join(model_dir, 'run.json')
  if tf.io.gfile.exists(checkpoints) and not tf.io.gfile.exists(run_file):
    raise errors.UserError(
        f'{checkpoints} exists but {run_file} does not: MODEL_DIR holds something else; use '
        'another one')
