"""How labels of a closed set are compared by their log probabilities, and which way is calibrated.

A long label has more tokens to lose probability at, so the plain sum favours short ones, and a
frequent phrase is likely whatever was asked. Three ways, the names of `WAYS`:

  sum    log P(label | input)
  mean   the same per token, EOS included
  pmi    log P(label | input) - log P(label | empty input), pointwise mutual information
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax import errors

WAYS = ('sum', 'mean', 'pmi')
DEFAULT = 'mean'  # Where no rows with known labels chose: see docs/your_task.md, measured.


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of one input's K labels.

  Attributes:
    log_probs: float [K], given the input.
    alone: float [K], given an empty input; zeros where `pmi` is not asked for.
    tokens: int [K], EOS included.
  """

  log_probs: Sequence[float]
  alone: Sequence[float]
  tokens: Sequence[int]

  def log_shares(self, way: str) -> np.ndarray:
    """float64 [K]: log of each label's share among them by one of `WAYS`."""
    totals = np.asarray(self.log_probs, np.float64)
    scores = {'sum': totals, 'mean': totals / np.asarray(self.tokens),
              'pmi': totals - np.asarray(self.alone)}[way]
    return scores - np.logaddexp.reduce(scores)


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Of rows with a gold label among their labels.

  Attributes:
    accuracy: percent.
    loss: mean negative log of the gold label's share, nats.
    error: expected calibration error, percent.
  """

  accuracy: float
  loss: float
  error: float


def calibrate(rows: Sequence[Scores], gold: Sequence[int]) -> dict[str, Calibration]:
  """Each way's; `gold` is the place of each row's gold label among its labels."""
  found = {}
  for way in WAYS:
    shares = [row.log_shares(way) for row in rows]
    right = [int(np.argmax(one)) == place for one, place in zip(shares, gold, strict=True)]
    found[way] = Calibration(
        100 * float(np.mean(right)),
        -float(np.mean([one[place] for one, place in zip(shares, gold)])),
        calibration_error(np.exp([one.max() for one in shares]), right))
  return found


def best(found: Mapping[str, Calibration]) -> str:
  """The way of the least loss: it counts what is right and how sure, so a flat guess does not win.

  Of equal ones the first of `WAYS`.
  """
  return min(found, key=lambda way: found[way].loss)


def calibration_error(
    confidences: Sequence[float] | np.ndarray, right: Sequence[bool], bins: int = 10) -> float:
  """Expected calibration error in percent: |accuracy - mean confidence| of equal bins, by rows.

  >>> round(calibration_error([0.9, 0.8, 0.3], [True, False, False]), 4)
  40.0

  Args:
    confidences: float [N] in 0 to 1.
    right: bool [N].
    bins: of [0, 1], each closed above.
  """
  return sum(rows * abs(accuracy - mean) for _, _, rows, mean, accuracy in reliability(
      confidences, right, bins)) / len(right)


def reliability(
    confidences: Sequence[float] | np.ndarray, right: Sequence[bool], bins: int = 10
) -> list[tuple[float, float, int, float, float]]:
  """(from, to, rows, mean confidence, accuracy) of the bins of `calibration_error` that have rows.

  >>> reliability([0.875, 0.625, 0.25], [True, False, False], 2)
  [(0.0, 0.5, 1, 25.0, 0.0), (0.5, 1.0, 2, 75.0, 50.0)]

  Confidences and accuracies are in percent, bounds in [0, 1].
  """
  sure, hits = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
  places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
  return [(i / bins, (i + 1) / bins, int(here.sum()), 100 * float(sure[here].mean()),
           100 * float(hits[here].mean()))
          for i in range(bins) if (here := places == i).any()]


def reliability_lines(confidences: Sequence[float], right: Sequence[bool]) -> list[str]:
  """For a terminal: how sure, how often right, and a bar as long as that."""
  return [f'{"probability":<13}{"rows":>8}{"mean":>10}{"accuracy":>12}'] + [
      f'{f"{low:.1f} to {high:.1f}":<13}{rows:>8,}{mean:>8.2f} %{accuracy:>10.2f} %  '
      f'{"#" * round(accuracy / 5)}'.rstrip()
      for low, high, rows, mean, accuracy in reliability(confidences, right)]


def check(way: str) -> None:
  """UserError if it is none of `WAYS`."""
  if way not in WAYS:
    raise errors.UserError(f'rank_by={way}: {errors.did_you_mean(way, WAYS)}')


def table(found: Mapping[str, Calibration]) -> list[str]:
  """Lines for a terminal."""
  lines = [f'{"":<6}{"accuracy":>10}{"loss":>9}{"calibration error":>20}']
  return lines + [f'{way:<6}{one.accuracy:>8.2f} %{one.loss:>9.4f}{one.error:>18.2f} %'
                  for way, one in found.items()]
