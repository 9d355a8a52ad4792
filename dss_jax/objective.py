"""The objective of Distilling Step-by-Step: where the label loss and the rationale loss meet.

    loss = alpha * sum_{t in L} CE_t / |L|  +  (1 - alpha) * sum_{t in R} CE_t / |R|

L and R are the label and rationale tokens of the *global* batch (Hsieh et al. 2023, eq. 4,
with lambda = (1 - alpha) / alpha; as the released code's alpha). These are the first two rows of
a table; of K rows with tokens T_k and weights w_k,

    loss = sum_k  w_k * sum_{t in T_k} CE_t / |T_k|

Pure JAX, so that both engines, the benchmarks and the tests call the same functions.
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dss_jax import divergence, errors, valid

FEATURE = 'objective'  # the task feature that says which loss a target token belongs to
PADDING, LABEL, RATIONALE = 0, 1, 2  # row k of the table is k + 1
_TASK, WHOLE = 1 << 8, 1 << 22  # a token's task is below the one, its share in parts of the other
INPUT = '{input}'


@dataclasses.dataclass(frozen=True)
class Objective:
  """A row of the table: something that the student learns to write.

  Attributes:
    name: `dss_D_<name>` is its task, `<name>_loss` its metric.
    prefix: put before the input.
    target: the field of a record that is to be written.
    weight: of its mean cross entropy in the loss; or its schedule, (step, weight) points that are
      joined by lines: ((0, 1.0), (500, 0.2)) falls for 500 steps and stays.
    inputs: what stands behind the prefix, with fields of the record in braces.
  """

  name: str
  prefix: str
  target: str
  weight: Any  # float, Sequence[tuple[int, float]], or what `at_step` puts
  inputs: str = INPUT

  def __post_init__(self):
    if isinstance(self.weight, jax.Array):
      return  # Of a step: the row was looked at before.
    row = f'DSS_OBJECTIVES[{self.name!r}]'
    if not isinstance(self.name, str) or not self.name.isidentifier():
      raise errors.UserError(f'{row}: a name is letters, digits and underscores')
    valid.text(**{f'{row}.prefix': self.prefix, f'{row}.target': self.target,
                  f'{row}.inputs': self.inputs})
    if isinstance(self.weight, (tuple, list)):
      valid.schedule(**{f'{row}.weight': self.weight})
    else:
      valid.number(lambda x: x >= 0, 'of at least 0', **{f'{row}.weight': self.weight})
    _ = self.parts  # Refuses braces that are none.

  @property
  def parts(self) -> list[tuple[str, str]]:
    """'{input} {label}' -> [('', 'input'), (' ', 'label')]: words, and the field after them."""
    try:
      found = list(string.Formatter().parse(self.inputs))
    except ValueError as error:
      found, wrong = [], str(error)
    else:
      wrong = 'a name alone stands in braces' if any(
          spec or converted for _, _, spec, converted in found) else ''
    if wrong or not any(field for _, field, _, _ in found):
      raise errors.UserError(
          f'DSS_OBJECTIVES[{self.name!r}].inputs={self.inputs!r}: {wrong or "it has no field"}; '
          "name fields of the record, as in '{input} {rationale}'")
    return [(words, field or '') for words, field, _, _ in found]

  @property
  def reads(self) -> list[str]:
    """The fields that stand in its input."""
    return [field for _, field in self.parts if field]


Objectives = tuple[Objective, ...]


def at_step(objectives: Objectives, step: jax.Array | None = None) -> Objectives:
  """The table with the weights of a step.

  at_step((Objective('label', '', 'label', ((0, 1.0), (10, 0.5))),), 4) has the weight 0.8

  Args:
    objectives: the table; without a schedule in it, it is returned as it is.
    step: int32 scalar, steps done before; None: after the last point of every schedule, by which
      validation losses of all steps compare.
  """
  if not any(isinstance(row.weight, (tuple, list)) for row in objectives):
    return objectives
  return weighing(objectives, jnp.stack([_weight(row, step) for row in objectives]))


def weighing(objectives: Objectives, weights: jax.Array) -> Objectives:
  """The table with other weights, float32 [K]."""
  return tuple(dataclasses.replace(row, weight=weight)
               for row, weight in zip(objectives, weights, strict=True))


def _weight(row: Objective, step: jax.Array | None) -> jax.Array:
  if not isinstance(row.weight, (tuple, list)):
    return jnp.asarray(row.weight, jnp.float32)
  steps, weights = jnp.array(row.weight, jnp.float32).T
  return weights[-1] if step is None else jnp.interp(step.astype(jnp.float32), steps, weights)


@dataclasses.dataclass(frozen=True)
class Terms:
  """What a token's loss is besides its cross entropy; nothing by default.

    (1 - label_smoothing) * CE + label_smoothing * mean_v(-log p_v) + z_loss * log_z^2

  Where a teacher's distribution is known, a share of what stands before z_loss, of
  distribution_weight, is replaced by the divergence from it. Each token of an objective has these
  terms, weighed as its cross entropy is.

  Attributes:
    label_smoothing: the share of the target that all V pieces have alike (Szegedy et al. 2016,
      section 7; `optax.smooth_labels`, PyTorch's `label_smoothing`). T5X's own loss divides its
      share among the other V - 1 pieces: it has the gradient of V / (V - 1) times as much here.
    z_loss: keeps log_z = logsumexp(logits) near 0 (T5X, mesh-tensorflow: 1e-4 in pretraining).
    direction: of `divergence.DIRECTIONS`; '' for the cross entropy alone.
    distribution_weight: see above.
  """

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  direction: str = ''
  distribution_weight: float = 0.5

  def __post_init__(self):
    valid.number(lambda x: 0 <= x < 1, 'in [0, 1), the share of all pieces',
                 LABEL_SMOOTHING=self.label_smoothing)
    valid.number(lambda x: x >= 0, 'of at least 0', Z_LOSS=self.z_loss)
    valid.number(lambda x: 0 < x <= 1, "in (0, 1], the divergence's share",
                 TOKEN_DISTRIBUTION_WEIGHT=self.distribution_weight)

  def add(self, cross_entropy_BxT: jax.Array, logits_BxTxV: jax.Array,
          stored_BxTx2K: jax.Array | None = None) -> jax.Array:
    """What each target token costs, float32 [B, T]; `stored_BxTx2K`: see `divergence`."""
    logits_BxTxV = logits_BxTxV.astype(jnp.float32)
    log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    loss_BxT = cross_entropy_BxT
    if self.label_smoothing:
      uniform_BxT = log_z_BxT - jnp.mean(logits_BxTxV, axis=-1)
      loss_BxT += self.label_smoothing * (uniform_BxT - cross_entropy_BxT)
    if self.direction and stored_BxTx2K is not None:
      apart_BxT, known_BxT = divergence.divergence(logits_BxTxV, stored_BxTx2K, self.direction)
      loss_BxT += self.distribution_weight * known_BxT * (apart_BxT - loss_BxT)
    if self.z_loss:
      loss_BxT += self.z_loss * log_z_BxT**2
    return loss_BxT


NO_TERMS = Terms()


def table(
    alpha: float = 0.5, label_prefix: str = '[label] ', rationale_prefix: str = '[rationale] ',
    rows: Sequence[Any] | None = None,
) -> Objectives:
  """The label with weight alpha and the rationale with 1 - alpha, then `rows`.

  table(0.3, rows=[('premise', '[premise] ', 'teacher_label', 0.2)]) -> (
      Objective('label', '[label] ', 'label', 0.3),
      Objective('rationale', '[rationale] ', 'rationale', 0.7),
      Objective('premise', '[premise] ', 'teacher_label', 0.2))

  Args:
    alpha: weight of the label loss, in [0, 1]; 0.5 is the paper's lambda = 1.
    label_prefix, rationale_prefix: of the first two.
    rows: (name, prefix, target, weight) or (name, prefix, target, weight, inputs) each, see
      `Objective`; in place of a row that has this name already.

  Raises:
    UserError: what stands in `rows` is no row.
  """
  found = {'label': Objective('label', label_prefix, 'label', alpha),
           'rationale': Objective('rationale', rationale_prefix, 'rationale', 1.0 - alpha)}
  for row in rows if isinstance(rows, (tuple, list)) else () if rows is None else (rows,):
    if not isinstance(row, (tuple, list)) or len(row) not in (4, 5):
      raise errors.UserError(
          f'DSS_OBJECTIVES: {row!r} is no row: give (name, prefix, target, weight) each, as in '
          "(('premise', '[premise] ', 'rationale', 0.2),), or (..., weight, inputs)")
    made = Objective(*row)
    found[made.name] = made
  return tuple(found.values())


def with_share(task: Any, parts: Any) -> Any:
  """A token's task and what part of a token it counts, as one int: how a soft label is written.

  Of an input whose teacher says 'yes' three times and 'no' once, the tokens of 'yes' have the share
  0.75, those of 'no' 0.25. Both fit into the `objective` feature, so that they are packed, cached,
  sharded and cut into microbatches with it. A whole token is its task alone.

  Args:
    task: int, LABEL, RATIONALE, ...
    parts: int from 1 to WHOLE, the share in parts of WHOLE; any array library's.
  """
  return task + _TASK * (parts % WHOLE)


def task_of(objective: Any) -> Any:
  """The task of each token, PADDING where there is none; int of any shape."""
  return objective % _TASK


def share_of(objective: jax.Array) -> jax.Array:
  """What part of a token each counts: float32, 1 but for soft labels."""
  parts = objective // _TASK
  return jnp.where(parts == 0, 1.0, parts.astype(jnp.float32) / WHOLE)


class TaskSums(NamedTuple):
  """Sums over the tokens of each task; every field is float32 [K], in the table's order.

  They add up over microbatches and batches; divide only at the end. `words` are the tokens without
  EOS, and `correct` how many of these are the likeliest: EOS is nearly always right, and of a label
  of one token half of what there is.
  """

  cross_entropy: jax.Array
  correct: jax.Array
  tokens: jax.Array
  words: jax.Array

  def __add__(self, other):
    return TaskSums(*(a + b for a, b in zip(self, other, strict=True)))


def token_cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
  """Cross entropy in nats of each target token, float32 [B, T]; padding is not masked."""
  logits_BxTxV = logits_BxTxV.astype(jnp.float32)
  log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
  gold_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
  return log_z_BxT - gold_BxT


def no_sums(objectives: Objectives) -> TaskSums:
  """Of no tokens: what sums are added to."""
  return TaskSums(*(jnp.zeros(len(objectives)) for _ in TaskSums._fields))


def count_tokens(objective_BxT: jax.Array, objectives: Objectives) -> jax.Array:
  """|L|, |R| and so on, |T_k| of each row: float32 [K]."""
  return _per_task(objective_BxT, jnp.ones(objective_BxT.shape, jnp.float32), objectives)


def token_weights(
    objective_BxT: jax.Array, counts: jax.Array, objectives: Objectives) -> jax.Array:
  """What each token's cross entropy counts in the loss: float32 [B, T].

  alpha / |L| on label tokens, (1 - alpha) / |R| on rationale tokens, w_k / |T_k| on those of row
  k, 0 on padding. With `counts` of the whole batch the weighted sums of its microbatches add up to
  the loss of the batch. A task without tokens contributes 0; its share is not given to the others.

  Args:
    objective_BxT: LABEL, RATIONALE, a further row or PADDING for every target token; of a soft
      label with its share, see `with_share`.
    counts: float32 [K] from `count_tokens` on the global batch.
    objectives: the table.
  """
  shares = jnp.array([row.weight for row in objectives], jnp.float32) / jnp.maximum(counts, 1.0)
  task_BxT = task_of(objective_BxT)
  return share_of(objective_BxT) * sum(
      (shares[k] * (task_BxT == k + 1) for k in range(len(objectives))), start=jnp.zeros(()))


def weighted_loss(
    logits_BxTxV: jax.Array,
    targets_BxT: jax.Array,
    objective_BxT: jax.Array,
    counts: jax.Array,
    objectives: Objectives,
    eos_id: int = 1,
    terms: Terms = NO_TERMS,
    stored_BxTx2K: jax.Array | None = None,
) -> tuple[jax.Array, TaskSums]:
  """This (micro)batch's part of the loss, and its sums; differentiate the first.

  The sums are of the plain cross entropy, whatever the terms, so that figures compare.

  Args:
    logits_BxTxV: the decoder's output, any float dtype.
    targets_BxT: int token ids.
    objective_BxT: LABEL, RATIONALE, a further row or PADDING.
    counts: |L|, |R|, ... of the global batch, float32 [K].
    objectives: the table.
    eos_id: the token that `TaskSums.words` leave out.
    terms: see `Terms`.
    stored_BxTx2K: what a teacher thought of each token, see `divergence`; None: nothing.
  """
  cross_entropy_BxT = token_cross_entropy(logits_BxTxV, targets_BxT)
  loss = jnp.sum(terms.add(cross_entropy_BxT, logits_BxTxV, stored_BxTx2K) * token_weights(
      objective_BxT, counts, objectives))
  word_BxT = targets_BxT != eos_id
  correct_BxT = (jnp.argmax(logits_BxTxV, axis=-1) == targets_BxT) & word_BxT
  sums = TaskSums(
      cross_entropy=_per_task(objective_BxT, cross_entropy_BxT, objectives),
      correct=_per_task(objective_BxT, correct_BxT, objectives),
      tokens=count_tokens(objective_BxT, objectives),
      words=_per_task(objective_BxT, word_BxT, objectives))
  return loss, jax.tree.map(jax.lax.stop_gradient, sums)


def weighted_loss_in_chunks(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    objective_BxT: jax.Array,
    counts: jax.Array,
    objectives: Objectives,
    chunk: int,
    eos_id: int = 1,
    terms: Terms = NO_TERMS,
    stored_BxTx2K: jax.Array | None = None,
) -> tuple[jax.Array, TaskSums]:
  """`weighted_loss` without the logits of all positions at once.

  The logits of `chunk` target positions of every row are computed, used, and computed again for
  the gradient; never do more of them lie in memory. The vocabulary is T5's largest axis: of a
  batch of 64 rows of 128 targets the float32 logits are a gigabyte, several times over in the
  backward pass.

  Args:
    logits_of: the head, [B, chunk, D] -> [B, chunk, V]; what it closes over gets its gradient.
    hidden_BxTxD: what the head reads.
    targets_BxT, objective_BxT, counts, objectives, eos_id, terms, stored_BxTx2K: see
      `weighted_loss`.
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
    hidden_BxCxD, targets_BxC, objective_BxC, stored_BxCx2K = part
    found = weighted_loss(logits_of(hidden_BxCxD), targets_BxC, objective_BxC, counts, objectives,
                          eos_id, terms, stored_BxCx2K)
    return jax.tree.map(jnp.add, total, found), None

  total, _ = jax.lax.scan(add, (jnp.zeros(()), no_sums(objectives)), jax.tree.map(split, (
      hidden_BxTxD, targets_BxT, objective_BxT, stored_BxTx2K)))
  return total


def summarize(sums: TaskSums, objectives: Objectives) -> dict[str, jax.Array]:
  """Metrics of a batch or a whole split, from its summed `TaskSums`.

  Returns: `loss` (the formula above, without `Terms`), `label_loss` and `rationale_loss` (the
    plain cross entropy in nats per token),
    `label_token_accuracy`, `rationale_token_accuracy` (percent, without EOS), `label_tokens`,
    `rationale_tokens`, and so of each row; 0 for a task without tokens.
  """
  means = sums.cross_entropy / jnp.maximum(sums.tokens, 1.0)
  accuracy = 100.0 * sums.correct / jnp.maximum(sums.words, 1.0)
  found = {'loss': sum((row.weight * means[k] for k, row in enumerate(objectives)),
                       start=jnp.zeros(()))}
  for measure, values in (('loss', means), ('token_accuracy', accuracy), ('tokens', sums.tokens)):
    found |= {f'{row.name}_{measure}': values[k] for k, row in enumerate(objectives)}
  return found


def only_present(summary: Mapping[str, float]) -> dict[str, float]:
  """A summary fetched from the device, without the tasks that had no tokens."""
  absent = {name.removesuffix('tokens') + measure for name, value in summary.items()
            if name.endswith('_tokens') and not value
            for measure in ('loss', 'token_accuracy', 'tokens')}
  return {name: float(value) for name, value in summary.items() if name not in absent}


def _per_task(
    objective_BxT: jax.Array, values_BxT: jax.Array, objectives: Objectives) -> jax.Array:
  values_BxT = values_BxT.astype(jnp.float32) * share_of(objective_BxT)
  task_BxT = task_of(objective_BxT)
  return jnp.stack([jnp.sum(jnp.where(task_BxT == k + 1, values_BxT, 0.0))
                    for k in range(len(objectives))])
