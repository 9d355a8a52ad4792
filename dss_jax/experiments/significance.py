"""Would other seeds and other test rows make the difference of two methods vanish?

A difference d[seed, row] is mean + seed + row + rest, with seeds and rows drawn at random. Its mean
over S seeds and N rows then has the variance

    seeds: var(seed) / S + var(rest) / SN    as the S means of a seed each tell, S - 1 degrees
    rows:  var(row) / N                      as the N means of a row each tell, N - 1 degrees

To resample rows alone leaves out the first; to resample three seeds makes it a third too small. So
p is the tail of the mean, averaged over what S - 1 degrees of freedom leave open of the first (the
problem of Behrens and Fisher). Where seeds are all that matters it is Student's t-test on S
differences: no test that holds for every spread of seeds has more power there. Where they matter
not at all, it is the one on N rows. `benchmarks/p_values.py` counts how often it errs between.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

LEVEL = 0.05
_LOGITS = np.linspace(-20.0, 20.0, 80)
_LEVELS = special.expit(_LOGITS)
_WEIGHTS = _LEVELS * special.expit(-_LOGITS) / np.sum(_LEVELS * special.expit(-_LOGITS))


@dataclasses.dataclass(frozen=True)
class Variance:
  """Of a mean over seeds and rows, in its unit squared.

  Attributes:
    seeds: see above, with `seed_df` degrees of freedom; 0 of a single seed.
    rows: see above, with `row_df` degrees of freedom; more than 0.
  """

  seeds: float
  rows: float
  seed_df: int
  row_df: int

  def p(self, difference: float) -> float:
    """Two-sided, of a mean that is `difference`."""
    if not self.seeds:
      return float(2 * special.stdtr(self.row_df, -abs(difference) / np.sqrt(self.rows)))
    # Behrens's and Fisher's own posterior of the seeds' variance (df degrees) is too strict, the
    # one with a prior of 1 / variance**2 (df + 2) too lax. So mixed, a test at 5 % errs in 3.4 to
    # 7.0 % of cases with 2 seeds, 4.2 to 5.6 with 3, 4.8 to 5.4 with 5, whatever seeds / rows is.
    strict, lax = (
        2 * special.stdtr(self.row_df, -abs(difference) / np.sqrt(self.rows + variances)) @ _WEIGHTS
        for variances in self.seeds * _variances(self.seed_df))
    weight = min(1.0, self.seed_df / 4) * self.rows / self.seeds
    return float((strict + weight * lax) / (1 + weight))

  def half_width(self, level: float = LEVEL) -> float:
    """The difference whose p is `level`; infinite for level 0."""
    if not level:
      return np.inf
    high = np.sqrt(self.seeds + self.rows)
    while self.p(high) > level:
      high *= 2
    found: Any = optimize.brentq(lambda one: self.p(one) - level, 0.0, high, xtol=1e-15)
    return float(found)


@functools.cache
def _variances(df: int) -> np.ndarray:
  """float64 [2, levels]: quantiles of the variance that was seen as 1, by both posteriors."""
  return np.stack([df / special.chdtri(one, _LEVELS) for one in (df, df + 2)])


def variance(differences: np.ndarray) -> Variance:
  """Of the mean of `differences` [seeds, rows], by an analysis of variance; two rows or more."""
  seeds, rows = differences.shape
  of_seeds, of_rows = differences.mean(1), differences.mean(0)
  mean = differences.mean()
  if seeds == 1:
    return Variance(0.0, max(of_rows.var(ddof=1) / rows, 1e-18), 0, rows - 1)
  by_seed, by_row = of_seeds.var(ddof=1) / seeds, of_rows.var(ddof=1) / rows
  rest = np.sum((differences - of_rows - of_seeds[:, None] + mean)**2)
  by_rest = rest / ((seeds - 1) * (rows - 1) * seeds * rows)
  return Variance(float(by_seed), max(float(by_row - by_rest), 1e-18), seeds - 1, rows - 1)


def mean_test(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
  """p of the mean of `differences` [seeds, rows] of -1, 0 or 1, and the interval's half width.

  The interval has `level` outside, and 0 is outside where p is less than that. Where few rows
  differ, nothing is surer than their number allows: p is at least that of as many tosses of a
  coin that all fall alike, and the interval at least what N rows without any difference leave open.
  """
  mean, rows = float(differences.mean()), differences.shape[1]
  found = variance(differences)
  half = found.half_width()
  differing = int(np.count_nonzero(differences.sum(0)))
  coins = abs(mean) * half / found.half_width(
      0.5**(max(differing, 2) - 1) if differing < 20 else 0.0)
  wide = max(half, float(1 - (LEVEL / 2)**(1 / rows)), coins)
  p = found.p(mean * half / wide)
  if level == LEVEL:
    return p, wide
  return p, max(found.half_width(level) * wide / half, float(1 - (level / 2)**(1 / rows)))


def holm(ps: Sequence[float]) -> list[float]:
  """Each p corrected for the number of them (Holm 1979)."""
  corrected = np.array(ps, float)
  order = np.argsort(corrected)
  steps = corrected[order] * np.arange(len(corrected), 0, -1)
  corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
  return corrected.tolist()
