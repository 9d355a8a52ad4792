"""Attention masks: bool arrays [B or 1, 1, T or 1, S], True where a query may look at a key."""

import jax.numpy as jnp

# Finite, so that a query with no key at all (a row of padding) gets a uniform softmax and a
# zero gradient instead of NaN.
MASKED_SCORE = -1e10


def padding_mask(tokens_BxS):
  """True at the keys that are not padding (token 0): [B, S] -> [B, 1, 1, S].

  padding_mask([[7, 1, 0]]) == [[[[True, True, False]]]]
  """
  return (tokens_BxS > 0)[:, None, None, :]


def segment_mask(query_segments_BxT, key_segments_BxS):
  """True where query and key are of the same packed example: [B, T], [B, S] -> [B, 1, T, S].

  segment_mask([[1, 2]], [[1, 1, 2]]) == [[[[True, True, False], [False, False, True]]]]
  """
  return (query_segments_BxT[:, :, None] == key_segments_BxS[:, None, :])[:, None]


def causal_mask(length: int):
  """True at the keys up to the query: [1, 1, T, T]."""
  return jnp.tril(jnp.ones((length, length), bool))[None, None]


def encoder_mask(tokens_BxS, segments_BxS=None):
  """Encoder self-attention: no padding, and only the query's own example when packed."""
  mask = padding_mask(tokens_BxS)
  return mask if segments_BxS is None else mask & segment_mask(segments_BxS, segments_BxS)


def decoder_mask(length: int, segments_BxT=None):
  """Decoder self-attention: causal, and only the query's own example when packed.

  Padding of the targets comes after every real position, so causality already hides it.
  """
  mask = causal_mask(length)
  return mask if segments_BxT is None else mask & segment_mask(segments_BxT, segments_BxT)


def cross_mask(encoder_tokens_BxS, encoder_segments_BxS=None, decoder_segments_BxT=None):
  """Decoder to encoder: no padding, and only the query's own example when packed."""
  mask = padding_mask(encoder_tokens_BxS)
  if encoder_segments_BxS is None:
    return mask
  return mask & segment_mask(decoder_segments_BxT, encoder_segments_BxS)
