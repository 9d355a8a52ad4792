"""`dss pretrain`: T5's span corruption on text of your own, before the method.

Text becomes a set of records without labels; what is then trained is a run like any other.
"""

import argparse
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from dss_jax import arguments, cli, datasets, errors, fields, files, records, rows, valid
from dss_jax.records import manifest

_FILE = 'gin/native/pretrain.gin'
_FIELDS = ('input', 'text')  # of a row, whichever it has
_SOURCE = 'written by dss pretrain'


class Texts(NamedTuple):
  """Texts to pretrain on.

  Attributes:
    number: of them, blank ones included.
    read: walks through them.
    sha256: of where they are.
  """

  number: int
  read: Callable[[], Iterator[str]]
  sha256: str


def of_files(paths: Sequence[str], columns: Mapping[str, str] | None = None) -> Texts:
  """The field `input`, or else `text`, of the rows of files, see `rows.Rows`; of .txt the lines.

  Raises:
    UserError: a file that cannot be read, or a row without either field; named when it is read.
  """
  found = [rows.Rows(path, '--inputs', columns) for path in paths]

  def read() -> Iterator[str]:
    for one in found:
      for number, row in enumerate(one):
        yield _text(row, one, number)
  return Texts(sum(map(len, found)), read, _sha256(one.sha256 for one in found))


def of_sets(records_dir: str, names: Sequence[str]) -> Texts:
  """The inputs of record sets such as 'cqa-train'; UserError if one is not there."""
  pairs = [name.rpartition('-')[::2] for name in names]
  found = [records.find_set(records_dir, *pair) for pair in pairs]

  def read() -> Iterator[str]:
    for pair in pairs:
      for record in records.read_records(records_dir, *pair):
        yield record.input
  return Texts(sum(one.num_records for one in found), read,
               _sha256(shard['sha256'] for one in found for shard in one.entry['shards']))


def _sha256(parts: Iterator[str]) -> str:
  return hashlib.sha256(' '.join(parts).encode()).hexdigest()


def _text(row: Any, of: rows.Rows, number: int) -> str:
  if isinstance(row, str):
    return row
  name = next((one for one in _FIELDS if isinstance(row, Mapping) and one in row), None)
  if name is None:
    raise errors.UserError(
        f'{of.where(number)}: no field input or text: name the column that holds the text, '
        '--columns=input=COLUMN')
  return '' if row[name] is None else fields.as_text(row[name], f'{of.where(number)}: {name}')


def write(texts: Texts, records_dir: str, dataset: str, holdout: float) -> dict[str, int]:
  """Writes `<dataset>-train` and `<dataset>-validation`, unless they are there.

  A text is held out by a hash of itself, so the same text is never in both. Blank ones are left
  out.

  Args:
    texts: what to write.
    records_dir: folder of the sets.
    dataset: their name.
    holdout: share of the texts that validation gets, in [0, 1); 0 writes no validation.

  Returns: texts in each set.

  Raises:
    UserError: no text for one of them.
  """
  made_from = {'texts_sha256': texts.sha256, 'holdout': holdout}
  splits = ('train', 'validation') if holdout else ('train',)
  entries = [manifest.entry_of(records_dir, f'{dataset}-{split}') for split in splits]
  if not all(entry and entry.get('made_from') == made_from for entry in entries):
    entries = [_write(texts, records_dir, dataset, split, made_from) for split in splits]
  return {split: entry['num_records'] for split, entry in zip(splits, entries) if entry}


def _write(texts: Texts, records_dir: str, dataset: str, split: str, made_from: Mapping[str, Any]
           ) -> dict[str, Any]:
  staging = os.path.join(records_dir, f'.{dataset}-{split}.writing-{os.getpid()}')
  bounds = records.shard_bounds(texts.number, None if split == 'train' else 1)
  read, held = texts.read(), split == 'validation'

  def made(number: int) -> Iterator[records.RationaleRecord]:
    for text in itertools.islice(read, number):
      row_id = datasets.made_id(text)
      if text.strip() and held == (int(row_id[-8:], 16) < made_from['holdout'] * 2**32):
        fields.check_unicode(text, f'text {row_id}')
        yield records.RationaleRecord(
            id=row_id, input=text, dataset=dataset, split=split, parse_status='text')
  try:
    shards = [
        records.stage_shard(staging, records.shard_name(dataset, split, i, len(bounds)),
                            made(end - start)) for i, (start, end) in enumerate(bounds)]
    if not (written := sum(shard.records for shard in shards)):
      raise errors.UserError(
          f'none of {texts.number:,} texts is for {split}: '
          + ('raise --holdout, or take --holdout=0 and no evaluation' if held else 'give more'))
    return records.publish(records_dir, dataset, split, staging, shards, counts={'text': written},
                           provenance={'made_from': dict(made_from)})
  finally:
    epath.Path(staging).rmtree(missing_ok=True)


