"""config.json of Hugging Face's T5 <-> T5Config."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax import errors, models
from dss_jax.decode import greedy

_FIELDS = {  # ours: theirs
    'vocab_size': 'vocab_size', 'emb_dim': 'd_model', 'num_heads': 'num_heads',
    'head_dim': 'd_kv', 'mlp_dim': 'd_ff', 'num_encoder_layers': 'num_layers',
    'relpos_num_buckets': 'relative_attention_num_buckets',
    'relpos_max_distance': 'relative_attention_max_distance', 'dropout_rate': 'dropout_rate',
}
_DEFAULTS = {'relative_attention_num_buckets': 32, 'relative_attention_max_distance': 128,
             'dropout_rate': 0.1}
_FUNCTIONS = {  # dense_act_fn: ours. Theirs named 'gelu' is the exact one, ours is tanh's.
    'relu': 'relu', 'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'silu': 'silu',
    'swish': 'silu',
}
_PROJECTIONS = {'t5': 'relu', 'mt5': 'gated-gelu'}  # the defaults
_ELSEWHERE = {'quantization_config': 'quantized weights are not read',
              'transformers_weights': 'weights in a file of another name are not read'}
_NORM_EPSILON = 1e-6
_EOS_ID = 1
GENERATION = ('decoder_start_token_id', 'pad_token_id', 'eos_token_id')
_IDS = {'decoder_start_token_id': greedy.START_ID, 'pad_token_id': greedy.PAD_ID,
        'eos_token_id': _EOS_ID}
# What `generate` of transformers then writes, or may not write, whatever the weights say.
_FORCED = ('forced_bos_token_id', 'forced_eos_token_id', 'forced_decoder_ids', 'suppress_tokens',
           'begin_suppress_tokens', 'bad_words_ids')
_NEVER_SCALES_MT5 = 5  # this version of transformers, and later ones


def to_t5_config(hf: Mapping[str, Any], where: str) -> models.T5Config:
  """config.json -> T5Config.

  Raises:
    UserError: names the field that another model, or one that this project lacks, has.
  """
  _check_kind(hf, where)
  check_ids(hf, where)
  try:
    fields = {ours: hf[theirs] if theirs not in _DEFAULTS else hf.get(theirs, _DEFAULTS[theirs])
              for ours, theirs in _FIELDS.items()}
  except KeyError as error:
    raise errors.UserError(f'{where} has no field {error}') from error
  layers = hf.get('num_decoder_layers')
  try:
    return models.T5Config(
        **fields, num_decoder_layers=hf['num_layers'] if layers is None else layers,
        mlp_activations=_activations(hf, where),
        logits_via_embedding=_is_tied_and_scaled(hf, where))
  except ValueError as error:
    theirs = ', '.join(f'{name} {hf[name]!r}' for name in _FIELDS.values() if name in hf)
    raise errors.UserError(f'{where}: {error} The file has {theirs}') from error


def _check_kind(hf: Mapping[str, Any], where: str) -> None:
  kind = hf.get('model_type')
  if kind not in ('t5', 'mt5'):
    why = ', whose layers each have a position bias of their own' if kind == 'umt5' else ''
    raise errors.UserError(f'{where}: model_type is {kind!r}{why}; give a T5 (t5, mt5)')
  epsilon = hf.get('layer_norm_epsilon', _NORM_EPSILON)
  if epsilon != _NORM_EPSILON:
    raise errors.UserError(
        f'{where}: layer_norm_epsilon is {epsilon}; T5 has {_NORM_EPSILON}')
  for name, right in (('is_encoder_decoder', True), ('is_decoder', False)):
    if hf.get(name, right) is not right:
      raise errors.UserError(f'{where}: {name} is {hf[name]!r}; a T5 with both stacks has {right}')
  for name, what in _ELSEWHERE.items():
    if hf.get(name):
      raise errors.UserError(
          f'{where}: {name} is {hf[name]!r}: {what}; give the folder of the plain weights')


def check_ids(values: Mapping[str, Any], where: str) -> None:
  """UserError for token ids in config.json or generation_config.json that are not T5's.

  This project pads and starts with 0 and ends with 1 everywhere.
  """
  for name, ours in _IDS.items():
    value = values.get(name)
    if value not in (None, ours, [ours]):
      raise errors.UserError(
          f'{where}: {name} is {value!r}; only T5\'s {ours} is supported, so this checkpoint would '
          'be read, or would answer, otherwise than it was trained')
  for name in _FORCED:
    if values.get(name):
      raise errors.UserError(
          f'{where}: {name} is {values[name]!r}, which this project does not have: remove it there '
          'if the answers are right without it')


def _activations(hf: Mapping[str, Any], where: str) -> tuple[str, ...]:
  """feed_forward_proj, which dense_act_fn and is_gated_act say a second time."""
  projection = str(hf.get('feed_forward_proj', _PROJECTIONS[hf['model_type']]))
  gated, name = projection.startswith('gated-'), projection.removeprefix('gated-')
  name = 'gelu_new' if projection == 'gated-gelu' else name
  function = _FUNCTIONS.get(hf.get('dense_act_fn') or name)
  if (function is None or function != _FUNCTIONS.get(name)
      or hf.get('is_gated_act') not in (None, gated)):
    said = ', '.join(f'{name} is {hf[name]!r}' for name in (
        'feed_forward_proj', 'dense_act_fn', 'is_gated_act') if name in hf)
    raise errors.UserError(
        f'{where}: {said}: these contradict each other, or this project does not have them; known: '
        f'gated-gelu, and {", ".join(_FUNCTIONS)} with gated- before it or not')
  return (function, 'linear') if gated else (function,)


def _is_tied_and_scaled(hf: Mapping[str, Any], where: str) -> bool:
  """v1.0's head. transformers 5 always saves tie_word_embeddings true; of a T5 it keeps what the
  file said in scale_decoder_outputs, and an mT5 it never scales."""
  if hf['model_type'] == 't5':
    return bool(hf.get('scale_decoder_outputs', hf.get('tie_word_embeddings', True)))
  if not hf.get('tie_word_embeddings', False):  # What an mT5 of transformers 4 is by default.
    return False
  version = str(hf.get('transformers_version', '')).split('.')[0]
  if not version.isdigit():
    raise errors.UserError(
        f'{where}: an mT5 with tie_word_embeddings true and no transformers_version: '
        'transformers 4 scales its output by d_model ** -0.5, transformers 5 does not; add the '
        '"transformers_version" that it was trained with')
  return int(version) < _NEVER_SCALES_MT5


def from_t5_config(config: models.T5Config, dtype: Any) -> dict[str, Any]:
  """T5Config -> config.json.

  Raises:
    UserError: an activation that transformers has no name for.
  """
  function, *gate = config.mlp_activations
  names = {ours: theirs for theirs, ours in reversed(_FUNCTIONS.items())}
  if function not in names or gate not in ([], ['linear']):
    raise errors.UserError(
        f'mlp_activations={config.mlp_activations}: transformers has one of {sorted(names)}, '
        "alone or with 'linear'")
  name = 'gelu' if gate and function == 'gelu' else names[function]
  tied = config.logits_via_embedding
  return {
      'architectures': ['T5ForConditionalGeneration'],
      'model_type': 't5',
      **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
      'num_decoder_layers': config.num_decoder_layers,
      'feed_forward_proj': f'gated-{name}' if gate else name,
      'is_gated_act': bool(gate),
      'dense_act_fn': names[function],
      'layer_norm_epsilon': _NORM_EPSILON,
      'tie_word_embeddings': tied,
      'scale_decoder_outputs': tied,
      'is_encoder_decoder': True,
      **_IDS,
      'use_cache': True,
      'dtype': np.dtype(dtype).name,
  }
