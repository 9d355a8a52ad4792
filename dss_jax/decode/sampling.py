"""Sampling, from the whole distribution or from its likeliest tokens."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from dss_jax.decode.cache import init_cache
from dss_jax.decode.greedy import generate, is_empty
from dss_jax.models import Network


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to draw. Static: each is compiled once.

  Logits are divided by the temperature, then all but the top_k are cut off, then all but the
  nucleus of what is left (the order of Hugging Face transformers).

  Attributes:
    num_samples: N per input. An input is encoded once.
    temperature: above 0.
    top_k: draw among so many of the likeliest tokens; 0 for all.
    top_p: nucleus sampling (Holtzman et al. 2020): draw among the fewest of the likeliest
      tokens whose probability reaches top_p; in (0, 1], 1 for all.

  Raises:
    ValueError: names the field, its value and the fix.
  """

  num_samples: int = 1
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    if self.num_samples < 1:
      raise ValueError(f'num_samples is {self.num_samples!r}: use at least 1.')
    if not self.temperature > 0:
      raise ValueError(
        f'temperature is {self.temperature!r}: use a number above 0, or use greedy_search for '
        'the likeliest token at every step.'
      )
    if self.top_k < 0 or self.top_k != int(self.top_k):
      raise ValueError(f'top_k is {self.top_k!r}: use a positive integer, or 0 for all tokens.')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'top_p is {self.top_p!r}: use a number in (0, 1], 1.0 for all tokens.')


@struct.dataclass
class SampleResult:
  """What `sample` drew.

  Attributes:
    tokens: int32 [B, num_samples, max_decode_length], EOS included, zeros after it.
    log_probs: float32 [B, num_samples], sum of the tokens' log-probabilities by the model
      itself: temperature 1, nothing cut off. 0 for rows of padding.
    steps: int32 scalar, decoder steps that were run.
  """

  tokens: jax.Array
  log_probs: jax.Array
  steps: jax.Array


def sample(
    model: Network, params, encoder_input_tokens, max_decode_length: int, row_keys,
    sampling: Sampling = Sampling(), eos_id: int | None = None,
    given: tuple[int, ...] = ()) -> SampleResult:
  """Draws sequences, a token at a time, until every row has ended.

  Token t of sample n of a row depends on fold_in(fold_in(the row's key, n), t), so that what a
  row draws depends neither on the batch it is in nor on its place there. (Up to rounding:
  matrix products of another shape may differ in the last bit, and a tie within it falls the
  other way.)

  Rows of nothing but padding give zeros.

  Args:
    model: the network; packed rows cannot be decoded.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    max_decode_length: static; tokens per sequence at most, EOS included.
    row_keys: typed PRNG keys [B] (`jax.random.key`), one per input.
    sampling: how to draw. Static.
    eos_id: ends a sequence; by default the config's.
    given: see `greedy_search`. Static.

  Raises:
    ValueError: names the argument, its value and the fix.
  """
  batch, num_samples = encoder_input_tokens.shape[0], sampling.num_samples
  _check_keys(row_keys, batch)
  keys_BxN = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
    row_keys, jnp.arange(num_samples)
  )
  keys_R = keys_BxN.reshape(-1)  # R = B*N

  def choose(logits_RxV, position, rows_R):
    draw = jax.vmap(lambda logits_V, key: draw_token(
      logits_V, jax.random.fold_in(key, position), sampling
    ))
    return draw(logits_RxV, keys_R[rows_R])

  cache = init_cache(model, params, encoder_input_tokens, max_decode_length, num_samples, given)
  empty_R = jnp.repeat(is_empty(encoder_input_tokens), num_samples)
  tokens_RxL, log_probs_R, steps = generate(model, params, cache, empty_R, eos_id, choose)
  return SampleResult(
    tokens=tokens_RxL.reshape(batch, num_samples, -1),
    log_probs=log_probs_R.reshape(batch, num_samples), steps=steps,
  )


def draw_token(logits_V, key, sampling: Sampling):
  """float32 logits [V] and a key -> int32 scalar, a token."""
  vocab, top_k, top_p = logits_V.shape[0], sampling.top_k, sampling.top_p
  # The largest is 0, so that a temperature near 0 overflows to -inf only.
  scaled_V = (logits_V - jnp.max(logits_V)) / sampling.temperature
  # Gumbel-max. The noise belongs to the token and not to its rank.
  noise_V = jax.random.gumbel(key, (vocab,), jnp.float32)
  if not top_k and top_p == 1.0:
    return jnp.argmax(scaled_V + noise_V).astype(jnp.int32)
  scaled_K, tokens_K = jax.lax.top_k(scaled_V, min(top_k, vocab) if top_k else vocab)
  in_nucleus_K = nucleus(jax.nn.softmax(scaled_K), top_p)
  noisy_K = jnp.where(in_nucleus_K, scaled_K + noise_V[tokens_K], -jnp.inf)
  return tokens_K[jnp.argmax(noisy_K)].astype(jnp.int32)


def nucleus(probs_K, top_p: float):
  """Which of the probabilities [K], the largest first, are of the nucleus: bool [K].

  The token with which the sum reaches top_p is one of them, and the first always is.
  nucleus([0.5, 0.25, 0.25], 0.6) == [True, True, False]
  """
  if top_p == 1.0:
    return jnp.ones(probs_K.shape, bool)  # The sum's rounding would cut off the last few.
  before_K = jnp.cumsum(probs_K)[:-1]
  return jnp.concatenate([jnp.ones((1,), bool), before_K < top_p])


def _check_keys(row_keys, batch: int):
  if not jnp.issubdtype(row_keys.dtype, jax.dtypes.prng_key):
    raise ValueError(
      f'row_keys is {row_keys.dtype}: pass typed keys, such as '
      'jax.random.split(jax.random.key(seed), batch).'
    )
  if row_keys.shape != (batch,):
    raise ValueError(f'row_keys has shape {row_keys.shape}: pass one key per input, ({batch},).')
