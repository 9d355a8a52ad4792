"""Decoding loops whose rows are independent of each other, and greedy search.

`generate` is the loop of greedy search and of sampling. Beam search, which reorders rows, has a
loop of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from dss_jax.decode.cache import Cache, decode_step, init_cache
from dss_jax.models import Network

PAD_ID = 0
_BLOCK = 128  # divides the vocabularies of T5 and umT5


@struct.dataclass
class GreedyResult:
  """What `greedy_search` found.

  Attributes:
    tokens: int32 [B, max_decode_length], EOS included, zeros after it.
    log_probs: float32 [B], sum of the log-probabilities of the row's tokens, EOS included; 0
      for rows of padding.
    steps: int32 scalar, decoder steps that were run.
  """

  tokens: jax.Array
  log_probs: jax.Array
  steps: jax.Array


def is_empty(encoder_input_tokens):
  """bool [B]: rows of nothing but padding, which fill up a batch."""
  return ~jnp.any(encoder_input_tokens != PAD_ID, axis=-1)


def generate(
    model: Network, params, cache: Cache, ended_B: jax.Array, eos_id: int | None,
    choose: Callable[[jax.Array, jax.Array], jax.Array]):
  """Chooses a token per row and step until every row has ended.

  Args:
    model: the network.
    params: its parameters.
    cache: from `init_cache`.
    ended_B: bool [B], the cache's rows that stay empty.
    eos_id: ends a row; None for the config's. It is part of the row's tokens; zeros follow it.
    choose: (float32 logits [B, V], int32 position) -> int [B], the next tokens.

  Returns:
    int32 tokens [B, L], float32 [B] sums of their log-probabilities (the softmax of the
    logits, whatever `choose` makes of them), and int32 steps.
  """
  batch, length = ended_B.shape[0], cache.max_decode_length
  eos_id = model.config.eos_id if eos_id is None else eos_id

  def unfinished(state):
    cache, _, _, _, ended_B = state
    return (cache.index < length) & ~jnp.all(ended_B)

  def advance(state):
    cache, tokens_BxL, log_probs_B, last_B, ended_B = state
    position = cache.index
    logits_BxV, cache = decode_step(model, params, last_B, cache)
    next_B = choose(logits_BxV, position).astype(jnp.int32)
    gained_B = token_log_probs(logits_BxV, next_B)
    log_probs_B = log_probs_B + jnp.where(ended_B, 0.0, gained_B)
    next_B = jnp.where(ended_B, PAD_ID, next_B)
    tokens_BxL = jax.lax.dynamic_update_slice_in_dim(
      tokens_BxL, next_B[:, None], position, axis=1
    )
    return cache, tokens_BxL, log_probs_B, next_B, ended_B | (next_B == eos_id)

  tokens_BxL = jnp.full((batch, length), PAD_ID, jnp.int32)
  start_B = jnp.full((batch,), model.config.start_id, jnp.int32)
  state = (cache, tokens_BxL, jnp.zeros((batch,), jnp.float32), start_B, ended_B)
  cache, tokens_BxL, log_probs_B, _, _ = jax.lax.while_loop(unfinished, advance, state)
  return tokens_BxL, log_probs_B, cache.index


def token_log_probs(logits, tokens):
  """Log-probability of one token each: float32 [..., V] and int [...] -> float32 [...]."""
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def likeliest(logits):
  """`jnp.argmax` over the last axis: [..., V] -> int32 [...], the first of equals.

  On CPUs, where it takes longer than the softmax, block by block: the blocks' maxima are found by
  vector instructions, and only the best block is searched.
  """
  def by_blocks(logits):
    blocks = logits.reshape(*logits.shape[:-1], -1, _BLOCK)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(blocks, best[..., None, None], axis=-2)[..., 0, :]
    return best * _BLOCK + jnp.argmax(inside, axis=-1)

  def plain(logits):
    return jnp.argmax(logits, axis=-1)

  if logits.shape[-1] % _BLOCK:
    return plain(logits)
  # Of a vocabulary that is split over devices, blocks would have to be gathered.
  return jax.lax.platform_dependent(logits, cpu=by_blocks, default=plain)


def greedy_search(
    model: Network, params, encoder_input_tokens, max_decode_length: int,
    eos_id: int | None = None) -> GreedyResult:
  """The most likely token at every step, until every row has ended.

  Rows of nothing but padding (they fill up a batch) count as ended from the start and give
  zeros, so that they do not keep the others waiting.

  Args:
    model: the network; packed rows cannot be decoded.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    max_decode_length: static; tokens per row at most, EOS included.
    eos_id: ends a row, by default the config's. It is part of the row's tokens; zeros follow it.

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  cache = init_cache(model, params, encoder_input_tokens, max_decode_length)
  tokens_BxL, log_probs_B, steps = generate(
    model, params, cache, is_empty(encoder_input_tokens), eos_id,
    lambda logits_BxV, _: likeliest(logits_BxV),
  )
  return GreedyResult(tokens=tokens_BxL, log_probs=log_probs_B, steps=steps)


def greedy_decode(
    model: Network, params, encoder_input_tokens, max_decode_length: int,
    eos_id: int | None = None):
  """`greedy_search` without the rest: int32 tokens [B, max_decode_length], zeros after EOS."""
  return greedy_search(model, params, encoder_input_tokens, max_decode_length, eos_id).tokens
