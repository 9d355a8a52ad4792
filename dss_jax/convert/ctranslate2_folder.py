"""A student for CTranslate2: int8 on CPUs, several times as fast as float32.

Written by CTranslate2's own converter from a Hugging Face folder, so it needs transformers and
PyTorch (`pip install 'dss_jax[ct2]'`). To run it `ctranslate2` and SentencePiece are enough.
"""

import importlib.util
import pathlib
import tempfile
from typing import NoReturn

from etils import epath

from dss_jax import errors, files, student_info
from dss_jax.convert import hugging_face, tokenizer_files, tokenizer_json
from dss_jax.convert import weights as weights_lib

DTYPES = ('float32', 'float16', 'bfloat16', 'int8')
_PARTS = ('ctranslate2', 'transformers', 'torch')


def is_ctranslate2(path: str) -> bool:
  """Whether CTranslate2's files lie there."""
  return all((epath.Path(path) / name).exists() for name in ('model.bin', 'config.json',
                                                             'shared_vocabulary.json'))


def refuse(path: str) -> NoReturn:
  """Raises a UserError: quantized weights do not come back."""
  raise errors.UserError(f'{path} is for CTranslate2 and cannot be read back: give the folder that '
                         'it was made from')


def write(path: str, weights: weights_lib.Weights, info: student_info.StudentInfo,
          vocabulary: bytes | None, dtype: str) -> None:
  """Fills the folder `path`.

  Args:
    path: a local folder.
    weights: open for reading.
    info: of the student.
    vocabulary: contents of its SentencePiece model; None for bytes.
    dtype: of DTYPES. With int8 the matrices are int8 and have a float32 scale for each row.

  Raises:
    UserError: a library is missing, or the student has no tokenizer that transformers reads.
  """
  if missing := [name for name in _PARTS if importlib.util.find_spec(name) is None]:
    raise errors.UserError(f"--to=ct2 needs {', '.join(missing)}: pip install 'dss_jax[ct2]'")
  if files.is_remote(path):
    raise errors.UserError(f'--output={path}: CTranslate2 writes to local folders: give one, and '
                           'copy it')
  if vocabulary is None and info.vocabulary != student_info.BYTES:
    raise errors.UserError(f'{weights.path} has no vocabulary, which CTranslate2 keeps in its '
                           'folder: give --vocabulary=FILE')
  if vocabulary is not None and (why := tokenizer_json.why_not(vocabulary)):
    raise errors.UserError(f'--to=ct2: the vocabulary cannot be read by its converter: {why}')
  from ctranslate2.converters import TransformersConverter  # Late: they take seconds to import.
  from transformers.utils import logging
  logging.set_verbosity_error()
  logging.disable_progress_bar()
  with tempfile.TemporaryDirectory() as aside:
    hugging_face.write_hugging_face(aside, weights, dtype=None)
    tokenizer_files.write(aside, info, vocabulary)
    try:
      TransformersConverter(aside).convert(path, quantization=dtype, force=True)
    except ValueError as error:  # A network that it does not have.
      raise errors.UserError(f'--to=ct2: {error}') from error
  if vocabulary is not None:
    (pathlib.Path(path) / hugging_face.TOKENIZER_FILE).write_bytes(vocabulary)
