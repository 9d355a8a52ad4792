"""From a path to the checkpoint that lies there, whatever its format."""

from collections.abc import Callable

from etils import epath

from dss_jax import errors, student_info
from dss_jax.convert import hugging_face, native, t5x
from dss_jax.convert import weights as weights_lib

# T5X first: what it writes with Orbax looks native but for the names of the parameters.
FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[str], weights_lib.Weights]]] = {
    't5x': (t5x.is_t5x_checkpoint, t5x.T5XWeights),
    'native': (native.is_native, native.NativeWeights),
    'hf': (hugging_face.is_hugging_face, hugging_face.HuggingFaceWeights),
}
_VOCABULARIES = (student_info.VOCABULARY_FILE, hugging_face.TOKENIZER_FILE)


def open_weights(path: str) -> weights_lib.Weights:
  """Opens a native, Hugging Face or T5X checkpoint, local or `gs://`.

  Raises:
    UserError: the path does not exist, is none of the three, or is damaged.
  """
  folder = epath.Path(path)
  if not folder.exists():
    raise errors.UserError(f'{path} does not exist')
  for is_one, reader in FORMATS.values():
    if is_one(path):
      return reader(path)
  held = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else ['a file']
  raise errors.UserError(
      f'{path} is no checkpoint that can be read: it holds {", ".join(held) or "nothing"}. Give a '
      "run's MODEL_DIR or a converted folder (student.json), a Hugging Face folder (config.json, "
      'model.safetensors), or a T5X folder (checkpoint_<step>)')


def find_info(path: str, weights: weights_lib.Weights) -> student_info.StudentInfo:
  """student.json beside the checkpoint, else what the weights alone tell."""
  return student_info.find(path) or student_info.StudentInfo(model=weights.config)


def find_vocabulary(path: str, info: student_info.StudentInfo) -> bytes | None:
  """The SentencePiece model that lies with the checkpoint, or None."""
  if info.vocabulary == student_info.BYTES:
    return None
  for folder in student_info.folders(path):
    for name in _VOCABULARIES:
      if (folder / name).exists():
        return (folder / name).read_bytes()
  return None
