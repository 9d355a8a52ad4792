"""`dss predict`: a trained student's answers to a file of inputs."""

import argparse
import csv
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import (
  arguments,
  classes,
  cli,
  datasets,
  errors,
  fields,
  files,
  metrics,
  ranking,
  valid,
)
from dss_jax import rows as rows_lib
from dss_jax.predict import options as options_lib
from dss_jax.predict import stream

if TYPE_CHECKING:
  from dss_jax import student_info

_DESCRIPTION = """\
Predict labels (and rationales) for a file of inputs. The same command again goes on where a
killed one stopped.
"""
_EPILOG = """\
examples:
  dss predict --model_dir=runs/dss_cqa --input=new.jsonl --output=answers.jsonl

  # In the terminal:
  dss predict --model_dir=runs/dss_cqa --text='Where do birds live?'

  # With the rationale, and five sampled answers:
  dss predict ... --rationale --samples=5 --temperature=0.7

  # A closed label set: score every label instead of decoding.
  dss predict ... --rank --labels=entailment,neutral,contradiction

input:   rows with `input` (as in training, no prefix), and optionally `id`, `label` (gold) and
         `labels` (the choices of --rank); rows of a registered dataset with --dataset=cqa. As JSON
         lines, a JSON list, CSV, TSV or Parquet, also compressed; see docs/data.md
output:  {"id": ..., "predicted_label": ..., "probability": ..., "label": ...}, and `rationale`,
         `samples`, `scores` where asked for, `truncated` where the input was longer than the
         student reads, and cut; in the input's order
"""
WINDOW_BATCHES = 16
_FIELDS = ('id', 'input', 'label', 'labels')


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('predict'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--model_dir', required=True, metavar='DIR',
      help="a run (its best checkpoint), one step's folder, a converted, Hugging Face or T5X "
           "folder, or a model's name at the hub")
  add('--input', metavar='FILE',
      help="rows, see below: a file, a 'GLOB', - for stdin, hf://OWNER/NAME:SPLIT")
  add('--columns', metavar='FIELD=COLUMN,...',
      help='which columns of the input the fields are: input=text,label=intent,id=key')
  add('--output', metavar='FILE', help='JSON lines; must not exist')
  add('--text', action='append', metavar='INPUT',
      help='an input, in place of a file: its answer is printed; may be repeated')
  add('--dataset', metavar='NAME',
      help="read the input as this dataset's raw rows; of a student of several, ask for its labels")
  add('--import', dest='modules', action='append', default=[], metavar='MODULE',
      help='import a module that registers datasets of your own; may be repeated')
  add('--rationale', action='store_true', help='also write the rationale')
  add('--tasks', type=lambda text: text.split(','), metavar='NAME,...',
      help='also write what else it learnt: names of the DSS_OBJECTIVES of its training')
  add('--rank', action='store_true', help='score every allowed label, no decoding')
  add('--labels', metavar='A,B,C',
      help="the labels of --rank for rows that have none (default: the student's)")
  add('--rank_by', choices=ranking.WAYS,
      help='sum of log probabilities, mean per token, or sum less that under an empty input '
           '(default: what training chose on validation, else mean)')
  add('--calibration', metavar='FILE',
      help='rows like the input with known labels: the --rank_by with the least loss on them')
  add('--calibration_columns', metavar='FIELD=COLUMN,...', help='likewise (default: --columns)')
  add('--beams', type=int, default=1, help='beam search over so many (default: 1, greedy)')
  add('--length_penalty', type=float, default=1.0, help='of the beam search (default: 1.0)')
  add('--samples', type=int, default=0, metavar='N', help='also draw N answers')
  add('--temperature', type=float, default=1.0, help='of the samples (default: 1.0)')
  add('--top_k', type=int, default=0, help='sample among the K likeliest tokens (default: all)')
  add('--top_p', type=float, default=1.0, help='sample among the likeliest tokens that have '
                                               'probability P together (default: 1.0)')
  add('--seed', type=int, default=0, help='of the samples')
  add('--batch_size', type=int, default=64, help='rows at a time (default: 64)')
  add('--max_input_length', type=int, help="tokens (default: the student's)")
  add('--max_target_length', type=int, help="tokens (default: the student's)")
  loading_flags(add)
  return parser


