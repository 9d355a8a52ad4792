"""Precision, recall and F1 of every label of a closed set, and what was taken for what."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_MOST_COLUMNS = 8  # A wider matrix does not fit a terminal.


@dataclasses.dataclass(frozen=True)
class Report:
  """How well K labels were told apart, percentages as in `metrics`.

  Attributes:
    labels: K names.
    confusion: int [K, K + 1], rows by gold label, columns by answer; the last column counts the
      answers that are none of the labels.
    precision, recall, f1: float [K]; 0 where nothing was answered so, or is so.
    macro_f1: mean F1 of the labels that gold or an answer has.
    weighted_f1: mean F1 by the rows of each label.
  """

  labels: tuple[str, ...]
  confusion: np.ndarray

  @property
  def support(self) -> np.ndarray:
    """int [K]: rows of each label."""
    return self.confusion.sum(1)

  @property
  def precision(self) -> np.ndarray:
    return _percent(self._right, self._answered)

  @property
  def recall(self) -> np.ndarray:
    return _percent(self._right, self.support)

  @property
  def f1(self) -> np.ndarray:
    return _percent(2 * self._right, self._answered + self.support)

  @property
  def macro_f1(self) -> float:
    return float(self.f1[self._answered + self.support > 0].mean())

  @property
  def weighted_f1(self) -> float:
    return float(self.f1 @ self.support / self.support.sum())

  @property
  def _right(self) -> np.ndarray:
    return np.diagonal(self.confusion)

  @property
  def _answered(self) -> np.ndarray:
    return self.confusion[:, :-1].sum(0)

  def as_json(self) -> dict[str, Any]:
    """For a file: lists by name."""
    return {'labels': list(self.labels), 'macro_f1': self.macro_f1,
            'weighted_f1': self.weighted_f1, 'confusion': self.confusion.tolist(),
            **{name: getattr(self, name).tolist() for name in (
                'precision', 'recall', 'f1', 'support')}}

  def lines(self) -> list[str]:
    """For a terminal: a line a label, then the matrix, or the commonest mistakes of many labels."""
    wide = max(8, *map(len, self.labels))
    found = [f'{"label":<{wide}}{"rows":>8}{"precision":>11}{"recall":>9}{"F1":>9}']
    found += [f'{label:<{wide}}{rows:>8,}{precision:>9.2f} %{recall:>7.2f} %{f1:>7.2f} %'
              for label, rows, precision, recall, f1 in zip(
                  self.labels, self.support, self.precision, self.recall, self.f1, strict=True)]
    found.append(f'macro F1 {self.macro_f1:.2f} %, weighted F1 {self.weighted_f1:.2f} %')
    if len(self.labels) > _MOST_COLUMNS:
      return found + [f'{count:,} of {gold!r} answered as {answer!r}'
                      for count, gold, answer in self.mistakes()[:10]]
    columns = [*self.labels, 'no label']
    widths = [max(len(name), 6) + 2 for name in columns]
    found.append(f'{"gold":<{wide}}' + ''.join(f'{n:>{w}}' for n, w in zip(columns, widths))
                 + '   <- answered')
    return found + [
        f'{label:<{wide}}' + ''.join(f'{count:>{w},}' for count, w in zip(row, widths))
        for label, row in zip(self.labels, self.confusion)]

  def mistakes(self) -> list[tuple[int, str, str]]:
    """(rows, gold label, answer), the commonest first; what is no label is ''."""
    answers = [*self.labels, '']
    wrong = [(int(count), self.labels[i], answers[j])
             for (i, j), count in np.ndenumerate(self.confusion) if count and i != j]
    return sorted(wrong, key=lambda one: -one[0])


def report(
    targets: Iterable[str], predictions: Iterable[str], labels: Sequence[str]) -> Report | None:
  """Counts N rows; those whose gold label is none of the K `labels` are left out.

  Args:
    targets: gold labels, [N].
    predictions: answers, [N].
    labels: the closed set, [K].

  Returns: None where no row is left.
  """
  places = {label: i for i, label in enumerate(labels)}
  confusion = np.zeros((len(labels), len(labels) + 1), np.int64)
  for target, prediction in zip(targets, predictions, strict=True):
    if target in places:
      confusion[places[target], places.get(prediction, -1)] += 1
  return Report(tuple(labels), confusion) if confusion.any() else None


def of_lines(lines: Iterable[Mapping[str, Any]], labels: Sequence[str]) -> Report | None:
  """`report` of the rows of a `predictions/` file: {'target': ..., 'prediction': ...}."""
  rows = [line for line in lines if {'target', 'prediction'} <= set(line)]
  return report([row['target'] for row in rows], [row['prediction'] for row in rows], labels)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  return 100.0 * part / np.maximum(whole, 1)
