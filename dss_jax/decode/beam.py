"""Beam search, with the conventions of `generate` in Hugging Face transformers 5.

At every step the 2N best continuations of an input's N live beams are looked at:
  - Those that end (with EOS, or because there is no more room) become hypotheses if they are
    among the best N. A hypothesis' score is its log-probability / length**length_penalty; the
    length counts its tokens, EOS included and the decoder's start token not. The best N
    hypotheses are kept.
  - The best N of the others live on. Every beam has one continuation that is EOS, so there are
    always enough.
An input is done when it has N hypotheses and its best live beam, scored at its present length,
is no better than the worst of them; with early_stopping, as soon as it has N.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dss_jax.decode.cache import Cache, decode_step, first_token, init_cache, select_rows
from dss_jax.decode.greedy import PAD_ID, is_empty
from dss_jax.models import Network


@struct.dataclass
class BeamResult:
  """What `beam_search` found, the best first.

  Attributes:
    tokens: int32 [B, num_return, max_decode_length], EOS included, zeros after it.
    scores: float32 [B, num_return], log_probs / length**length_penalty. -inf (and zeros for
      tokens) where there are not so many sequences, in vocabularies smaller than the beam.
    log_probs: float32 [B, num_return], sum of the log-probabilities of the tokens.
    steps: int32 scalar, decoder steps that were run.
  """

  tokens: jax.Array
  scores: jax.Array
  log_probs: jax.Array
  steps: jax.Array


@struct.dataclass
class _Beams:
  """Token sequences of each input, the best first; scores are -inf where there is none.

  `scores` is what they are ordered by: log_probs for live beams, penalized for hypotheses.
  """

  tokens_BxNxL: jax.Array
  log_probs_BxN: jax.Array
  scores_BxN: jax.Array


@struct.dataclass
class _State:
  cache: Cache
  live: _Beams
  found: _Beams
  done_B: jax.Array


def beam_search(
    model: Network, params, encoder_input_tokens, max_decode_length: int, *,
    num_beams: int = 4, length_penalty: float = 1.0, num_return: int = 1, eos_id: int | None = None,
    early_stopping: bool = False, given: tuple[int, ...] = ()) -> BeamResult:
  """The most likely sequences that a beam search finds.

  Rows of nothing but padding count as done from the start and give zeros. An input is encoded
  once, and its beams share the keys and values that the decoder attends to.

  Args:
    model: the network; packed rows cannot be decoded.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    max_decode_length: static; tokens per sequence at most, EOS included.
    num_beams: N, static. The self-attention's cache and the logits have B*N rows.
    length_penalty: static; above 0 favours long sequences, below 0 short ones.
    num_return: sequences to return per input, at most num_beams. Static.
    eos_id: ends a sequence; by default the config's.
    early_stopping: static; see the top of this file.
    given: see `greedy_search`; no length or score counts it. Static.

  Raises:
    ValueError: names the argument, its value and the fix.
  """
  _check(num_beams, length_penalty, num_return, early_stopping)
  batch = encoder_input_tokens.shape[0]
  eos_id = model.config.eos_id if eos_id is None else eos_id
  cache = init_cache(model, params, encoder_input_tokens, max_decode_length, num_beams,
                     given)
  empty_B = is_empty(encoder_input_tokens)
  nothing = _no_beams(batch, num_beams, max_decode_length)
  # One empty sequence each: more of them would give the same continuations again.
  first_BxN = nothing.scores_BxN.at[:, 0].set(0.0)
  live = nothing.replace(log_probs_BxN=first_BxN, scores_BxN=first_BxN)
  # In Python's double precision, as Hugging Face does.
  penalty_L = jnp.asarray(
    [n**length_penalty for n in range(1, max_decode_length + 1)], jnp.float32
  )

  def unfinished(state):
    return (state.cache.written < max_decode_length) & ~jnp.all(state.done_B)

  def advance(state):
    return _advance(model, params, state, penalty_L, eos_id, early_stopping)

  state = jax.lax.while_loop(unfinished, advance, _State(cache, live, nothing, empty_B))
  best = jax.tree.map(lambda x: x[:, :num_return], state.found)
  return BeamResult(
    tokens=best.tokens_BxNxL,
    scores=jnp.where(empty_B[:, None], 0.0, best.scores_BxN),
    log_probs=jnp.where(empty_B[:, None], 0.0, best.log_probs_BxN),
    steps=state.cache.written,
  )


def _advance(model, params, state: _State, penalty_L, eos_id, early_stopping) -> _State:
  """One more token for every live beam."""
  position, length = state.cache.written, state.cache.room
  beams = state.live.scores_BxN.shape[1]
  more, origin_BxM, cache = _continuations(model, params, state)
  ends_BxM = (_token_at(more.tokens_BxNxL, position) == eos_id) | (position + 1 == length)

  live_BxM = jnp.where(ends_BxM, -jnp.inf, more.log_probs_BxN)
  live, kept_BxN = _best(_Beams(more.tokens_BxNxL, live_BxM, live_BxM), beams)
  cache = select_rows(model, cache, jnp.take_along_axis(origin_BxM, kept_BxN, axis=1))

  ends_BxM &= (jnp.arange(ends_BxM.shape[1]) < beams) & ~state.done_B[:, None]
  scores_BxM = jnp.where(ends_BxM, more.log_probs_BxN / penalty_L[position], -jnp.inf)
  # The old ones first: `top_k` takes the former of equals, so a place without a hypothesis
  # (-inf) stays blank instead of taking up a continuation that has not ended.
  candidates = (state.found, more.replace(scores_BxN=scores_BxM))
  found, _ = _best(jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *candidates), beams)

  worst_B = found.scores_BxN[:, -1]  # -inf as long as there are fewer than N.
  hopeless_B = live.log_probs_BxN[:, 0] / penalty_L[position] <= worst_B
  done_B = state.done_B | ((worst_B > -jnp.inf) & (hopeless_B | early_stopping))
  return _State(cache, live, found, done_B)


def _continuations(model, params, state: _State):
  """The best M = 2N one-token continuations of the live beams.

  Returns:
    the continuations (_Beams), int32 [B, M] which beam each comes from, and the cache.
  """
  position, live = state.cache.written, state.live
  batch, beams, _ = live.tokens_BxNxL.shape
  last_BxN = jnp.where(position > 0, _token_at(live.tokens_BxNxL, position - 1),
                       first_token(model, state.cache))
  logits_RxV, cache = decode_step(model, params, last_BxN.reshape(-1), state.cache)
  vocab = logits_RxV.shape[-1]
  gained_BxNxV = jax.nn.log_softmax(logits_RxV).reshape(batch, beams, vocab)
  total_BxNV = (live.log_probs_BxN[..., None] + gained_BxNxV).reshape(batch, beams * vocab)
  total_BxM, index_BxM = jax.lax.top_k(total_BxNV, min(2, vocab) * beams)
  origin_BxM = index_BxM // vocab
  tokens_BxMxL = jnp.take_along_axis(live.tokens_BxNxL, origin_BxM[..., None], axis=1)
  tokens_BxMxL = jax.lax.dynamic_update_slice_in_dim(
    tokens_BxMxL, (index_BxM % vocab)[..., None], position, axis=2
  )
  return _Beams(tokens_BxMxL, total_BxM, total_BxM), origin_BxM, cache


def _best(beams: _Beams, count: int):
  """The `count` beams of the highest scores, and int32 [B, count] which they were."""
  scores_BxN, index_BxN = jax.lax.top_k(beams.scores_BxN, count)
  return _Beams(
    tokens_BxNxL=jnp.take_along_axis(beams.tokens_BxNxL, index_BxN[..., None], axis=1),
    log_probs_BxN=jnp.take_along_axis(beams.log_probs_BxN, index_BxN, axis=1),
    scores_BxN=scores_BxN,
  ), index_BxN


def _no_beams(batch: int, beams: int, length: int) -> _Beams:
  none_BxN = jnp.full((batch, beams), -jnp.inf, jnp.float32)
  return _Beams(jnp.full((batch, beams, length), PAD_ID, jnp.int32), none_BxN, none_BxN)


def _token_at(tokens_BxNxL, position):
  return jax.lax.dynamic_index_in_dim(tokens_BxNxL, position, axis=2, keepdims=False)


def _check(num_beams, length_penalty, num_return, early_stopping):
  if not isinstance(num_beams, (int, np.integer)) or num_beams < 1:
    raise ValueError(f'num_beams is {num_beams!r}: use an integer of at least 1.')
  if not math.isfinite(length_penalty):
    raise ValueError(f'length_penalty is {length_penalty!r}: use a finite number (0 for none).')
  if not 1 <= num_return <= num_beams:
    raise ValueError(
      f'num_return is {num_return!r}: use 1 to num_beams, {num_beams}, or raise num_beams.'
    )
  if not isinstance(early_stopping, bool):
    raise ValueError(f'early_stopping is {early_stopping!r}: use True or False.')
