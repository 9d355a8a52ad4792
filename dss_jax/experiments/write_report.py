"""From results to findings, tables, figures and the page."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import files, page
from dss_jax.experiments import (
  class_table,
  curves,
  differences,
  examples,
  figures,
  grid,
  less_data,
  statistics,
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
  drawn = figures.draw_all(summaries, rows, teachers, folder, _tokens(described))
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
  }
  notes = {'accuracies': [_NOTE_ACCURACIES], 'differences': [differences.note(len(compared))],
           'labels': [class_table.NOTE],
           'cost': [_seconds_note(rows), _NO_LATENCY, *_teacher_notes(described)]}
  html_tables = {name: page.paragraphs(notes[name]) + page.table(*table)
                 for name, table in tables.items()}
  html_tables['labels'] = (  # Not there without a closed set.
      f'<section id="labels"><h2>Labels</h2>{html_tables["labels"]}</section>'
      if tables['labels'][1] else '')
  files.write(os.path.join(out, 'report.html'), page.build(
      title=title, subtitle=f'{len(rows)} runs of {len(rows) + len(found.missing)}',
      findings=findings, problems=problems, figures=drawn, tables=html_tables,
      data=examples.collect(out, rows, described)))
  files.write(os.path.join(out, 'report.md'), _markdown(
      title, findings, problems, drawn, tables, notes))
  return Written(findings, problems, _aligned(_ACCURACY_HEADER, tables['accuracies'][1]), drawn)


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


_NO_LATENCY = ('The latency of a student is no result of a sweep, so no figure shows it: time '
               '`dss predict` or `dss serve` on the machine that is to answer.')


def _tokens(described: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
  """Of each dataset, what its teachers read and wrote for the training set, where they counted."""
  found = {}
  for name, facts in described.items():
    usages = [one.get('usage') or {} for one in facts.get('teachers', {}).values()]
    counts = [sum(usage.get(key) or 0 for key in ('prompt_tokens', 'completion_tokens'))
              for usage in usages]
    if counts and all(counts):
      found[name] = sum(counts)
  return found


def _teacher_notes(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """What each dataset's teacher cost, as its records tell."""
  lines = []
  for name, facts in described.items():
    for records, teacher in facts.get('teachers', {}).items():
      usage = teacher.get('usage') or {}
      cost = ', '.join(f'{value:,} {key.replace("_", " ")}' for key, value in usage.items()
                       if isinstance(value, int | float))
      lines.append(f'{name}: {records} by {teacher.get("model") or teacher.get("client", "?")}; '
                   + (cost or 'its records do not tell how many tokens it took') + '.')
  return lines


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
    parts += [f'## {name.capitalize()}', *notes[name], '\n'.join(
        f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *rows))]
  return '\n\n'.join(parts) + '\n'
