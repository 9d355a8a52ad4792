"""A sweep's figures, in the paper's form: accuracy against data, cost, size and alpha."""


import io
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

if 'MPLBACKEND' not in os.environ:  # A notebook has one: its own figures are shown by it.
  matplotlib.use('Agg')
from matplotlib import pyplot

from dss_jax import page
from dss_jax.experiments import grid
from dss_jax.experiments.results import Row
from dss_jax.experiments.statistics import Group, Summary, usual_alpha
from dss_jax.experiments.teacher_cost import Cost

NAMES = {'dss': 'Distilling Step-by-Step', 'finetune': 'standard fine-tuning',
         'distill': 'standard distillation', 'rationale_then_label': 'rationale, then label',
         'dss_shuffled': "DSS with other inputs' rationales"}
# Okabe and Ito's colours, told apart by colour-blind readers, too; a marker each.
_STYLES = {'dss': ('#0072b2', 'o'), 'finetune': ('#d55e00', 's'), 'distill': ('#e69f00', '^'),
           'rationale_then_label': ('#cc79a7', 'D'), 'dss_shuffled': ('#009e73', 'v')}
INK = '#010203'  # Becomes the page's own text colour.
ACCURACY = 'test accuracy (%), mean ± s.d. of seeds'
BARS = ('Means over seeds, every seed as a pale dot. Bars are one standard deviation over seeds '
         '(n - 1) to each side, within 0 and 100 %, no intervals; a single seed has none.')


def name_of(method: str, labels: str) -> str:
  """'Distilling Step-by-Step + smooth, teacher labels'."""
  base, plus, variant = method.partition('+')
  suffix = ', teacher labels' if labels == 'teacher' and base != 'distill' else ''
  return NAMES.get(base, base) + (f' + {variant}' if plus else '') + suffix


def draw_all(
    summaries: Mapping[Group, Summary], rows: Sequence[Row], teachers: Mapping[str, float],
    folder: str, costs: Mapping[str, Cost] | None = None) -> list[page.Figure]:
  """Every figure that the results have something for; PNG and SVG files go to `folder`.

  Args:
    summaries: by group.
    rows: all results, for the sizes of the networks.
    teachers: dataset -> the teacher's accuracy on test, percent.
    folder: made if need be.
    costs: dataset -> what its teacher took for all of the training inputs.
  """
  os.makedirs(folder, exist_ok=True)
  sizes = {row.model: row.parameters for row in rows if row.parameters}
  found = []
  for dataset in dict.fromkeys(group.dataset for group in summaries):
    here = {group: one for group, one in summaries.items() if group.dataset == dataset}
    found += _by_fraction(here, dataset, teachers.get(dataset), folder)
    found += _by_cost(here, dataset, teachers.get(dataset), (costs or {}).get(dataset), folder)
    found += _by_size(here, dataset, teachers.get(dataset), sizes, folder)
    found += _by_alpha(here, dataset, folder)
  return found


def _by_fraction(here, dataset, teacher, folder) -> list[page.Figure]:
  found = []
  for model in dict.fromkeys(group.model for group in here):
    chosen = {g: s for g, s in here.items() if g.model == model and usual_alpha(g, here)}
    if len({group.fraction for group in chosen}) < 2:
      continue
    found.append(_draw(
        chosen, lambda group: 100 * group.fraction, levels(chosen, teacher), folder,
        f'{dataset}-{grid.short(model)}-data', f'{dataset}, {grid.short(model)}: less data',
        f'Test accuracy against the share of the training inputs. {BARS}',
        'share of the training inputs (%)'))
  return found


def _by_cost(here, dataset, teacher, cost: Cost | None, folder) -> list[page.Figure]:
  """Without tokens, in records whose teacher did not count them, there is nothing to draw."""
  found = []
  for model in dict.fromkeys(group.model for group in here if cost):
    all_of_it = {g: s for g, s in here.items() if g.model == model and usual_alpha(g, here)}
    chosen = {g: s for g, s in all_of_it.items() if asks_teacher(g)}
    if cost and len({group.fraction for group in chosen}) > 1:
      found.append(_draw(
          chosen, lambda group: cost.amount * group.fraction, levels(all_of_it, teacher), folder,
          f'{dataset}-{grid.short(model)}-cost', f'{dataset}, {grid.short(model)}: {cost.title}',
          f'Test accuracy against {cost.said} for the training inputs used, as their share of that '
          'for all; answers for validation and test are not counted. Standard fine-tuning needs '
          f'none. {BARS}', cost.axis))
  return found


def asks_teacher(group: Group) -> bool:
  """Whether its method needs what the teacher wrote: all do but fine-tuning on gold labels."""
  return group.method != 'finetune' or group.labels == 'teacher'


def levels(
    chosen: Mapping[Group, Summary], teacher: float | None) -> list[tuple[str, float | None]]:
  """What is drawn as a line across: the teacher, and fine-tuning on the most of the data."""
  standard = [(g.fraction, s.mean, grid.short(g.model)) for g, s in chosen.items()
              if g.method == 'finetune']
  if not standard:
    return [('teacher (few-shot)', teacher)]
  fraction, best, model = max(standard)  # Of several sizes the best one.
  of = f', {model}' if len({name for _, _, name in standard}) > 1 else ''
  return [('teacher (few-shot)', teacher),
          (f'fine-tuning, {_percent(fraction)} of the data{of}', best)]


