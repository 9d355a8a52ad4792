"""Means over seeds, and whether two methods differ by more than the choice of seeds and rows."""

import dataclasses
import os
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dss_jax import metrics
from dss_jax.experiments import results, significance
from dss_jax.experiments.results import Row


@dataclasses.dataclass(frozen=True, order=True)
class Group:
  """Cells that differ by their seed alone."""

  dataset: str
  model: str
  method: str
  labels: str
  fraction: float
  alpha: float | None


@dataclasses.dataclass(frozen=True)
class Summary:
  """Test accuracies of one group, percent by seed."""

  accuracies: Mapping[int, float]

  @property
  def mean(self) -> float:
    return statistics.mean(self.accuracies.values())

  @property
  def spread(self) -> float | None:
    """Standard deviation over seeds (n - 1); None of a single one."""
    values = list(self.accuracies.values())
    return statistics.stdev(values) if len(values) > 1 else None

  def __str__(self) -> str:
    spread = '' if self.spread is None else f' ± {self.spread:.1f}'
    return f'{self.mean:.1f}{spread} ({len(self.accuracies)})'


def group_of(row: Row) -> Group:
  return Group(row.dataset, row.model, row.method, row.labels, row.fraction, row.alpha)


def summarize(rows: Iterable[Row]) -> dict[Group, Summary]:
  """Rows without an accuracy are not there."""
  found: dict[Group, dict[int, float]] = {}
  for row in rows:
    if row.accuracy is not None:
      found.setdefault(group_of(row), {})[row.seed] = row.accuracy
  return {group: Summary(dict(sorted(found[group].items())))
          for group in sorted(found, key=order)}


def order(group: Group) -> tuple:
  """What groups are sorted by."""
  return (group.dataset, group.model, group.method, group.labels, group.fraction,
          -1.0 if group.alpha is None else group.alpha)


def usual_alpha(group: Group, among: Iterable[Group]) -> bool:
  """Whether its alpha is, of a method's several, the one nearest 0.5: a method has one line."""
  alphas = [g.alpha for g in among if g.method == group.method and g.alpha is not None]
  return group.alpha is None or group.alpha == min(alphas, key=lambda a: (abs(a - 0.5), a))


def at_most_data(groups: Iterable[Group]) -> list[Group]:
  """Those with the largest fraction of their dataset and model, and with the usual alpha."""
  found = sorted(set(groups), key=order)
  largest = {(g.dataset, g.model): g.fraction for g in sorted(found, key=lambda g: g.fraction)}
  full = [g for g in found if g.fraction == largest[g.dataset, g.model]]
  return [g for g in full if usual_alpha(g, [
      one for one in full if (one.dataset, one.model) == (g.dataset, g.model)])]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The first group minus the second, in percent accuracy; see `significance`.

  Attributes:
    difference: of the means over the seeds that both have, on the examples that both have.
    low, high: 95 % interval; without 0 where p is below 0.05 / `among`.
    p: two-sided, of this comparison alone.
    seeds, examples: how many.
  """

  difference: float
  low: float
  high: float
  p: float
  seeds: int
  examples: int

  @property
  def covers(self) -> str:
    """What else could have been drawn, as far as `p` and the interval know."""
    return 'seeds and test rows' if self.seeds > 1 else 'one seed: the choice of test rows only'


def correctness(out: str, row: Row, metric: str) -> dict[str, bool]:
  """Test id -> right or wrong, from the run's predictions; {} where there are none."""
  return {line['input']['id']: is_right(metric, line) for line in all_predictions(out, row)}


def is_right(metric: str, line: Mapping[str, Any]) -> bool:
  """Whether a prediction counts as right; `metric` is a name of `metrics.BY_NAME`."""
  score = metrics.BY_NAME[metric]([line['target']], [line['prediction']])
  return score['accuracy'] == 100.0


def all_predictions(out: str, row: Row) -> list[dict[str, Any]]:
  """What SeqIO wrote of a run's evaluation on test: 'input' with its 'id', 'target', 'prediction'.

  Lines that hold something else are passed over.
  """
  folder = os.path.join(out, row.model_dir, 'predictions', 'test')
  names = sorted(os.listdir(folder)) if row.model_dir and os.path.isdir(folder) else []
  lines = [line for name in names
           if name.endswith('.jsonl') and not name.endswith('-metrics.jsonl')
           for line in results.read_lines(os.path.join(folder, name))]
  return [line for line in lines if {'input', 'target', 'prediction'} <= set(line)
          and 'id' in line['input']]


