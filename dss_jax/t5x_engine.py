"""The objective on Google's T5X: a model, a trainer and an optimizer that its gin files name.

Needs T5X, which is on no package index (docs/t5x.md). `gin/dss_<dataset>.gin` puts these parts
into `t5x/train.py`; the mixtures, the loss and the recipes are those of the native engine.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import seqio
from absl import logging
from t5x import metrics, models, optimizers, trainer

import dss_jax.tasks  # noqa: F401  Registers the tasks and mixtures.
from dss_jax import errors, gin_files, objective, t5x_network
from dss_jax.data import (
  checks,
  feature_converter,
  packing,
  pipeline,
  row_lengths,
  settings,
  vocabularies,
)
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib

gin_files.register()  # `include 'gin/...'` finds the files of an installed package.

_OBJECTIVE = feature_converter.OBJECTIVE
# |L|, |R|, ... of the whole batch, and the weights of the step, in every row: float32 [B, 2 K]
_COUNTS = 'objective_counts'


class FeatureConverter(feature_converter.DssFeatureConverter):
  """`DssFeatureConverter` with the arguments that T5X calls a converter with."""

  def __init__(self, pack: bool = True, use_custom_packing_ops: bool = False,
               window: int = packing.WINDOW, **kwargs: Any):
    del use_custom_packing_ops  # Our packer is the only one.
    super().__init__(pack=pack, window=window, **kwargs)


class EncoderDecoderModel(models.EncoderDecoderModel):
  """T5X's encoder-decoder with the loss of Distilling Step-by-Step.

  Everything but the loss and its metrics is T5X's: decoding, scoring, initialisation. A task
  without label or rationale tokens in the batch contributes nothing, as in `objective`.

  Attributes:
    objectives: the table.
    first_step: see `learning_rate`; a weight's schedule counts from there.
    terms: of the loss besides the cross entropy. They are in T5X's metric `loss`, not in
      `label/loss` and its like.
  """

  FEATURE_CONVERTER_CLS = FeatureConverter

  def __init__(self, *args: Any, alpha: float = 0.5, objectives: Sequence[Any] | None = None,
               first_step: int = 0, z_loss: float = 0.0, label_smoothing: float = 0.0,
               token_distributions: str = '', token_distribution_weight: float = 0.5,
               loss_normalizing_factor: Any = None, **kwargs: Any):
    """As T5X's, but for its normalisation of the loss, which is no part of ours.

    Args:
      *args: see T5X.
      alpha: weight of the label loss, in [0, 1].
      objectives: further rows of the table, see `objective.table`.
      first_step: of the checkpoint that training starts from.
      z_loss, label_smoothing, token_distribution_weight: see `objective.Terms`.
      token_distributions: `objective.Terms.direction`.
      loss_normalizing_factor: None; T5X's sizes bind it.
      **kwargs: see T5X.

    Raises:
      UserError: `loss_normalizing_factor` is given, or another one is none.
    """
    super().__init__(*args, **kwargs)
    if loss_normalizing_factor is not None:
      raise errors.UserError(
          f'LOSS_NORMALIZING_FACTOR = {loss_normalizing_factor!r} (t5x_engine.EncoderDecoderModel.'
          'loss_normalizing_factor): the loss of Distilling Step-by-Step has no such term; bind '
          'LOSS_NORMALIZING_FACTOR = None')
    self.objectives = objective.table(alpha, rows=objectives)
    self.first_step = first_step
    self.terms = objective.Terms(
        label_smoothing, z_loss, token_distributions, token_distribution_weight)
    self._own_network = isinstance(self.module, t5x_network.Transformer)

  def loss_fn(
      self, params: Any, batch: Mapping[str, jax.Array], dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, dict[str, clu.metrics.Metric]]:
    """This batch's part of the objective, and metrics.

    Where the batch is a microbatch, `Trainer` has put the counts of the whole batch into it.
    """
    logits_BxTxV = self._compute_logits(params, batch, dropout_rng)
    tasks_BxT = batch[_OBJECTIVE]
    if _COUNTS in batch:
      counts, weights = jnp.split(jnp.max(batch[_COUNTS], axis=0), 2)
      table = objective.weighing(self.objectives, weights)
    else:
      counts = objective.count_tokens(tasks_BxT, self.objectives)
      table = objective.at_step(self.objectives)
    loss, sums = objective.weighted_loss(
        logits_BxTxV, batch['decoder_target_tokens'], tasks_BxT, counts, table, terms=self.terms,
        stored_BxTx2K=batch.get(feature_converter.DISTRIBUTION))
    shared = self._compute_metrics(
        logits=logits_BxTxV, targets=batch['decoder_target_tokens'],
        mask=(tasks_BxT != objective.PADDING).astype(jnp.int32), loss=loss,
        segment_ids=_segment_ids(batch))
    for name in ('loss_per_nonpadding_target_token', 'loss_per_all_target_tokens'):
      shared.pop(name, None)  # Our loss is a mean already.
    return loss, {**shared, **_task_metrics(sums, self.objectives)}

  def get_initial_variables(self, rng, input_shapes, input_types=None) -> Mapping[str, Any]:
    if not self._own_network:
      return super().get_initial_variables(rng, input_shapes, input_types)
    integers = dict.fromkeys(input_shapes, jnp.int32)  # T5X would make tokens of floats.
    return t5x_network.split_axes(super().get_initial_variables(rng, input_shapes, integers))

  def _compute_kv_cache(
      self, params, encoded_inputs, encoder_input_tokens, decoder_input_tokens,
      prefill_decoder_prompt=False):
    if self._own_network:
      return t5x_network.new_cache(
          self.module, params, encoder_input_tokens, decoder_input_tokens.shape[1]), None
    return super()._compute_kv_cache(
        params, encoded_inputs, encoder_input_tokens, decoder_input_tokens,
        prefill_decoder_prompt)

  def _compute_logits_from_slice(
      self, decoding_state, params, encoded_inputs, raw_inputs, max_decode_length):
    if self._own_network:
      return t5x_network.next_logits(
          self.module, params, decoding_state.cur_token, decoding_state.cache, raw_inputs,
          max_decode_length)
    return super()._compute_logits_from_slice(
        decoding_state, params, encoded_inputs, raw_inputs, max_decode_length)


@flax.struct.dataclass
class _Mean(clu.metrics.Average):
  """An average that is 0 where there was nothing to average, as a task without tokens."""

  def compute(self) -> jax.Array:
    return self.total / jnp.maximum(self.count, 1.0)


def _task_metrics(
    sums: objective.TaskSums, objectives: objective.Objectives) -> dict[str, clu.metrics.Metric]:
  """Per task: nats per token, token accuracy and number of tokens."""
  found: dict[str, clu.metrics.Metric] = {}
  for i, row in enumerate(objectives):
    found[f'{row.name}/loss'] = _Mean(sums.cross_entropy[i], sums.tokens[i])
    found[f'{row.name}/token_accuracy'] = _Mean(sums.correct[i], sums.words[i])
    found[f'{row.name}/tokens'] = metrics.AveragePerStep(total=sums.tokens[i])
  return found


def _segment_ids(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """What T5X counts packed examples by; without packing, what is no padding."""
  ending = '_segment_ids'
  return {name.removesuffix(ending): ids for name, ids in batch.items()
          if name.endswith(ending)} or {
              name: batch[name] != 0 for name in ('encoder_input_tokens', 'decoder_target_tokens')}


class Trainer(trainer.Trainer):
  """T5X's trainer, with |L|, |R|, ... counted before the batch is cut into microbatches.

  T5X adds up the gradients of microbatches, so each must be divided by the counts of the whole
  batch: then k microbatches give the gradient of one.
  """

  def __init__(self, *args: Any, early_stopping: int = 0, ema_decay: float = 0.0, **kwargs: Any):
    """As T5X's; UserError if something is asked for that only the native trainer does."""
    for name, value in (('EARLY_STOPPING', early_stopping), ('EMA_DECAY', ema_decay)):
      if value:
        raise errors.UserError(
            f'{name} = {value!r}: T5X has no metric to stop by and evaluates the parameters '
            'themselves; leave it at 0, or train with the native engine')
    super().__init__(*args, **kwargs)

  @functools.cached_property
  def _partitioned_train_step(self) -> Callable[..., Any]:
    def train_step(state, batch):
      table = objective.at_step(
          self._model.objectives, state.step - self._model.first_step)
      said = jnp.concatenate([objective.count_tokens(batch[_OBJECTIVE], table),
                              jnp.array([row.weight for row in table], jnp.float32)])
      rows = jnp.broadcast_to(said, (batch[_OBJECTIVE].shape[0], len(said)))
      return trainer.train_with_lr(
          state, {**batch, _COUNTS: rows}, learning_rate=self._learning_rate_fn(state.step),
          dropout_rng=self._get_step_rng(state.step), model=self._model,
          num_microbatches=self._num_microbatches,
          weight_metrics_computer=self._weight_metrics_computer,
          data_partition_spec=self._partitioner.data_partition_spec)

    return self._partitioner.partition(
        train_step,
        in_axis_resources=(self._train_state_axes, self._partitioner.data_partition_spec),
        out_axis_resources=(self._train_state_axes, None), donate_argnums=(0,))


