"""The native trainer, as prose: prepare, then step, report, evaluate, save; test at the end."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import tensorflow as tf

from dss_jax import atomic, models
from dss_jax import data as data_lib
from dss_jax.data import checks, pipeline
from dss_jax.train import checkpoints as checkpoints_lib
from dss_jax.train import config as config_lib
from dss_jax.train import evaluation, initial, reporting, run_info, student_files
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import sharding as sharding_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib

TEST_FILE = 'test_metrics.json'


@dataclasses.dataclass(frozen=True)
class Result:
  """What a finished run has to say: final step, best validation, test metrics (or {})."""

  step: int
  best_step: int | None
  validation: dict[str, float]
  test: dict[str, float]


def train(config: config_lib.TrainConfig, gin_text: str = '') -> Result:
  """Trains, or continues the run in `config.model_dir`; returns when all steps are done.

  Raises:
    UserError: wrong settings or damaged data, before anything is computed.
  """
  run = Run(config, gin_text)
  try:
    state, iterator, start = run.begin()
    reporter = reporting.Reporter(
        config.model_dir, start=start, steps=config.steps, every=config.log_every)
    for warning in run.warnings:
      reporter.say(f'warning: {warning}')
    if start:
      reporter.say(f'resuming {config.model_dir} at step {start}')

    for step in range(start + 1, config.steps + 1):
      batch = pipeline.to_numpy(next(iterator))
      state, metrics = run.train_step(state, run.sharding.put(batch))
      reporter.after_step(step, metrics)
      last = step == config.steps
      if run.evaluate and (last or step % config.evaluation.every == 0):
        validation = run.evaluate(state.params, step)
        reporter.evaluated(step, 'validation', validation)
        if config.evaluation.metric in validation:
          run.checkpoints.save_best(step, state.params, validation)
      if last or step % config.checkpoints.every == 0:
        run.checkpoints.save(step, state, iterator)

    reporter.close()
    run.checkpoints.wait()
    return run.finish(state)
  finally:
    run.checkpoints.close()


class Run:
  """The parts of one run, built from its config."""

  def __init__(self, config: config_lib.TrainConfig, gin_text: str = ''):
    self.config = config
    _configure_data(config.data)
    self.warnings = _check_data(config)
    self.sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config.mesh))
    self.sharding.check_batch(config.data.batch_size, config.microbatches)
    checkpoints_lib.check_model_dir(config.model_dir)
    if not run_info.exists(config.model_dir):
      initial.check(config)
    if run_info.claim(config.model_dir, run_info.describe(config, gin_text)):
      student_files.write(config)

    self.model = models.Transformer(config.model)
    schedule = optimizer_lib.make_schedule(config.optimizer, config.steps)
    self.optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule)
    self.state_sharding = self.sharding.state(self.model, self.optimizer)
    self.train_step = self.sharding.jit(
        step_lib.make_train_step(
            self.model, self.optimizer, schedule, alpha=config.alpha,
            microbatches=config.microbatches, seed=config.seed),
        donate_argnums=0, out_shardings=(self.state_sharding, self.sharding.replicated))
    self.evaluate = self._evaluator('validation') if config.evaluation.every else None
    self.checkpoints = checkpoints_lib.Checkpoints(
        config.model_dir, config.checkpoints, config.evaluation.metric)

  def begin(self) -> tuple[state_lib.TrainState, tf.data.Iterator, int]:
    """State, data iterator and step to start from: the newest checkpoint's, or fresh ones."""
    data = self.config.data
    iterator = pipeline.train_iterator(
        data.mixture_or_task, data.feature_lengths, batch_size=data.batch_size, pack=data.pack,
        seed=data.seed)
    def init():
      return state_lib.init_state(self.model, self.optimizer, self.config.seed)
    step = self.checkpoints.latest_step()
    if step is None:
      return self._first_state(init), iterator, 0
    abstract = checkpoints_lib.abstract(jax.eval_shape(init), self.state_sharding)
    return self.checkpoints.restore(abstract, iterator), iterator, step

  def _first_state(self, init: Callable[[], state_lib.TrainState]) -> state_lib.TrainState:
    """Fresh parameters, or those of INITIAL_CHECKPOINT_PATH under a fresh optimizer."""
    state = self.sharding.jit(init, out_shardings=self.state_sharding)()
    path = self.config.initial_checkpoint_path
    if not path:
      return state
    return state.replace(params=initial.load_params(
        path, self.config.model, self.state_sharding.params))

  def finish(self, state: state_lib.TrainState) -> Result:
    """Test, once, with the parameters that validation chose (the last ones without it)."""
    abstract = checkpoints_lib.abstract(state.params, self.state_sharding.params)
    best = self.checkpoints.restore_best(abstract)
    best_step, params, validation = best or (None, state.params, {})
    test = self._test(best_step or self.config.steps, params)
    return Result(self.config.steps, best_step, dict(validation), test)

  def _test(self, step: int, params: Any) -> dict[str, float]:
    path = os.path.join(self.config.model_dir, TEST_FILE)
    if tf.io.gfile.exists(path):
      with tf.io.gfile.GFile(path) as f:
        return json.loads(f.read())['metrics']
    if not self.config.evaluation.test_at_end or not self._has('test'):
      return {}
    metrics = self._evaluator('test').scores(params, step)
    atomic.write(path, json.dumps({'step': step, 'metrics': metrics}, indent=2) + '\n')
    return metrics

  def _has(self, split: str) -> bool:
    return pipeline.has_split(self.config.data.mixture_or_task, split)

  def _evaluator(self, split: str) -> evaluation.Evaluator:
    log_dir = os.path.join(self.config.model_dir, 'predictions', split)
    tf.io.gfile.makedirs(log_dir)
    return evaluation.Evaluator(self.config, split, self.model, self.sharding, log_dir)


def _configure_data(data: config_lib.DataConfig) -> None:
  data_lib.configure(
      records_dir=data.records_dir, vocabulary=data.vocabulary, label_prefix=data.label_prefix,
      rationale_prefix=data.rationale_prefix, train_fraction=data.train_fraction,
      train_fraction_seed=data.train_fraction_seed)


def _check_data(config: config_lib.TrainConfig) -> list[str]:
  """Warnings about the training data; UserError for what would make the run worthless."""
  data = config.data
  checks.check_vocabulary(data.mixture_or_task, config.model.vocab_size)
  pipeline.record_sets(data.mixture_or_task, 'train', verify=data.verify_records)
  measured = checks.measure(data.mixture_or_task, 'train')
  return checks.check_lengths(measured, data.feature_lengths)
