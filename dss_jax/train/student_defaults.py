"""What need not be said of a student: its checkpoint says it, or its vocabulary."""

import dataclasses
import hashlib
import os
import tempfile
from typing import Any

from etils import epath

from dss_jax import errors, files, models, student_info, tokenizer
from dss_jax.convert import own_vocabulary

_OF_THE_RUN = {'dropout_rate', 'dtype', 'scan_layers', 'remat', 'attention',
               'one_hot_embedding'}
_ROWS = 128  # An embedding has a multiple of so many: it can be split, and T5's have.


@dataclasses.dataclass(frozen=True)
class Said:
  """What a folder says of its student.

  Attributes:
    where: the folder.
    network: field of the config -> value, of all that its parameters fix.
    vocabulary: path of a SentencePiece model, 'bytes', or '' if there is none.
  """

  where: str
  network: dict[str, Any]
  vocabulary: str


def of_run(model_dir: str | None) -> Said | None:
  """Of a run that has begun; its checkpoint may be gone by now."""
  if not model_dir or not (info := student_info.find(model_dir)):
    return None
  return Said(model_dir, _network(info.model), _file(own_vocabulary.find(model_dir, info)))


def of_checkpoint(path: str) -> Said:
  """Of a checkpoint, see `formats.open_weights`; of a model of the hub without its weights.

  Raises:
    UserError: it cannot be read, or does not say what its network is.
  """
  from dss_jax.convert import formats, hub  # Late: they load Orbax.
  if folder := hub.without_weights(path):
    info = formats.describe_hugging_face(folder)
  else:
    weights = formats.open_weights(path)
    folder = weights.path
    info = formats.find_info(folder, weights)
  return Said(path, _network(info.model), _file(own_vocabulary.find(folder, info)))


def _network(config: models.Config) -> dict[str, Any]:
  fields = dataclasses.asdict(config)
  return {name: value for name, value in fields.items() if name not in _OF_THE_RUN}


def _file(own: own_vocabulary.Own | None) -> str:
  """Where the vocabulary can be read; one that is no file of its own is written down for it."""
  if own is None:
    return ''
  if own.model is None:
    return student_info.BYTES
  if epath.Path(own.where).suffix == '.model':
    return own.where
  name = f'dss_jax-{hashlib.sha256(own.model).hexdigest()[:16]}.model'
  path = os.path.join(tempfile.gettempdir(), name)
  files.write(path, own.model)
  return path


def rows(vocabulary: str, more: int = 0) -> int | None:
  """Rows of the embedding of a student from scratch; None if the vocabulary cannot be read here.

  `more` are ids behind the vocabulary's own.
  """
  if vocabulary == student_info.BYTES:
    count = tokenizer.ByteTokenizer.size
  else:
    try:
      count = len(own_vocabulary.pieces(tokenizer.read_model(vocabulary, 'vocabulary'), vocabulary))
    except errors.UserError:
      return None
  return -(-(count + more) // _ROWS) * _ROWS
