"""`python -m dss_jax.predict`: a trained student's answers to a file of inputs."""

import argparse
import csv
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

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
  python -m dss_jax.predict --model_dir=runs/dss_cqa --input=new.jsonl --output=answers.jsonl

  # With the rationale, and five sampled answers:
  python -m dss_jax.predict ... --rationale --samples=5 --temperature=0.7

  # A closed label set: score every label instead of decoding.
  python -m dss_jax.predict ... --rank --labels=entailment,neutral,contradiction

input:   JSON lines with `input` (as in training, no prefix), and optionally `id`, `label` (gold)
         and `labels` (the choices of --rank); rows of a registered dataset with --dataset=cqa
output:  {"id": ..., "predicted_label": ..., "probability": ..., "label": ...}, and `rationale`,
         `samples`, `scores` where asked for; in the input's order
"""
WINDOW_BATCHES = 16


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog=cli.program('predict'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--model_dir', required=True, metavar='DIR',
      help="a run (its best checkpoint), one step's folder, a converted, Hugging Face or T5X "
           "folder, or a model's name at the hub")
  add('--input', required=True, metavar='FILE', help='JSON lines or a JSON list; may be gs://')
  add('--output', required=True, metavar='FILE', help='JSON lines; must not exist')
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
  add('--dtype', choices=('float32', 'bfloat16'), help='of parameters and activations')
  add('--mesh_model', type=int, default=1, help='devices that share one copy of the model')
  add('--vocabulary', metavar='FILE',
      help="SentencePiece model, or 'bytes', if there is none in the folder")
  add('--label_prefix', help="before every input (default: the student's)")
  add('--rationale_prefix', help="likewise with --rationale (default: the student's)")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, predicts, prints what was done."""
  args = arguments.parse(_parser(), argv)
  with cli.flags_named(vars(args)):
    return _predict(args)


def _predict(args: argparse.Namespace) -> int:
  names = [field.name for field in dataclasses.fields(options_lib.Options)]
  options = options_lib.Options(**{name: getattr(args, name) for name in names})
  _check(args)
  read = _reader(args, args.input)
  stream.check(args.input, read)
  student = _load(args)
  common = _labels(args.labels) if args.labels else student.info.labels
  if args.rank:
    options = _ranking(args, options, student, common)
  began = time.perf_counter()

  def predict(rows: Sequence[stream.Row], first: int) -> list[dict[str, Any]]:
    examples = [read(row, first + i) for i, row in enumerate(rows)]
    labels = [e.choices or common for e in examples] if args.rank else ()
    predictions = student.predict([e.input for e in examples], labels=labels, first_row=first,
                                  **dataclasses.asdict(options))
    return [output_row(e, p) for e, p in zip(examples, predictions)]

  count = stream.run(args.input, args.output, predict, settings=_settings(args, student, options),
                     window=WINDOW_BATCHES * options.batch_size)
  print(f'{args.output}: {count:,} rows in {time.perf_counter() - began:.1f} s by {student.path}')
  print(_score(args.output, student.info), end='')
  return 0


def _check(args: argparse.Namespace) -> None:
  if args.labels and not args.rank:
    raise errors.UserError('--labels are what --rank scores: give --rank too, or leave them out')
  for name in ('rank_by', 'calibration'):
    if getattr(args, name) and not args.rank:
      raise errors.UserError(f'--{name} is how --rank compares labels: give --rank too')
  if args.rank_by and args.calibration:
    raise errors.UserError('--rank_by names what --calibration chooses: give one of the two')
  files.check_path('--output', args.output)
  files.check_writable_file('--output', args.output)
  for name in ('input', 'calibration'):
    if (path := getattr(args, name)) and not epath.Path(path).exists():
      raise errors.UserError(f'--{name}={path} does not exist')


def _ranking(args, options, student, common: Sequence[str]) -> options_lib.Options:
  """The options with a `rank_by`; prints where it is from."""
  if args.calibration:
    read = _reader(args, args.calibration)
    stream.check(args.calibration, read, '--calibration')
    rows = [read(row, i) for i, (row, _) in enumerate(stream.read_rows(args.calibration))]
    found = student.calibrate(
        [e.input for e in rows], [e.label for e in rows],
        labels=[e.choices or common for e in rows], **{
            name: value for name, value in dataclasses.asdict(options).items()
            if name.startswith('max_') or name == 'batch_size'})
    way = ranking.best(found)
    print(*ranking.table(found), sep='\n')
    print(f'ranking by {way}, which has the least loss of {len(rows):,} rows of {args.calibration}')
  else:
    way = args.rank_by or student.info.ranking or ranking.DEFAULT
    print(f'ranking by {way}' + (
        '' if args.rank_by else ', chosen on validation' if student.info.ranking else
        ': not chosen on validation; --calibration=FILE does, on rows with known labels'))
  return dataclasses.replace(options, rank_by=way)


def _labels(text: str) -> tuple[str, ...]:
  """'fine, plain' -> ('fine', 'plain'); '"a, b",c' -> ('a, b', 'c')."""
  found = [label.strip() for label in next(csv.reader([text], skipinitialspace=True))]
  if not all(found) or len(set(found)) < len(found):
    raise errors.UserError(f'--labels={text}: an empty label, or one twice')
  return tuple(found)


def _load(args):
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


def _settings(args, student, options: options_lib.Options) -> dict[str, Any]:
  """What the output depends on."""
  ignored = ('output', 'modules', 'mesh_model')
  return {name: value for name, value in vars(args).items() if name not in ignored} | {
      'rank_by': options.rank_by, 'parameters': student.path,
      'input_bytes': epath.Path(args.input).stat().length}


def _reader(args, path: str) -> Callable[[stream.Row, int], datasets.Example]:
  """(row of the file `path`, its number) -> Example."""
  if args.dataset or args.modules:
    cli.import_quietly('dss_jax.tasks', *args.modules)
  read_row = datasets.get(args.dataset).read_row if args.dataset else read_input_row

  def read(row: stream.Row, number: int) -> datasets.Example:
    try:
      return datasets.as_example(read_row(row, number))
    except KeyError as error:
      raise errors.UserError(
          f'{path}, row {number + 1}: no field {error} (it has: {", ".join(row)}); '
          'give rows with `input`, or name the dataset they are of with --dataset') from error
    except (errors.UserError, TypeError, ValueError, IndexError, AttributeError) as error:
      raise errors.UserError(f'{path}, row {number + 1}: {error}') from error
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
  row: dict[str, Any] = {'id': example.id, 'predicted_label': prediction.label,
                         'probability': prediction.probability}
  if example.label:
    row['label'] = example.label
  if prediction.rationale is not None:
    row['rationale'] = prediction.rationale
  if prediction.tasks:
    row['tasks'] = prediction.tasks
  if prediction.samples:
    row['samples'] = [{name: value for name, value in dataclasses.asdict(sample).items()
                       if value is not None} for sample in prediction.samples]
  if prediction.scores is not None:
    row['scores'] = prediction.scores
  return row


def _score(path: str, info: 'student_info.StudentInfo') -> str:
  """Accuracy over the rows that have a gold label; '' if none has.

  Of ranked rows also how far their probabilities are from it, of a closed set each label's F1.
  """
  gold, answered, sure = [], [], []
  for row, _ in stream.read_rows(path):
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
  if sure:
    line += f'; expected calibration error {ranking.calibration_error(sure, right):.2f} %'
  found = classes.report(gold, answered, info.closed_set()) if info.metric == 'text' else None
  return '\n'.join([line, *(found.lines() if found else ())]) + '\n'


if __name__ == '__main__':
  cli.run(main)
