"""Attention masks: which keys a query may look at."""

import functools
import operator

import jax
import jax.numpy as jnp
from flax import struct

# Finite, so that a query with no key at all (a row of padding) gets a uniform softmax and a
# zero gradient instead of NaN.
MASKED_SCORE = -1e10


@struct.dataclass
class Mask:
  """What a query may look at, as the vectors that say so; `matrix` writes it out.

  Attributes:
    keys: bool [B, S], False at padding; None for no padding, or where causality hides it.
    query_segments, key_segments: int32 [B, T] and [B, S]; a query sees the keys of its own packed
      example. None for plain rows.
    causal: whether a query sees only the keys up to itself.
  """

  keys: jax.Array | None = None
  query_segments: jax.Array | None = None
  key_segments: jax.Array | None = None
  causal: bool = struct.field(pytree_node=False, default=False)

  def matrix(self, query_length: int):
    """bool [B or 1, 1, T or 1, S], True where a query may look at a key."""
    parts = []
    if self.keys is not None:
      parts.append(self.keys[:, None, None, :])
    if self.query_segments is not None:
      parts.append(segment_mask(self.query_segments, self.key_segments))
    if self.causal:
      parts.append(causal_mask(query_length))
    return functools.reduce(operator.and_, parts)


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
  return Mask(tokens_BxS > 0, segments_BxS, segments_BxS)


def decoder_mask(segments_BxT=None):
  """Decoder self-attention: causal, and only the query's own example when packed.

  Padding of the targets comes after every real position, so causality already hides it.
  """
  return Mask(None, segments_BxT, segments_BxT, causal=True)


def cross_mask(encoder_tokens_BxS, encoder_segments_BxS=None, decoder_segments_BxT=None):
  """Decoder to encoder: no padding, and only the query's own input when packed.

  `decoder_segments_BxT` says of each query which of the encoder's segments that is.
  """
  if encoder_segments_BxS is None:
    decoder_segments_BxT = None
  return Mask(encoder_tokens_BxS > 0, decoder_segments_BxT, encoder_segments_BxS)
