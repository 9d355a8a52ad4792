"""What an exported student's folder holds: decoding as StableHLO, parameters, student.py."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from jax import export as jax_export

from dss_jax import decode, models, student_info
from dss_jax.convert import formats
from dss_jax.export import loader

if TYPE_CHECKING:
  from dss_jax.predict import student as student_lib

FUNCTION_FILE, PARAMS_FILE, INFO_FILE, LOADER_FILE = (
    'decode.jaxexport', 'params.npz', 'export.json', 'student.py')


def export_decoding(
    model: models.Network, params: Any, length: int, platforms: Sequence[str],
    given: decode.Given = ()) -> jax_export.Exported:
  """Greedy decoding as a function of flat parameters and tokens, both dimensions symbolic.

  Args:
    model: the network.
    params: its parameters; only shapes and dtypes are used.
    length: tokens to decode at most.
    platforms: to lower for.
    given: tokens that the decoder begins with.

  Returns: (parameters by '/'-joined name, int32 [b, s]) -> (int32 [b, length], float32 [b]).
  """
  def search(flat_params, tokens):
    tree = traverse_util.unflatten_dict(flat_params, sep='/')
    result = decode.greedy_search(model, tree, tokens, length, given=given)
    return result.tokens, result.log_probs

  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in flat(params).items()}
  tokens = jax.ShapeDtypeStruct(jax_export.symbolic_shape('b, s'), jnp.int32)
  return jax_export.export(jax.jit(search), platforms=platforms)(shapes, tokens)


def flat(params: Any) -> dict[str, Any]:
  """{'encoder/norm/scale': array, ...}"""
  return traverse_util.flatten_dict(params, sep='/')


def write(folder: epath.Path, student: 'student_lib.Student', exported: jax_export.Exported,
          length: int, vocabulary: str | None = None) -> None:
  """Writes all files.

  Args:
    folder: is there, and empty.
    student: as it was loaded.
    exported: see `export_decoding`.
    length: that it decodes at most.
    vocabulary: path of a SentencePiece model or 'bytes', of a student that has none.
  """
  (folder / FUNCTION_FILE).write_bytes(bytes(exported.serialize()))
  arrays = {name: np.asarray(x) for name, x in flat(student.params).items()}
  dtype = next(iter(arrays.values())).dtype
  if dtype == jnp.bfloat16:  # npz does not know it.
    arrays = {name: x.view(np.uint16) for name, x in arrays.items()}
  with (folder / PARAMS_FILE).open('wb') as f:
    np.savez(f, allow_pickle=False, **arrays)
  model = formats.find_vocabulary(student.path, student.info, vocabulary)
  if model is not None:
    (folder / student_info.VOCABULARY_FILE).write_bytes(model)
  info = student.info
  (folder / INFO_FILE).write_text(json.dumps({
      'dtype': dtype.name, 'eos_id': student.tokenizer.eos_id,
      'vocabulary': info.vocabulary, 'label_prefix': info.label_prefix,
      'rationale_prefix': info.rationale_prefix, 'answer_phrase': info.answer_phrase,
      'labels': info.closed_set(), 'shared_encoder': info.shared_encoder,
      'input_length': info.input_length,
      'target_length': length, 'platforms': exported.platforms, 'jax': jax.__version__},
      indent=2) + '\n')
  with open(loader.__file__, encoding='utf-8') as f:
    (folder / LOADER_FILE).write_text(f.read())
