"""Our network in T5X's place for one: `--gin.NETWORK=@t5x_network.Transformer()`.

T5X calls a network with arguments of its own, reads the names of its parameters' axes from a
collection, and hands the decoding cache around as one tree.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from dss_jax import models
from dss_jax.decode import cache as cache_lib
from dss_jax.models import masks, transformer


def config(shape: Any, scan_layers: bool = False, remat: str = 'none') -> models.T5Config:
  """Ours, from a T5Config of T5X's T5 example.

  Args:
    shape: of the same size and numerics.
    scan_layers, remat: see `models.T5Config`. Checkpoints of scanned layers are not those of
      T5X's example.
  """
  same = ('vocab_size', 'dtype', 'emb_dim', 'num_heads', 'num_encoder_layers',
          'num_decoder_layers', 'head_dim', 'mlp_dim', 'dropout_rate', 'logits_via_embedding')
  return models.T5Config(
      **{name: getattr(shape, name) for name in same},
      mlp_activations=tuple(shape.mlp_activations), scan_layers=scan_layers, remat=remat,
      attention='xla')  # T5X's mesh is not known where attention is traced.


class Transformer(transformer.Transformer):
  """`models.Transformer` with T5X's calling convention."""

  @property
  def scan_layers(self) -> bool:
    """T5X asks, to find the rows of the cache."""
    return self.config.scan_layers

  def __call__(  # type: ignore[override]  # T5X's order
      self, encoder_input_tokens, decoder_input_tokens, decoder_target_tokens=None,
      encoder_segment_ids=None, decoder_segment_ids=None, encoder_positions=None,
      decoder_positions=None, *, decode: bool = False, enable_dropout: bool = False):
    """See `models.Transformer`; decoding goes through `new_cache` and `next_logits`.

    Targets are not needed, since their padding never influences a real position, nor positions.
    """
    del decoder_target_tokens, encoder_positions, decoder_positions, decode
    return super().__call__(
        encoder_input_tokens, decoder_input_tokens, encoder_segment_ids, decoder_segment_ids,
        deterministic=not enable_dropout)

  def encode(
      self, encoder_input_tokens, encoder_segment_ids=None, *, deterministic: bool = True,
      enable_dropout: bool = False):
    return super().encode(encoder_input_tokens, encoder_segment_ids,
                          deterministic=deterministic and not enable_dropout)


def split_axes(variables: Mapping[str, Any]) -> Mapping[str, Any]:
  """Parameters boxed with the names of their axes -> T5X's two collections."""
  boxed = flax.core.unfreeze(variables['params'])
  axes = jax.tree.map(
      lambda leaf: partitioning.AxisMetadata(names=tuple(leaf.names)), boxed, is_leaf=_is_boxed)
  named = {(*path[:-1], f'{path[-1]}_axes'): names
           for path, names in flax.traverse_util.flatten_dict(axes).items()}
  return flax.core.freeze({'params': nn.unbox(boxed),
                           'params_axes': flax.traverse_util.unflatten_dict(named)})


def _is_boxed(leaf: Any) -> bool:
  return isinstance(leaf, nn.meta.AxisMetadata)


def new_cache(
    module: Transformer, params: Any, encoder_input_tokens: jax.Array, max_decode_length: int
) -> dict[str, Any]:
  """Of `models.init_cache`, as the tree that T5X expands over beams and samples."""
  made = cache_lib.init_cache(module, params, encoder_input_tokens, max_decode_length)
  return {'cache': made.self_attention, 'cross_cache': made.cross_attention,
          'cache_index': made.index}


def next_logits(
    module: Transformer, params: Any, tokens_Bx1: jax.Array, cache: Mapping[str, Any],
    encoder_input_tokens: jax.Array, max_decode_length: int,
) -> tuple[jax.Array, dict[str, Any]]:
  """One step of decoding: float32 logits [B, V] and the cache after it."""
  before = cache_lib.Cache(
      self_attention=cache['cache'], cross_attention=cache['cross_cache'],
      cross_mask=masks.padding_mask(encoder_input_tokens),
      index=jnp.max(cache['cache_index']), max_decode_length=max_decode_length)
  logits_BxV, after = cache_lib.decode_step(module, params, tokens_Bx1[:, 0], before)
  return logits_BxV, {**cache, 'cache': after.self_attention, 'cache_index': after.index}
