"""Accuracies, in percent, with SeqIO's signature: `fn(targets, predictions) -> {name: value}`.

The teacher's labels and the student's predictions are scored by the same functions.
"""

import collections
import re
import string
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


def normalized_text_accuracy(targets: Sequence[str], predictions: Sequence[str]
                             ) -> dict[str, float]:
  """Exact match and word overlap of normalized text, as SQuAD scores short answers.

  `token_f1` is the mean over rows of the F1 of the words of both sides, each counted as often as it
  is there (Rajpurkar et al. 2016, section 6.1).

  >>> normalized_text_accuracy(['The Eiffel Tower', 'in 1889'], ['eiffel tower.', 'about 1889'])
  {'accuracy': 50.0, 'token_f1': 75.0}

  Raises:
    UserError: no rows to score.
    ValueError: lists of different length.
  """
  _check(targets, predictions)
  pairs = [(normalized(t), normalized(p)) for t, p in zip(targets, predictions, strict=True)]
  return {
      'accuracy': _percent([t == p for t, p in pairs]),
      'token_f1': 100.0 * sum(_token_f1(t, p) for t, p in pairs) / len(pairs),
  }


_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def normalized(text: str) -> str:
  """Lower case, without ASCII punctuation and then articles, words joined by single spaces.

  What is nothing but these, such as the choice 'A', keeps its letters.

  >>> normalized(" The  dog's (old) Bone!"), normalized('A')
  ('dogs old bone', 'a')
  """
  plain = text.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', plain).split() or plain.split() or text.split())


def _token_f1(target: str, prediction: str) -> float:
  """In [0, 1], of normalized texts; of two without words whether both have none."""
  words, answered = target.split(), prediction.split()
  if not words or not answered:
    return float(words == answered)
  common = (collections.Counter(words) & collections.Counter(answered)).total()
  return 2 * common / (len(words) + len(answered))


BY_NAME = {'text': text_accuracy, 'equation': equation_accuracy,
           'normalized_text': normalized_text_accuracy}


def for_dataset(dataset: 'datasets.Dataset') -> list[MetricFn]:
  """The metric functions that `dataset.metric` names; each has 'accuracy'."""
  return [BY_NAME[dataset.metric]]


def for_training(dataset: 'datasets.Dataset') -> list[MetricFn]:
  """Those, and of a closed set whose labels are compared as text 'macro_f1' and 'weighted_f1'."""
  if not (labels := dataset.labels) or dataset.metric != 'text':
    return for_dataset(dataset)

  def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    from dss_jax import classes  # Late: describing a dataset goes without NumPy.
    report = classes.report(targets, predictions, labels)
    return {'macro_f1': report.macro_f1 if report else 0.0,
            'weighted_f1': report.weighted_f1 if report else 0.0}
  return [*for_dataset(dataset), f1]


def _check(targets: Sequence[str], predictions: Sequence[str]) -> None:
  if len(targets) != len(predictions):
    raise ValueError(f'{len(targets)} targets but {len(predictions)} predictions')
  if not targets:
    raise errors.UserError('accuracy of no rows: the split is empty; check its records')


def _percent(right: Sequence[bool]) -> float:
  return 100.0 * sum(right) / len(right)
