"""Hugging Face folders of T5: the table of names, reading and writing.

A folder holds config.json, spiece.model, and model.safetensors, or model.safetensors.index.json
with its shards; pytorch_model.bin and flax_model.msgpack are read where there are no safetensors.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from dss_jax import errors
from dss_jax.convert import hugging_face_config as config_lib
from dss_jax.convert import hugging_face_files, safetensors_file
from dss_jax.convert import weights as weights_lib
from dss_jax.convert.hugging_face_files import read_json

CONFIG_FILE = 'config.json'
TOKENIZER_FILE = 'spiece.model'
_ONE_FILE = 'model.safetensors'  # as it is written
_GENERATION_FILE = 'generation_config.json'

# Our name -> Hugging Face's. PyTorch keeps a linear layer as [out, in] and the position biases
# as [buckets, heads]: kernels and rel_embedding are transposed.
NAMES = {
    'token_embedder/embedding': 'shared',
    'decoder/logits_dense/kernel': 'lm_head',

    'encoder/relpos_bias/rel_embedding':
        'encoder.block.0.layer.0.SelfAttention.relative_attention_bias',
    'encoder/layers_{i}/pre_attention_layer_norm/scale': 'encoder.block.{i}.layer.0.layer_norm',
    'encoder/layers_{i}/attention/query/kernel': 'encoder.block.{i}.layer.0.SelfAttention.q',
    'encoder/layers_{i}/attention/key/kernel': 'encoder.block.{i}.layer.0.SelfAttention.k',
    'encoder/layers_{i}/attention/value/kernel': 'encoder.block.{i}.layer.0.SelfAttention.v',
    'encoder/layers_{i}/attention/out/kernel': 'encoder.block.{i}.layer.0.SelfAttention.o',
    'encoder/layers_{i}/pre_mlp_layer_norm/scale': 'encoder.block.{i}.layer.1.layer_norm',
    'encoder/layers_{i}/mlp/wi/kernel': 'encoder.block.{i}.layer.1.DenseReluDense.wi',
    'encoder/layers_{i}/mlp/wi_0/kernel': 'encoder.block.{i}.layer.1.DenseReluDense.wi_0',
    'encoder/layers_{i}/mlp/wi_1/kernel': 'encoder.block.{i}.layer.1.DenseReluDense.wi_1',
    'encoder/layers_{i}/mlp/wo/kernel': 'encoder.block.{i}.layer.1.DenseReluDense.wo',
    'encoder/encoder_norm/scale': 'encoder.final_layer_norm',

    'decoder/relpos_bias/rel_embedding':
        'decoder.block.0.layer.0.SelfAttention.relative_attention_bias',
    'decoder/layers_{i}/pre_self_attention_layer_norm/scale':
        'decoder.block.{i}.layer.0.layer_norm',
    'decoder/layers_{i}/self_attention/query/kernel': 'decoder.block.{i}.layer.0.SelfAttention.q',
    'decoder/layers_{i}/self_attention/key/kernel': 'decoder.block.{i}.layer.0.SelfAttention.k',
    'decoder/layers_{i}/self_attention/value/kernel': 'decoder.block.{i}.layer.0.SelfAttention.v',
    'decoder/layers_{i}/self_attention/out/kernel': 'decoder.block.{i}.layer.0.SelfAttention.o',
    'decoder/layers_{i}/pre_cross_attention_layer_norm/scale':
        'decoder.block.{i}.layer.1.layer_norm',
    'decoder/layers_{i}/encoder_decoder_attention/query/kernel':
        'decoder.block.{i}.layer.1.EncDecAttention.q',
    'decoder/layers_{i}/encoder_decoder_attention/key/kernel':
        'decoder.block.{i}.layer.1.EncDecAttention.k',
    'decoder/layers_{i}/encoder_decoder_attention/value/kernel':
        'decoder.block.{i}.layer.1.EncDecAttention.v',
    'decoder/layers_{i}/encoder_decoder_attention/out/kernel':
        'decoder.block.{i}.layer.1.EncDecAttention.o',
    'decoder/layers_{i}/pre_mlp_layer_norm/scale': 'decoder.block.{i}.layer.2.layer_norm',
    'decoder/layers_{i}/mlp/wi/kernel': 'decoder.block.{i}.layer.2.DenseReluDense.wi',
    'decoder/layers_{i}/mlp/wi_0/kernel': 'decoder.block.{i}.layer.2.DenseReluDense.wi_0',
    'decoder/layers_{i}/mlp/wi_1/kernel': 'decoder.block.{i}.layer.2.DenseReluDense.wi_1',
    'decoder/layers_{i}/mlp/wo/kernel': 'decoder.block.{i}.layer.2.DenseReluDense.wo',
    'decoder/decoder_norm/scale': 'decoder.final_layer_norm',
}
_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')  # of the embedding
# A table in old files that T5 never reads.
_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
_SHARED, _HEAD = 'shared.weight', 'lm_head.weight'
_EMBEDDING_NAME, _HEAD_NAME = 'token_embedder/embedding', 'decoder/logits_dense/kernel'


def their_name(name: str) -> str:
  """'encoder/layers_3/mlp/wo/kernel' -> 'encoder.block.3.layer.1.DenseReluDense.wo.weight'."""
  match = re.search(r'/layers_(\d+)/', name)
  if not match:
    return f'{NAMES[name]}.weight'
  template = NAMES[name.replace(match[0], '/layers_{i}/')]
  return f'{template.format(i=match[1])}.weight'


def _is_transposed(name: str) -> bool:
  return name.endswith(('/kernel', '/rel_embedding'))


def is_hugging_face(path: str) -> bool:
  return (epath.Path(path) / CONFIG_FILE).exists()


class HuggingFaceWeights(weights_lib.Weights):
  """A folder open for reading; see `weights.Weights`.

  Raises:
    UserError: not a T5 that this project has, missing files or shards, names or shapes that do
      not fit config.json.
  """

  def __init__(self, path: str):
    self.path = path
    folder = epath.Path(path)
    hf_config = read_json(folder / CONFIG_FILE)
    self._file_of = hugging_face_files.open_files(folder)
    self.config = config_lib.to_t5_config(hf_config, f'{path}/{CONFIG_FILE}')
    if (folder / _GENERATION_FILE).exists():
      config_lib.check_ids(read_json(folder / _GENERATION_FILE), f'{path}/{_GENERATION_FILE}')
    self._names = {name: their_name(name) for name in weights_lib.expected_specs(self.config)}
    # Madlad's folders hold the embedding under another of its names.
    self._embedding = next((name for name in (_SHARED, *_COPIES) if name in self._file_of), _SHARED)
    self._names[_EMBEDDING_NAME] = self._embedding
    if _HEAD_NAME in self._names and _HEAD not in self._file_of and _head_is_embedding(hf_config):
      self._names[_HEAD_NAME] = self._embedding
    self.specs = self._specs()
    weights_lib.check(self.specs, self.config, path)
    for name in (*_COPIES, *([_HEAD] if self.config.logits_via_embedding else [])):
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
    unknown = set(self._file_of) - set(self._names.values()) - {*_COPIES, _UNUSED, _HEAD}
    for theirs in sorted(unknown):
      found[theirs] = self._file_of[theirs].specs[theirs]
    return found

  def _check_equals_embedding(self, name: str) -> None:
    if name not in self._file_of:
      return
    file, other = (self._file_of[one] for one in (name, self._embedding))
    if file is other and file.place(name) == file.place(self._embedding):
      return
    copy, shared = file.read(name), other.read(self._embedding)
    if not np.array_equal(copy.view(np.uint8), shared.view(np.uint8)):
      fix = ''
      if name == _HEAD:
        fix = (', and config.json ties the head to the embedding and scales it (T5 v1.0); if it is '
               'a v1.1 model, set "tie_word_embeddings": false and "scale_decoder_outputs": false')
      raise errors.UserError(f'{self.path}: {name} differs from {self._embedding}{fix}')


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
) -> None:
  """Writes the configs and the tensors, one at a time, into an existing folder.

  Args:
    path: the folder.
    weights: open for reading.
    dtype: of the new file; None keeps each tensor's own.
    max_shard_bytes: a file is closed before it grows past this (a tensor is never split).
  """
  folder = epath.Path(path)
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
  config = config_lib.from_t5_config(weights.config, stored)
  generation = {name: config[name] for name in config_lib.GENERATION}
  for file, values in ((CONFIG_FILE, config), (_GENERATION_FILE, generation)):
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