def loading_flags(add: Callable[..., Any]) -> None:
  """The flags that `load` reads, but for --model_dir and --dataset."""
  add('--dtype', choices=('float32', 'bfloat16'), help='of parameters and activations')
  add('--mesh_model', type=int, default=1, help='devices that share one copy of the model')
  add('--vocabulary', metavar='FILE',
      help="SentencePiece model, or 'bytes', if there is none in the folder")
  add('--label_prefix', help="before every input (default: the student's)")
  add('--rationale_prefix', help="likewise with --rationale (default: the student's)")


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, predicts, prints what was done."""
  args = arguments.parse(parser(), argv)
  with cli.flags_named(vars(args)):
    return _predict(args)


def _predict(args: argparse.Namespace) -> int:
  names = [field.name for field in dataclasses.fields(options_lib.Options)]
  options = options_lib.Options(**{name: getattr(args, name) for name in names})
  _check(args)
  if args.dataset or args.modules:
    cli.import_quietly('dss_jax.tasks', *args.modules)
  if args.text:
    return _answer(args, options)
  source = _rows(args, 'input', args.columns)
  read = _reader(args, source.where)
  looked = _Looked(source.where, read, own_ids=not args.dataset)
  stream.check(source, looked.at)
  student = load(args)
  common = _labels(args.labels) if args.labels else student.info.labels
  if looked.labelled and (closed := student.info.closed_set()):
    def check_gold(row: stream.Row, number: int) -> None:
      example = read(row, number)
      more = (example.choices or common) if args.rank else ()
      _check_gold(example, tuple(dict.fromkeys((*more, *closed))), source.where(number))
    stream.check(source, check_gold)
  if args.rank:
    options = _ranking(args, options, student, common)
  began = time.perf_counter()

  def predict(rows: Sequence[stream.Row], first: int) -> list[dict[str, Any]]:
    examples = [read(row, first + i) for i, row in enumerate(rows)]
    labels = [e.choices or common for e in examples] if args.rank else ()
    predictions = student.predict([e.input for e in examples], labels=labels, first_row=first,
                                  **dataclasses.asdict(options))
    return [output_row(e, p) for e, p in zip(examples, predictions)]

  settings = _settings(args, source, student, options)
  if looked.twice:
    print(f'warning: {looked.twice:,} rows have an id that another has, too, such as '
          f'{looked.example!r}: join the answers by their order', file=sys.stderr)
  count = stream.run(source, args.output, predict, settings=settings,
                     window=WINDOW_BATCHES * options.batch_size)
  print(f'{args.output}: {count:,} rows in {time.perf_counter() - began:.1f} s by {student.path}')
  if cut := sum('truncated' in row for row in rows_lib.Rows(args.output, '--output')):
    length = options.max_input_length or student.info.input_length
    print(f'{cut:,} of {count:,} inputs were cut: they are longer than the {length} tokens that it '
          'reads (--max_input_length); their rows have "truncated": true')
  print(_score(args.output, student.info), end='')
  return 0


def _answer(args: argparse.Namespace, options: options_lib.Options) -> int:
  """Prints the answers to --text."""
  student = load(args)
  labels = _labels(args.labels) if args.labels else student.info.labels
  if args.rank:
    options = _ranking(args, options, student, labels)
  predictions = student.predict(
      args.text, labels=labels if args.rank else (), **dataclasses.asdict(options))
  for i, prediction in enumerate(predictions):
    print(stream.as_line({'id': str(i), **prediction.as_row()}), end='')
  return 0


def _check(args: argparse.Namespace) -> None:
  named = [f'--{name}' for name in ('input', 'output') if getattr(args, name)]
  if args.text and named:
    raise errors.UserError(f'--text is answered in the terminal: leave {" and ".join(named)} out')
  if not args.text and len(named) < 2:
    raise errors.UserError('give --input=FILE and --output=FILE, or --text=INPUT')
  if args.labels and not args.rank:
    raise errors.UserError('--labels are what --rank scores: give --rank too, or leave them out')
  for name in ('rank_by', 'calibration'):
    if getattr(args, name) and not args.rank:
      raise errors.UserError(f'--{name} is how --rank compares labels: give --rank too')
  if args.rank_by and args.calibration:
    raise errors.UserError('--rank_by names what --calibration chooses: give one of the two')
  if args.output:
    files.check_path('--output', args.output)
    files.check_writable_file('--output', args.output)


def _rows(args: argparse.Namespace, name: str, columns: str | None) -> rows_lib.Rows:
  known = datasets.plain_fields(datasets.get(args.dataset)) if args.dataset else _FIELDS
  flag = '--calibration_columns' if columns and columns != args.columns else '--columns'
  return rows_lib.Rows(getattr(args, name), f'--{name}',
                       rows_lib.parse_columns(columns, flag, known))


def _ranking(args, options, student, common: Sequence[str]) -> options_lib.Options:
  """The options with a `rank_by`; prints where it is from."""
  told = sys.stderr if args.text else sys.stdout  # That has answers and nothing else.
  if args.calibration:
    source = _rows(args, 'calibration', args.calibration_columns or args.columns)
    read = _reader(args, source.where)
    stream.check(source, read)
    rows = [read(row, i) for i, row in enumerate(source)]
    found = student.calibrate(
        [e.input for e in rows], [e.label for e in rows],
        labels=[e.choices or common for e in rows], **{
            name: value for name, value in dataclasses.asdict(options).items()
            if name.startswith('max_') or name == 'batch_size'})
    way = ranking.best(found)
    print(*ranking.table(found), sep='\n', file=told)
    print(f'ranking by {way}, which has the least loss of {len(rows):,} rows of '
          f'{args.calibration}', file=told)
  else:
    way = args.rank_by or student.info.ranking or ranking.DEFAULT
    print(f'ranking by {way}' + (
        '' if args.rank_by else ', chosen on validation' if student.info.ranking else
        ': not chosen on validation; --calibration=FILE does, on rows with known labels'),
        file=told)
  return dataclasses.replace(options, rank_by=way)


class _Looked:
  """What the rows of an input are, seen once before anything is predicted.

  Attributes:
    labelled: whether any has a gold label.
    twice: rows whose id an earlier one has; `example` is such an id.
  """

  def __init__(self, where: Callable[[int], str],
               read: Callable[[stream.Row, int], datasets.Example], own_ids: bool):
    self._where, self._read, self._own_ids = where, read, own_ids
    self._ids: set[int] = set()
    self._has_id: bool | None = None
    self.labelled, self.twice, self.example = False, 0, ''

  def at(self, row: stream.Row, number: int) -> None:
    """UserError for a row that cannot be used."""
    example = self._read(row, number)
    has_id = row.get('id') is not None
    if self._has_id is None:
      self._has_id = has_id
    if self._own_ids and has_id != self._has_id:
      raise errors.UserError(f'{self._where(number)}: some rows have an id and some none: give '
                             'all one, or none')
    if not example.input.strip():
      raise errors.UserError(f'{self._where(number)}: the input is blank: leave the row out')
    self.labelled |= bool(example.label)
    if self._own_ids and not has_id:
      return  # Numbers: each is another, and millions would take memory.
    if hash(example.id) in self._ids:
      self.twice, self.example = self.twice + 1, example.id
    self._ids.add(hash(example.id))


def _check_gold(example: datasets.Example, closed: Sequence[str], where: str) -> None:
  if example.label and example.label not in closed:
    raise errors.UserError(
        f'{where}: label {example.label!r} is none that the student can give: '
        f'{errors.did_you_mean(example.label, closed)}; mend it, or leave the labels out')


def _labels(text: str) -> tuple[str, ...]:
  """'fine, plain' -> ('fine', 'plain'); '"a, b",c' -> ('a, b', 'c')."""
  found = [label.strip() for label in next(csv.reader([text], skipinitialspace=True))]
  if not all(found) or len(set(found)) < len(found):
    raise errors.UserError(f'--labels={text}: an empty label, or one twice')
  return tuple(found)


def load(args: argparse.Namespace):
  """The student that the flags name."""
  import jax

  import dss_jax
  from dss_jax import student_info
  from dss_jax.convert import hub
  from dss_jax.train import config
  valid.whole(1, **{'--mesh_model': args.mesh_model})
  if jax.device_count() % args.mesh_model:
    raise errors.UserError(f'--mesh_model={args.mesh_model}: the {jax.device_count()} devices here '
                           'are no multiple of it')
  changes = {name: getattr(args, name) for name in ('label_prefix', 'rationale_prefix')
             if getattr(args, name) is not None}
  learnt = student_info.find(hub.local(args.model_dir))
  several = learnt is not None and args.dataset in learnt.datasets
  return dss_jax.load(args.model_dir, dtype=args.dtype, vocabulary=args.vocabulary,
                      dataset=args.dataset if several else '',
                      mesh=config.MeshConfig(model=args.mesh_model), **changes)


def _settings(
    args, source: rows_lib.Rows, student, options: options_lib.Options) -> dict[str, Any]:
  """What the output depends on; of stdin also what came through it."""
  ignored = ('output', 'modules', 'mesh_model', 'text')
  return {name: value for name, value in vars(args).items() if name not in ignored} | {
      'rank_by': options.rank_by, 'parameters': student.path,
      'input_bytes': source.size} | (
          {'input_sha256': source.sha256} if args.input == rows_lib.STDIN else {})


def _reader(
    args, where: Callable[[int], str]) -> Callable[[stream.Row, int], datasets.Example]:
  """(row, its number) -> Example; `where` names a row in messages."""
  read_row = datasets.get(args.dataset).read_row if args.dataset else read_input_row

  def read(row: stream.Row, number: int) -> datasets.Example:
    try:
      return datasets.as_example(read_row(row, number))
    except KeyError as error:
      raise errors.UserError(
          f'{where(number)}: no field {error} (it has: {", ".join(row)}'
          f'{rows_lib.inner_list(row)}); give rows with '
          f'`input`, say which column it is with --columns={error.args[0]}=COLUMN, or name the '
          'dataset they are of with --dataset') from error
    except (errors.UserError, TypeError, ValueError, IndexError, AttributeError) as error:
      raise errors.UserError(f'{where(number)}: {error}') from error
  return read


def read_input_row(row: stream.Row, number: int) -> datasets.Example:
  """{'input': ..., 'id': ..., 'label': ..., 'labels': [...]}; all but `input` may be missing."""
  return datasets.Example(
      id=fields.text(row, 'id', str(number)), input=fields.text(row, 'input'),
      label=fields.label(row),
      choices=() if row.get('labels') is None else fields.texts(row, 'labels'))


def output_row(
    example: datasets.Example, prediction: options_lib.Prediction) -> dict[str, Any]:
  """One line of the output."""
  gold = {'label': example.label} if example.label else {}
  return {'id': example.id, **prediction.as_row(), **gold}


def _score(path: str, info: 'student_info.StudentInfo') -> str:
  """Accuracy over the rows that have a gold label; '' if none has.

  Of ranked rows also how far their probabilities are from it, of a closed set each label's F1.
  """
  gold, answered, sure = [], [], []
  for row in rows_lib.Rows(path, '--output'):
    if 'label' in row:
      if not info.metric:
        return (f'no accuracy: the student learnt {", ".join(info.datasets)}, which are scored in '
                'different ways; name one with --dataset\n')
      gold.append(row['label'])
      answered.append(row['predicted_label'])
      sure += [row['probability']] * ('scores' in row)
  if not gold:
    return ''
  score = metrics.BY_NAME[info.metric]
  right = [score([g], [a])['accuracy'] > 0 for g, a in zip(gold, answered)]
  line = f'accuracy {100 * sum(right) / len(right):.2f} % of {len(right):,} rows with a label'
  if 'token_f1' in (whole := score(gold, answered)):
    line += f'; token F1 {whole["token_f1"]:.2f} %'
  if sure:
    line += f'; expected calibration error {ranking.calibration_error(sure, right):.2f} %'
  found = classes.report(gold, answered, info.closed_set()) if info.metric == 'text' else None
  reliability = ranking.reliability_lines(sure, right) if sure else []
  return '\n'.join([line, *reliability, *(found.lines() if found else ())]) + '\n'


if __name__ == '__main__':
  cli.run(main)
