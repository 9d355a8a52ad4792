"""The table of differences between methods, and what of it holds for all comparisons at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.experiments import figures, grid, significance, statistics
from dss_jax.experiments.results import Row
from dss_jax.experiments.statistics import Comparison, Group

HEADER = ('data', 'model', 'first', 'second', 'of the data', 'difference', '95 % interval', 'p',
          'p, Holm', 'seeds', 'examples', 'covers')


@dataclasses.dataclass(frozen=True)
class Difference:
  """Of two groups that differ in the method alone.

  Attributes:
    comparison: with an interval of its own.
    corrected: p times what Holm's rule says.
    wide: with an interval corrected for all comparisons of the table (Bonferroni).
  """

  first: Group
  second: Group
  comparison: Comparison
  corrected: float
  wide: Comparison


Correct = Mapping[Group, Mapping[int, Mapping[str, bool]]]


def read_all(
    out: str, rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]],
    problems: list[str]) -> Correct:
  """Group -> seed -> test id -> right or wrong.

  Args:
    out: folder of the sweep.
    rows: all results.
    described: dataset -> what the sweep noted of it.
    problems: gets results that their predictions contradict.
  """
  right: dict[Group, dict[int, dict[str, bool]]] = {}
  for row in rows:
    metric = described[row.dataset].get('metric', 'text')
    found = statistics.correctness(out, row, metric)
    right.setdefault(statistics.group_of(row), {})[row.seed] = found
    accuracy = 100 * sum(found.values()) / len(found) if found else None
    if accuracy is not None and row.accuracy is not None and abs(accuracy - row.accuracy) > 0.05:
      problems.append(f'{row.key}: {accuracy:.1f} % of its {len(found):,} predictions are right, '
                      f'its result says {row.accuracy:.1f} %: differences use the predictions')
  return right


def compare_all(right: Correct, problems: list[str]) -> list[Difference]:
  """DSS against other methods in its place, variants against it; the control against fine-tuning.

  `problems` gets what is left out.
  """
  pairs = [(first, second) for first in sorted(right, key=statistics.order)
           for second in sorted(right, key=statistics.order) if _comparable(first, second)]
  compared = [(one, two, statistics.compare(right[one], right[two])) for one, two in pairs]
  made = [(first, second, one) for first, second, one in compared if one]
  if len(made) < len(pairs):
    problems.append(f'{len(pairs) - len(made)} of {len(pairs)} differences are not in the table: '
                    'no seed has predictions of both')
  for first, second, one in made:
    most = max(len(some) for group in (first, second) for some in right[group].values())
    if one.examples < most:
      problems.append(f'{_place(first)}: {name_of(first)} and {name_of(second)} are compared on '
                      f'{one.examples:,} of {most:,} test rows, those that all their runs have')
  corrected = significance.holm([one.p for _, _, one in made])
  wide = [statistics.compare(right[first], right[second], len(made)) for first, second, _ in made]
  return [Difference(*one, p, other) for one, p, other in zip(made, corrected, wide, strict=True)
          if other]


def _comparable(first: Group, second: Group) -> bool:
  same = all(getattr(first, name) == getattr(second, name)
             for name in ('dataset', 'model', 'fraction'))
  if not same or first == second:
    return False
  if grid.base(first.method) != first.method:  # A variant beside what it varies.
    return (grid.base(first.method), first.labels, first.alpha) == (
        second.method, second.labels, second.alpha)
  if grid.base(second.method) != second.method:
    return False
  if first.method == 'dss':
    return second.method != 'dss' or first.labels < second.labels
  return (first.method, second.method) == ('dss_shuffled', 'finetune')


def note(count: int) -> str:
  """What stands beside a table of `count` lines."""
  return (
      'Accuracy of the first minus the second, in percentage points, over the seeds and test rows '
      'that both have. Interval and p (two-sided) cover the choice of seeds and of test rows '
      'together; with one seed that of test rows only, so they tell of these two students, not of '
      'the methods. They do not cover the choice of training set, hyper-parameters or datasets. '
      f'"p, Holm" is corrected for the {count} comparisons of this table; intervals and p are not.')


def lines(found: Sequence[Difference]) -> list[list[str]]:
  """The table's."""
  return [[one.first.dataset, grid.short(one.first.model), name_of(one.first),
           name_of(one.second), f'{100 * one.first.fraction:g} %',
           _points(one.comparison.difference),
           f'{_points(one.comparison.low)} to {_points(one.comparison.high)}',
           _p(one.comparison.p), _p(one.corrected), str(one.comparison.seeds),
           f'{one.comparison.examples:,}', one.comparison.covers] for one in found]


def findings(found: Sequence[Difference]) -> list[str]:
  """What is significant after the correction, of methods that more than one seed was trained of.

  And the largest difference, whichever side it favours.
  """
  of_methods = [one for one in found if one.comparison.seeds > 1]
  if not found:
    return []
  largest = 'The largest difference at one share of the data: ' + sentence(max(
      found, key=lambda one: abs(one.comparison.difference)), len(found))
  if not of_methods:
    return ['One seed each: the differences below tell of these students, not of the methods.',
            largest]
  level, count = significance.LEVEL, len(found)
  held: dict[tuple[str, str, str, str], list[str]] = {}
  for one in of_methods:
    if one.corrected < level:
      better = one.comparison.difference > 0
      key = (_place(one.first), name_of(one.first), name_of(one.second),
             'better' if better else 'worse')
      held.setdefault(key, []).append(f'{100 * one.first.fraction:g} %')
  rule = f'p < {level:g} after the correction for {count} comparison{"s" * (count > 1)}'
  said = [f'{place}: {first} is {verdict} than {second} with {", ".join(fractions)} of the data '
          f'({rule}).' for (place, first, second, verdict), fractions in held.items()]
  return [*(said or [f'No difference between two methods at one share of the data has {rule}.']),
          largest]


def sentence(one: Difference, count: int) -> str:
  """'toy, base: A with 25 % of the data minus B with 25 %: +1.2 points, interval ...'."""
  of = f'{100 * one.first.fraction:g} % of the data'
  return (f'{_place(one.first)}: {name_of(one.first)} minus {name_of(one.second)}, both with {of}: '
          f'{interval(one.wide, count)}.')


def interval(one: Comparison, count: int) -> str:
  """'+1.2 points (95 % interval -0.5 to +2.9, corrected for 6 comparisons; 3 seeds, 200 rows)'."""
  corrected = f', corrected for {count} comparisons' if count > 1 else ''
  return (f'{_points(one.difference)} points (95 % interval {_points(one.low)} to '
          f'{_points(one.high)}{corrected}; {one.seeds} seed{"s" * (one.seeds > 1)}, '
          f'{one.examples:,} test rows)')


def name_of(group: Group) -> str:
  """'Distilling Step-by-Step, alpha 0.5'."""
  alpha = '' if group.alpha is None else f', alpha {group.alpha:g}'
  return figures.name_of(group.method, group.labels) + alpha


def _place(group: Group) -> str:
  return f'{group.dataset}, {grid.short(group.model)}'


def _points(difference: float) -> str:
  """'+1.2'; what rounds to nothing is '0.0', without a sign."""
  return f'{difference:+.1f}' if round(difference, 1) else '0.0'


def _p(p: float) -> str:
  return f'{p:.4f}' if p >= 0.001 else '< 0.001'
