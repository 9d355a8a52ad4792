"""The native trainer, as prose: prepare, then step, report, evaluate, save; test at the end."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import tensorflow as tf
from clu import periodic_actions

from dss_jax import compilation_cache, errors, files
from dss_jax import data as data_lib
from dss_jax import sharding as sharding_lib
from dss_jax.data import checks, pipeline, settings, vocabularies
from dss_jax.precompile import advice
from dss_jax.train import (
  average,
  evaluation,
  identity,
  initial,
  preemption,
  processes,
  ranking_choice,
  reporting,
  run_info,
  student_files,
  throughput,
  trackers,
  watchdogs,
)
from dss_jax.train import checkpoints as checkpoints_lib
from dss_jax.train import compute as compute_lib
from dss_jax.train import config as config_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Result:
  """What a finished run has to say.

  Attributes:
    step: the last one, earlier than TRAIN_STEPS where EARLY_STOPPING ended training.
    best_step, validation: of the parameters that were tested; None and {} without validation.
    test: metrics, or {}.
    classes: of each task with a closed label set, lines about its labels on test.
    seconds: of training, over all starts.
    compiling: of them, XLA's compilation.
  """

  step: int
  best_step: int | None
  validation: dict[str, float]
  test: dict[str, float]
  seconds: float
  compiling: float = 0.0
  classes: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def train(config: config_lib.TrainConfig, gin_text: str = '') -> Result:
  """Trains, or continues the run in `config.model_dir`; returns when all steps are done.

  Raises:
    UserError: wrong settings or damaged data, before anything is computed; a loss that is no
      number; a checkpoint that cannot be written.
    Stop: the program was told to stop; everything is saved.
  """
  compilation_cache.use()
  with contextlib.ExitStack() as closing:
    run = Run(config, closing, gin_text)
    try:
      run.begin()
      while not run.is_done:
        run.take_a_step()
        if run.is_due(config.evaluation.every):
          run.validate()
        if run.is_due(config.checkpoints.every or config.steps):
          run.save()
      return run.finish()
    except errors.Stop:
      run.save_now()
      raise


class Run:
  """The parts of one run, all made from its config before its first step, and where it stands.

  Attributes:
    step: steps done.
    state: after them.
  """

  def __init__(
      self, config: config_lib.TrainConfig, closing: contextlib.ExitStack, gin_text: str = ''):
    """Takes up the newest checkpoint, or begins afresh; `closing` closes what is open."""
    trackers.check(config.log_to)
    config, self._rows = prepare_data(config)
    self._gin_text = gin_text
    self.config = config
    data = config.data
    if config.evaluation.every:
      evaluation.check_metric(data.mixture_or_task, config.evaluation.metric)
    self._warnings = check_data(config)
    self._sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config.mesh))
    self._sharding.check_batch(
        data.batch_size, 1 if config.microbatches == config_lib.AUTO else config.microbatches)
    given = config.initial_checkpoint_path
    self.config = config = _with_microbatches(run_info.pin(config))
    self._claim_model_dir(gin_text, given)
    self._compute = compute_lib.build(config, self._sharding)
    self._told = preemption.Preemption()
    closing.callback(self._told.close)
    self._evaluator = self._make_evaluator('validation') if config.evaluation.every else None
    self._checkpoints = checkpoints_lib.Checkpoints(
        config.model_dir, config.checkpoints, config.evaluation.metric)
    closing.callback(self._checkpoints.close)
    self._iterator = pipeline.train_iterator(
        data.mixture_or_task, data.feature_lengths, batch_size=data.batch_size, pack=data.pack,
        seed=data.seed)
    start = self._start()
    self.step, self.state, self._evaluated = start.step, start.state, start.clock.evaluated
    self._progress = start.clock.progress
    self._began = time.monotonic() - start.clock.seconds
    self._compiled = throughput.compile_seconds() - start.clock.compiling
    self._warnings += start.problems
    self._reporter = reporting.Reporter(
        config.model_dir, start=self.step, steps=config.steps, every=config.log_every,
        throughput=throughput.Throughput(config.model), log_to=config.log_to)
    self._profile = self._make_profile(closing)
    self._input = watchdogs.SlowInput(
        f'the input pipeline of {data.mixture_or_task} ({settings.records_dir()})',
        self._reporter.say)
    closing.callback(self._input.close)
    self._finite = watchdogs.FiniteLoss(
        data.mixture_or_task, data.feature_lengths, config.model_dir, self._checkpoints.steps)

  def _make_profile(self, closing: contextlib.ExitStack) -> Callable[[int], Any]:
    """To be called after every step; writes a trace of PROFILE_STEPS of them for TensorBoard."""
    if not (steps := self.config.profile_steps):
      return lambda step: None
    closing.callback(_end_trace)  # Of a run that ends before.
    return periodic_actions.Profile(
        logdir=os.path.join(self.config.model_dir, 'tensorboard'), num_profile_steps=steps,
        profile_duration_ms=None, every_secs=None,
        first_profile=max(self.step + 1, min(self.step + _WARM_UP, self.config.steps - steps)))

  def _claim_model_dir(self, gin_text: str, initial_path: str) -> None:
    checkpoints_lib.check_model_dir(self.config.model_dir)
    if not run_info.exists(self.config.model_dir):
      initial.check(self.config)
    new = run_info.claim(
        self.config.model_dir, run_info.describe(self.config, gin_text, initial_path))
    if processes.is_main():
      if new:
        student_files.write(self.config)
      else:
        student_files.renew(self.config.model_dir)
    processes.wait_for_all('MODEL_DIR is claimed')

  def _start(self) -> checkpoints_lib.Restored:
    """The newest checkpoint, to which the data are moved, or step 0."""
    abstract = checkpoints_lib.abstract(
        jax.eval_shape(self._compute.init), self._compute.state_sharding)
    return self._checkpoints.restore(abstract, self._iterator) or checkpoints_lib.Restored(
        0, self._first_state(), checkpoints_lib.RunTime(), [])

  def _first_state(self) -> state_lib.TrainState:
    """Fresh parameters, or those of INITIAL_CHECKPOINT_PATH under a fresh optimizer."""
    sharding = self._compute.state_sharding
    path = self.config.initial_checkpoint_path
    if not path:
      return self._sharding.jit(self._compute.init, out_shardings=sharding)()
    params = initial.load_params(path, self.config.model, sharding.params)
    # Donated: they are the state's.
    return self._sharding.jit(
        lambda params: state_lib.first_state(params, self._compute.optimizer),
        out_shardings=sharding, donate_argnums=0)(params)

  def begin(self) -> None:
    """Says what is to be known; does the evaluation that was cut short, if one was."""
    self._reporter.describe(
        self.state.params, identity.of(self.config), self._gin_text or json.dumps(
            config_lib.as_dict(self.config), indent=2))
    if self._rows:
      self._reporter.say(self._rows)
    for warning in self._warnings:
      self._reporter.say(f'warning: {warning}')
    if self.step:
      self._reporter.say(f'resuming {self.config.model_dir} at step {self.step}')
    if not self._evaluated:  # The run was told to stop before.
      self.validate()

  def take_a_step(self) -> None:
    """One optimizer step; it is looked at, and told of, while the next one runs."""
    batch = pipeline.to_numpy(self._input.next(self._iterator))
    on_devices = self._sharding.shard_batch(step_lib.features(batch))
    with jax.profiler.StepTraceAnnotation('train', step_num=self.step):
      self.state, metrics = self._compute.train_step(self.state, on_devices)
    self.step += 1
    self._profile(self.step)
    self._finite.after_step(self.step, metrics, batch)
    self._reporter.after_step(self.step, metrics, batch)
    self._evaluated = not (self._evaluator and self.is_due(self.config.evaluation.every))
    self._told.check()

  def is_due(self, every: int) -> bool:
    """Whether what happens every so many steps, and at the end, happens now."""
    return bool(every) and (self.is_done or self.step % every == 0)

  @property
  def stopped(self) -> bool:
    """Whether the metric has not become better for long enough to end training."""
    patience = self.config.evaluation.early_stopping
    return bool(patience) and self._progress.waited >= patience

  @property
  def is_done(self) -> bool:
    """Whether there is no step to come."""
    return self.step >= self.config.steps or self.stopped

  @property
  def params(self) -> Any:
    """Those that are evaluated, kept and tested."""
    return average.evaluated(self.state.params, self.state.opt_state)

  def validate(self) -> None:
    """Evaluates on validation; keeps the parameters if they are the best so far."""
    assert self._evaluator
    validation = self._evaluator(self.params, self.step)
    self._evaluated = True
    self._reporter.evaluated(self.step, 'validation', validation)
    if (metric := self.config.evaluation.metric) not in validation:
      raise evaluation.no_metric(metric, validation)
    self._progress = self._progress.after(self.step, metric, validation)
    if self.config.evaluation.test_with == 'best':
      self._checkpoints.save_best(self.step, self.params, validation)

  def save(self) -> None:
    """Starts to write a checkpoint, of numbers only."""
    self._finite.check()
    self._reporter.flush()
    clock = checkpoints_lib.RunTime(
        time.monotonic() - self._began, self._evaluated,
        throughput.compile_seconds() - self._compiled, self._progress)
    self._checkpoints.save(self.step, self.state, self._iterator, clock)

  def save_now(self) -> None:
    """Returns when the checkpoint is written."""
    if self.step:
      self.save()
    self._reporter.close()
    self._checkpoints.wait()

  def finish(self) -> Result:
    """Test, once, with the parameters that validation chose (without it, the last ones)."""
    seconds = time.monotonic() - self._began
    compiling = throughput.compile_seconds() - self._compiled
    self._reporter.close_bar()
    self._checkpoints.wait()
    if self.stopped:
      self._say_why()
    best_step, params, validation = self._chosen()
    step = best_step or self.step
    path = os.path.join(self.config.model_dir, run_info.TEST_FILE)
    tested = tf.io.gfile.exists(path)
    if not tested:  # Before the file of the test, which says that all is done.
      ranking_choice.choose(
          self.config, self._compute.model, params, self._sharding, self._reporter.say)
    test = self._test(path, step, params)
    if not tested:
      self._reporter.tested(step, test)
    self._reporter.close()
    return Result(self.step, best_step, dict(validation), test, seconds, compiling,
                  evaluation.read_classes(path) if test else {})

  def _chosen(self) -> tuple[int | None, Any, Mapping[str, float]]:
    """Step, parameters and validation metrics of what is tested."""
    if self.config.evaluation.test_with == 'last':
      return self.step if self._evaluator else None, self.params, self._progress.newest
    best = self._checkpoints.restore_best(checkpoints_lib.abstract(
        self.params, self._compute.state_sharding.params))
    return best or (None, self.params, {})

  def _say_why(self) -> None:
    """That training has ended early, in words and in run.json."""
    found = self._progress
    self._reporter.say(
        f'stopped early, at step {self.step} of {self.config.steps}: no better '
        f'{self.config.evaluation.metric} than {found.best:.6g} of step {found.step} in '
        f'{found.waited} evaluation{"s" * (found.waited > 1)}')
    if processes.is_main():
      run_info.note(self.config.model_dir, stopped_at=self.step)

  def _test(self, path: str, step: int, params: Any) -> dict[str, float]:
    if tf.io.gfile.exists(path):
      with tf.io.gfile.GFile(path) as f:
        return json.loads(f.read())['metrics']
    if not self.config.evaluation.test_at_end or not self._has('test'):
      return {}
    evaluator = self._make_evaluator('test')
    metrics = evaluator.scores(params, step)
    if processes.is_main():
      found = {name: one.as_json() for name, one in evaluator.classes(step).items()}
      files.write(path, json.dumps({'step': step, 'metrics': metrics} | (
          {'stopped_at': self.step} if self.stopped else {}) | (
          {'classes': found} if found else {}), indent=2) + '\n')
    return metrics

  def _has(self, split: str) -> bool:
    return pipeline.has_split(self.config.data.mixture_or_task, split)

  def _make_evaluator(self, split: str) -> evaluation.Evaluator:
    log_dir = os.path.join(self.config.model_dir, 'predictions', split)
    tf.io.gfile.makedirs(log_dir)
    return evaluation.Evaluator(
        self.config, split, self._compute.model, self._sharding, log_dir, self._told.check)


_WARM_UP = 10  # steps before a trace


def _end_trace() -> None:
  with contextlib.suppress(RuntimeError):  # There is none.
    jax.profiler.stop_trace()


def prepare_data(config: config_lib.TrainConfig) -> tuple[config_lib.TrainConfig, str]:
  """`configure_data`, and the config with its rows in numbers, see `run_info.pin_rows`."""
  configure_data(config.data)
  pinned, said = run_info.pin_rows(config)
  if pinned.data.example_lengths != config.data.example_lengths:  # Of an older run that goes on.
    configure_data(pinned.data)
  return pinned, said


def configure_data(data: config_lib.DataConfig) -> None:
  """Tells the SeqIO tasks what a run reads."""
  data_lib.configure(**{field.name: getattr(data, field.name)
                        for field in dataclasses.fields(data_lib.DataSettings)})


def _with_microbatches(config: config_lib.TrainConfig) -> config_lib.TrainConfig:
  """With a number for 'auto', the same in all processes."""
  if config.microbatches != config_lib.AUTO:
    return config
  found = advice.fewest_microbatches(config)
  return dataclasses.replace(config, microbatches=int(processes.from_main(lambda: str(found))))


def look_at_data(config: config_lib.TrainConfig) -> tuple[config_lib.TrainConfig, list[str]]:
  """`prepare_data` and `check_data` for a plan: data that is not here is a warning.

  Returns: the config, and lines to print.
  """
  configure_data(config.data)
  try:
    pipeline.record_sets(config.data.mixture_or_task, 'train')
    vocabularies.load(config.data.vocabulary, config.model.eos_id)
  except errors.UserError as error:
    return dataclasses.replace(config, data=config.data.unmeasured()), [
        f'warning: the records are not looked at: {error}']
  pinned, said = prepare_data(config)
  warnings = [f'warning: {line}' for line in check_data(pinned)]
  return pinned, [said, *warnings] if said else warnings


def check_data(config: config_lib.TrainConfig) -> list[str]:
  """Warnings about the training data; UserError for what would make the run worthless."""
  data = config.data
  name = data.mixture_or_task
  checks.check_vocabulary(name, config.model.vocab_size, config.model.eos_id)
  checks.check_answers(name, data.cut['targets'])
  checks.check_distributions(name)
  pipeline.record_sets(name, 'train', verify=data.verify_records)
  measured = checks.measure(name, 'train')
  weight, unused = config.token_distribution_weight, []
  if weight != config_lib.TrainConfig.token_distribution_weight and not data.token_distributions:
    unused = [f'TOKEN_DISTRIBUTION_WEIGHT={weight:g} changes nothing without TOKEN_DISTRIBUTIONS']
  return [*unused, *checks.check_effect(name), *checks.check_lengths(measured, data.cut),
          *checks.check_coverage(name, 'train')]
