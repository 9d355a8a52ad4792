"""`dss merge`: several teachers' records, as samples of the same inputs.

Records are joined by id; an id that has different inputs is refused. The samples of an input that
parsed are numbered anew: the first folder's, then the next one's, each with its teacher's name.
Sample 0, whose label is the teacher's label in training, is the first of them, so that of the first
folder named which has an answer. Votes over labels are added up where every folder that has the
input has them.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import arguments, cli, errors, files, records, valid

_SHOWN = 5  # rows in a message

_EPILOG = """\
example:
  dss merge records-a records-b --output=records
  dss train ... --gin.RECORDS_DIR=records --gin.RATIONALE_SAMPLES=all"""


def merge(
    folders: Sequence[str], output: str, *, num_shards: int | None = None
) -> dict[str, dict[str, Any]]:
  """Writes every set that one of the folders has, of schema 2.

  Args:
    folders: of records, of either schema; the first one's teacher is asked first.
    output: another folder; its sets of the same names are replaced.
    num_shards: files per set; None as `write_records` has it.

  Returns: the sets' manifest entries, by name.

  Raises:
    UserError: fewer than two folders, or `output` among them; no records; rows of one id with
      different inputs or gold labels, whose ids are named.
  """
  if len(folders) < 2:
    raise errors.UserError('give two folders of records or more: dss merge A B --output=C')
  if files.real(output) in map(files.real, folders):
    raise errors.UserError(f'--output={output} is one of the folders: name another one')
  for folder in folders:
    records.check_folder(folder)
  names = {name: None for folder in folders for name in records.set_names(folder)}
  joined = {name: _join(folders, name) for name in names}  # All, before anything is written.
  _check_splits(folders)
  return {name: _write(output, name, *found, num_shards) for name, found in joined.items()}


_Input = list[records.RationaleRecord]  # all records of an input in a folder


def _join(folders: Sequence[str], name: str) -> tuple[list[Any], dict[str, list[_Input]]]:
  """The teachers of a set in the folders that have it, and id -> its records in each of them.

  Raises:
    UserError: an id has different inputs or gold labels.
  """
  dataset, _, split = name.rpartition('-')
  teachers, wrong = [], []
  inputs: dict[str, list[_Input]] = {}
  for folder in folders:
    if name not in records.set_names(folder):
      continue
    teachers.append(records.find_set(folder, dataset, split).entry.get('teacher', {}))
    for row in records.read_records(folder, dataset, split, samples=True, verify=True):
      known = inputs.setdefault(row.id, [])
      if row.sample:
        known[-1].append(row)
        continue
      if known and (differs := _difference(row, known)):
        wrong.append(f'{row.id!r} ({differs} in {folder} and before)')
      known.append([row])
  if wrong:
    raise errors.UserError(
        f'{name}: {len(wrong)} ids are not of the same input in all folders: '
        f'{", ".join(wrong[:_SHOWN])}{", ..." if len(wrong) > _SHOWN else ""}; merge records that '
        'were made of the same rows')
  return teachers, inputs


def _check_splits(folders: Sequence[str]) -> None:
  """UserError for a row that is in another split of another folder: it would be in both."""
  seen: dict[tuple[str, str, str], dict[str, str]] = {}  # row -> set -> folder
  for folder in folders:
    for name in records.set_names(folder):
      dataset, _, split = name.rpartition('-')
      leaked = []
      for row in records.read_records(folder, dataset, split):
        places = seen.setdefault((dataset, row.id, row.input), {})
        if places and name not in places and folder not in places.values():
          leaked.append((row.id, *next(iter(places.items()))))
        places.setdefault(name, folder)
      if leaked:
        key, other, there = leaked[0]
        raise errors.UserError(
            f'{name}: {len(leaked)} rows of {folder}, such as {key!r}, are in {other} of {there}: '
            'merge records that were divided into the same splits')


def _difference(row: records.RationaleRecord, known: Sequence[_Input]) -> str:
  """'input 'x' and 'y'', or of the gold labels where both are known; ''."""
  if row.input != (there := known[0][0].input):
    return f'input {row.input[:60]!r} and {there[:60]!r}'
  label = _gold(known)
  return f'label {row.label!r} and {label!r}' if row.label and label not in ('', row.label) else ''


def _gold(found: Sequence[Sequence[records.RationaleRecord]]) -> str:
  """The gold label that one of the folders has."""
  return next((rows[0].label for rows in found if rows[0].label), '')


def _write(output: str, name: str, teachers: Sequence[Mapping[str, Any]],
           inputs: Mapping[str, Sequence[_Input]], num_shards: int | None) -> dict[str, Any]:
  dataset, _, split = name.rpartition('-')
  usage = [one['usage'] for one in teachers if 'usage' in one]
  teacher = {
      'client': 'merge', 'merged': teachers,
      'model': ' + '.join(dict.fromkeys(filter(None, (one.get('model') for one in teachers)))),
      **({'usage': {key: sum(one.get(key, 0) for one in usage) for key in usage[0]}}
         if usage else {})}
  return records.write_records(
      output, dataset, split, [row for found in inputs.values() for row in samples_of(found)],
      num_shards=num_shards, provenance={'teacher': teacher})


def samples_of(found: Sequence[Sequence[records.RationaleRecord]]
               ) -> list[records.RationaleRecord]:
  """The records of one input in each folder -> its samples in the merged set.

  Where none parsed, the first record stands for the input, with the reason. A gold label or an
  extra field that a folder lacks is taken from another. Token distributions are left out: each
  folder's are of another teacher.
  """
  label = _gold(found)
  everything = [row for rows in found for row in rows]
  extra = {name: text for row in reversed(everything) for name, text in row.extra.items() if text}
  parsed = [row for row in everything if row.parse_status == records.PARSED]
  votes = [rows[0].label_votes for rows in found]
  added = tuple(map(sum, zip(*votes))) if len({len(one) for one in votes}) == 1 else ()
  return records.numbered(
      [dataclasses.replace(row, label=label, extra=extra, distributions={})
       for row in parsed or everything[:1]],
      added)


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('merge'), description=__doc__.partition(': ')[2], epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folders', nargs='+', metavar='DIR',
                      help="folders of records; teacher_label is the first one's")
  parser.add_argument('--output', required=True, metavar='DIR', help='where the merged sets go')
  parser.add_argument('--num_shards', type=int, metavar='N',
                      help='files per set (default: one for each 100 inputs, 16 at most)')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Merges, and says what each set holds."""
  args = arguments.parse(parser(), argv)
  if args.num_shards is not None:
    valid.whole(1, **{'--num_shards': args.num_shards})
  files.check_writable('--output', args.output)
  for name, entry in merge(args.folders, args.output, num_shards=args.num_shards).items():
    print(f"{os.path.join(args.output, name)}: {entry['num_records']:,} records of "
          f"{entry['num_inputs']:,} inputs, at most {entry['max_samples']} of one")
  return 0


if __name__ == '__main__':
  cli.run(main)
