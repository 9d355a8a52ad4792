"""The report's table of each label's precision, recall and F1, of closed label sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax import classes
from dss_jax.experiments import figures, grid, statistics
from dss_jax.experiments.results import Row
from dss_jax.experiments.statistics import Group

HEADER = ('data', 'model', 'method', 'alpha', 'label', 'answered as', 'rows', 'precision', 'recall',
          'F1')
NOTE = ('Of closed label sets, with the largest share of the data: answers on test, summed over '
        'seeds. Macro F1 is the mean over labels, weighted F1 over rows.')
UNSURE = ('How sure the students are, this sweep did not ask: `dss report DIR --confidences` lets '
          'them rank the labels of test, for a figure.')


def lines(
    out: str, rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """A line for each label, then the averages, of every method at its largest fraction."""
  largest: dict[tuple[str, str], float] = {}
  for row in rows:
    key = row.dataset, row.model
    largest[key] = max(row.fraction, largest.get(key, 0.0))
  found: dict[Group, classes.Report] = {}
  for row in sorted(rows, key=lambda row: statistics.order(statistics.group_of(row))):
    facts = described[row.dataset]
    if (row.fraction == largest[row.dataset, row.model] and facts.get('labels')
        and facts.get('metric') == 'text'):
      one = classes.of_lines(statistics.all_predictions(out, row), facts['labels'])
      if one:
        group = statistics.group_of(row)
        before = found[group].confusion if group in found else np.zeros_like(one.confusion)
        found[group] = classes.Report(one.labels, before + one.confusion)
  return [line for group, one in found.items() for line in _lines(group, one)]


def _lines(group: Group, one: classes.Report) -> list[list[str]]:
  alpha = '' if group.alpha is None else f'{group.alpha:g}'
  place = [group.dataset, grid.short(group.model), figures.name_of(group.method, group.labels),
           alpha]
  answers = [*one.labels, 'no label']
  made = [[*place, label, ', '.join(f'{answer} {count:,}' for answer, count in zip(answers, row)
                                    if count), f'{support:,}',
           *(f'{value:.1f}' for value in values)]
          for label, row, support, *values in zip(
              one.labels, one.confusion, one.support, one.precision, one.recall, one.f1)]
  rows = f'{int(one.support.sum()):,}'
  return [*made, [*place, 'macro', '', rows, '', '', f'{one.macro_f1:.1f}'],
          [*place, 'weighted', '', rows, '', '', f'{one.weighted_f1:.1f}']]
