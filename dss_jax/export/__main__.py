"""`python -m dss_jax.export`: a student as StableHLO that runs without this project."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from jax import export as jax_export

from dss_jax import cli, decode, errors, files, models, student_info, valid
from dss_jax.convert import formats
from dss_jax.export import loader

_DESCRIPTION = """\
Write a student's decoding as StableHLO (jax.export), for any batch size and input length, with
its parameters and a small loader, student.py. To run it a machine needs no more than

  pip install jax numpy sentencepiece flatbuffers
"""
_EPILOG = """\
example:
  python -m dss_jax.export --model_dir=runs/dss_cqa --output=portable
  python portable/student.py 'Where do birds live? ...'

For transformers (PyTorch) write a Hugging Face folder instead: python -m dss_jax.convert.
"""
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
FUNCTION_FILE, PARAMS_FILE, INFO_FILE, LOADER_FILE = (
    'decode.jaxexport', 'params.npz', 'export.json', 'student.py')


def _parser() -> argparse.ArgumentParser:
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
  import dss_jax
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  platforms = tuple(args.platforms.split(','))
  unknown = [name for name in platforms if name not in PLATFORMS]
  if unknown:
    raise errors.UserError(
        f'--platforms: unknown {unknown[0]!r}; {errors.did_you_mean(unknown[0], PLATFORMS)}')
  if args.max_target_length is not None:
    valid.whole(1, **{'--max_target_length': args.max_target_length})
  folder = epath.Path(args.output)
  if folder.exists():
    raise errors.UserError(f'--output={args.output} exists: give a new folder, or remove it')
  student = dss_jax.load(args.model_dir, dtype=args.dtype, vocabulary=args.vocabulary,
                         dataset=args.dataset)
  length = args.max_target_length or student.info.target_length
  exported = export_decoding(student.model, student.params, length, platforms)
  with files.whole_folder(folder) as aside:
    _write(aside, student, exported, args, length)
  print(f'{args.output}: StableHLO for {", ".join(platforms)}, any batch size and input length, '
        f'{length} tokens at most; where `{loader.INSTALL}` was done, '
        f'try: python {args.output}/{LOADER_FILE} TEXT')
  return 0


def export_decoding(
    model: models.Network, params: Any, length: int, platforms: Sequence[str]
) -> jax_export.Exported:
  """Greedy decoding as a function of flat parameters and tokens, both dimensions symbolic.

  Args:
    model: the network.
    params: its parameters; only shapes and dtypes are used.
    length: tokens to decode at most.
    platforms: to lower for.

  Returns: (parameters by '/'-joined name, int32 [b, s]) -> (int32 [b, length], float32 [b]).
  """
  def search(flat, tokens):
    tree = traverse_util.unflatten_dict(flat, sep='/')
    result = decode.greedy_search(model, tree, tokens, length)
    return result.tokens, result.log_probs

  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _flat(params).items()}
  tokens = jax.ShapeDtypeStruct(jax_export.symbolic_shape('b, s'), jnp.int32)
  return jax_export.export(jax.jit(search), platforms=platforms)(shapes, tokens)


def _flat(params: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(params, sep='/')


def _write(folder: epath.Path, student, exported: jax_export.Exported, args, length: int) -> None:
  (folder / FUNCTION_FILE).write_bytes(bytes(exported.serialize()))
  arrays = {name: np.asarray(x) for name, x in _flat(student.params).items()}
  dtype = next(iter(arrays.values())).dtype
  if dtype == jnp.bfloat16:  # npz does not know it.
    arrays = {name: x.view(np.uint16) for name, x in arrays.items()}
  with (folder / PARAMS_FILE).open('wb') as f:
    np.savez(f, allow_pickle=False, **arrays)
  vocabulary = formats.find_vocabulary(student.path, student.info, args.vocabulary)
  if vocabulary is not None:
    (folder / student_info.VOCABULARY_FILE).write_bytes(vocabulary)
  info = student.info
  (folder / INFO_FILE).write_text(json.dumps({
      'dtype': dtype.name, 'eos_id': student.tokenizer.eos_id,
      'vocabulary': info.vocabulary, 'label_prefix': info.label_prefix,
      'rationale_prefix': info.rationale_prefix, 'answer_phrase': info.answer_phrase,
      'labels': info.closed_set(), 'input_length': info.input_length,
      'target_length': length, 'platforms': exported.platforms, 'jax': jax.__version__},
      indent=2) + '\n')
  with open(loader.__file__, encoding='utf-8') as f:
    (folder / LOADER_FILE).write_text(f.read())


if __name__ == '__main__':
  cli.run(main)
