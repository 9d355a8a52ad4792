"""Hugging Face folders: reading and writing; `families` has the names.

A folder holds config.json, spiece.model, and model.safetensors, or model.safetensors.index.json
with its shards; pytorch_model.bin and flax_model.msgpack are read where there are no safetensors.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from dss_jax import errors, families
from dss_jax.convert import hugging_face_config, hugging_face_files, safetensors_file
from dss_jax.convert import weights as weights_lib
from dss_jax.convert.hugging_face_files import read_json

CONFIG_FILE = 'config.json'
TOKENIZER_FILE = 'spiece.model'
_ONE_FILE = 'model.safetensors'  # as it is written
_GENERATION_FILE = 'generation_config.json'
_ADAPTER_FILE = 'adapter_config.json'
# Our name, theirs.
_EMBEDDING, _HEAD = 'token_embedder/embedding', 'decoder/logits_dense/kernel'


def _is_transposed(name: str) -> bool:
  return name.endswith(('/kernel', '/rel_embedding'))


def is_hugging_face(path: str) -> bool:
  return any((epath.Path(path) / name).exists() for name in (CONFIG_FILE, _ADAPTER_FILE))


def weight_files(folder: epath.Path) -> list[epath.Path]:
  """The files that say what the parameters are."""
  return [folder / CONFIG_FILE, *hugging_face_files.weight_files(folder)]


class HuggingFaceWeights(weights_lib.Weights):
  """A folder open for reading; see `weights.Weights`.

  Raises:
    UserError: no network that this project has, missing files or shards, names or shapes that do
      not fit config.json.
  """

  def __init__(self, path: str):
    self.path = path
    folder = epath.Path(path)
    if (folder / _ADAPTER_FILE).exists():
      raise errors.UserError(
          f'{folder}/{_ADAPTER_FILE}: an adapter, which would not be applied; save the merged '
          'model with `merge_and_unload().save_pretrained(NEW_DIR)` of peft')
    hf_config = read_json(folder / CONFIG_FILE)
    self._file_of = hugging_face_files.open_files(folder)
    self.config = hugging_face_config.read(hf_config, f'{path}/{CONFIG_FILE}')
    if (folder / _GENERATION_FILE).exists():
      hugging_face_config.check_ids(
          read_json(folder / _GENERATION_FILE), self.config, f'{path}/{_GENERATION_FILE}')
    self._family = families.of(self.config)
    self._names = {name: self._family.their_name(name)
                   for name in weights_lib.expected_specs(self.config)}
    self._head = self._family.their_name(_HEAD)
    copies = [f'{name}.weight' for name in self._family.copies]
    # Madlad's folders hold the embedding under another of its names.
    embeddings = [name for name in (self._names[_EMBEDDING], *copies) if name in self._file_of]
    self._names[_EMBEDDING], *self._copies = embeddings or [self._names[_EMBEDDING]]
    if self._head not in self._file_of:
      if _HEAD in self._names and _head_is_embedding(hf_config):
        self._names[_HEAD] = self._names[_EMBEDDING]
    elif self.config.logits_via_embedding:
      self._copies.append(self._head)
    self.specs = self._specs()
    weights_lib.check(self.specs, self.config, path)
    for name in self._copies:
      self._check_equals_embedding(name)

  def read(self, name: str) -> np.ndarray:
    theirs = self._names[name]
    array = self._file_of[theirs].read(theirs)
    return np.ascontiguousarray(array.T) if _is_transposed(name) else array

  def stored_as(self, name: str) -> str:
    return self._names[name]

  def _specs(self) -> dict[str, jax.ShapeDtypeStruct]:
    found = {}
    for name, theirs in self._names.items():
      if theirs in self._file_of:
        spec = self._file_of[theirs].specs[theirs]
        shape = spec.shape[::-1] if _is_transposed(name) else spec.shape
        found[name] = jax.ShapeDtypeStruct(shape, spec.dtype)
    unknown = set(self._file_of) - {*self._names.values(), *self._copies, *(
        f'{name}.weight' for name in self._family.unused)}
    for theirs in sorted(unknown):
      found[theirs] = self._file_of[theirs].specs[theirs]
    return found

  def _check_equals_embedding(self, name: str) -> None:
    embedding = self._names[_EMBEDDING]
    file, other = (self._file_of[one] for one in (name, embedding))
    if file is other and file.place(name) == file.place(embedding):
      return
    copy, shared = file.read(name), other.read(embedding)
    if not np.array_equal(copy.view(np.uint8), shared.view(np.uint8)):
      fix = ''
      if name == self._head:
        fix = (', and config.json ties the head to the embedding and scales it (T5 v1.0); if it is '
               'a v1.1 model, set "tie_word_embeddings": false and "scale_decoder_outputs": false')
      raise errors.UserError(f'{self.path}: {name} differs from {embedding}{fix}')


def _head_is_embedding(hf_config: Mapping[str, Any]) -> bool:
  """Whether a head that is not in the files was left out for being equal to the embedding.

  Only transformers 5 does that with a head that it does not scale; a model without a head has none
  in its files either.
  """
  names = hf_config.get('architectures') or ['T5ForConditionalGeneration']
  return bool(hf_config.get('tie_word_embeddings')) and all('For' in name for name in names)


def write_hugging_face(
    path: str,
    weights: weights_lib.Weights,
    *,
    dtype: Any = None,
    max_shard_bytes: int = 5 * 10**9,
    target_length: int | None = None,
) -> None:
  """Writes the configs and the tensors, one at a time, into an existing folder.

  Args:
    path: the folder.
    weights: open for reading.
    dtype: of the new file; None keeps each tensor's own.
    max_shard_bytes: a file is closed before it grows past this (a tensor is never split).
    target_length: tokens, EOS included, that `generate` writes at most if it is not told; None: its
      own 20, which cut rationales.
  """
  folder = epath.Path(path)
  their_name = families.of(weights.config).their_name
  ours = {their_name(name): name for name in weights.specs}
  specs = {theirs: _their_spec(weights.specs[name], name, dtype) for theirs, name in ours.items()}
  shards = _shards(specs, max_shard_bytes)

  def read(theirs: str) -> np.ndarray:
    array = weights.read(ours[theirs])
    array = array if dtype is None else array.astype(dtype, copy=False)
    return array.T if _is_transposed(ours[theirs]) else array

  for file, names in shards.items():
    safetensors_file.write(str(folder / file), {name: specs[name] for name in names}, read)
  if len(shards) > 1:
    total = sum(_num_bytes(spec) for spec in specs.values())
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / hugging_face_files.index_of(_ONE_FILE)).write_text(
        json.dumps({'metadata': {'total_size': total}, 'weight_map': weight_map}, indent=2) + '\n')
  stored = next(iter(specs.values())).dtype
  for file, values in (
      (CONFIG_FILE, hugging_face_config.write(weights.config, stored)),
      (_GENERATION_FILE, hugging_face_config.generation(weights.config, target_length))):
    (folder / file).write_text(json.dumps(values, indent=2) + '\n')


def _their_spec(spec: jax.ShapeDtypeStruct, name: str, dtype: Any) -> jax.ShapeDtypeStruct:
  shape = spec.shape[::-1] if _is_transposed(name) else spec.shape
  return jax.ShapeDtypeStruct(shape, dtype or spec.dtype)


def _num_bytes(spec: jax.ShapeDtypeStruct) -> int:
  return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _shards(
    specs: Mapping[str, jax.ShapeDtypeStruct], max_bytes: int) -> dict[str, list[str]]:
  """File name -> tensors, in order."""
  groups: list[list[str]] = [[]]
  filled = 0
  for name, spec in specs.items():
    if groups[-1] and filled + _num_bytes(spec) > max_bytes:
      groups.append([])
      filled = 0
    groups[-1].append(name)
    filled += _num_bytes(spec)
  if len(groups) == 1:
    return {_ONE_FILE: groups[0]}
  return {f'model-{i:05d}-of-{len(groups):05d}.safetensors': names
          for i, names in enumerate(groups, 1)}