def compare(
    first: Mapping[int, Mapping[str, bool]], second: Mapping[int, Mapping[str, bool]],
    among: int = 1) -> Comparison | None:
  """Paired by seed and by test example; seeds of a number may share as much or little as they do.

  Args:
    first, second: correctness by id, by seed.
    among: so many comparisons, all of whose intervals are to hold at once (Bonferroni).

  Returns: None where no seed has predictions of both, or fewer than two examples.
  """
  seeds = sorted(seed for seed in set(first) & set(second) if first[seed] and second[seed])
  if not seeds:
    return None
  ids = sorted(set.intersection(*(set(one[seed]) for one in (first, second) for seed in seeds)))
  if len(ids) < 2:
    return None
  differences = np.array([[float(first[seed][one]) - float(second[seed][one]) for one in ids]
                          for seed in seeds])
  p, half_width = significance.mean_test(differences, significance.LEVEL / among)
  mean = 100.0 * float(differences.mean())
  return Comparison(mean, max(-100.0, mean - 100.0 * half_width),
                    min(100.0, mean + 100.0 * half_width), p, len(seeds), len(ids))


@dataclasses.dataclass(frozen=True)
class Saving:
  """With how much data a method does as well as standard fine-tuning with all of it.

  Attributes:
    fraction: the smallest at which its mean is no less than that of fine-tuning, None if none is;
      a mean over `shared` seeds, those that both have.
    target: mean accuracy of fine-tuning at its largest fraction, `of`.
    itself: the smallest fraction at which fine-tuning's own mean is no less than at `of`.
    largest: the method's own.
    seeds: seed that both have -> the smallest fraction at which that seed's run reaches the same
      seed's fine-tuning, None if none does.
  """

  dataset: str
  model: str
  method: str
  labels: str
  alpha: float | None
  fraction: float | None
  target: float
  of: float
  seeds: Mapping[int, float | None]
  shared: int
  itself: float = 1.0
  largest: float = 1.0

  def group(self, fraction: float) -> Group:
    return Group(self.dataset, self.model, self.method, self.labels, fraction, self.alpha)


def savings(summaries: Mapping[Group, Summary]) -> list[Saving]:
  """Of every method that shares a seed with fine-tuning, in every dataset and model."""
  found = []
  for dataset, model in dict.fromkeys((g.dataset, g.model) for g in summaries):
    here = {g: s for g, s in summaries.items() if (g.dataset, g.model) == (dataset, model)}
    standard = {g.fraction: s for g, s in here.items() if g.method == 'finetune'}
    if not standard:
      continue
    full = standard[max(standard)]
    for method, labels, alpha in dict.fromkeys((g.method, g.labels, g.alpha) for g in here):
      if method != 'finetune':
        curve = {g.fraction: s for g, s in sorted(here.items(), key=lambda item: item[0].fraction)
                 if (g.method, g.labels, g.alpha) == (method, labels, alpha)}
        means = _shared_means(curve, full)
        fraction = next((f for f, (mean, target, _) in means.items() if mean >= target), None)
        if means:
          found.append(Saving(
              dataset, model, method, labels, alpha, fraction, full.mean, max(standard),
              _by_seed(curve, full), 0 if fraction is None else means[fraction][2],
              min(f for f, one in standard.items() if one.mean >= full.mean), max(means)))
  return found


def _shared_means(
    curve: Mapping[float, Summary], full: Summary) -> dict[float, tuple[float, float, int]]:
  """Fraction -> its mean and that of `full` over the seeds that both have, and how many."""
  found = {}
  for fraction, one in curve.items():
    shared = set(one.accuracies) & set(full.accuracies)
    if shared:
      mean, target = (statistics.mean(summary.accuracies[seed] for seed in shared)
                      for summary in (one, full))
      found[fraction] = mean, target, len(shared)
  return found


def _by_seed(curve: Mapping[float, Summary], full: Summary) -> dict[int, float | None]:
  return {seed: next((f for f, s in curve.items() if s.accuracies.get(seed, -1) >= accuracy), None)
          for seed, accuracy in full.accuracies.items()
          if any(seed in s.accuracies for s in curve.values())}
