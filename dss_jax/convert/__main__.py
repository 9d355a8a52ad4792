"""`dss convert`: checkpoints between Hugging Face, T5X and this project."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import tqdm
from etils import epath

from dss_jax import arguments, cli, errors, files, student_info, valid
from dss_jax.convert import formats, hugging_face, model_card, tokenizer_json
from dss_jax.convert import weights as weights_lib

_DESCRIPTION = """\
Convert a T5 checkpoint. The input's format is found out; --to says the output's:

{formats}

Tensors are converted one at a time, so a model larger than half of the memory fits.
"""
_EPILOG = """\
examples:
  # A public model, by its name at the Hugging Face hub or its folder, as the start of a run:
  dss convert --input=google/t5-v1_1-base --output=t5_1_1_base --to=native
  dss train ... --gin.INITIAL_CHECKPOINT_PATH=t5_1_1_base

  # What you trained, for transformers (its best checkpoint, with tokenizer and model card):
  dss convert --input=runs/dss_cqa --output=export --to=hf

  # For CPUs, in int8 (needs the extra `ct2`):
  dss convert --input=runs/dss_cqa --output=ct2 --to=ct2 --dtype=int8

  # For T5X, in bfloat16:
  dss convert --input=runs/dss_cqa --output=t5x --to=t5x --dtype=bfloat16

A run's folder means its best checkpoint; name one step as runs/dss_cqa/checkpoints/200.
Paths may be gs://.
"""


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  listed = '\n'.join(f'  {name:8} {one.writes}' for name, one in formats.FORMATS.items())
  parser = argparse.ArgumentParser(
      prog=cli.program('convert'), description=_DESCRIPTION.format(formats=listed), epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input', required=True, metavar='DIR',
                      help="the checkpoint to read: a folder, or a model's name at the hub")
  parser.add_argument('--output', required=True, metavar='DIR', help='a new folder')
  parser.add_argument('--to', required=True, choices=list(formats.FORMATS))
  dtypes = sorted({name for one in formats.FORMATS.values() for name in one.dtypes})
  parser.add_argument('--dtype', choices=dtypes,
                      help="of the output (default: the input's; float32 for ct2)")
  parser.add_argument('--scan_layers', action=argparse.BooleanOptionalAction,
                      help='native and t5x: store all layers of a stack in one tensor (default: '
                           "native as the input, t5x no: scanned is for T5X's scalable_t5, which "
                           'trains a position bias for every layer: an umT5 comes back)')
  parser.add_argument('--vocabulary', metavar='FILE',
                      help="SentencePiece model, or 'bytes' (default: the input folder's)")
  parser.add_argument('--step', type=int, default=0, help='t5x: the step in checkpoint_<step>')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line and converts."""
  args = arguments.parse(parser(), argv)
  valid.whole(0, **{'--step': args.step})
  files.check_new_folder('--output', args.output)
  weights = formats.open_weights(args.input)
  info = formats.find_info(weights.path, weights)
  info = dataclasses.replace(info, training=model_card.describe_run(weights.path) or info.training)
  info, vocabulary = _vocabulary(weights.path, info, args.vocabulary)
  convert(weights, args.output, args.to, info=info, vocabulary=vocabulary, dtype=args.dtype,
          scan_layers=args.scan_layers, step=args.step)
  if not info.vocabulary:
    print(f'warning: no vocabulary in {args.input}; give --vocabulary=FILE to put one beside the '
          'weights', file=sys.stderr)
  is_for_transformers = formats.FORMATS[args.to].library == 'transformers'
  if is_for_transformers and vocabulary and (why := tokenizer_json.why_not(vocabulary)):
    print('warning: no tokenizer for transformers, which cannot read the vocabulary: '
          f'{why}', file=sys.stderr)
  count = sum(int(np.prod(spec.shape)) for spec in weights.specs.values())
  print(f'{args.output}: {count / 1e6:,.1f}M parameters from {weights.path} as {args.to}')
  return 0


def _vocabulary(path: str, info: student_info.StudentInfo, given: str | None):
  """What goes beside the weights: the info with its vocabulary, and the model's bytes."""
  data = formats.find_vocabulary(path, info, given)
  if given == student_info.BYTES:
    return dataclasses.replace(info, vocabulary=student_info.BYTES), None
  if data is not None:
    info = dataclasses.replace(info, vocabulary=student_info.VOCABULARY_FILE)
  return info, data


def convert(
    weights: weights_lib.Weights,
    output: str,
    to: str,
    *,
    info: student_info.StudentInfo,
    vocabulary: bytes | None = None,
    dtype: str | None = None,
    scan_layers: bool | None = None,
    step: int = 0,
) -> None:
  """Writes a new folder, whole or absent.

  Args:
    weights: open for reading.
    output: the folder; must not exist.
    to: a key of `formats.FORMATS`.
    info: what is known of the student; its network becomes that of the weights.
    vocabulary: contents of the SentencePiece model, if there is one.
    dtype: one of the format's `dtypes`, or None for the weights' own.
    scan_layers: how native and T5X store layers; None for as the weights have them where the
      format `keeps_scan`, else one by one.
    step: for T5X's folder name.

  Raises:
    UserError: the output exists, or cannot hold this student.
  """
  folder = epath.Path(output)
  if folder.exists():
    raise errors.UserError(f'--output={output} exists: give a new folder, or remove it')
  wanted = formats.FORMATS[to]
  if dtype not in (None, *wanted.dtypes):
    raise errors.UserError(f'--dtype={dtype}: {to} has {", ".join(wanted.dtypes)}')
  as_before = weights.config.scan_layers and wanted.keeps_scan
  scanned = as_before if scan_layers is None else scan_layers
  info = dataclasses.replace(info, model=dataclasses.replace(info.model, scan_layers=scanned))
  settings = formats.Output(
      info, vocabulary, None if dtype is None else weights_lib.to_dtype(dtype), scanned, step)
  with files.whole_folder(output) as aside:
    with WithProgress(weights, f'writing {output}') as read:
      wanted.write(str(aside), read, settings)
    if vocabulary is not None and not (aside / hugging_face.TOKENIZER_FILE).exists():
      (aside / student_info.VOCABULARY_FILE).write_bytes(vocabulary)
    (aside / model_card.FILE).write_text(model_card.text(info, wanted.library, vocabulary))
    (aside / student_info.FILE).write_text(info.as_json())  # Last: it marks a whole folder.


class WithProgress(weights_lib.Weights):
  """Weights with a progress bar over their tensors."""

  def __init__(self, weights: weights_lib.Weights, what: str):
    self._weights = weights
    self.path, self.config, self.specs = weights.path, weights.config, weights.specs
    self._bar = tqdm.tqdm(total=len(weights.specs), desc=what, unit='tensor', delay=2, leave=False)

  def read(self, name: str) -> np.ndarray:
    self._bar.update()
    return self._weights.read(name)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._bar.close()


if __name__ == '__main__':
  cli.run(main)
