"""How long the students that a sweep left take to answer: `dss report DIR --latency`.

A sweep trains several runs at a time and times none of them. This loads a student of each method
and size, of one data set at a time, into one process; they answer in turn, all the same inputs, in
an order that is drawn anew each time, so that what else the machine does falls on all alike.
"""

import collections
import dataclasses
import datetime
import gc
import json
import math
import os
import pathlib
import platform
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from matplotlib import pyplot

from dss_jax import errors, files, page
from dss_jax.experiments import figures, grid, results, statistics
from dss_jax.experiments.results import Row
from dss_jax.experiments.statistics import Group, Summary

FILE = 'latency.json'
HEADER = ('data', 'model', 'method', 'of the data', 'ms for one row', 'ms for 32 rows at once',
          'tokens of an answer')
UNKNOWN = ('The latency of a student is no result of a sweep, whose runs share a machine: '
           '`dss report DIR --latency` measures the students that it left, side by side.')
BATCH = 32  # rows of test, spread over it; each alone, then all at once
_ROUNDS, _BATCHES = 5, 4  # in a round every row once alone, and all of them so often at once
_FAR = 5  # times as long: then the axis is logarithmic, else it begins at 0


@dataclasses.dataclass(frozen=True)
class Times:
  """Milliseconds until the answer is there: quartiles and median of `count` measured ones."""

  low: float
  median: float
  high: float
  count: int

  def __str__(self) -> str:
    return ' '.join((_short(self.median), f'({_short(self.low)} to {_short(self.high)})'))


@dataclasses.dataclass(frozen=True)
class Measured:
  """What latency.json holds.

  Attributes:
    machine: in words.
    date: of the measurement, UTC.
    students: run's key -> times of one row and of BATCH rows at once.
    tokens: run's key -> of an answer, in the mean of those rows, EOS included: who writes more
      takes longer.
  """

  machine: str
  date: str
  students: Mapping[str, tuple[Times, Times]]
  tokens: Mapping[str, float]

  def of(self, rows: Iterable[Row]) -> dict[Group, tuple[Times, Times]]:
    """By group."""
    return {statistics.group_of(row): self.students[row.key]
            for row in rows if row.key in self.students}


def measure(out: str, rows: Sequence[Row]) -> list[str]:
  """Writes latency.json anew, if anything could be measured; what could not, in words.

  Of every dataset, model and method the first seed's student at the largest fraction, with the
  usual alpha, answers with its label as `predict` does: it reads text and writes until it ends.
  """
  full = set(statistics.at_most_data(map(statistics.group_of, rows)))
  chosen: dict[Group, Row] = {}
  for row in sorted(rows, key=lambda row: row.seed):
    if statistics.group_of(row) in full:
      chosen.setdefault(statistics.group_of(row), row)
  problems: list[str] = []
  found: dict[str, tuple[Times, Times]] = {}
  tokens: dict[str, float] = {}
  machine, date = _machine(), datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d')
  for dataset in sorted({group.dataset for group in chosen}):
    students = _load(out, [row for group, row in chosen.items() if group.dataset == dataset],
                     problems)
    inputs = _inputs(out, dataset)
    if students and inputs:
      found |= _times(students, inputs, dataset)
      tokens |= {key: _tokens(student, inputs) for key, student in students.items()}
    elif students:
      problems.append(f'no latency of {dataset}: its test rows are not in the folder')
  if found:
    files.write(os.path.join(out, FILE), json.dumps({
        'machine': machine, 'date': date, 'batch': BATCH, 'students': {
            key: [dataclasses.asdict(one) for one in times] for key, times in found.items()},
        'tokens': tokens}, indent=2) + '\n')
  return problems