def _by_size(here, dataset, teacher, sizes, folder) -> list[page.Figure]:
  fraction = max(group.fraction for group in here)
  chosen = {g: s for g, s in here.items()
            if g.fraction == fraction and g.model in sizes and usual_alpha(g, here)}
  if len({sizes[group.model] for group in chosen}) < 2:
    return []
  return [_draw(
      chosen, lambda group: sizes[group.model], [('teacher (few-shot)', teacher)], folder,
      f'{dataset}-size', f'{dataset}: smaller models',
      f'Test accuracy against the number of parameters, {_percent(fraction)} of the data. {BARS}',
      'parameters', log=True)]


def _by_alpha(here, dataset, folder) -> list[page.Figure]:
  found = []
  for model, fraction in dict.fromkeys((g.model, g.fraction) for g in here):
    chosen = {g: s for g, s in here.items()
              if (g.model, g.fraction) == (model, fraction) and g.alpha is not None}
    if len({group.alpha for group in chosen}) < 2:
      continue
    others = [(name_of(g.method, g.labels), s.mean) for g, s in here.items()
              if (g.model, g.fraction) == (model, fraction) and g.method == 'finetune']
    found.append(_draw(
        chosen, lambda group: group.alpha, others, folder,
        f'{dataset}-{grid.short(model)}-{fraction:g}-alpha',
        f'{dataset}, {grid.short(model)}, {_percent(fraction)} of the data: label weight',
        f'Test accuracy against alpha; 1 is the label loss alone. {BARS}', 'alpha'))
  return found


def _draw(
    chosen: Mapping[Group, Summary], x_of: Callable[[Group], Any],
    lines: Sequence[tuple[str, float | None]], folder: str, name: str, title: str, caption: str,
    x_label: str, log: bool = False) -> page.Figure:
  with style(name):
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
    kinds = list(dict.fromkeys((g.method, g.labels) for g in chosen))
    for place, (method, labels) in enumerate(kinds):
      curve = sorted(((x_of(g), s) for g, s in chosen.items()
                      if (g.method, g.labels) == (method, labels)), key=lambda point: point[0])
      shifted = _shifted([x for x, _ in curve], place - (len(kinds) - 1) / 2, log)
      color, marker = style_of(method)
      axes.errorbar(
          shifted, [s.mean for _, s in curve],
          np.transpose([bar(s) for _, s in curve]),
          color=color, marker=marker, lw=2, capsize=3, label=name_of(method, labels),
          ls='--' if labels == 'teacher' and method != 'distill' else '-')
      for x, (_, summary) in zip(shifted, curve, strict=True):
        axes.scatter([x] * len(summary.accuracies), list(summary.accuracies.values()),
                     color=color, marker=marker, s=14, alpha=0.35)
    draw_levels(axes, lines)
    if log:
      axes.set_xscale('log')
    else:
      axes.set_xticks(ticks := sorted({x_of(group) for group in chosen}),
                      labels=[f'{tick:.3g}' for tick in ticks])
    axes.set(xlabel=x_label, ylabel=ACCURACY,
             ylim=(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102)))
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower center', ncol=2, frameon=False, fontsize=9)
    return save(figure, folder, name, title, caption)


def draw_levels(axes: Any, lines: Sequence[tuple[str, float | None]]) -> None:
  """A dashed line across for each value that is known."""
  for (label, value), dashes in zip(lines, (':', '-.', (0, (5, 1)))):
    if value is not None:
      axes.axhline(value, color=INK, lw=1, ls=dashes, label=f'{label}: {value:.1f}')


def bar(summary: Summary) -> tuple[float, float]:
  """How far a standard deviation reaches below and above the mean, within 0 and 100 %."""
  if summary.spread is None:
    return math.nan, math.nan
  return min(summary.spread, summary.mean), min(summary.spread, 100 - summary.mean)


def _shifted(xs: Sequence[float], places: float, log: bool) -> list[float]:
  """A little aside, so that the bars of several methods do not hide each other."""
  if log:
    return [x * 1.03**places for x in xs]
  return [x + 0.018 * places * (max(xs) - min(xs)) for x in xs]


def style(name: str) -> Any:
  """matplotlib's settings for a figure; the same bytes for the same figure of that name."""
  ink: Any = dict.fromkeys(('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color',
                       'ytick.color', 'axes.titlecolor'), INK)
  return pyplot.rc_context({
      'svg.fonttype': 'none', 'svg.hashsalt': name, 'font.size': 10, 'axes.titlesize': 10, **ink})


def style_of(method: str) -> tuple[str, str]:
  """Colour and marker."""
  base, plus, variant = method.partition('+')
  if plus:  # The base's marker, in a colour that a variant keeps from one figure to the next.
    colour = matplotlib.colormaps['tab20'](zlib.crc32(variant.encode()) % 20)
    return matplotlib.colors.to_hex(colour), style_of(base)[1]
  return _STYLES.get(method, (INK, 'x'))


def save(figure: Any, folder: str, name: str, title: str, caption: str, wide: bool = False
         ) -> page.Figure:
  """Writes PNG and SVG, with a title, and closes the figure."""
  drawn = for_a_page(figure, name, title, caption, wide)
  figure.suptitle(title)
  figure.savefig(os.path.join(folder, f'{name}.png'), dpi=150)
  figure.savefig(os.path.join(folder, f'{name}.svg'), metadata={'Date': None})
  return drawn


def for_a_page(
    figure: Any, name: str, title: str, caption: str, wide: bool = False) -> page.Figure:
  """Without files; pyplot forgets the figure."""
  svg = io.StringIO()
  figure.savefig(svg, format='svg', transparent=True, metadata={'Date': None})
  pyplot.close(figure)
  return page.Figure(name, title, caption, for_page(svg.getvalue()), wide)


def for_page(svg: str) -> str:
  """Without XML header, in the page's text colour and font."""
  return svg[svg.index('<svg'):].replace(INK, 'currentColor')


def _percent(fraction: float) -> str:
  return f'{100 * fraction:g} %'
