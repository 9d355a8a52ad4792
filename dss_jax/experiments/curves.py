"""Training curves of a sweep's runs, from their metrics.jsonl."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot

from dss_jax import page
from dss_jax.experiments import figures, grid
from dss_jax.experiments.results import Row

_LOSS = re.compile(r'train/(\w+)_loss')


def draw_all(rows: Sequence[Row], out: str, folder: str) -> list[page.Figure]:
  """A figure for each dataset and model, at the largest fraction; files go to `folder`."""
  found = []
  for dataset, model in sorted({(row.dataset, row.model) for row in rows}):
    here = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
    fraction = max(row.fraction for row in here)
    curves = [(row, read(os.path.join(out, row.model_dir, 'metrics.jsonl')))
              for row in here if row.fraction == fraction]
    if any(curve for _, curve in curves):
      found.append(_draw(curves, f'{dataset}-{grid.short(model)}-curves',
                         f'{dataset}, {grid.short(model)}: training', fraction, folder))
  return found


def read(path: str) -> dict[str, list[tuple[int, float]]]:
  """{'train/loss': [(step, value), ...], ...}; {} without the file, torn lines passed over."""
  found: dict[str, list[tuple[int, float]]] = {}
  if not os.path.exists(path):
    return {}
  with open(path, encoding='utf-8') as f:
    for line in f:
      try:
        values = json.loads(line)
        step = values.pop('step')
      except (ValueError, KeyError, AttributeError, TypeError):
        continue
      for name, value in values.items():
        found.setdefault(name, []).append((step, value))
  return found


def panels_of(curves: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Metric -> title: the loss of each objective that any of the runs has, then accuracy."""
  losses = {name: f'{found[1]} loss, train (nats per token)'
            for curve in curves for name in curve if (found := _LOSS.fullmatch(name))}
  return {**losses, 'validation/accuracy': 'accuracy, validation (%)'}


def draw_run(model_dir: str) -> page.Figure | None:
  """The curves of one run; None of one that has logged nothing yet."""
  curve = read(os.path.join(model_dir, 'metrics.jsonl'))
  shown = {metric: title for metric, title in panels_of([curve]).items() if metric in curve}
  if not shown:
    return None
  with figures.style('run'):
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(4.0 * len(shown), 3.0), layout='constrained', squeeze=False)
    for axes, (metric, title) in zip(panels[0], shown.items(), strict=True):
      axes.plot(*zip(*curve[metric]), lw=1.4, marker='o' if len(curve[metric]) < 10 else None)
      axes.set(xlabel='step', title=title)
      axes.spines[['top', 'right']].set_visible(False)
    return figures.for_a_page(
        figure, 'run', os.path.basename(os.path.normpath(model_dir)),
        ': losses of single steps; validation with the parameters of that step.', wide=True)


def _draw(
    curves: Sequence[tuple[Row, Mapping[str, Sequence[tuple[int, float]]]]], name: str,
    title: str, fraction: float, folder: str) -> page.Figure:
  with figures.style(name):
    shown = panels_of([curve for _, curve in curves])
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(4.5 * len(shown), 3.6), layout='constrained', squeeze=False)
    for axes, (metric, label) in zip(panels[0], shown.items(), strict=True):
      labelled = set()
      for row, curve in curves:
        points = curve.get(metric, ())
        color, _ = figures.style_of(row.method)
        method = figures.name_of(row.method, row.labels)
        axes.plot([step for step, _ in points], [value for _, value in points], color=color,
                  lw=1.2, alpha=0.7, marker='o' if len(points) == 1 else None,
                  ls='--' if row.labels == 'teacher' else '-',
                  label=None if method in labelled else method)
        labelled.add(method)
      axes.set(xlabel='step', title=label)
      axes.spines[['top', 'right']].set_visible(False)
    figure.legend(*panels[0, -1].get_legend_handles_labels(), loc='outside lower center', ncol=3,
                  frameon=False, fontsize=9)
    return figures.save(
        figure, folder, name, title,
        f'One line per run, {100 * fraction:g} % of the data. Logged losses of a step; validation '
        'with the parameters of that step.', wide=True)
