"""`dss inspect`: rows of a task as the student sees them, or a page about all.

For each row: the record, the text of each task, its tokens, and where packing puts it; then
the packed row decoded back. With the flags of `dss train` all is as that run has it. With --html,
one page about every record set of the folder: lengths and what would be cut, labels, failures,
duplicates, train inputs in test, the teacher's accuracy; what rationales hold of thoughts, Markdown
and the label itself.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax import arguments, cli, datasets, errors, files
from dss_jax.data import settings as data_settings
from dss_jax.train import __main__ as train_main

_EPILOG = """\
examples:
  dss inspect --task=dss_cqa --records_dir=records --vocabulary=cqa.model --rows=2
  dss inspect --method=dss --dataset=cqa --records_dir=records --gin.SHARED_ENCODER=True
  dss inspect --html=records.html --records_dir=records --vocabulary=cqa.model
"""

_READ = 'decoder_cross_segment_ids'  # In rows of SHARED_ENCODER: the inputs that a target reads.


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the rows."""
  args, bindings = arguments.parse_with_gin(parser(), argv)
  if args.method or args.gin_file:
    return _inspect_run(args, bindings)
  if bindings or args.dataset:
    raise errors.UserError('of which run? Give --method=dss, or --gin_file=FILE')
  with cli.flags_named(vars(args)):
    return _inspect(args)


def _inspect_run(args: argparse.Namespace, bindings: Sequence[str]) -> int:
  if args.task or args.html:
    raise errors.UserError('--task and --html are of records, whatever the run: leave them out, or '
                           '--method and --gin_file')
  train_main.check_run_flags(args)
  _check_split(args)
  cli.import_tasks(args.modules)
  given = {'RECORDS_DIR': args.records_dir, 'VOCABULARY': args.vocabulary}
  bindings = [*(f'{name}={value}' for name, value in given.items() if value), *bindings]
  config = train_main.config_of(args, bindings, '(not set)')
  cli.import_quietly('dss_jax.train.loop')
  from dss_jax.train import gin_config, loop
  with gin_config.macros_named():
    config, said = loop.prepare_data(config)
    for line in show(config.data.mixture_or_task, args.split, args.rows,
                     dict(config.data.feature_lengths), config.data.pack):
      print(line)
  if not config.data.pack:
    said = 'PACK=False: each example is a row of its own'
  if said:
    print(f'\n{said}')
  return 0


def _inspect(args: argparse.Namespace) -> int:
  if not args.task and not args.html:
    raise errors.UserError('give --task, such as --task=dss_cqa, a run, such as --method=dss '
                           '--dataset=cqa, or --html=FILE')
  cli.import_tasks(args.modules)
  _check(args)
  cli.import_quietly('dss_jax.data.registration')
  from dss_jax import data
  chosen = {'vocabulary': args.vocabulary} if args.vocabulary else {}
  data.configure(records_dir=args.records_dir or '', **chosen)
  lengths = {'inputs': args.inputs_length, 'targets': args.targets_length}
  if args.html:
    return _page(args, lengths)
  for line in show(args.task, args.split, args.rows, lengths):
    print(line)
  return 0


def _check(args: argparse.Namespace) -> None:
  """UserError for what is wrong whatever the records hold; TensorFlow is loaded after it."""
  from dss_jax import records
  if args.html:
    files.check_writable_file('--html', args.html)
  elif not args.modules and datasets.of_task(args.task) is None:
    raise datasets.unknown_task(args.task, set().union(*map(datasets.seqio_names,
                                                            datasets.names())))
  if args.html or datasets.of_task(args.task):
    records.check_folder(data_settings.DataSettings(records_dir=args.records_dir or '').folder())
  _check_split(args)


def _check_split(args: argparse.Namespace) -> None:
  if args.split not in datasets.SPLITS:
    raise errors.UserError(
        f'--split={args.split}: {errors.did_you_mean(args.split, datasets.SPLITS)}')


def _page(args: argparse.Namespace, lengths: dict[str, int]) -> int:
  from dss_jax.inspect import page
  problems = page.write(args.html, data_settings.records_dir(), lengths, args.vocabulary or '')
  print('\n'.join([*problems, f'page: {args.html}']))
  return 0


def show(task: str, split: str, rows: int, lengths: dict[str, int], pack: bool = True
         ) -> Iterator[str]:
  """The lines to print.

  Args:
    task: a registered task or mixture.
    split: 'train', 'validation' or 'test'.
    rows: how many records, and how many packed rows.
    lengths: {'inputs': ..., 'targets': ...} of a packed row.
    pack: whether to show any.

  Raises:
    UserError: an unknown task, no records, or an empty split.
  """
  from dss_jax.data import checks, pipeline
  provider = pipeline.get_mixture_or_task(task)
  vocabulary = provider.output_features['inputs'].vocabulary
  raw = _records(task, split, rows)
  examples = list(_examples(provider, split, rows))
  if not examples:
    checks.measure(task, split, sample=1)  # Says why.
  for record in raw:
    if record.sample:
      yield (f'{f"sample {record.sample}":>13}: {record.rationale!r} -> {record.teacher_label!r} '
             f'({record.teacher_model})')
      continue
    yield _heading(f'record {record.id}  ({record.dataset}-{record.split})')
    for field in ('input', 'label', 'teacher_label', 'rationale', 'parse_status', *record.extra):
      yield f'{field:>13}: {record.field(field)!r}'
    for name, example in examples:
      if example['id'] == record.id.encode():
        yield f'  {name}'
        for side in ('inputs', 'targets'):
          yield f'{side:>13}: {_pieces(vocabulary, example[side])}'
  if pack:
    yield from _packed(task, split, rows, lengths, vocabulary)


