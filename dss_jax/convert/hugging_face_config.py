"""config.json of Hugging Face's T5 <-> T5Config."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax import errors, models
from dss_jax.models import decoding

_FIELDS = {  # ours: theirs
    'vocab_size': 'vocab_size', 'emb_dim': 'd_model', 'num_heads': 'num_heads',
    'head_dim': 'd_kv', 'mlp_dim': 'd_ff', 'num_encoder_layers': 'num_layers',
    'relpos_num_buckets': 'relative_attention_num_buckets',
    'relpos_max_distance': 'relative_attention_max_distance', 'dropout_rate': 'dropout_rate',
}
_DEFAULTS = {'relative_attention_num_buckets': 32, 'relative_attention_max_distance': 128,
             'dropout_rate': 0.1}
_ACTIVATIONS = {
    'relu': ('relu',), 'gated-gelu': ('gelu', 'linear'), 'gated-silu': ('silu', 'linear'),
    'gated-relu': ('relu', 'linear'),
}
_NORM_EPSILON = 1e-6
GENERATION = ('decoder_start_token_id', 'pad_token_id', 'eos_token_id')


def to_t5_config(hf: Mapping[str, Any], where: str) -> models.T5Config:
  """config.json -> T5Config.

  Raises:
    UserError: names the field that another model, or one that this project lacks, has.
  """
  if hf.get('model_type') not in ('t5', 'mt5'):
    raise errors.UserError(f'{where}: model_type is {hf.get("model_type")!r}; give a T5 (t5, mt5)')
  if hf.get('layer_norm_epsilon', _NORM_EPSILON) != _NORM_EPSILON:
    raise errors.UserError(
        f'{where}: layer_norm_epsilon is {hf["layer_norm_epsilon"]}; T5 has {_NORM_EPSILON}')
  activation = hf.get('feed_forward_proj', 'relu')
  if activation not in _ACTIVATIONS:
    raise errors.UserError(
        f'{where}: feed_forward_proj is {activation!r}, which this project does not have; known: '
        f'{", ".join(_ACTIVATIONS)}')
  try:
    fields = {ours: hf[theirs] if theirs not in _DEFAULTS else hf.get(theirs, _DEFAULTS[theirs])
              for ours, theirs in _FIELDS.items()}
  except KeyError as error:
    raise errors.UserError(f'{where} has no field {error}') from error
  return models.T5Config(
      **fields, num_decoder_layers=hf.get('num_decoder_layers') or hf['num_layers'],
      mlp_activations=_ACTIVATIONS[activation], logits_via_embedding=_is_tied_and_scaled(hf))


def _is_tied_and_scaled(hf: Mapping[str, Any]) -> bool:
  """v1.0's head. transformers 5 always saves tie_word_embeddings true, and keeps what the file
  said in scale_decoder_outputs."""
  return bool(hf.get('scale_decoder_outputs', hf.get('tie_word_embeddings', True)))


def from_t5_config(config: models.T5Config, dtype: Any) -> dict[str, Any]:
  """T5Config -> config.json.

  Raises:
    UserError: an activation that transformers has no name for.
  """
  names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
  if config.mlp_activations not in names:
    raise errors.UserError(
        f'mlp_activations={config.mlp_activations}: transformers has {sorted(names)} only')
  activation = names[config.mlp_activations]
  tied = config.logits_via_embedding
  return {
      'architectures': ['T5ForConditionalGeneration'],
      'model_type': 't5',
      **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
      'num_decoder_layers': config.num_decoder_layers,
      'feed_forward_proj': activation,
      'is_gated_act': activation.startswith('gated-'),
      'dense_act_fn': 'gelu_new' if activation == 'gated-gelu' else activation.split('-')[-1],
      'layer_norm_epsilon': _NORM_EPSILON,
      'tie_word_embeddings': tied,
      'scale_decoder_outputs': tied,
      'is_encoder_decoder': True,
      'decoder_start_token_id': decoding.START_ID,
      'pad_token_id': decoding.PAD_ID,
      'eos_token_id': 1,
      'use_cache': True,
      'dtype': np.dtype(dtype).name,
  }
