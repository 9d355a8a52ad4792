"""What the functions return: attributes to go on with, a table as text, and HTML for a notebook."""

import glob
import html
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import errors, page, records

if TYPE_CHECKING:
  from dss_jax.experiments import write_report
  from dss_jax.predict.options import Prediction
  from dss_jax.teacher import job
  from dss_jax.train import loop
  from dss_jax.train.config import TrainConfig


class Shown:
  """Something with a text, for a terminal, and HTML parts, for a notebook."""

  def __init__(self, text: str, *parts: str):
    self._text, self._parts = text, parts

  def __repr__(self) -> str:
    return self._text

  def _repr_html_(self) -> str:
    return ''.join(self._parts) or f'<pre>{html.escape(self._text)}</pre>'


class Records(Shown):
  """The record sets that `dss_jax.teach` wrote.

  Attributes:
    records_dir: where they are.
    splits: split -> counts and accuracy of the teacher, see `teacher.summary.Summary`.
    outcome: everything else, as `teacher.job.Outcome`.
  """

  def __init__(self, outcome: 'job.Outcome'):
    from dss_jax.teacher import report
    super().__init__(report.render(outcome))
    self.outcome, self.records_dir, self.splits = outcome, outcome.records_dir, outcome.splits

  def __fspath__(self) -> str:
    return self.records_dir


class Run(Shown):
  """A finished training run.

  Attributes:
    model_dir: its folder; `dss_jax.load` takes it, or the run itself.
    step, best_step: the last one, and the one whose parameters were tested.
    validation, test: metrics of that one; accuracies in percent, losses in nats per token.
    config: with all settings.
  """

  def __init__(self, model_dir: str, text: str, config: 'TrainConfig', result: 'loop.Result'):
    super().__init__(text)
    self.model_dir, self.config = model_dir, config
    self.step, self.best_step = result.step, result.best_step
    self.validation, self.test = result.validation, result.test

  def __fspath__(self) -> str:
    return self.model_dir


class Sweep(Shown):
  """The finished runs of a sweep and what their report says.

  Attributes:
    out: the folder, with report.html.
    findings: sentences.
    problems: what is missing or was left out.
    rows: run's key -> `experiments.results.Row`.
  """

  def __init__(self, out: str, rows: Mapping[str, Any], written: 'write_report.Written'):
    lines = [*written.accuracies, '', *written.findings]
    lines += [f'note: {problem}' for problem in written.problems]
    super().__init__('\n'.join([*lines, f'page: {os.path.join(out, "report.html")}']),
                     f'<pre>{html.escape(chr(10).join(lines))}</pre>', *(
                         _figure(one) for one in written.figures))
    self.out, self.rows = out, rows
    self.findings, self.problems = written.findings, written.problems

  def __fspath__(self) -> str:
    return self.out


def read_sweep(out: str) -> Sweep:
  """Writes the report of a sweep's folder; UserError if it has no results."""
  from dss_jax.experiments import report
  found, written = report.write(out)
  return Sweep(out, found.rows, written)


def show(thing: Any, rows: int = 5) -> Shown:
  """See `dss_jax.show`."""
  if isinstance(thing, Sequence) and not isinstance(thing, str):
    return _predictions(thing[:rows], len(thing))
  if not isinstance(thing, str | os.PathLike):
    raise errors.UserError(f'show: {type(thing).__name__} is nothing that can be shown: give what '
                           'teach, train, sweep or predict returned, or its folder')
  path = os.fspath(thing)
  for name, view in (('manifest.json', _records), ('run.json', _run), ('sweep.json', _sweep)):
    if os.path.exists(os.path.join(path, name)):
      return view(path, rows)
  raise errors.UserError(f'show: {path} holds no records, no run and no sweep: give what teach, '
                         'train, sweep or predict returned, or its folder')


def _records(records_dir: str, rows: int) -> Shown:
  """The first rows of each set."""
  header = ('id', 'input', 'label', "teacher's label", 'rationale', 'status')
  parts, lines = [], []
  for name in records.set_names(records_dir):
    dataset, _, split = name.rpartition('-')
    found = [(one.id, one.input, one.label, one.teacher_label, one.rationale, one.parse_status)
             for one, _ in zip(records.read_records(records_dir, dataset, split), range(rows))]
    parts.append(f'<h4>{html.escape(name)}</h4>{page.table(header, found, len(header))}')
    lines += [name, *_listed(header, found)]
  return Shown('\n'.join(lines), *parts)


def _run(model_dir: str, rows: int) -> Shown:
  """The training curves, the test, and test inputs on which the student was wrong."""
  from dss_jax.experiments import curves
  parts = []
  if figure := curves.draw_run(model_dir):
    parts.append(_figure(figure))
  measured = [(name, f'{value:.4g}') for name, value in _measured(model_dir).items()]
  lines = [f'{name}: {value}' for name, value in measured]
  parts.append(page.table(('metric', ''), measured))
  header = ('id', 'input', 'right answer', 'student')
  for task, answers in _answers(model_dir).items():
    wrong = [(one['input'].get('id', ''), one['input']['text'], str(one['target']),
              str(one.get('prediction', one.get('output', ''))))
             for one in answers if one['target'] != one.get('prediction', one['target'])]
    title = f'{task}: {len(wrong)} of {len(answers)} test rows wrong'
    lines += [title, *_listed(header, wrong[:rows])]
    parts.append(f'<h4>{html.escape(title)}</h4>' + page.table(header, wrong[:rows], len(header)))
  return Shown('\n'.join(lines), *parts)


def _figure(one: page.Figure) -> str:
  """No wider than the column that shows it."""
  svg = one.svg.replace('<svg ', '<svg style="max-width: 100%; height: auto" ', 1)
  return page.figure(one.title, one.caption, svg)


def _sweep(out: str, rows: int) -> Shown:
  del rows
  return read_sweep(out)


def _predictions(predictions: 'Sequence[Prediction]', count: int) -> Shown:
  header = ('label', 'probability', *(['rationale'] if any(
      one.rationale is not None for one in predictions) else []))
  found = [(one.label, f'{one.probability:.3f}', one.rationale or '')[:len(header)]
           for one in predictions]
  return Shown('\n'.join([*_listed(header, found), f'{len(predictions)} of {count}']),
               page.table(header, found, len(header)))


def _measured(model_dir: str) -> dict[str, float]:
  """The last metrics of validation and, of a finished run, those of test."""
  from dss_jax.experiments import curves
  found = {name: points[-1][1] for name, points in curves.read(
      os.path.join(model_dir, 'metrics.jsonl')).items() if name.startswith('validation/')}
  path = os.path.join(model_dir, 'test_metrics.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      found |= {f'test/{name}': value for name, value in json.load(f)['metrics'].items()}
  return found


def _answers(model_dir: str) -> dict[str, list[dict[str, Any]]]:
  """Task -> what the student wrote for the rows of test."""
  found = {}
  for path in sorted(glob.glob(os.path.join(
      glob.escape(model_dir), 'predictions', 'test', '*-[0-9]*.jsonl'))):
    task, _, _ = os.path.basename(path).rpartition('-')
    with open(path, encoding='utf-8') as f:
      found[task] = [json.loads(line) for line in f]
  return found


def _listed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Each row as lines 'name: value', as wide texts are read in a terminal."""
  width = max(map(len, header))
  return [line for row in rows for line in (
      *(f'  {name:>{width}}: {value}' for name, value in zip(header, row, strict=True)), '')]