def learning_rate(
    steps: int, rate: float, schedule: str = 'linear', warmup_steps: int = 0, first_step: int = 0,
) -> Callable[[jax.Array], jax.Array]:
  """The native engine's schedule.

  Args:
    steps: number of the last step, as T5X counts: pretraining included.
    rate: the highest.
    schedule: see `OptimizerConfig`.
    warmup_steps: of them.
    first_step: of the checkpoint that training starts from.
  """
  config = config_lib.OptimizerConfig(learning_rate=rate, schedule=schedule,
                                      warmup_steps=warmup_steps)
  made = optimizer_lib.make_schedule(config, steps - first_step)
  return lambda step: jnp.asarray(made(jnp.maximum(step - first_step, 0)), jnp.float32)


def adamw(
    steps: int, rate: float, schedule: str = 'linear', warmup_steps: int = 0, first_step: int = 0,
    clip_norm: float | None = None, weight_decay: float = 0.0, beta2: float = 0.999,
    name: str = 'adamw', no_decay: Sequence[str] | None = None,
) -> optimizers.OptimizerDef:
  """The native engine's AdamWs with clipping, as a T5X optimizer; see `OptimizerConfig`.

  Its schedule counts its own steps, so T5X's `Trainer.learning_rate_fn` is for the logs alone;
  give `learning_rate` there with the same arguments.

  Raises:
    UserError: `name` is none of the AdamWs.
  """
  if name not in ('adamw', 'adamw_transformers4'):
    raise errors.UserError(
        f"OPTIMIZER={name!r}: 'adamw' or 'adamw_transformers4'; T5X's own are bound by "
        't5x_engine.EncoderDecoderModel.optimizer_def, such as @adafactor.Adafactor()')
  config = config_lib.OptimizerConfig(
      name=name, learning_rate=rate, schedule=schedule, warmup_steps=warmup_steps,
      clip_norm=clip_norm, weight_decay=weight_decay, no_decay=no_decay, beta2=beta2)
  rates = optimizer_lib.make_schedule(config, steps - first_step)
  return optimizers.OptaxWrapper(optimizer_lib.make_optimizer(config, rates))


