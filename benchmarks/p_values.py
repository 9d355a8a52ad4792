"""How often the report's p-value calls two equal methods different, and better ones better.

  python benchmarks/p_values.py                 two minutes: the table of docs/experiments.md
  python benchmarks/p_values.py --pairs=100     at once, with errors of a point
  python benchmarks/p_values.py --gains=2,5     power: methods that truly differ by 2 or 5 points

A pair of methods answers the same test rows with the same seeds. A row has a difficulty for all
students and, in two of four worlds, one more for each method; a seed moves each method's accuracy,
in two of four worlds in part both alike; then every answer is tossed. Needs numpy and scipy.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from scipy import optimize, special

from dss_jax.experiments import significance

ROWS, SEEDS, SPREADS = (200, 1221, 9824), (3, 5), (0.0, 1.1, 2.4)
ACCURACY = 0.7
SHARED = 1.5  # Standard deviation of a row's difficulty, in logits.
OWN = (0.0, 1.0)  # Of each method's own part of it.


@dataclasses.dataclass(frozen=True)
class World:
  """Pairs of methods.

  Attributes:
    rows, seeds: of a test set and of each method.
    spread: standard deviation of accuracy over seeds, in points, without the toss.
    own: see OWN.
    alike: correlation of what a seed does to both methods.
    gain: of the first method, in points.
  """

  rows: int
  seeds: int
  spread: float
  own: float = 1.0
  alike: float = 0.0
  gain: float = 0.0

  def differences(self, pairs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`pairs` arrays float32 [seeds, rows] of -1, 0, 1: the first right alone, both, the second."""
    middle, slope = _middle(self.own)
    points = 1 / (100 * slope)  # Of accuracy, in logits.
    for _ in range(pairs):
      row = middle + SHARED * rng.standard_normal((1, 1, self.rows), np.float32)
      own = self.own * rng.standard_normal((2, 1, self.rows), np.float32)
      seed = np.sqrt(self.alike) * rng.standard_normal((1, self.seeds, 1), np.float32)
      seed = seed + np.sqrt(1 - self.alike) * rng.standard_normal((2, self.seeds, 1), np.float32)
      gain = np.array([self.gain, 0.0], np.float32).reshape(2, 1, 1)
      logits = row + own + points * (self.spread * seed + gain)
      right = rng.random((2, self.seeds, self.rows), np.float32) < special.expit(
          logits.astype(np.float32))
      yield right[0].astype(np.float32) - right[1]

  def rejected(self, pairs: int, level: float = significance.LEVEL, seed: int = 0) -> float:
    """The share of pairs whose p is below `level`."""
    found = self.differences(pairs, np.random.default_rng(seed))
    return float(np.mean([significance.mean_test(one)[0] < level for one in found]))


def _middle(own: float) -> tuple[float, float]:
  """The logit at which mean accuracy is ACCURACY, and d accuracy / d logit there."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(40)
  nodes, weights = nodes * np.hypot(SHARED, own), weights / weights.sum()
  middle = optimize.brentq(lambda one: special.expit(one + nodes) @ weights - ACCURACY, -9, 9)
  right = special.expit(middle + nodes)
  return middle, float((right * (1 - right)) @ weights)


def main() -> None:
  args = _arguments()
  worlds = [(own, alike) for own in OWN for alike in (0.0, 0.5)]
  for gain in args.gains:
    pairs = args.pairs * len(worlds)
    print(f'{gain:g} points better: % of {pairs:,} pairs with p < {significance.LEVEL} '
          f'(standard error at 5 %: {100 * np.sqrt(0.05 * 0.95 / pairs):.2f})')
    print('| rows | seeds |' + ''.join(f' spread {spread:g} |' for spread in SPREADS))
    print('|---|---|' + '---|' * len(SPREADS))
    for rows, seeds in itertools.product(ROWS, SEEDS):
      cells = []
      for spread in SPREADS:
        found = [World(rows, seeds, spread, *one, gain).rejected(args.pairs, seed=i)
                 for i, one in enumerate(worlds)]
        cells.append(f'{100 * np.mean(found):.1f}')
      print(f'| {rows:,} | {seeds} | ' + ' | '.join(cells) + ' |', flush=True)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--pairs', type=int, default=1000, help='in each of four worlds (1000)')
  parser.add_argument('--gains', type=lambda text: [float(one) for one in text.split(',')],
                      default=[0.0], help='true differences in points (0)')
  return parser.parse_args()


if __name__ == '__main__':
  main()
