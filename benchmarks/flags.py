"""Flags that train_step.py and decode.py share. Imports no JAX: threads are limited first."""

import argparse
import json
import pathlib
from typing import Any

import token_arrays

from dss_jax import errors

TINY = {'vocab_size': 64, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 8, 'mlp_dim': 32,
        'num_encoder_layers': 2, 'num_decoder_layers': 2}
SYNTHETIC_ROWS = 8192  # more than the steps of a benchmark need


def parser(description: str | None, *, steps: int, what_steps: str) -> argparse.ArgumentParser:
  """A parser with the shared flags; a script adds its own."""
  made = argparse.ArgumentParser(
      description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_model(made, size='small', dtype='float32')
  data = made.add_argument_group('the data')
  data.add_argument('--tokens', metavar='FILE.npz',
                    help='from make_tokens.py (default: synthetic, lengths as CommonsenseQA has)')
  data.add_argument('--batch_size', type=_positive, default=64, help='examples (default: 64)')
  data.add_argument('--seed', type=int, default=0, help='of the data and its order')
  run = made.add_argument_group('the measurement')
  run.add_argument('--steps', type=_positive, default=steps,
                   help=f'{what_steps} in a repeat (default: {steps})')
  run.add_argument('--repeats', type=_positive, default=3,
                   help='repeats, each of all settings in turn (default: 3)')
  run.add_argument('--warmup', type=int, default=1, help='steps before the clock starts')
  run.add_argument('--threads', type=_positive, help='CPU threads of all sides (default: all)')
  run.add_argument('--peer', choices=['transformers'],
                   help='time PyTorch on the same work too, in turns with ours')
  run.add_argument('--json', metavar='FILE', help='save the figures, every repeat included')
  return made


def add_model(parser: argparse.ArgumentParser, *, size: str, dtype: str) -> None:
  """Adds the flags that `model_config` reads, with these defaults."""
  model = parser.add_argument_group('the network, with random weights')
  model.add_argument('--version', default='1.1', choices=['1.0', '1.1'], help='of T5')
  model.add_argument('--size', default=size, help=f'small, base, large, xl, ... (default: {size})')
  model.add_argument('--tiny', action='store_true', help='a toy network, to try the flags')
  model.add_argument('--dtype', default=dtype, choices=['float32', 'bfloat16'],
                     help=f'of the activations; parameters are float32 (default: {dtype})')
  model.add_argument('--scan_layers', action=argparse.BooleanOptionalAction, default=True,
                     help='one compiled layer, or all unrolled: slower to compile')


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f'{value} is below 1')
  return value


def model_config(args: argparse.Namespace, **overrides: Any):
  """The T5Config that the flags ask for; UserError names a wrong size."""
  from dss_jax import models
  fields = {'dtype': args.dtype, 'scan_layers': args.scan_layers, **overrides}
  try:
    if args.tiny:
      return models.t5_config(args.version, 'small', **{**TINY, **fields})
    return models.t5_config(args.version, args.size, **fields)
  except ValueError as error:
    raise errors.UserError(str(error)) from error


def model_name(args: argparse.Namespace) -> str:
  """'T5 v1.1 small'."""
  return f'T5 v{args.version} {"tiny" if args.tiny else args.size}'


def read_tokens(args: argparse.Namespace, vocab_size: int) -> token_arrays.TokenArrays:
  """The file of --tokens, or synthetic arrays."""
  if args.tokens:
    return token_arrays.load(args.tokens, vocab_size)
  return token_arrays.synthetic(args.seed, SYNTHETIC_ROWS, vocab_size)


def save_json(args: argparse.Namespace, figures: dict[str, Any]) -> None:
  """Writes the figures with the flags they were had with, if --json was given."""
  if args.json:
    text = json.dumps({'flags': vars(args), **figures}, indent=2, default=str)
    pathlib.Path(args.json).write_text(text + '\n')
