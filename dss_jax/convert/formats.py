"""The formats of checkpoints, and from a path to what lies there."""

import dataclasses
from collections.abc import Callable

import numpy as np
from etils import epath

from dss_jax import errors, files, models, student_info, tokenizer
from dss_jax.convert import (
    ctranslate2_folder,
    hub,
    hugging_face,
    hugging_face_config,
    native,
    own_vocabulary,
    t5,
    t5x,
    t5x_gin,
    tokenizer_files,
)
from dss_jax.convert import weights as weights_lib


@dataclasses.dataclass(frozen=True)
class Output:
  """What a writer is told beside the weights; it takes what its format has.

  Attributes:
    info: of the student.
    vocabulary: contents of its SentencePiece model, if there is one.
    dtype: of the tensors; None keeps each one's own.
    scan_layers: store all layers of a stack in one tensor.
    step: number in the folder's name.
  """

  info: student_info.StudentInfo
  vocabulary: bytes | None
  dtype: np.dtype | None
  scan_layers: bool
  step: int


@dataclasses.dataclass(frozen=True)
class Format:
  """One way to keep a student in a folder.

  Attributes:
    writes: the files, for --help.
    folder: how a user knows a folder of it; '' if it is not read.
    is_one: whether there is one at a path.
    read: opens it.
    write: path of a folder that is there, the weights open for reading, and an `Output`.
    files: those of its folder that hold the parameters; None for all.
    library: that loads it, as model hubs call it.
    keeps_scan: whether layers are stored as the input has them unless told otherwise; else one
      by one.
    dtypes: that its tensors may have.
  """

  writes: str
  folder: str
  is_one: Callable[[str], bool]
  read: Callable[[str], weights_lib.Weights]
  write: Callable[[str, weights_lib.Weights, Output], None]
  files: Callable[[epath.Path], list[epath.Path]] | None = None
  library: str = 'jax'
  keeps_scan: bool = False
  dtypes: tuple[str, ...] = ('float32', 'bfloat16')


def _write_hugging_face(path: str, weights: weights_lib.Weights, output: Output) -> None:
  hugging_face.write_hugging_face(path, weights, dtype=output.dtype,
                                  target_length=output.info.target_length)
  tokenizer_files.write(path, output.info, output.vocabulary)


# In the order in which a folder is asked. T5X first: what it writes with Orbax looks native but
# for the names of the parameters; CTranslate2's has a config.json as Hugging Face's.
FORMATS = {
    't5x': Format(
        'checkpoint_<step>/ for T5X', 'a T5X folder (checkpoint_<step>)',
        t5x.is_t5x_checkpoint, t5x.T5XWeights,
        lambda path, weights, to: t5x.write_t5x(
            path, weights, step=to.step, dtype=to.dtype, scan_layers=to.scan_layers)),
    'ct2': Format(
        'model.bin and vocabulary for CTranslate2, which decodes on CPUs (--dtype=int8)',
        '',
        ctranslate2_folder.is_ctranslate2, ctranslate2_folder.refuse,
        lambda path, weights, to: ctranslate2_folder.write(
            path, weights, to.info, to.vocabulary, to.dtype.name if to.dtype else 'float32'),
        library='ctranslate2', dtypes=ctranslate2_folder.DTYPES),
    'native': Format(
        'params/ in Orbax, student.json, vocabulary.model',
        "a run's MODEL_DIR or a converted folder (student.json)",
        native.is_native, native.NativeWeights,
        lambda path, weights, to: native.write_params(
            path, weights, scan_layers=to.scan_layers, dtype=to.dtype),
        keeps_scan=True),
    'hf': Format(
        'config.json, safetensors, tokenizer and model card, for transformers',
        'a Hugging Face folder (config.json, and model.safetensors or pytorch_model.bin)',
        hugging_face.is_hugging_face, hugging_face.HuggingFaceWeights, _write_hugging_face,
        files=hugging_face.weight_files, library='transformers'),
}


def format_of(path: str) -> Format | None:
  """The format of what lies at a path that exists."""
  return next((one for one in FORMATS.values() if one.is_one(path)), None)


def open_weights(path: str) -> weights_lib.Weights:
  """Opens a checkpoint of one of FORMATS, local or `gs://`; its `path` is where it lies.

  Args:
    path: a folder, or a model's name at the hub, see `hub.local`.

  Raises:
    UserError: the path does not exist, is none of them, or is damaged. So does `read` for a
      tensor with NaN or infinity.
  """
  files.check_path('path', path, hub=True)
  path = hub.local(path)
  folder = epath.Path(path)
  if not folder.exists():
    raise errors.UserError(f'{path} does not exist{hub.hint(path)}')
  if found := format_of(path):
    return weights_lib.FiniteWeights(found.read(path))
  held = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else ['a file']
  *others, last = (one.folder for one in FORMATS.values() if one.folder)
  raise errors.UserError(
      f'{path} is no checkpoint that can be read: it holds {", ".join(held) or "nothing"}. Give '
      f'{", ".join(others)}, or {last}')


def find_info(path: str, weights: weights_lib.Weights) -> student_info.StudentInfo:
  """student.json beside the checkpoint, else what the weights alone tell.

  Raises:
    UserError: student.json is of another network, or nothing tells the activation.
  """
  if info := student_info.find(path):
    weights_lib.check_network(weights, info.model)
    return info
  if not weights.says_activation and not t5.is_published(weights.config):
    raise errors.UserError(
        f'{weights.path}: its arrays do not tell whether the gate of its MLP is GELU (T5 v1.1) or '
        f'SiLU (UL2): put the {t5x_gin.FILE} of its training beside it, or one with the line '
        "T5Config.mlp_activations = ('gelu', 'linear'), or 'silu'")
  return _info(path, weights.config)


def describe_hugging_face(path: str) -> student_info.StudentInfo:
  """`find_info` of a Hugging Face folder from its small files.

  Raises:
    UserError: config.json is of no network that this project has.
  """
  config = epath.Path(path) / hugging_face.CONFIG_FILE
  return student_info.find(path) or _info(
      path, hugging_face_config.read(hugging_face.read_json(config), str(config)))


def _info(path: str, model: models.Config) -> student_info.StudentInfo:
  is_bytes = own_vocabulary.is_bytes(path)
  return student_info.StudentInfo(
      model=model, vocabulary=student_info.BYTES if is_bytes else '')


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