def read(out: str, rows: Sequence[Row], problems: list[str]) -> Measured | None:
  """What was measured of these runs; None if nothing was. A damaged file is a problem."""
  path = os.path.join(out, FILE)
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding='utf-8') as f:
      found = json.load(f)
    students = {key: (Times(**one), Times(**many))
                for key, (one, many) in found['students'].items()}
    tokens = {key: float(found['tokens'][key]) for key in students}
    measured = Measured(str(found['machine']), str(found['date']), students, tokens)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    problems.append(f'{FILE} cannot be read ({error}): no latency; measure it anew')
    return None
  known = {row.key for row in rows}
  if gone := sorted(set(students) - known):
    problems.append(f'{FILE} has runs that this sweep has not: {", ".join(gone[:3])}; not shown')
  return measured if known & set(students) else None


def _load(out: str, rows: Sequence[Row], problems: list[str]) -> dict[str, Any]:
  from dss_jax.predict import student
  found = {}
  for row in rows:
    try:
      found[row.key] = student.load(os.path.join(out, row.model_dir))
    except errors.UserError as error:
      problems.append(f'no latency of {row.key}: {error}')
  return found


def _inputs(out: str, dataset: str) -> list[str]:
  """BATCH rows of test at equal distances; those of a shorter test several times."""
  texts = [row['input'] for row in results.test_rows(out, dataset)]
  return [texts[i * max(len(texts), BATCH) // BATCH % len(texts)] for i in range(BATCH) if texts]


def _times(
    students: Mapping[str, Any], inputs: Sequence[str], dataset: str
) -> dict[str, tuple[Times, Times]]:
  """Side by side; the first round, in which programs are compiled, is not counted."""
  took: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
  drawn = random.Random(0)
  asked = [*([one] for one in inputs), *[list(inputs)] * _BATCHES]
  for counts in tqdm.tqdm([False, *[True] * _ROUNDS], desc=f'latency of {dataset}', unit='round'):
    gc.collect()
    for texts in drawn.sample(asked, len(asked)):
      for key in drawn.sample(list(students), len(students)):
        began = time.perf_counter()
        students[key].predict(texts, batch_size=len(texts))
        if counts:
          took[key, len(texts)].append(1000 * (time.perf_counter() - began))
  return {key: (_summary(took[key, 1]), _summary(took[key, len(inputs)])) for key in students}


def _tokens(student: Any, inputs: Sequence[str]) -> float:
  answers = student.predict(inputs, batch_size=len(inputs))
  return float(np.mean([1 + len(student.tokenizer.encode_target(
      f'{one.rationale or ""} {one.label}'.strip())) for one in answers]))


def _summary(values: Sequence[float]) -> Times:
  low, median, high = np.percentile(values, [25, 50, 75])
  return Times(float(low), float(median), float(high), len(values))


def _machine() -> str:
  """'2 x cpu; AMD EPYC, 2 CPUs, load 0.3 before; jax 0.10.2'."""
  import jax
  processor = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    processor = next(line.partition(':')[2].strip() for line in lines
                     if line.startswith('model name'))
  except (OSError, StopIteration):
    pass
  return (f'{jax.device_count()} x {jax.devices()[0].device_kind}; {processor}, '
          f'{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before; jax {jax.__version__}')


def _short(milliseconds: float) -> str:
  """Three digits: '0.712', '7.12', '71.2', '712', '7,120'."""
  digits = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 0
  return f'{milliseconds:,.{digits}f}'


def lines(measured: Measured | None, rows: Sequence[Row]) -> list[list[str]]:
  """Of the table under HEADER."""
  if not measured:
    return []
  keys = {statistics.group_of(row): row.key for row in rows if row.key in measured.students}
  return [[group.dataset, grid.short(group.model), figures.name_of(group.method, group.labels),
           f'{100 * group.fraction:g} %', *map(str, measured.students[keys[group]]),
           f'{measured.tokens[keys[group]]:.1f}'] for group in sorted(keys, key=statistics.order)]


def note(measured: Measured) -> str:
  """How it was measured, beside table and figure."""
  one = next(iter(measured.students.values()))
  return (f'Median (quartiles) of {one[0].count} and {one[1].count} times, from text to label, '
          f'measured on {measured.date}: one student of each kind, all in one process, in turn, on '
          f'the same {BATCH} rows of test, with everything compiled. {measured.machine}.')


def draw_all(
    measured: Measured | None, rows: Sequence[Row], summaries: Mapping[Group, Summary],
    teachers: Mapping[str, float], folder: str) -> list[page.Figure]:
  """Accuracy against latency, a figure for each dataset; files go to `folder`."""
  found = measured.of(rows) if measured else {}
  drawn = []
  for dataset in dict.fromkeys(group.dataset for group in summaries):
    points = {group: (times, summaries[group]) for group, times in found.items()
              if group.dataset == dataset and group in summaries}
    if measured and len(points) > 1:
      here = {group: one for group, one in summaries.items() if group.dataset == dataset}
      levels = figures.levels(here, teachers.get(dataset))
      drawn.append(_draw(dataset, points, levels, note(measured), folder))
  return drawn


def _draw(
    dataset: str, points: Mapping[Group, tuple[tuple[Times, Times], Summary]],
    levels: Sequence[tuple[str, float | None]], how: str, folder: str) -> page.Figure:
  with figures.style(name := f'{dataset}-latency'):
    figure, panels = pyplot.subplots(1, 2, figsize=(9.6, 4.4), layout='constrained', sharey=True)
    for place, axes in enumerate(panels):
      for method, labels in dict.fromkeys((g.method, g.labels) for g in points):
        _curve(axes, {g: (times[place], summary) for g, (times, summary) in points.items()
                      if (g.method, g.labels) == (method, labels)})
      figures.draw_levels(axes, levels)
      medians = [times[place].median for times, _ in points.values()]
      if max(medians) > _FAR * min(medians):
        axes.set(xscale='log')
        axes.xaxis.set_major_formatter('{x:,g}')
      else:
        axes.set(xlim=(0, None))
      axes.set(xlabel=f'ms for {BATCH} rows at once' if place else 'ms for one row',
               ylim=(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102)))
      axes.spines[['top', 'right']].set_visible(False)
    panels[0].set(ylabel=figures.ACCURACY)
    if len({group.model for group in points}) > 1:
      _name_models(panels, points)
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncol=3,
                  frameon=False, fontsize=9)
    return figures.save(
        figure, folder, name, f'{dataset}: accuracy and latency',
        f'Test accuracy, with the most of the data, against the time that an answer takes. {how} '
        f'Bars across are quartiles of that time. {figures.BARS}', wide=True)


