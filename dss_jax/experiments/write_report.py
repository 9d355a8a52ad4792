"""From results to findings, tables, figures and the page."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import files, page
from dss_jax.experiments import (
  class_table,
  confidences,
  curves,
  differences,
  examples,
  figures,
  grid,
  latency,
  less_data,
  reliability,
  statistics,
  teacher_cost,
)
from dss_jax.experiments.differences import Difference
from dss_jax.experiments.results import Found, Row
from dss_jax.experiments.statistics import Group, Summary

FIGURES = 'figures'
_ACCURACY_HEADER = ('data', 'model', 'method', 'of the data', 'alpha', 'mean ± s.d. (seeds)',
                    'each seed')
_COST_HEADER = ('data', 'model', 'method', 'of the data', 'runs', 'parameters', 'training inputs',
                'steps', 'seconds a run')


@dataclasses.dataclass(frozen=True)
class Written:
  """What was said: `findings` and `problems` in sentences, `accuracies` in lines, `figures`."""

  findings: list[str]
  problems: list[str]
  accuracies: list[str]
  figures: list[page.Figure]


def write(out: str, found: Found, title: str) -> Written:
  """Writes report.html, report.md and figures/ into `out`."""
  rows = list(found.rows.values())
  problems = list(found.problems)
  if found.missing:
    problems.append(f'{len(found.missing)} of {len(rows) + len(found.missing)} runs have no '
                    f'result: {_some(found.missing)}')
  described = {name: examples.read_dataset(out, name, problems)
               for name in sorted({row.dataset for row in rows})}
  teachers = {name: facts['teacher']['accuracy'] for name, facts in described.items()
              if facts.get('teacher')}
  summaries = statistics.summarize(rows)
  problems += _uneven(summaries)
  folder = os.path.join(out, FIGURES)
  prices = teacher_cost.read(out)
  costs = teacher_cost.of_datasets(described, prices)
  if prices:
    problems += [f'{name}: what its teacher cost is not known, for its records do not tell how '
                 'many tokens it took' for name in described if name not in costs]
  measured = latency.read(out, rows, problems)
  drawn = figures.draw_all(summaries, rows, teachers, folder, costs)
  drawn += latency.draw_all(measured, rows, summaries, teachers, folder)
  drawn += (sure := reliability.draw_all(out, rows, described, folder))
  drawn += curves.draw_all(rows, out, folder)
  commonest = {name: examples.commonest_answer(out, name, facts.get('metric', 'text'))
               for name, facts in described.items()}
  right = differences.read_all(out, rows, described, problems)
  compared = differences.compare_all(right, problems)
  findings = _findings(summaries, teachers, commonest, rows, right, compared)
  tables = {
      'accuracies': (_ACCURACY_HEADER, _accuracies(summaries), 5),
      'differences': (differences.HEADER, differences.lines(compared), 4),
      'labels': (class_table.HEADER, class_table.lines(out, rows, described), 6),
      'cost': (_COST_HEADER, _cost(rows), 3),
      'latency': (latency.HEADER, latency.lines(measured, rows), 3),
  }
  notes = {'accuracies': [_NOTE_ACCURACIES], 'differences': [differences.note(len(compared))],
           'labels': [class_table.NOTE, *([] if sure else [class_table.UNSURE])],
           'cost': [_seconds_note(rows), *teacher_cost.notes(described, prices)],
           'latency': [latency.note(measured) if measured else latency.UNKNOWN]}
  html_tables = {name: page.paragraphs(notes[name]) + page.table(*table)
                 for name, table in tables.items()}
  html_tables['labels'] = (  # Not there without a closed set.
      f'<section id="labels"><h2>Labels</h2>{html_tables["labels"]}</section>'
      if tables['labels'][1] else '')
  if not measured:
    html_tables['latency'] = page.paragraphs(notes['latency'])
  files.write(os.path.join(out, 'report.html'), page.build(
      title=title, subtitle=f'{len(rows)} runs of {len(rows) + len(found.missing)}',
      findings=findings, problems=problems, figures=drawn, tables=html_tables,
      data=examples.collect(out, rows, described)))
  files.write(os.path.join(out, 'report.md'), _markdown(
      title, findings, problems, drawn, tables, notes))
  return Written(findings, problems, _aligned(_ACCURACY_HEADER, tables['accuracies'][1]), drawn)


def ask_students(
    out: str, rows: Sequence[Row], measure: bool, rank: bool) -> list[str]:
  """Lets the students of a sweep answer again, for what it did not measure; says what failed."""
  said: list[str] = []
  if rank:
    names = sorted({row.dataset for row in rows})
    said += confidences.write_missing(
        out, rows, {name: examples.read_dataset(out, name, []) for name in names})
  if measure:
    said += latency.measure(out, rows)
  return said


_NOTE_ACCURACIES = (
    'Percent of the test rows. ± is one standard deviation over seeds (n - 1), of each seed\'s '
    'accuracy; a single seed has none.')


def _findings(
    summaries: Mapping[Group, Summary], teachers: Mapping[str, float],
    commonest: Mapping[str, tuple[str, float] | None], rows: Sequence[Row],
    right: differences.Correct, compared: Sequence[Difference]) -> list[str]:
  found = less_data.findings(summaries, right, commonest)
  found += differences.findings(compared)
  found += [f'{name}: the teacher has {accuracy:.1f} % on test, by the same metric.'
            for name, accuracy in teachers.items()]
  found = found or ['Nothing to compare yet: no method beside standard fine-tuning has results.']
  random = sorted({(row.dataset, row.model) for row in rows if row.pretrained is False})
  return found + [
      f'{dataset}, {grid.short(model)}: these students began with random weights, not with '
      'pretrained ones. Compare them with each other, not with published accuracies.'
      for dataset, model in random]


def _accuracies(summaries: Mapping[Group, Summary]) -> list[list[str]]:
  return [[group.dataset, grid.short(group.model), figures.name_of(group.method, group.labels),
           f'{100 * group.fraction:g} %', _alpha(group.alpha), str(one),
           ' '.join(f'{value:.1f}' for value in one.accuracies.values())]
          for group, one in summaries.items()]


def _cost(rows: Sequence[Row]) -> list[list[str]]:
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault(
        (row.dataset, row.model, row.method, row.labels, row.fraction), []).append(row)
  return [[dataset, grid.short(model), figures.name_of(method, labels), f'{100 * fraction:g} %',
           str(len(some)), *(_mean(getattr(row, name) for row in some)
                             for name in ('parameters', 'inputs', 'steps', 'seconds_of_steps'))]
          for (dataset, model, method, labels, fraction), some in sorted(groups.items())]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Lines for a terminal, without columns that are empty."""
  columns = [column for column in zip(header, *rows) if any(column[1:])]
  widths = [max(map(len, column)) for column in columns]
  return ['  '.join(map(str.ljust, line, widths)).rstrip() for line in zip(*columns)]


