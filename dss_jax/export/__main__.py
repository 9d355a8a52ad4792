"""`dss export`: a student as StableHLO that runs without this project."""

import argparse
from collections.abc import Sequence

from dss_jax import arguments, cli, errors, files, valid

_DESCRIPTION = """\
Write a student's decoding as StableHLO (jax.export), for any batch size and input length, with
its parameters and a small loader, student.py. To run it a machine needs no more than

  pip install jax numpy sentencepiece flatbuffers
"""
_EPILOG = """\
example:
  dss export --model_dir=runs/dss_cqa --output=portable
  python portable/student.py 'Where do birds live? ...'

For transformers (PyTorch) write a Hugging Face folder instead: dss convert.
"""
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('export'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--model_dir', required=True, metavar='DIR',
      help="a run, a converted, Hugging Face or T5X folder, or a model's name at the hub")
  add('--output', required=True, metavar='DIR', help='a new folder')
  add('--platforms', default='cpu,cuda,tpu', metavar='A,B',
      help='what the code is lowered for (default: cpu,cuda,tpu)')
  add('--max_target_length', type=int, help="tokens to decode (default: the student's)")
  add('--dtype', choices=('float32', 'bfloat16'), help='of parameters and activations')
  add('--dataset', default='', metavar='NAME',
      help='of a student that learnt several, the one whose labels are asked for')
  add('--vocabulary', metavar='FILE',
      help="SentencePiece model, or 'bytes', if there is none in the folder")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line and exports."""
  args = arguments.parse(parser(), argv)
  platforms = tuple(args.platforms.split(','))
  unknown = [name for name in platforms if name not in PLATFORMS]
  if unknown:
    raise errors.UserError(
        f'--platforms: unknown {unknown[0]!r}; {errors.did_you_mean(unknown[0], PLATFORMS)}')
  if args.max_target_length is not None:
    valid.whole(1, **{'--max_target_length': args.max_target_length})
  files.check_new_folder('--output', args.output)
  import dss_jax
  from dss_jax.export import folder, loader  # Late: they load JAX.
  student = dss_jax.load(args.model_dir, dtype=args.dtype, vocabulary=args.vocabulary,
                         dataset=args.dataset)
  length = args.max_target_length or student.info.target_length
  exported = folder.export_decoding(student.model, student.params, length, platforms,
                                    student.given(student.info.label_prefix))
  with files.whole_folder(args.output) as aside:
    folder.write(aside, student, exported, length, args.vocabulary)
  print(f'{args.output}: StableHLO for {", ".join(platforms)}, any batch size and input length, '
        f'{length} tokens at most; where `{loader.INSTALL}` was done, '
        f'try: python {args.output}/{folder.LOADER_FILE} TEXT')
  return 0


if __name__ == '__main__':
  cli.run(main)
