"""Where a checkpoint is written: state, data position and clock every N steps, best parameters.

Orbax makes a step's folder whole or absent; checksums in it tell later damage. Under MODEL_DIR:

  checkpoints/<step>/state   TrainState        checkpoints/<step>/data   tf.data position
                                               checkpoints/<step>/clock  see `RunTime`
  best/<step>/params         parameters of the best validation so far, with its metrics
  damaged/<step>             a checkpoint that could not be used, moved out of the way
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorflow as tf
from etils import epath

from dss_jax import errors, files, records
from dss_jax.train import checksums, early_stopping, processes
from dss_jax.train import config as config_lib
from dss_jax.train import state as state_lib

_STEPS, _BEST = 'checkpoints', 'best'


class DataPositionHandler(ocp.CheckpointHandler):
  """Saves the position of a tf.data iterator, which is the same in every process."""

  def _prefix(self, directory) -> str:
    return os.path.join(str(directory), 'position')

  def save(self, directory, args: 'DataPositionSave'):
    if processes.is_main():
      tf.train.Checkpoint(iterator=args.iterator).write(self._prefix(directory))

  def restore(self, directory, args: 'DataPositionRestore'):
    position = tf.train.Checkpoint(iterator=args.iterator)
    try:
      position.read(self._prefix(directory)).assert_consumed()
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, AssertionError) as error:
      raise errors.UserError(
          f'{directory}: the data position does not fit the data pipeline of this version '
          f'({_one_line(error)}). Go on with the version that wrote it, or begin anew in another '
          'MODEL_DIR') from error
    return args.iterator


@ocp.args.register_with_handler(DataPositionHandler, for_save=True)
@dataclasses.dataclass
class DataPositionSave(ocp.args.CheckpointArgs):
  iterator: tf.data.Iterator


@ocp.args.register_with_handler(DataPositionHandler, for_restore=True)
@dataclasses.dataclass
class DataPositionRestore(ocp.args.CheckpointArgs):
  iterator: tf.data.Iterator


@dataclasses.dataclass(frozen=True)
class RunTime:
  """What a run knows of itself besides its state.

  Attributes:
    seconds: spent on training so far, over all starts.
    compiling: of them.
    evaluated: whether the evaluation that was due at this step is done.
    progress: of the evaluations until then.
  """

  seconds: float = 0.0
  evaluated: bool = True
  compiling: float = 0.0
  progress: early_stopping.Progress = early_stopping.Progress()


@dataclasses.dataclass(frozen=True)
class Restored:
  """Where a run goes on; `problems` tells of newer checkpoints that could not be used."""

  step: int
  state: state_lib.TrainState
  clock: RunTime
  problems: list[str]


class Checkpoints:
  """The checkpoints of one run; saving is asynchronous."""

  def __init__(self, model_dir: str, config: config_lib.CheckpointConfig, metric: str):
    model_dir = model_dir if files.is_remote(model_dir) else os.path.abspath(model_dir)
    self.every = config.every
    self._metric = metric
    self._model_dir = epath.Path(model_dir)
    self._keep = config.keep
    self._saving = {_STEPS: 0, _BEST: 0}
    self._steps = self._open(_STEPS, max_to_keep=config.keep)
    self._best = self._open(
        _BEST, max_to_keep=1, best_fn=lambda metrics: metrics[metric],
        best_mode='min' if early_stopping.is_better(metric, 0, 1) else 'max')

  def _open(self, name: str, **options) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._model_dir / name, options=ocp.CheckpointManagerOptions(
            **options, async_options=ocp.AsyncOptions(
                post_finalization_callback=lambda: self._describe_files(name))))

  def _describe_files(self, name: str) -> None:
    """Writes the checksums before Orbax gives the folder its name."""
    if processes.is_main():
      step = self._saving[name]
      aside = sorted((self._model_dir / name).glob(f'{step}{ocp.utils.TMP_DIR_SUFFIX}*'),
                     key=lambda path: path.stat().mtime)
      checksums.write(aside[-1] if aside else self._folder(step, name))

  def _problems(self, step: int, name: str = _STEPS) -> list[str]:
    """[] if all files are as written; all processes must ask."""
    found = checksums.problems(self._folder(step, name)) if processes.is_main() else []
    return found or ['damaged'] if processes.any_process(bool(found)) else []

  def steps(self) -> list[int]:
    """Of which there are checkpoints."""
    return sorted(self._steps.all_steps())

  def save(
      self, step: int, state: state_lib.TrainState, iterator: tf.data.Iterator, clock: RunTime
  ) -> None:
    """Starts writing; returns when the arrays are off the device.

    Raises:
      UserError: this checkpoint, or the one before it, could not be written.
    """
    if step in self._steps.all_steps():
      return
    with self._explained():
      self._steps.wait_until_finished()
      self._saving[_STEPS] = step
      self._steps.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), data=DataPositionSave(iterator),
          clock=ocp.args.JsonSave(dataclasses.asdict(clock))))

  @contextlib.contextmanager
  def _explained(self, name: str = _STEPS) -> Iterator[None]:
    """Turns what goes wrong while writing into one line."""
    try:
      yield
    except Exception as error:  # OSError, or what TensorFlow and TensorStore make of it.
      failed = self._saving[name]
      left = [step for step in self._steps.all_steps(read=True) if step != failed]
      raise errors.UserError(
          f'{self._model_dir / name}: the checkpoint of step {failed} could not be '
          f'written ({_one_line(error)}); '
          + (f'those of steps {left} are whole' if left else 'there is no earlier one')
          + '. Make room, or correct what it says, and start the same command again') from error

  def restore(
      self, abstract_state: state_lib.TrainState, iterator: tf.data.Iterator
  ) -> Restored | None:
    """The newest checkpoint that is whole; the iterator is moved to where it stood.

    Those that are not are moved to MODEL_DIR/damaged.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to.
      iterator: a fresh iterator of the same pipeline.

    Returns: None if there is no checkpoint.

    Raises:
      UserError: there are checkpoints, and none is whole.
    """
    problems: list[str] = []
    while (step := self._steps.latest_step()) is not None:
      if found := self._problems(step):
        problems.append(self._set_aside(step, found))
        continue
      read = self._steps.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract_state), data=DataPositionRestore(iterator),
          clock=ocp.args.JsonRestore()))
      progress = early_stopping.Progress(**read.clock.get('progress', {}))
      return Restored(
          step, read.state, RunTime(**{**read.clock, 'progress': progress}), problems)
    if problems:
      raise errors.UserError('; '.join(problems) + '; no other is left. To begin anew, use '
                             'another MODEL_DIR')
    return None

  def _folder(self, step: int, name: str = _STEPS) -> epath.Path:
    return self._model_dir / name / str(step)

  def _set_aside(self, step: int, problems: Sequence[str]) -> str:
    """Moves a checkpoint out of the way of its successor; returns what to tell the user."""
    aside = self._model_dir / 'damaged' / str(step)
    shown = '; '.join(problems[:3]) + ('; ...' if len(problems) > 3 else '')
    self._steps.close()
    if processes.is_main():
      aside.parent.mkdir(parents=True, exist_ok=True)
      if aside.exists():
        aside.rmtree()
      self._folder(step).rename(aside)
    processes.wait_for_all(f'damaged {step}')
    self._steps = self._open(_STEPS, max_to_keep=self._keep)
    return f'the checkpoint of step {step} is damaged ({shown}) and was moved to {aside}'

  def save_best(self, step: int, params: Any, metrics: Mapping[str, float]) -> bool:
    """Keeps the parameters if they beat the best so far by the chosen metric."""
    value = metrics[self._metric]
    best_step = self._best.best_step()
    if step in self._best.all_steps():  # A killed run got this far before; same parameters.
      return best_step == step
    if best_step is not None and not early_stopping.is_better(
        self._metric, value, self._best.metrics(best_step)[self._metric]):
      return False
    self._saving[_BEST] = step
    with self._explained(_BEST):
      self._best.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)),
                      metrics=dict(metrics))
      self._best.wait_until_finished()  # Small and rare; its metrics are read at the next one.
    return True

  def restore_best(self, abstract_params: Any) -> tuple[int, Any, Mapping[str, float]] | None:
    """(step, parameters, validation metrics), or None if nothing was evaluated.

    Raises:
      UserError: the files are not what was written.
    """
    step = self._best.best_step()
    if step is None:
      return None
    if found := self._problems(step, _BEST):
      raise errors.UserError(
          f'{self._folder(step, _BEST)} is damaged ({"; ".join(found[:3])}); move it away to test '
          'the last parameters instead')
    restored = self._best.restore(step, args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract_params)))
    return step, restored.params, self._best.metrics(step)

  def wait(self) -> None:
    """Returns when all is written; UserError if it could not be."""
    with self._explained():
      self._steps.wait_until_finished()
      self._best.wait_until_finished()

  def close(self) -> None:
    """Ends the writing; UserError if something could not be written."""
    for name, manager in ((_STEPS, self._steps), (_BEST, self._best)):
      with self._explained(name):
        manager.close()


def _one_line(error: Exception) -> str:
  return errors.system_error(error) or ' '.join(str(error).split())[:200] or type(error).__name__


def abstract(tree: Any, shardings: Any) -> Any:
  """Shapes, dtypes and shardings to restore into."""
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      tree, shardings)


def check_model_dir(model_dir: str) -> None:
  """UserError if checkpoints or records are there without the run.json that says what they are."""
  run_file = os.path.join(model_dir, 'run.json')
  for name in ('checkpoints', records.MANIFEST):
    other = os.path.join(model_dir, name)
    if tf.io.gfile.exists(other) and not tf.io.gfile.exists(run_file):
      raise errors.UserError(
          f'{other} exists but {run_file} does not: MODEL_DIR holds something else; use another '
          'one')