def _mean(values: Any) -> str:
  known = [value for value in values if isinstance(value, int | float)]
  return f'{sum(known) / len(known):,.0f}' if known else '-'


def _seconds_note(rows: Sequence[Row]) -> str:
  without = sum(row.compiling is not None for row in rows)
  said = 'Seconds are of training and validation'
  if without == len(rows):
    return f'{said}, without compilation.'
  return f'{said}; compilation is in them' + (
      f' for {len(rows) - without} of {len(rows)} runs, whose results do not tell how long it took.'
      if without else ', for the results do not tell how long it took.')


def _uneven(summaries: Mapping[Group, Summary]) -> list[str]:
  """Seeds that some cells of a comparison lack."""
  lines = []
  for dataset, model in dict.fromkeys((g.dataset, g.model) for g in summaries):
    here = {g: set(s.accuracies) for g, s in summaries.items()
            if (g.dataset, g.model) == (dataset, model)}
    every = set.union(*here.values())
    lines += [f'{dataset}, {grid.short(model)}: {differences.name_of(group)}, '
              f'{100 * group.fraction:g} % of the data lacks seed '
              f'{", ".join(map(str, sorted(every - seeds)))}: means are over different seeds'
              for group, seeds in here.items() if seeds != every]
  return lines


def _alpha(alpha: float | None) -> str:
  return '' if alpha is None else f'{alpha:g}'


def _some(names: Sequence[str]) -> str:
  return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def _markdown(
    title: str, findings: Sequence[str], problems: Sequence[str],
    drawn: Sequence[page.Figure], tables: Mapping[str, tuple],
    notes: Mapping[str, Sequence[str]]) -> str:
  parts = [f'# {title}', *findings]
  if problems:
    parts += ['## Not all is there', '\n'.join(f'- {line}' for line in problems)]
  for one in drawn:
    parts += [f'![{one.title}]({FIGURES}/{one.name}.png)', one.caption]
  for name, (header, rows, _) in tables.items():
    if name == 'labels' and not rows:
      continue
    parts += [f'## {name.capitalize()}', *notes[name]]
    if rows or name != 'latency':
      parts.append('\n'.join(
          f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *rows)))
  return '\n\n'.join(parts) + '\n'
