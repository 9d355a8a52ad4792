"""Decoding over a key/value cache.

`init_cache` and `decode_step` know nothing of how the next token is chosen; greedy search is
one loop over them, and sampling or beam search would be another.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dss_jax.models import masks
from dss_jax.models.transformer import Transformer

START_ID = 0  # T5 starts the decoder with the padding id.
PAD_ID = 0


@struct.dataclass
class Cache:
  """What a decoder remembers. A beam search reorders the batch axis of the first three.

  Attributes:
    self_attention: keys and values of the tokens so far, leaves [B, L, H, K], or
      [layers, B, L, H, K] with scan_layers.
    cross_attention: keys and values of the encoded inputs, leaves [B, S, H, K] likewise;
      computed once.
    cross_mask: bool [B, 1, 1, S], the encoder's tokens that are not padding.
    index: int32 scalar, how many tokens were read.
    max_decode_length: L, room for that many tokens. Static.
  """

  self_attention: Any
  cross_attention: Any
  cross_mask: jax.Array
  index: jax.Array
  max_decode_length: int = struct.field(pytree_node=False)


@struct.dataclass
class GreedyResult:
  """tokens: int32 [B, max_decode_length]; steps: int32 scalar, decoder steps that were run."""

  tokens: jax.Array
  steps: jax.Array


def init_cache(
    model: Transformer, params, encoder_input_tokens, max_decode_length: int) -> Cache:
  """Encodes int [B, S] (not packed, padded with 0) and returns a cache with no token read.

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  if max_decode_length < 1:
    raise ValueError(f'max_decode_length is {max_decode_length}: use at least 1.')
  _, filled = model.apply(
    {'params': params}, encoder_input_tokens, max_decode_length, method='fill_cache',
    mutable=['cache', 'cross_cache'],
  )
  return Cache(
    self_attention=filled['cache'],
    cross_attention=filled['cross_cache'],
    cross_mask=masks.padding_mask(encoder_input_tokens),
    index=jnp.zeros((), jnp.int32),
    max_decode_length=max_decode_length,
  )


def decode_step(model: Transformer, params, tokens_B, cache: Cache):
  """Reads one token per row.

  Args:
    model: the network.
    params: its parameters.
    tokens_B: int [B], the tokens at position `cache.index` (START_ID at first).
    cache: from `init_cache` or the step before. Reading more than max_decode_length tokens
      overwrites the last.

  Returns:
    float32 logits [B, V] of the next token, and the cache with `tokens_B` read.
  """
  variables = {
    'params': params, 'cache': cache.self_attention, 'cross_cache': cache.cross_attention,
  }
  logits_BxV, changed = model.apply(
    variables, tokens_B, cache.cross_mask, cache.index, cache.max_decode_length,
    method='decode_step', mutable=['cache'],
  )
  return logits_BxV, cache.replace(self_attention=changed['cache'], index=cache.index + 1)


def greedy_search(
    model: Transformer, params, encoder_input_tokens, max_decode_length: int,
    eos_id: int = 1) -> GreedyResult:
  """The most likely token at every step, until every row has ended.

  Rows of nothing but padding (they fill up a batch) count as ended from the start and give
  zeros, so that they do not keep the others waiting.

  Args:
    model: the network; packed rows cannot be decoded.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    max_decode_length: static; tokens per row at most, EOS included.
    eos_id: ends a row. It is part of the row's tokens; zeros follow it.

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  batch = encoder_input_tokens.shape[0]
  cache = init_cache(model, params, encoder_input_tokens, max_decode_length)
  ended_B = ~jnp.any(encoder_input_tokens != PAD_ID, axis=-1)
  tokens_BxL = jnp.full((batch, max_decode_length), PAD_ID, jnp.int32)
  last_B = jnp.full((batch,), START_ID, jnp.int32)

  def unfinished(state):
    cache, _, _, ended_B = state
    return (cache.index < max_decode_length) & ~jnp.all(ended_B)

  def advance(state):
    cache, tokens_BxL, last_B, ended_B = state
    position = cache.index
    logits_BxV, cache = decode_step(model, params, last_B, cache)
    next_B = jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    next_B = jnp.where(ended_B, PAD_ID, next_B)
    tokens_BxL = jax.lax.dynamic_update_slice_in_dim(
      tokens_BxL, next_B[:, None], position, axis=1
    )
    return cache, tokens_BxL, next_B, ended_B | (next_B == eos_id)

  state = jax.lax.while_loop(unfinished, advance, (cache, tokens_BxL, last_B, ended_B))
  cache, tokens_BxL, _, _ = state
  return GreedyResult(tokens=tokens_BxL, steps=cache.index)


def greedy_decode(
    model: Transformer, params, encoder_input_tokens, max_decode_length: int, eos_id: int = 1):
  """`greedy_search` without the count: int32 tokens [B, max_decode_length], zeros after EOS."""
  return greedy_search(model, params, encoder_input_tokens, max_decode_length, eos_id).tokens
