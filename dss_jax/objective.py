"""The objective of Distilling Step-by-Step: where the label loss and the rationale loss meet.

    loss = alpha * sum_{t in L} CE_t / |L|  +  (1 - alpha) * sum_{t in R} CE_t / |R|

L and R are the label and rationale tokens of the *global* batch (Hsieh et al. 2023, eq. 4,
with lambda = (1 - alpha) / alpha; as the released code's alpha). Pure JAX, so that both
engines, the benchmarks and the tests call the same functions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

FEATURE = 'objective'  # the task feature that says which loss a target token belongs to
PADDING, LABEL, RATIONALE = 0, 1, 2


class TaskSums(NamedTuple):
  """Sums over the tokens of each task; every field is float32 [2], label first.

  They add up over microbatches and batches; divide only at the end.
  """

  cross_entropy: jax.Array
  correct: jax.Array
  tokens: jax.Array

  def __add__(self, other):
    return TaskSums(*(a + b for a, b in zip(self, other, strict=True)))


def token_cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
  """Cross entropy in nats of each target token, float32 [B, T]; padding is not masked."""
  logits_BxTxV = logits_BxTxV.astype(jnp.float32)
  log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
  gold_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
  return log_z_BxT - gold_BxT


def count_tokens(objective_BxT: jax.Array) -> jax.Array:
  """|L| and |R|: float32 [2]."""
  return _per_task(objective_BxT, jnp.ones(objective_BxT.shape, jnp.float32))


def token_weights(objective_BxT: jax.Array, counts: jax.Array, alpha: float) -> jax.Array:
  """What each token's cross entropy counts in the loss: float32 [B, T].

  alpha / |L| on label tokens, (1 - alpha) / |R| on rationale tokens, 0 on padding. With
  `counts` of the whole batch the weighted sums of its microbatches add up to the loss of the
  batch. A task without tokens contributes 0; its share is not given to the other.

  Args:
    objective_BxT: LABEL, RATIONALE or PADDING for every target token.
    counts: float32 [2] from `count_tokens` on the global batch.
    alpha: weight of the label loss, in [0, 1]; 0.5 is the paper's lambda = 1.
  """
  shares = jnp.array([alpha, 1.0 - alpha], jnp.float32) / jnp.maximum(counts, 1.0)
  return (shares[0] * (objective_BxT == LABEL) + shares[1] * (objective_BxT == RATIONALE)).astype(
      jnp.float32)


def weighted_loss(
    logits_BxTxV: jax.Array,
    targets_BxT: jax.Array,
    objective_BxT: jax.Array,
    counts: jax.Array,
    alpha: float,
) -> tuple[jax.Array, TaskSums]:
  """This (micro)batch's part of the loss, and its sums; differentiate the first.

  Args:
    logits_BxTxV: the decoder's output, any float dtype.
    targets_BxT: int token ids.
    objective_BxT: LABEL, RATIONALE or PADDING.
    counts: |L| and |R| of the global batch, float32 [2].
    alpha: weight of the label loss.
  """
  cross_entropy_BxT = token_cross_entropy(logits_BxTxV, targets_BxT)
  loss = jnp.sum(cross_entropy_BxT * token_weights(objective_BxT, counts, alpha))
  correct_BxT = jnp.argmax(logits_BxTxV, axis=-1) == targets_BxT
  sums = TaskSums(
      cross_entropy=_per_task(objective_BxT, cross_entropy_BxT),
      correct=_per_task(objective_BxT, correct_BxT),
      tokens=count_tokens(objective_BxT))
  return loss, jax.tree.map(jax.lax.stop_gradient, sums)


def weighted_loss_in_chunks(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    objective_BxT: jax.Array,
    counts: jax.Array,
    alpha: float,
    chunk: int,
) -> tuple[jax.Array, TaskSums]:
  """`weighted_loss` without the logits of all positions at once.

  The logits of `chunk` target positions of every row are computed, used, and computed again for
  the gradient; never do more of them lie in memory. The vocabulary is T5's largest axis: of a
  batch of 64 rows of 128 targets the float32 logits are a gigabyte, several times over in the
  backward pass.

  Args:
    logits_of: the head, [B, chunk, D] -> [B, chunk, V]; what it closes over gets its gradient.
    hidden_BxTxD: what the head reads.
    targets_BxT, objective_BxT, counts, alpha: see `weighted_loss`.
    chunk: positions, at least 1; T need not be a multiple.
  """
  length = targets_BxT.shape[1]
  chunks = -(-length // chunk)
  missing = chunks * chunk - length

  def split(array):  # [B, T, ...] -> [chunks, B, chunk, ...], filled up with PADDING
    filled = jnp.pad(array, ((0, 0), (0, missing)) + ((0, 0),) * (array.ndim - 2))
    return jnp.moveaxis(filled.reshape(len(array), chunks, chunk, *array.shape[2:]), 1, 0)

  @jax.checkpoint
  def add(total, part):
    hidden_BxCxD, targets_BxC, objective_BxC = part
    found = weighted_loss(logits_of(hidden_BxCxD), targets_BxC, objective_BxC, counts, alpha)
    return jax.tree.map(jnp.add, total, found), None

  nothing = (jnp.zeros(()), TaskSums(*(jnp.zeros(2) for _ in TaskSums._fields)))
  total, _ = jax.lax.scan(add, nothing, tuple(map(split, (
      hidden_BxTxD, targets_BxT, objective_BxT))))
  return total


def summarize(sums: TaskSums, alpha: float) -> dict[str, jax.Array]:
  """Metrics of a batch or a whole split, from its summed `TaskSums`.

  Returns: `loss` (the formula above), `label_loss` and `rationale_loss` (nats per token),
    `label_token_accuracy`, `rationale_token_accuracy` (percent), `label_tokens`,
    `rationale_tokens`; 0 for a task without tokens.
  """
  means = sums.cross_entropy / jnp.maximum(sums.tokens, 1.0)
  accuracy = 100.0 * sums.correct / jnp.maximum(sums.tokens, 1.0)
  return {
      'loss': alpha * means[0] + (1.0 - alpha) * means[1],
      'label_loss': means[0],
      'rationale_loss': means[1],
      'label_token_accuracy': accuracy[0],
      'rationale_token_accuracy': accuracy[1],
      'label_tokens': sums.tokens[0],
      'rationale_tokens': sums.tokens[1],
  }


def only_present(summary: Mapping[str, float]) -> dict[str, float]:
  """A summary fetched from the device, without the tasks that had no tokens."""
  absent = tuple(f'{task}_' for task in ('label', 'rationale') if not summary[f'{task}_tokens'])
  return {name: float(value) for name, value in summary.items() if not name.startswith(absent)}


def _per_task(objective_BxT: jax.Array, values_BxT: jax.Array) -> jax.Array:
  values_BxT = values_BxT.astype(jnp.float32)
  return jnp.stack([jnp.sum(jnp.where(objective_BxT == task, values_BxT, 0.0))
                    for task in (LABEL, RATIONALE)])
