"""Attention over a key/value cache that lies as its two products read it.

Projections write [B, S, H, K]. A step of decoding has one query per row, so it would spend most of
its time turning such a cache around: keys are kept as [B, H, K, S] and values as [B, H, S, K].

Shapes: B inputs, T queries of each, S keys, H heads, K head_dim.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models.masks import MASKED_SCORE

_KEY_AXES = ('batch', 'heads', 'kv', 'length')
_VALUE_AXES = ('batch', 'heads', 'length', 'kv')


def arrange(key_BxSxHxK, value_BxSxHxK):
  """What `Attention.keys_values` gives -> what a cache keeps."""
  return (constrain_key(key_BxSxHxK.transpose(0, 2, 3, 1)),
          constrain_value(value_BxSxHxK.transpose(0, 2, 1, 3)))


def write(cache, key_BxTxHxK, value_BxTxHxK, index):
  """(keys, values) with T positions written from `index` on, an int32 scalar."""
  new_key, new_value = arrange(key_BxTxHxK, value_BxTxHxK)
  key_BxHxKxS = jax.lax.dynamic_update_slice_in_dim(cache[0], new_key, index, axis=3)
  value_BxHxSxK = jax.lax.dynamic_update_slice_in_dim(cache[1], new_value, index, axis=2)
  return constrain_key(key_BxHxKxS), constrain_value(value_BxHxSxK)


def attend(query_BxTxHxK, key_BxHxKxS, value_BxHxSxK, bias, mask):
  """Context [B, T, H, K], in the queries' dtype.

  Args:
    query_BxTxHxK: queries.
    key_BxHxKxS: keys.
    value_BxHxSxK: values.
    bias: float32, added to the scores, broadcastable to [B, H, T, S]; or None.
    mask: bool, True where a query may look, broadcastable to [B, H, T, S].
  """
  # bfloat16 products are added up in, and stay in, float32 up to and with the softmax.
  score_BxHxTxS = jnp.einsum(
    'bthk,bhks->bhts', query_BxTxHxK, key_BxHxKxS, preferred_element_type=jnp.float32
  )
  if bias is not None:
    score_BxHxTxS = score_BxHxTxS + bias
  score_BxHxTxS = jnp.where(mask, score_BxHxTxS, MASKED_SCORE)
  prob_BxHxTxS = jax.nn.softmax(score_BxHxTxS, axis=-1).astype(query_BxTxHxK.dtype)
  return jnp.einsum('bhts,bhsk->bthk', prob_BxHxTxS, value_BxHxSxK)


def constrain_key(key_BxHxKxS):
  return nn.with_logical_constraint(key_BxHxKxS, _KEY_AXES)


def constrain_value(value_BxHxSxK):
  return nn.with_logical_constraint(value_BxHxSxK, _VALUE_AXES)
