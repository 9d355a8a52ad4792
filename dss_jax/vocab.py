"""`dss vocab`: a SentencePiece model from the text of records.

For students trained from scratch; pretrained T5 needs T5's own vocabulary.
"""

import argparse
import ast
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece

from dss_jax import answers, arguments, cli, datasets, errors, valid

MODEL_TYPES = ('unigram', 'bpe', 'word', 'char')


def train(
    records_dir: str,
    output: str,
    *,
    sets: Sequence[str] = (),
    vocab_size: int = 8192,
    model_type: str = 'unigram',
) -> int:
  """Trains on inputs, labels and rationales, and writes `output`, whole or not at all.

  Ids as in T5: 0 padding, 1 EOS, 2 unknown, no BOS. Every character of the text is covered;
  the prefixes of the objectives that `data.configure` was told, what further ones write, and, of
  registered datasets, labels and answer phrase are part of it. One thread: the same records give
  the same model.

  Args:
    records_dir: folder of the records.
    output: the `.model` file to write.
    sets: record sets to read; default: all `*-train` sets of the folder.
    vocab_size: pieces wanted; fewer if the text does not hold as many.
    model_type: 'unigram' (T5's), 'bpe', 'word' or 'char'.

  Returns: the number of pieces.

  Raises:
    UserError: no such records, SentencePiece cannot train on them, or its model could not tell
      two labels apart.
  """
  from dss_jax import files, records
  names = list(sets) or [n for n in records.set_names(records_dir) if n.endswith('-train')]
  if not names:
    raise errors.UserError(
        f'{records_dir}: no *-train record set; {errors.did_you_mean("", _sets(records_dir))}')
  for name in names:
    records.find_set(records_dir, *name.rpartition('-')[::2])
  model = io.BytesIO()
  # Only 'unigram' can stop early at a smaller vocabulary; the others are sized to the text.
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(records_dir, names), model_writer=model,
        vocab_size=vocab_size, model_type=model_type, character_coverage=1.0,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
        max_sentence_length=1 << 20, minloglevel=2)
  except (RuntimeError, OSError) as error:
    raise errors.UserError(
        f'SentencePiece could not train on {", ".join(names)} with --vocab_size={vocab_size} '
        f'--model_type={model_type}: {" ".join(str(error).split())[-200:]}') from error
  pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
  for dataset in _datasets(names):
    answers.reader(dataset.labels or (), pieces.encode, pieces.decode, dataset=dataset.name)
  files.write(output, model.getvalue())
  return pieces.vocab_size()


def _datasets(sets: Sequence[str]) -> list[datasets.Dataset]:
  """Those of the record sets that are registered."""
  found = dict.fromkeys(name.rpartition('-')[0] for name in sets)
  return [datasets.get(name) for name in found if name in datasets.names()]


def _sets(records_dir: str) -> list[str]:
  from dss_jax import records
  return records.set_names(records_dir)


def _sentences(records_dir: str, names: Sequence[str]) -> Iterator[str]:
  from dss_jax import records
  from dss_jax.data import settings
  label, rationale, *others = settings.current().table()
  for known in _datasets(names):
    yield known.completion.answer_phrase
    yield from known.labels or ()
  for name in names:
    dataset, _, split = name.rpartition('-')
    phrase = ''.join(one.completion.answer_phrase for one in _datasets([name]))
    for record in records.read_records(records_dir, dataset, split, samples=True):
      if record.sample:
        yield rationale.prefix + record.rationale
        continue
      for part in record.input.split('</s>'):
        yield label.prefix + part
      yield f'{phrase} {record.label or record.teacher_label}'
      if record.rationale:
        yield rationale.prefix + record.rationale
      for row in others:
        words = ' '.join(words for words, _ in row.parts)
        yield f'{row.prefix}{words} {record.field(row.target)}'
        yield from (record.extra[name] for name in row.reads if record.extra.get(name))


def _rows(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError) as error:
    raise errors.UserError(f"--objectives={text}: write rows as the training's DSS_OBJECTIVES, "
                           "(('premise', '[premise] ', 'teacher_label', 0.2),)") from error


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('vocab'), description=__doc__.partition(': ')[2],
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog="""\
example:
  dss vocab --records_dir=records --output=cqa.model --vocab_size=8192
  dss train ... --gin.VOCABULARY=cqa.model --gin.VOCAB_SIZE=8192""")
  parser.add_argument('--records_dir', default=os.environ.get('DSS_DATA_DIR'), metavar='DIR',
                      help='folder of the records (default: $DSS_DATA_DIR)')
  parser.add_argument('--sets', nargs='*', default=[], metavar='SET',
                      help='record sets to read, e.g. cqa-train (default: all *-train)')
  parser.add_argument('--import', dest='modules', action='append', default=[], metavar='MODULE',
                      help='a module that registers datasets of your own: their labels and answer '
                           'phrases are covered; may be repeated')
  parser.add_argument('--objectives', metavar='ROWS', type=_rows, default=None,
                      help="further tasks, as the training's DSS_OBJECTIVES: their prefixes and "
                           'targets are covered')
  parser.add_argument('--output', required=True, metavar='FILE', help='the .model file to write')
  parser.add_argument('--vocab_size', type=int, default=8192, help='pieces (default: 8192)')
  parser.add_argument('--model_type', choices=MODEL_TYPES, default='unigram',
                      help='default: unigram, as T5')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, trains, says what was written."""
  args = arguments.parse(parser(), argv)
  if not args.records_dir:
    raise errors.UserError('--records_dir is not set (and DSS_DATA_DIR is not either)')
  from dss_jax import files, records
  files.check_writable_file('--output', args.output)
  records.check_folder(args.records_dir)
  valid.whole(4, **{'--vocab_size': args.vocab_size})
  cli.import_tasks(args.modules)
  if args.objectives:
    cli.import_quietly('dss_jax.data.registration')
    from dss_jax import data
    data.configure(objectives=args.objectives)
  pieces = train(args.records_dir, args.output, sets=args.sets, vocab_size=args.vocab_size,
                 model_type=args.model_type)
  print(f'{args.output}: {pieces:,} pieces; train with --gin.VOCABULARY={args.output} '
        f'--gin.VOCAB_SIZE={-(-pieces // 128) * 128}')
  return 0


if __name__ == '__main__':
  cli.run(main)
