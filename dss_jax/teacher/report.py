"""What the teacher job prints when it is done."""

import collections
import os
from collections.abc import Sequence

from dss_jax import datasets, metrics, records
from dss_jax.teacher import job, parsing


def accuracy(
    dataset: datasets.Dataset, rows: Sequence[records.RationaleRecord]
) -> dict[str, float]:
  """The teacher's labels by the student's metrics, in percent; {} if no row has a gold label.

  A failed row counts as wrong: its teacher label is ''.
  """
  scored = [row for row in rows if row.label]
  if not scored or all(row.parse_status == parsing.NO_TEACHER for row in scored):
    return {}
  values: dict[str, float] = {}
  for metric in metrics.for_dataset(dataset):
    values.update(metric([row.label for row in scored], [row.teacher_label for row in scored]))
  return values


def render(outcome: job.Outcome) -> str:
  """The report as text.

  teacher 'recorded', strict parser
  set              rows     ok  failed  gold labels  accuracy
  cqa-train        8766   8763       3         8766     76.92
  cqa-validation    975    975       0          975     75.90
  all              9741   9738       3         9741     76.82
  failed rows, by reason (left out of rationale and teacher-label tasks):
         3  unknown_choice: the answer names none of the choices
  wrote records/cqa-train.tfrecord-*-of-00016
  """
  name = outcome.dataset.name
  sets = {f'{name}-{split}': rows for split, rows in outcome.splits.items()}
  everything = [row for rows in sets.values() for row in rows]
  teacher = f'teacher {outcome.teacher_model!r}, {outcome.parser} parser'
  lines = [teacher if outcome.teacher_model else 'no teacher: gold labels only']
  table = [_row(outcome.dataset, title, rows) for title, rows in sets.items()]
  if len(sets) > 1:
    table.append(_row(outcome.dataset, 'all', everything))
  lines += _align(table)
  lines += _failures(everything)
  for split, shards in outcome.shards.items():
    path = os.path.join(outcome.records_dir, f'{name}-{split}.tfrecord-*-of-{shards:05d}')
    lines.append(f'wrote {path}')
  return '\n'.join(lines)


def _row(
    dataset: datasets.Dataset, title: str, rows: Sequence[records.RationaleRecord]
) -> dict[str, str]:
  counts = collections.Counter(row.parse_status for row in rows)
  ok, asked = counts[records.PARSED], len(rows) - counts[parsing.NO_TEACHER]
  return {
      'set': title,
      'rows': str(len(rows)),
      **({'ok': str(ok), 'failed': str(asked - ok)} if asked else {}),
      'gold labels': str(sum(bool(row.label) for row in rows)),
      **{key: f'{value:.2f}' for key, value in accuracy(dataset, rows).items()},
  }


def _align(table: Sequence[dict[str, str]]) -> list[str]:
  columns = list(dict.fromkeys(key for row in table for key in row))
  cells = [columns] + [[row.get(column, '-') for column in columns] for row in table]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return ['  '.join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in
                                                 zip(row[1:], widths[1:], strict=True)])
          for row in cells]


def _failures(rows: Sequence[records.RationaleRecord]) -> list[str]:
  counts = collections.Counter(
      row.parse_status for row in rows if row.parse_status != records.PARSED)
  counts.pop(parsing.NO_TEACHER, None)  # The first line has said so.
  if not counts:
    return []
  return ['failed rows, by reason (left out of rationale and teacher-label tasks):'] + [
      f'{count:>8}  {reason}: {parsing.REASONS.get(reason, "")}'
      for reason, count in counts.most_common()]
