"""The report's figure of how sure students of closed label sets are, and how often right."""

import math
import statistics as of_numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot

from dss_jax import page, ranking
from dss_jax.experiments import confidences, figures, grid, statistics
from dss_jax.experiments.confidences import Confidences
from dss_jax.experiments.results import Row
from dss_jax.experiments.statistics import Group

_FEW = 10  # rows: of a bin with fewer the accuracy says little
_COLUMNS = 4


def draw_all(
    out: str, rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]], folder: str
) -> list[page.Figure]:
  """A figure for each dataset and model with a closed label set, a panel for each method."""
  found: dict[tuple[str, str], dict[Group, list[Confidences]]] = {}
  for row in confidences.drawn(rows, described):
    if one := confidences.read(out, row):
      here = found.setdefault((row.dataset, row.model), {})
      here.setdefault(statistics.group_of(row), []).append(one)
  return [_draw(dataset, model, groups, len(described[dataset]['labels']), folder)
          for (dataset, model), groups in found.items()]


def _draw(
    dataset: str, model: str, groups: Mapping[Group, Sequence[Confidences]], labels: int,
    folder: str) -> page.Figure:
  columns = min(len(groups), _COLUMNS)
  bands = -(-len(groups) // columns)
  with figures.style(name := f'{dataset}-{grid.short(model)}-reliability'):
    figure, panels = pyplot.subplots(
        2 * bands, columns, figsize=(max(3.0 * columns, 4.0), 3.9 * bands), layout='constrained',
        sharex=True, squeeze=False, height_ratios=[3, 1] * bands)
    for axes in panels.flat:
      axes.set_visible(False)
    for place, (group, seeds) in enumerate(groups.items()):
      above, below = (panels[2 * (place // columns) + i, place % columns] for i in (0, 1))
      _panel(above, below, group, seeds, 10 * (10 // labels))
      if place % columns == 0:
        above.set(ylabel='accuracy (%)')
        below.set(ylabel='rows')
      if place + columns >= len(groups):
        below.set(xlabel='confidence (%)')
    fraction = next(iter(groups)).fraction
    return figures.save(
        figure, folder, name, f'{dataset}, {grid.short(model)}: how sure, how often right',
        f'Test, {100 * fraction:g} % of the data, labels ranked: accuracy of the label that ranks '
        'first against its share among all labels, in ten bins, over all seeds; pale lines are '
        'single seeds. On the diagonal a student is as sure as it is right; under it, too sure. '
        f'Hollow and not joined: fewer than {_FEW} rows. Below, rows in each bin, on a log scale. '
        'ECE: expected calibration error, mean ± s.d. of seeds.', wide=columns > 2)


def _panel(
    above: Any, below: Any, group: Group, seeds: Sequence[Confidences], least: int) -> None:
  """Diagram and counts of one method."""
  color, marker = figures.style_of(group.method)
  for axes in (above, below):
    axes.set_visible(True)
    axes.spines[['top', 'right']].set_visible(False)
  above.plot([0, 100], [0, 100], color=figures.INK, lw=1, ls=':')
  for one in seeds if len(seeds) > 1 else ():
    _line(above, _bins(one), color=color, lw=0.8, alpha=0.4)
  bins = _bins([row for one in seeds for row in one])
  _line(above, bins, color=color, lw=2)
  for _, _, rows, mean, accuracy in bins:
    above.plot(mean, accuracy, marker, color=color, clip_on=False,
               **({'ms': 6} if rows >= _FEW else {'ms': 4, 'mfc': 'none'}))
  below.bar([100 * low + 0.5 for low, *_ in bins], [rows for _, _, rows, _, _ in bins], width=9,
            align='edge', color=color, alpha=0.6)
  above.set(xlim=(least, 100), ylim=(0, 100),
            title=figures.name_of(group.method, group.labels).replace(' + ', '\n+ '))
  above.text(0.97, 0.03, _said(seeds), transform=above.transAxes, ha='right', fontsize=9)
  below.set(yscale='log', ylim=(0.7, 2 * sum(map(len, seeds))))
  below.set_yticks(ticks := sorted({1, 10 ** math.floor(math.log10(sum(map(len, seeds))))}),
                   labels=[f'{tick:,}' for tick in ticks])
  below.minorticks_off()
  below.tick_params(labelbottom=True)


def _line(axes: Any, bins: Sequence[tuple[float, float, int, float, float]], **style: Any) -> None:
  """Through the bins with enough rows to tell."""
  points = [(mean, accuracy) for _, _, rows, mean, accuracy in bins if rows >= _FEW]
  axes.plot(*np.transpose(points).reshape(2, -1), **style)


def _bins(rows: Confidences) -> list[tuple[float, float, int, float, float]]:
  return ranking.reliability([sure for sure, _ in rows], [right for _, right in rows])


def _said(seeds: Sequence[Confidences]) -> str:
  """'ECE 2.1 ± 0.3 %\\n5 seeds, 500 rows each'."""
  found = [ranking.calibration_error([sure for sure, _ in one], [right for _, right in one])
           for one in seeds]
  spread = f' ± {of_numbers.stdev(found):.1f}' if len(found) > 1 else ''
  counts = sorted({len(one) for one in seeds})
  rows = ' to '.join(f'{count:,}' for count in dict.fromkeys((counts[0], counts[-1])))
  who = f'{len(seeds)} seeds, {rows} rows each' if len(seeds) > 1 else f'one seed, {rows} rows'
  return f'ECE {np.mean(found):.1f}{spread} %\n{who}'
