"""One optimizer step: forward, the objective, backward, exact accumulation, update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dss_jax import models, objective
from dss_jax.train import rngs as rngs_lib
from dss_jax.train import state as state_lib

Batch = Mapping[str, jax.Array]  # model features of data.DssFeatureConverter, int32 [B, length]
Metrics = dict[str, jax.Array]

_MODEL_INPUTS = (
    'encoder_input_tokens', 'decoder_input_tokens', 'encoder_segment_ids', 'decoder_segment_ids',
    'decoder_cross_segment_ids')
DISTRIBUTION = 'decoder_distribution'  # int32 [B, length, 2 k], see `divergence`; or absent
FEATURES = (*_MODEL_INPUTS, 'decoder_target_tokens', 'decoder_objective', DISTRIBUTION)


def features(batch: Mapping[str, Any]) -> dict[str, Any]:
  """What a step reads of a batch: SeqIO's positions and weights need not go to the devices."""
  return {name: batch[name] for name in FEATURES if name in batch}


def batch_loss(
    model: models.Network,
    params: Any,
    batch: Batch,
    counts: jax.Array,
    objectives: objective.Objectives,
    dropout_key: jax.Array | None = None,
    loss_chunk: int = 0,
    terms: objective.Terms = objective.NO_TERMS,
) -> tuple[jax.Array, objective.TaskSums]:
  """This batch's part of the objective; without a key, no dropout.

  Args:
    model: the student.
    params: its parameters, unboxed.
    batch: model features; segment ids only where it is packed.
    counts: |L|, |R|, ... of the global batch, float32 [K].
    objectives: the table.
    dropout_key: for dropout, or None.
    loss_chunk: target positions whose logits are computed at a time; 0 for all.
    terms: of the loss besides the cross entropy.
  """
  inputs: Any = {name: batch[name] for name in _MODEL_INPUTS if name in batch}
  hidden_BxTxD: Any = model.apply(
      {'params': params}, **inputs, deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {'dropout': dropout_key}, method='hidden_states')

  def logits_of(hidden_BxTxD) -> Any:
    return model.apply({'params': params}, hidden_BxTxD, method='logits_from_hidden')

  rest = (batch['decoder_target_tokens'], batch['decoder_objective'], counts, objectives)
  chosen = (model.config.eos_id, terms, batch.get(DISTRIBUTION))
  if loss_chunk:
    return objective.weighted_loss_in_chunks(
        logits_of, hidden_BxTxD, *rest, loss_chunk, *chosen)
  return objective.weighted_loss(logits_of(hidden_BxTxD), *rest, *chosen)


def gradients(
    model: models.Network,
    params: Any,
    batch: Batch,
    *,
    objectives: objective.Objectives,
    microbatches: int = 1,
    dropout_key: jax.Array | None = None,
    loss_chunk: int = 0,
    terms: objective.Terms = objective.NO_TERMS,
) -> tuple[Any, objective.TaskSums]:
  """Gradient of the objective over the whole batch, one microbatch at a time.

  |L|, |R|, ... are counted on the whole batch first, so that the sum over microbatches is the
  gradient of one big batch, however the tokens fall. With dropout each draws masks of its own.

  Raises:
    ValueError: the batch's rows are no multiple of `microbatches`.
  """
  counts = objective.count_tokens(batch['decoder_objective'], objectives)
  loss_and_grad = jax.grad(
      lambda p, part, key: batch_loss(
          model, p, part, counts, objectives, key, loss_chunk, terms),
      has_aux=True)
  if microbatches == 1:
    return loss_and_grad(params, batch, dropout_key)

  def accumulate(carry, numbered):
    index, part = numbered
    key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
    return jax.tree.map(jnp.add, carry, loss_and_grad(params, part, key)), None

  zeros = (jax.tree.map(jnp.zeros_like, params), objective.no_sums(objectives))
  parts = (jnp.arange(microbatches), _split(batch, microbatches))
  totals, _ = jax.lax.scan(accumulate, zeros, parts)
  return totals


def _split(batch: Batch, microbatches: int) -> Batch:
  """[B, length] -> [microbatches, B / microbatches, length], row i into part i % microbatches.

  Strided, so that every device holds an equal share of every part.
  """
  def split(rows):
    if rows.shape[0] % microbatches:
      raise ValueError(f'{rows.shape[0]} rows cannot be split into {microbatches} microbatches')
    return jnp.swapaxes(rows.reshape(-1, microbatches, *rows.shape[1:]), 0, 1)
  return jax.tree.map(split, dict(batch))


def make_train_step(
    model: models.Network,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    objectives: objective.Objectives,
    microbatches: int = 1,
    rngs: rngs_lib.Rngs = rngs_lib.Rngs(),  # noqa: B008
    loss_chunk: int = 0,
    terms: objective.Terms = objective.NO_TERMS,
) -> Callable[[state_lib.TrainState, Batch], tuple[state_lib.TrainState, Metrics]]:
  """The function that the trainer compiles: (state, batch) -> (new state, metrics)."""
  use_dropout = model.config.dropout_rate > 0

  def train_step(state, batch):
    key = rngs.dropout(state.step) if use_dropout else None
    weighted = objective.at_step(objectives, state.step)
    grads, sums = gradients(
        model, state.params, batch, objectives=weighted, microbatches=microbatches,
        dropout_key=key, loss_chunk=loss_chunk, terms=terms)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = objective.summarize(sums, weighted) | {
        'gradient_norm': optax.global_norm(grads),
        'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
        'examples': count_examples(batch),
    }
    return state_lib.TrainState(state.step + 1, params, opt_state), metrics

  return train_step


def make_eval_step(
    model: models.Network, objectives: objective.Objectives, loss_chunk: int = 0,
) -> Callable[[Any, Batch], objective.TaskSums]:
  """(params, batch) -> sums of teacher-forced cross entropy; add them, then `summarize`."""
  def eval_step(params, batch):
    counts = objective.count_tokens(batch['decoder_objective'], objectives)
    return batch_loss(model, params, batch, counts, objective.at_step(objectives),
                      loss_chunk=loss_chunk)[1]
  return eval_step


def count_examples(batch: Batch) -> jax.Array:
  """How many sequences the batch holds, packed or not: int32."""
  if 'decoder_segment_ids' in batch:
    return jnp.sum(jnp.max(batch['decoder_segment_ids'], axis=-1))
  return jnp.sum(jnp.any(batch['decoder_target_tokens'] > 0, axis=-1).astype(jnp.int32))