def parser() -> argparse.ArgumentParser:
  """Its flags, but those of gin."""
  parser = argparse.ArgumentParser(
      prog=cli.program('pretrain'), formatter_class=argparse.RawDescriptionHelpFormatter,
      description="""\
T5's span corruption on text of your own, then the method from its checkpoint. For students from
scratch: public T5 weights (INITIAL_CHECKPOINT_PATH) have seen far more text.
""", epilog="""\
examples:
  # A vocabulary and a student of this text, then Distilling Step-by-Step from it:
  dss pretrain --inputs=articles.txt --records_dir=records --data_only
  dss vocab --records_dir=records --output=own.model
  dss pretrain --inputs=articles.txt --records_dir=records --gin_file=gin/native/tiny.gin \\
      --gin.OPTIMIZER=adamw --gin.SCHEDULE=cosine --gin.VOCABULARY=own.model \\
      --gin.MODEL_DIR=runs/pretrained
  dss train --method=dss --dataset=cqa --gin_file=gin/native/tiny.gin --gin.RECORDS_DIR=records \\
      --gin.INITIAL_CHECKPOINT_PATH=runs/pretrained --gin.MODEL_DIR=runs/dss

  # On the inputs of records; on a column of a table; more of T5's own pretraining:
  dss pretrain --sets cqa-train svamp-train --records_dir=records ...
  dss pretrain --inputs='wiki/*.parquet' --columns=input=body ...
  dss pretrain ... --gin.INITIAL_CHECKPOINT_PATH=google/t5-v1_1-small

The settings are T5's (gin/native/pretrain.gin): Adafactor at 1/sqrt(step). A student of a few
million parameters and a few thousand steps wants AdamW, as above. All macros of
`dss train --help` may be given; starting the same command again resumes.
""")
  parser.add_argument('--inputs', action='append', default=[], metavar='FILE',
                      help='text: JSON lines, CSV, TSV, Parquet, .txt (a line is a text), a glob, '
                           'hf://OWNER/NAME:SPLIT; may be repeated')
  parser.add_argument('--columns', metavar='input=COLUMN',
                      help='of a table whose text is neither in input nor in text')
  parser.add_argument('--sets', nargs='*', default=[], metavar='SET',
                      help='inputs of record sets, e.g. cqa-train, instead of files')
  parser.add_argument('--records_dir', default=os.environ.get('DSS_DATA_DIR'), metavar='DIR',
                      help='where the text is written as records (default: $DSS_DATA_DIR)')
  parser.add_argument('--dataset', default='text', metavar='NAME',
                      help='of the sets NAME-train and NAME-validation (default: text)')
  parser.add_argument('--holdout', type=float, default=0.05, metavar='SHARE',
                      help='of the texts that validation gets, by hash (default: 0.05)')
  parser.add_argument('--data_only', action='store_true', help='write the sets and stop')
  parser.add_argument('--gin_file', action='append', default=[], metavar='FILE',
                      help=f'after {_FILE}; may be repeated')
  parser.add_argument('--gin.NAME', dest='_shown_only', metavar='VALUE', help='see dss train')
  parser.add_argument('--import', dest='modules', action='append', default=[], metavar='MODULE',
                      help='as of dss train')
  parser.add_argument('--print_config', action='store_true',
                      help='print the resolved gin config and stop')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, writes the sets, trains."""
  args, bindings = arguments.parse_with_gin(parser(), argv)
  if bool(args.inputs) == bool(args.sets):
    raise errors.UserError('pretrain on what? Give --inputs=FILE, or --sets SET')
  if not args.records_dir:
    raise errors.UserError('--records_dir is not set (and DSS_DATA_DIR is not either)')
  valid.number(lambda x: 0 <= x < 1, 'in [0, 1)', **{'--holdout': args.holdout})
  files.check_writable('--records_dir', args.records_dir)
  cli.import_tasks(args.modules)
  _describe(args.dataset)
  texts = (of_files(args.inputs, rows.parse_columns(args.columns, known=_FIELDS)) if args.inputs
           else of_sets(args.records_dir, args.sets))
  counts = write(texts, args.records_dir, args.dataset, args.holdout)
  print(f'{args.records_dir}: ' + ', '.join(
      f'{count:,} texts in {args.dataset}-{split}' for split, count in counts.items()), flush=True)
  if args.data_only:
    return 0
  from dss_jax.train import __main__ as train
  own = {'MIXTURE_OR_TASK_NAME': f'{args.dataset}_pretrain', 'RECORDS_DIR': args.records_dir,
         'DSS_ALPHA': 1.0, **({} if args.holdout else {'EVAL_PERIOD': 0})}
  return train.main([
      *(f'--gin_file={path}' for path in (_FILE, *args.gin_file)),
      *(f'--import={module}' for module in args.modules),
      *(['--print_config'] if args.print_config else []),
      *(f'--gin.{name}={value}' for name, value in own.items()),
      *(f'--gin.{binding}' for binding in bindings)])


def _describe(name: str) -> None:
  """Makes the dataset known; UserError if it is another's name."""
  from dss_jax import data
  if name in datasets.names() and datasets.get(name).source != _SOURCE:
    raise errors.UserError(f'--dataset={name} has records of its own, which these would replace: '
                           'give another name')
  with datasets.described_only():
    data.register(name, source=_SOURCE)


if __name__ == '__main__':
  cli.run(main)
