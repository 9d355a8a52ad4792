"""What the teacher job prints when it is done."""

import os
from collections.abc import Mapping, Sequence

from dss_jax import records
from dss_jax.teacher import job
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.read import parsing

_FAR_FEWER = 0.9  # of the rows that had parsed before


def render(outcome: job.Outcome) -> str:
  """The report as text.

  teacher 'recorded', strict parser
  set              rows     ok  failed  gold labels  accuracy
  cqa-train        8766   8763       3         8766     76.92
  cqa-validation    975    975       0          975     75.90
  all              9741   9738       3         9741     76.82
  failed rows, by reason (left out of rationale and teacher-label tasks):
         3  unknown_choice: the answer names none of the choices
         read them: records/quarantine/cqa-train.jsonl
  wrote records/cqa-train.tfrecord-*-of-00016
  """
  name = outcome.dataset.name
  sets = {f'{name}-{split}': part for split, part in outcome.splits.items()}
  everything = summary_lib.total(list(sets.values()))
  teacher = f'teacher {outcome.teacher_model!r}, {outcome.parser} parser'
  lines = [teacher if outcome.teacher_model else 'no teacher: gold labels only']
  if everything.samples > everything.asked:
    lines.append(f'{everything.samples / everything.asked:.2f} completions a row, '
                 f'{everything.voting / everything.asked:.2f} of them with the row\'s label')
  if everything.records:
    lines.append(f'{everything.records:,} records of {everything.rows:,} inputs: samples are kept')
  if counted := everything.weighed + everything.unweighed:
    lines.append(f'{everything.weighed:,} of {counted:,} labels have probabilities '
                 '(--label_logprobs)' + '; the others count whole: there are none with the answer, '
                 'or the label is not among the tokens' * bool(everything.unweighed))
  table = [_row(title, part) for title, part in sets.items()]
  if len(sets) > 1:
    table.append(_row('all', everything))
  lines += _align(table)
  lines += _failures(everything.status)
  lines += [f'         read them: {path}' for path in outcome.quarantine.values()]
  if everything.completion_tokens:
    lines.append(f'tokens: {everything.prompt_tokens:,} read by the teacher, '
                 f'{everything.completion_tokens:,} written')
  lines += [outcome.paid] if outcome.paid else []
  for split, shards in outcome.shards.items():
    path = os.path.join(outcome.records_dir, f'{name}-{split}.tfrecord-*-of-{shards:05d}')
    lines.append(f'wrote {path}')
  lines += [*_losses(outcome), *outcome.doubts]
  return '\n'.join(lines)


def _losses(outcome: job.Outcome) -> list[str]:
  """What a reader of the table cannot see: the set that is gone was a better one."""
  lines = []
  for split, before in outcome.replaced.items():
    now = outcome.splits[split].status.get(records.PARSED, 0)
    if now < _FAR_FEWER * before:
      lines.append(f'WARNING: {outcome.dataset.name}-{split} replaces a set in which {before} rows '
                   f'had parsed; now {now} have')
  return lines


def _row(title: str, part: summary_lib.Summary) -> dict[str, str]:
  ok = part.status.get(records.PARSED, 0)
  return {
      'set': title,
      'rows': str(part.rows),
      **({'ok': str(ok), 'failed': str(part.asked - ok)} if part.asked else {}),
      'gold labels': str(part.gold),
      **{key: f'{value:.2f}' for key, value in part.accuracy.items()},
  }


def _align(table: Sequence[dict[str, str]]) -> list[str]:
  columns = list(dict.fromkeys(key for row in table for key in row))
  cells = [columns] + [[row.get(column, '-') for column in columns] for row in table]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return ['  '.join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in
                                                 zip(row[1:], widths[1:], strict=True)])
          for row in cells]


def _failures(status: Mapping[str, int]) -> list[str]:
  # The first line has said it of rows without a teacher.
  counts = {reason: count for reason, count in status.items()
            if reason not in (records.PARSED, parsing.NO_TEACHER)}
  if not counts:
    return []
  return ['failed rows, by reason (left out of rationale and teacher-label tasks):'] + [
      f'{count:>8}  {reason}: {parsing.REASONS.get(reason, "")}'
      for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