def example_lengths(
    feature_lengths: Any = None, example_lengths: Any = None) -> Mapping[str, int] | None:
  """Where an example is cut, for `data`: as `DataConfig` has it."""
  if example_lengths is None and feature_lengths == config_lib.AUTO:
    return config_lib.PAPERS_LENGTHS
  return example_lengths


def one_row(
    feature_lengths: Any, example_lengths: Mapping[str, int] | None) -> Mapping[str, int] | None:
  """The lengths of a row of one example, which T5X evaluates: where it is cut."""
  return example_lengths or feature_lengths


def rows(after: Any, mixture_or_task: str, feature_lengths: Any, batch_size: Any,
         batch_inputs: int, pack: bool) -> row_lengths.Rows | row_lengths.Asked:
  """The native engine's rows, measured once in a process; those that are given as they are.

  Args:
    after: what `data` returns, so that it was called.
    mixture_or_task: registered.
    feature_lengths, batch_size, batch_inputs, pack: see `DataConfig`.
  """
  del after
  asked = row_lengths.Asked(feature_lengths, batch_size, batch_inputs, pack)
  if config_lib.AUTO not in (feature_lengths, batch_size):
    return asked
  chosen = settings.current()
  key = repr((chosen, mixture_or_task, asked))
  if key not in _MEASURED:
    limits = chosen.example_lengths or feature_lengths
    _MEASURED[key] = row_lengths.measure(mixture_or_task, limits, asked)
    logging.info('%s: %s', mixture_or_task, _MEASURED[key])
  return _MEASURED[key]


_MEASURED: dict[str, row_lengths.Rows] = {}


def row_lengths_of(rows: row_lengths.Rows | row_lengths.Asked) -> Mapping[str, int]:
  """{'inputs': ..., 'targets': ...} of a row."""
  return rows.lengths


def batch_size(rows: row_lengths.Rows | row_lengths.Asked) -> int:
  """Rows of a batch."""
  return rows.batch_size


def data(mixture_or_task: str = '', **settings_of_all: Any) -> seqio.Vocabulary:
  """Says what the tasks read, by fields of `DataSettings`, and returns their vocabulary.

  T5X makes the model, which needs the vocabulary, before it opens any data set.

  Raises:
    UserError: labels or answer phrase of `mixture_or_task` that the vocabulary cannot write, or
      SHARED_ENCODER, or TOKEN_DISTRIBUTIONS where its targets are others than theirs.
  """
  if settings_of_all.get('shared_encoder'):
    raise errors.UserError(
        "SHARED_ENCODER = True: T5X's networks attend to the input of a target's own segment, and "
        'its decoding begins without a prompt; leave it False, or train with the native engine')
  chosen = settings.configure(**settings_of_all)
  if mixture_or_task:
    checks.check_answers(mixture_or_task)
    checks.check_distributions(mixture_or_task)
    for line in checks.check_effect(mixture_or_task):
      logging.warning(line)
    task = pipeline.get_mixture_or_task(mixture_or_task)
    return task.output_features['targets'].vocabulary  # With sentinels, where it corrupts spans.
  return vocabularies.load(chosen.vocabulary)
