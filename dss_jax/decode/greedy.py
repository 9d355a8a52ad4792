"""Decoding loops whose rows are independent of each other, and greedy search.

`generate` is the loop of greedy search and of sampling. Beam search, which reorders rows, has a
loop of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from dss_jax.decode.cache import Cache, decode_step, first_token, init_cache, select_inputs
from dss_jax.decode.inputs import is_spread
from dss_jax.models import Network

PAD_ID = 0
# A CPU's step takes the time of its rows: when a quarter of the inputs is left, of many that may
# write long texts, the others are dropped. (One more loop to compile: not for labels.)
_DROPS, _LONG = 4, 32
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


@struct.dataclass
class _State:
  """R rows, N of each input side by side. rows_R: their numbers in the whole batch."""

  cache: Cache
  tokens_RxL: jax.Array
  log_probs_R: jax.Array
  last_R: jax.Array
  ended_R: jax.Array
  rows_R: jax.Array


def generate(
    model: Network, params, cache: Cache, ended_R: jax.Array, eos_id: int | None,
    choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]):
  """Chooses a token per row and step until every row has ended.

  Args:
    model: the network.
    params: its parameters.
    cache: from `init_cache`.
    ended_R: bool [R], the cache's rows that stay empty.
    eos_id: ends a row; None for the config's. It is part of the row's tokens; zeros follow it.
    choose: (float32 logits [R, V], int32 position behind those given, int32 [R] numbers of the
      rows) -> int [R], the next tokens.

  Returns:
    int32 tokens [R, L], float32 [R] sums of their log-probabilities (the softmax of the
    logits, whatever `choose` makes of them), and int32 steps.
  """
  count, length = ended_R.shape[0], cache.room
  eos_id = model.config.eos_id if eos_id is None else eos_id

  def advance(state: _State) -> _State:
    position = state.cache.written
    logits_RxV, cache = decode_step(model, params, state.last_R, state.cache)
    next_R = choose(logits_RxV, position, state.rows_R).astype(jnp.int32)
    gained_R = jnp.where(state.ended_R, 0.0, token_log_probs(logits_RxV, next_R))
    next_R = jnp.where(state.ended_R, PAD_ID, next_R)
    tokens_RxL = jax.lax.dynamic_update_slice_in_dim(
      state.tokens_RxL, next_R[:, None], position, axis=1
    )
    return _State(cache, tokens_RxL, state.log_probs_R + gained_R, next_R,
                  state.ended_R | (next_R == eos_id), state.rows_R)

  start_R = jnp.full((count,), first_token(model, cache), jnp.int32)
  tokens_RxL = jnp.full((count, length), PAD_ID, jnp.int32)
  state = _State(cache, tokens_RxL, jnp.zeros((count,), jnp.float32), start_R, ended_R,
                 jnp.arange(count))
  state = _run_to_end(model, advance, state)
  return state.tokens_RxL, state.log_probs_R, state.cache.written


def _run_to_end(model: Network, advance: Callable[[_State], _State], state: _State) -> _State:
  """Advances until every row has ended or is full; a CPU drops inputs on the way."""
  inputs, length = state.cache.cross_mask.shape[0], state.cache.room

  def run(state: _State, left: int) -> _State:
    """Until all rows of all inputs but `left` have ended."""
    def unfinished(state):
      live_B = ~jnp.all(state.ended_R.reshape(state.cache.cross_mask.shape[0], -1), axis=1)
      return (state.cache.written < length) & (jnp.sum(live_B) > left)
    return jax.lax.while_loop(unfinished, advance, state)

  def run_all(state: _State) -> _State:
    return run(state, 0)

  def run_and_drop(state: _State) -> _State:
    state = run(state, few := inputs // _DROPS)
    fewer = run_all(_select_live(model, state, few))
    rows_F = fewer.rows_R
    return state.replace(
      tokens_RxL=state.tokens_RxL.at[rows_F].set(fewer.tokens_RxL),
      log_probs_R=state.log_probs_R.at[rows_F].set(fewer.log_probs_R),
      cache=state.cache.replace(index=fewer.cache.index),
    )

  if not isinstance(inputs, int) or inputs < 4 * _DROPS or length < _LONG or is_spread():
    return run_all(state)
  return jax.lax.platform_dependent(state, cpu=run_and_drop, default=run_all)


def _select_live(model, state, count):
  """`count` inputs with their rows, those first that have not ended."""
  inputs = state.cache.cross_mask.shape[0]
  ended_BxN = state.ended_R.reshape(inputs, -1)
  inputs_F = jnp.argsort(jnp.all(ended_BxN, axis=1), stable=True)[:count]
  rows_F = (inputs_F[:, None] * ended_BxN.shape[1] + jnp.arange(ended_BxN.shape[1])).reshape(-1)
  rest = [x[rows_F] for x in (state.tokens_RxL, state.log_probs_R, state.last_R, state.ended_R)]
  return _State(select_inputs(model, state.cache, inputs_F, rows_F), *rest, rows_F)


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
    eos_id: int | None = None, given: tuple[int, ...] = ()) -> GreedyResult:
  """The most likely token at every step, until every row has ended.

  Rows of nothing but padding (they fill up a batch) count as ended from the start and give
  zeros, so that they do not keep the others waiting.

  Args:
    model: the network; packed rows cannot be decoded.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    max_decode_length: static; tokens per row at most, EOS included.
    eos_id: ends a row, by default the config's. It is part of the row's tokens; zeros follow it.
    given: token ids that the decoder is given first, in all rows; not part of what is returned.
      Static.

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  cache = init_cache(model, params, encoder_input_tokens, max_decode_length, given=given)
  tokens_BxL, log_probs_B, steps = generate(
    model, params, cache, is_empty(encoder_input_tokens), eos_id,
    lambda logits_BxV, *_: likeliest(logits_BxV),
  )
  return GreedyResult(tokens=tokens_BxL, log_probs=log_probs_B, steps=steps)


def greedy_decode(
    model: Network, params, encoder_input_tokens, max_decode_length: int,
    eos_id: int | None = None):
  """`greedy_search` without the rest: int32 tokens [B, max_decode_length], zeros after EOS."""
  return greedy_search(model, params, encoder_input_tokens, max_decode_length, eos_id).tokens
