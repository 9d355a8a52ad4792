"""From a path to the checkpoint that lies there, whatever its format."""

from collections.abc import Callable

from etils import epath

from dss_jax import errors, files, student_info, tokenizer
from dss_jax.convert import hugging_face, native, own_vocabulary, t5x, t5x_gin
from dss_jax.convert import weights as weights_lib

# T5X first: what it writes with Orbax looks native but for the names of the parameters.
FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[str], weights_lib.Weights]]] = {
    't5x': (t5x.is_t5x_checkpoint, t5x.T5XWeights),
    'native': (native.is_native, native.NativeWeights),
    'hf': (hugging_face.is_hugging_face, hugging_face.HuggingFaceWeights),
}


def open_weights(path: str) -> weights_lib.Weights:
  """Opens a native, Hugging Face or T5X checkpoint, local or `gs://`.

  Raises:
    UserError: the path does not exist, is none of the three, or is damaged. So does `read` for
      a tensor with NaN or infinity.
  """
  files.check_path('path', path)
  folder = epath.Path(path)
  if not folder.exists():
    raise errors.UserError(f'{path} does not exist')
  for is_one, reader in FORMATS.values():
    if is_one(path):
      return weights_lib.FiniteWeights(reader(path))
  held = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else ['a file']
  raise errors.UserError(
      f'{path} is no checkpoint that can be read: it holds {", ".join(held) or "nothing"}. Give a '
      "run's MODEL_DIR or a converted folder (student.json), a Hugging Face folder (config.json, "
      'model.safetensors), or a T5X folder (checkpoint_<step>)')


def find_info(path: str, weights: weights_lib.Weights) -> student_info.StudentInfo:
  """student.json beside the checkpoint, else what the weights alone tell.

  Raises:
    UserError: student.json is of another network, or nothing tells the activation.
  """
  if info := student_info.find(path):
    weights_lib.check_network(weights, info.model)
    return info
  if not weights.says_activation and not weights_lib.is_published(weights.config):
    raise errors.UserError(
        f'{weights.path}: its arrays do not tell whether the gate of its MLP is GELU (T5 v1.1) or '
        f'SiLU (UL2): put the {t5x_gin.FILE} of its training beside it, or one with the line '
        "T5Config.mlp_activations = ('gelu', 'linear'), or 'silu'")
  is_bytes = own_vocabulary.is_bytes(path)
  return student_info.StudentInfo(
      model=weights.config, vocabulary=student_info.BYTES if is_bytes else '')


def find_vocabulary(
    path: str, info: student_info.StudentInfo, given: str | None = None) -> bytes | None:
  """The SentencePiece model to use a checkpoint with, or None for bytes or where there is none.

  Args:
    path: the checkpoint.
    info: of it.
    given: the user's: 'bytes' or a file; by default what lies with the checkpoint.

  Raises:
    UserError: `given` is not the checkpoint's own, or its own has tokens beside the model's.
  """
  own = own_vocabulary.find(path, info)
  if not given:
    if own and own.model is not None:
      own_vocabulary.check_added(
          own, own.model, own.where, 'put a SentencePiece model that has it there in its place')
    return own.model if own else None
  model = None if given == student_info.BYTES else tokenizer.read_model(given, '--vocabulary')
  if own:
    own_vocabulary.check_same(own, given, model, name='--vocabulary')
  else:
    own_vocabulary.check_rows(given, model, info.model.vocab_size, name='--vocabulary')
  return model
