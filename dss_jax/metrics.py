"""Accuracies, in percent, with SeqIO's signature: `fn(targets, predictions) -> {name: value}`.

The teacher's labels and the student's predictions are scored by the same functions.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dss_jax import equations, errors

if TYPE_CHECKING:
  from dss_jax import datasets

MetricFn = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def text_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Exact match of decoded text (the released code's `compute_text_acc`, times 100).

  >>> text_accuracy(['neutral', 'entailment'], ['neutral', 'Entailment'])
  {'accuracy': 50.0}

  Raises:
    UserError: no rows to score.
    ValueError: lists of different length.
  """
  _check(targets, predictions)
  return {'accuracy': _percent([t == p for t, p in zip(targets, predictions, strict=True)])}


def equation_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Equal value to 1e-6; what cannot be evaluated, on either side, counts as wrong.

  `text_accuracy` is exact match of the same rows: how often the student also writes the
  equation as the target does.

  >>> equation_accuracy(['( 84.0 / 2.0 )', '( 7.0 * 30.0 )'], ['(84 / 2)', '( 7.0 *'])
  {'accuracy': 50.0, 'text_accuracy': 0.0}

  Raises:
    UserError: no rows to score.
    ValueError: lists of different length.
  """
  _check(targets, predictions)
  pairs = list(zip(targets, predictions, strict=True))
  return {
      'accuracy': _percent([equations.equal(t, p) for t, p in pairs]),
      'text_accuracy': _percent([t == p for t, p in pairs]),
  }


BY_NAME = {'text': text_accuracy, 'equation': equation_accuracy}


def for_dataset(dataset: 'datasets.Dataset') -> list[MetricFn]:
  """The metric functions that `dataset.metric` names; each has 'accuracy'."""
  return [BY_NAME[dataset.metric]]


def _check(targets: Sequence[str], predictions: Sequence[str]) -> None:
  if len(targets) != len(predictions):
    raise ValueError(f'{len(targets)} targets but {len(predictions)} predictions')
  if not targets:
    raise errors.UserError('accuracy of no rows: the split is empty; check its records')


def _percent(right: Sequence[bool]) -> float:
  return 100.0 * sum(right) / len(right)