def _curve(axes: Any, points: Mapping[Group, tuple[Times, Summary]]) -> None:
  """One method's sizes, joined in the order of their latency."""
  found = sorted(points.items(), key=lambda item: item[1][0].median)
  group = found[0][0]
  color, marker = figures.style_of(group.method)
  axes.errorbar(
      [times.median for _, (times, _) in found], [summary.mean for _, (_, summary) in found],
      np.transpose([figures.bar(summary) for _, (_, summary) in found]),
      np.transpose([(times.median - times.low, times.high - times.median)
                    for _, (times, _) in found]),
      color=color, marker=marker, lw=1, capsize=3,
      label=figures.name_of(group.method, group.labels),
      ls='--' if group.labels == 'teacher' and group.method != 'distill' else '-')
  for _, (times, summary) in found:
    axes.scatter([times.median] * len(summary.accuracies), list(summary.accuracies.values()),
                 color=color, marker=marker, s=14, alpha=0.35)


def _name_models(
    panels: Sequence[Any], points: Mapping[Group, tuple[tuple[Times, Times], Summary]]) -> None:
  """Each size's name, over its best method."""
  for model in dict.fromkeys(group.model for group in points):
    times, summary = max((one for group, one in points.items() if group.model == model),
                         key=lambda one: one[1].mean)
    for axes, one in zip(panels, times, strict=True):
      axes.annotate(grid.short(model), (one.median, summary.mean), (5, 6), fontsize=9,
                    textcoords='offset points')
