"""T5 and umT5 elsewhere: names and config.json at Hugging Face, and sizes from shapes."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from dss_jax import errors, models

# Our name -> Hugging Face's. PyTorch keeps a linear layer as [out, in] and the position biases
# as [buckets, heads]: kernels and rel_embedding are transposed.
NAMES = {
    'token_embedder/embedding': 'shared',
    'decoder/logits_dense/kernel': 'lm_head',

    'encoder/relpos_bias/rel_embedding':
        'encoder.block.0.layer.0.SelfAttention.relative_attention_bias',
    'encoder/layers_{i}/relpos_bias/rel_embedding':  # umT5's
        'encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias',
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
    'decoder/layers_{i}/relpos_bias/rel_embedding':
        'decoder.block.{i}.layer.0.SelfAttention.relative_attention_bias',
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
COPIES = ('encoder.embed_tokens', 'decoder.embed_tokens')  # of the embedding
# A table in old files that T5 never reads.
UNUSED = ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias',)

_GATE = 'encoder/layers_0/mlp/wi_0/kernel'
_OWN_BIAS = 'encoder/layers_0/relpos_bias/rel_embedding'
# UL2 and Flan-UL2, whose gate is SiLU's: https://huggingface.co/google/ul2, config.json.
_UL2 = {'emb_dim': 4096, 'num_heads': 16, 'head_dim': 256, 'mlp_dim': 16384,
        'num_encoder_layers': 32, 'num_decoder_layers': 32}
_LAYER = re.compile(r'^(encoder|decoder)/layers_(\d+)/')

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
_PROJECTIONS = {'t5': 'relu', 'mt5': 'gated-gelu', 'umt5': 'gated-gelu'}  # the defaults
MODEL_TYPES = tuple(_PROJECTIONS)
_NORM_EPSILON = 1e-6
_NEVER_SCALES_MT5 = 5  # this version of transformers, and later ones


def from_hugging_face(hf: Mapping[str, Any], where: str) -> models.T5Config:
  """config.json -> T5Config.

  Raises:
    UserError: names the field that another model, or one that this project lacks, has.
  """
  epsilon = hf.get('layer_norm_epsilon', _NORM_EPSILON)
  if epsilon != _NORM_EPSILON:
    raise errors.UserError(
        f'{where}: layer_norm_epsilon is {epsilon}; T5 has {_NORM_EPSILON}')
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
        logits_via_embedding=_is_tied_and_scaled(hf, where),
        relpos_per_layer=hf['model_type'] == 'umt5')
  except ValueError as error:
    theirs = ', '.join(f'{name} {hf[name]!r}' for name in _FIELDS.values() if name in hf)
    raise errors.UserError(f'{where}: {error} The file has {theirs}') from error


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
  """v1.0's head. transformers 5 always saves tie_word_embeddings true; of a T5 or umT5 it keeps
  what the file said in scale_decoder_outputs, and an mT5 it never scales."""
  if hf['model_type'] != 'mt5':
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


def to_hugging_face(config: models.T5Config) -> dict[str, Any]:
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
  kind = 'umt5' if config.relpos_per_layer else 't5'
  return {
      'architectures': [f'{kind.upper()}ForConditionalGeneration'],
      'model_type': kind,
      **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
      'num_decoder_layers': config.num_decoder_layers,
      'feed_forward_proj': f'gated-{name}' if gate else name,
      'is_gated_act': bool(gate),
      'dense_act_fn': names[function],
      'layer_norm_epsilon': _NORM_EPSILON,
      'tie_word_embeddings': tied,
      'scale_decoder_outputs': tied,
  }


def from_shapes(specs: Mapping[str, jax.ShapeDtypeStruct], **overrides: Any) -> models.T5Config:
  """The network's shape from its parameters' shapes, for checkpoints that carry no config.

  Shapes do not tell the dropout rate and relpos_max_distance: T5's 0.1 and 128. One input
  projection of the MLP means v1.0's ReLU, two mean v1.1's gated GELU, or UL2's gated SiLU in its
  size; see `is_published`.

  Raises:
    KeyError: a parameter that every T5 has is missing.
  """
  per_layer = _OWN_BIAS in specs
  heads, buckets = specs[_OWN_BIAS if per_layer else 'encoder/relpos_bias/rel_embedding'].shape
  vocab_size, emb_dim = specs['token_embedder/embedding'].shape
  gated = _GATE in specs
  first = _GATE if gated else 'encoder/layers_0/mlp/wi/kernel'
  config = models.T5Config(**{
      'vocab_size': vocab_size, 'emb_dim': emb_dim, 'num_heads': heads,
      'head_dim': specs['encoder/layers_0/attention/query/kernel'].shape[1] // heads,
      'num_encoder_layers': _depth(specs, 'encoder'),
      'num_decoder_layers': _depth(specs, 'decoder'),
      'mlp_dim': specs[first].shape[1],
      'mlp_activations': ('gelu', 'linear') if gated else ('relu',),
      'logits_via_embedding': 'decoder/logits_dense/kernel' not in specs,
      'relpos_num_buckets': buckets, 'relpos_per_layer': per_layer,
      **overrides})
  if 'mlp_activations' not in overrides and _has_size(config, _UL2):
    return dataclasses.replace(config, mlp_activations=('silu', 'linear'))
  return config


def is_published(config: models.Config) -> bool:
  """Whether the sizes are those of a public model, so that they tell the activation of a gate."""
  sizes = [_UL2, *models.SIZES['1.1'].values()]
  return len(config.mlp_activations) == 1 or any(_has_size(config, size) for size in sizes)


def _has_size(config: models.Config, size: Mapping[str, int]) -> bool:
  return all(getattr(config, name) == value for name, value in size.items())


def _depth(specs: Iterable[str], side: str) -> int:
  found = {int(m[2]) for name in specs if (m := _LAYER.match(name)) and m[1] == side}
  return max(found) + 1 if found else 0