def _records(task: str, split: str, rows: int) -> list[Any]:
  """Of so many inputs, with all samples."""
  from dss_jax import records
  from dss_jax.data import pipeline, settings
  found: list[Any] = []
  for one in pipeline.record_sets(task, split, verify=True):
    dataset, _, _ = one.name.rpartition('-')
    for record in records.read_records(settings.records_dir(), dataset, split, samples=True):
      rows -= not record.sample
      if rows < 0:
        return found
      found.append(record)
  return found


def _examples(provider, split: str, rows: int) -> Iterator[tuple[str, dict[str, Any]]]:
  import seqio
  for task in seqio.get_subtasks(provider):
    ds = task.get_dataset(None, split=split, shuffle=False, num_epochs=1)
    for example in ds.take(rows + 8).as_numpy_iterator():  # A few records may be left out.
      yield task.name, example


def _packed(task, split, rows, lengths, vocabulary) -> Iterator[str]:
  from dss_jax import objective
  from dss_jax.data import pipeline, settings
  names = [row.name for row in settings.current().table()]
  packed = pipeline.make_dataset(
      task, split, lengths, pack=True, shuffle=False, seed=0, num_epochs=1).take(rows)
  for number, row in enumerate(packed.as_numpy_iterator()):
    segments = int(row['decoder_segment_ids'].max())
    filled = {side: int((row[key] > 0).sum()) for side, key in (
        ('inputs', 'encoder_segment_ids'), ('targets', 'decoder_segment_ids'))}
    yield _heading(f'packed row {number}: {segments} examples, ' + ', '.join(
        f'{side} {count}/{lengths[side]} tokens' for side, count in filled.items()))
    for segment in range(1, segments + 1):
      inside = row['decoder_segment_ids'] == segment
      tasks = objective.task_of(row['decoder_objective'][inside])
      learnt = tasks != objective.PADDING  # Not what the decoder is given, of SHARED_ENCODER.
      read = row[_READ][inside][0] if _READ in row else segment
      source = row['encoder_input_tokens'][row['encoder_segment_ids'] == read]
      target = row['decoder_target_tokens'][inside]
      given = f"{vocabulary.decode(target[~learnt].tolist())!r} " if _READ in row else ''
      yield (f'{segment:>5} {names[tasks[learnt][0] - 1]:<9} '
             f'{vocabulary.decode(source.tolist())!r} -> {given}'
             f'{vocabulary.decode(target[learnt].tolist())!r}')


def _pieces(vocabulary, ids) -> str:
  """'12▁a 57▁bird 1</s>': ids with their pieces, where the vocabulary has pieces."""
  tokenizer = getattr(vocabulary, 'tokenizer', None)
  if tokenizer is None:
    return ' '.join(str(i) for i in ids)
  return ' '.join(f'{i}{tokenizer.id_to_piece(int(i))}' for i in ids)


def _heading(text: str) -> str:
  return f'\n=== {text} ' + '=' * max(0, 90 - len(text))


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('inspect'), description=__doc__.partition(': ')[2], epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--task', help='a task or mixture, e.g. dss_cqa or cqa_finetune')
  train_main.run_flags(parser.add_argument_group(
      'a run, in place of --task', 'the flags of `dss train`').add_argument)
  add('--html', metavar='FILE', help='write a page about all record sets instead')
  add('--split', default='train', help='train (default), validation or test')
  add('--rows', type=_count, default=3, help='records and packed rows to show (default: 3)')
  add('--records_dir', default=os.environ.get('DSS_DATA_DIR'), metavar='DIR',
      help='folder of the records (default: $DSS_DATA_DIR)')
  add('--vocabulary', metavar='PATH', help="a SentencePiece model or 'bytes' (default: T5's)")
  add('--inputs_length', type=_count, default=1024,
      help='of a packed row, with --task (default: 1024)')
  add('--targets_length', type=_count, default=256,
      help='of a packed row, with --task (default: 256)')
  add('--import', dest='modules', action='append', default=[], metavar='MODULE',
      help='a module that registers tasks of your own; may be repeated')
  return parser


def _count(text: str) -> int:
  if not text.isdigit() or int(text) < 1:
    raise errors.UserError(f'{text!r} is not a whole number of at least 1')
  return int(text)


if __name__ == '__main__':
  cli.run(main)
