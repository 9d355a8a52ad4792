"""The files of a Hugging Face folder that hold its tensors, whatever their format."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from dss_jax import errors
from dss_jax.convert import flax_file, safetensors_file, torch_file

_ADAPTER_FILE = 'adapter_config.json'


class TensorFile(Protocol):
  """A file open for reading, with PyTorch's names and layout of the tensors."""

  @property
  def specs(self) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shape and dtype by name."""
    ...

  def read(self, name: str) -> np.ndarray:
    """One tensor in host memory."""
    ...

  def place(self, name: str) -> Any:
    """Where its values are; equal for tensors that the file holds as one."""
    ...


# Of a folder that has several, the first is read.
FORMATS: dict[str, Callable[[str], TensorFile]] = {
    'model.safetensors': safetensors_file.SafetensorsFile,
    'pytorch_model.bin': torch_file.TorchFile,
    'flax_model.msgpack': flax_file.FlaxFile,
}
_ELSEWHERE = {  # what is not read: the fix
    'tf_model.h5': "TensorFlow's weights are not read: load the folder with transformers 4, "
                   '`T5ForConditionalGeneration.from_pretrained(DIR, from_tf=True)'
                   '.save_pretrained(NEW_DIR)`',
}


def index_of(name: str) -> str:
  """The file that says in which shards the tensors are."""
  return f'{name}.index.json'


def open_files(folder: epath.Path) -> dict[str, TensorFile]:
  """The file of each tensor.

  Raises:
    UserError: files or shards are missing, are not those of the index, or are damaged.
  """
  if (folder / _ADAPTER_FILE).exists():
    raise errors.UserError(
        f'{folder}/{_ADAPTER_FILE}: an adapter, which would not be applied; save the merged model '
        'with `merge_and_unload().save_pretrained(NEW_DIR)` of peft')
  one = _format(folder)
  shards, map_ = _shards(folder, one)
  files = {name: FORMATS[one](str(folder / name)) for name in shards}
  pairs = {(tensor, name) for name, file in files.items() for tensor in file.specs}
  found = dict(sorted(pairs))
  odd = sorted({*map_.items()} - pairs) or sorted(pairs - {*found.items()})
  if odd:
    raise errors.UserError(
        f'{folder}/{index_of(one)} is not of the files beside it ({odd[0][0]} in {odd[0][1]}): '
        'copy or download the folder again')
  return {tensor: files[name] for tensor, name in found.items()}


def _format(folder: epath.Path) -> str:
  """The first of FORMATS that the folder has."""
  for name in FORMATS:
    if (folder / name).exists() or (folder / index_of(name)).exists():
      return name
  for name, fix in _ELSEWHERE.items():
    if (folder / name).exists():
      raise errors.UserError(f'{folder}/{name}: {fix}')
  raise _missing(folder, next(iter(FORMATS)))


def _shards(folder: epath.Path, one: str) -> tuple[list[str], Mapping[str, str]]:
  """The names of the files, and what the index says of each tensor's."""
  map_: Mapping[str, str] = {}
  if (folder / index_of(one)).exists():
    map_ = _weight_map(folder / index_of(one))
  names = sorted(set(map_.values()))
  missing = [name for name in names if not (folder / name).exists()]
  if (folder / one).exists() and names != [one]:
    if names and not missing:
      raise errors.UserError(
          f'{folder} holds two checkpoints, {one} and the {len(names)} files of '
          f'{index_of(one)}: remove the one that is not meant')
    return [one], {}  # An index of files that are gone says nothing.
  if missing or not names:
    raise _missing(folder, [*missing, one][0])
  return names, map_


def _weight_map(index: epath.Path) -> Mapping[str, str]:
  map_ = read_json(index).get('weight_map', {})
  if not isinstance(map_, dict) or not all(
      isinstance(name, str) and '/' not in name for name in map_.values()):
    raise errors.UserError(f'{index}: weight_map is no map of tensors to files beside it')
  return {flax_file.their_name(tensor): name for tensor, name in map_.items()}


def _missing(folder: epath.Path, name: str) -> errors.UserError:
  held = ', '.join(sorted(path.name for path in folder.iterdir()))
  return errors.UserError(f'{folder} has no {name} (it has {held}): copy or download it')


def read_json(path: epath.Path) -> Any:
  """Contents of a JSON object.

  Raises:
    UserError: it is none, or cannot be read.
  """
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{path}: {error}; is the folder complete?') from error
  if not isinstance(found, dict):
    raise errors.UserError(f'{path}: {type(found).__name__} instead of an object with fields')
  return found
