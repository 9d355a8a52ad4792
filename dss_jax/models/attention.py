"""Multi-head attention, in pieces that a key/value cache can use one at a time."""

import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from dss_jax.models import attend, cached_attention
from dss_jax.models.config import T5Config
from dss_jax.models.layers import Dense

_HEADS = ('batch', 'length', 'heads', 'kv')


class Attention(nn.Module):
  """Multi-head attention without a 1/sqrt(head_dim) scale (T5, section 2.1).

  The scale sits in the initialiser of the query instead (upstream t5x/examples/t5/layers.py).

  Shapes: B batch, T queries, S keys, D emb_dim, H heads, K head_dim.
  """

  config: T5Config

  def setup(self):
    cfg = self.config
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')

    def query_init(*args, **kwargs):
      return init(*args, **kwargs) * cfg.head_dim**-0.5

    joined = cfg.num_heads * cfg.head_dim
    self.query = Dense(joined, ('embed', 'joined_kv'), query_init, cfg.dtype)
    self.key = Dense(joined, ('embed', 'joined_kv'), init, cfg.dtype)
    self.value = Dense(joined, ('embed', 'joined_kv'), init, cfg.dtype)
    self.out = Dense(cfg.emb_dim, ('joined_kv', 'embed'), init, cfg.dtype)
    # One mask for all queries of a head, as in T5X.
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(self, inputs_BxTxD, memory_BxSxD, bias, mask, *, deterministic):
    """Attends from `inputs` to `memory`; returns [B, T, D]. See `attend` for bias and mask."""
    key_BxSxHxK, value_BxSxHxK = self.keys_values(memory_BxSxD)
    return self.attend(
      inputs_BxTxD, key_BxSxHxK, value_BxSxHxK, bias, mask, deterministic=deterministic
    )

  def keys_values(self, memory_BxSxD):
    """[B, S, D] -> keys and values, each [B, S, H, K]: what a cache keeps."""
    return self._heads('key', memory_BxSxD), self._heads('value', memory_BxSxD)

  def attend(self, inputs_BxTxD, key_BxSxHxK, value_BxSxHxK, bias, mask, *, deterministic):
    """Attends from `inputs` to given keys and values.

    Args:
      inputs_BxTxD: where the queries come from.
      key_BxSxHxK: keys.
      value_BxSxHxK: values.
      bias: added to the scores: of `attend.bias_for`, or float32 and broadcastable to
        [B, H, T, S], or None.
      mask: of `attend.seen_by`, or bool, True where a query may look, broadcastable to
        [B, H, T, S].
      deterministic: True switches dropout off.

    Returns:
      config.dtype [B, T, D].
    """
    query_BxTxHxK = self._heads('query', inputs_BxTxD)
    kept_BxHx1xS = None
    if not deterministic and self.config.dropout_rate:
      batch, length, heads, _ = key_BxSxHxK.shape
      kept_BxHx1xS = self.dropout(jnp.ones((batch, heads, 1, length)), deterministic=False)
    context_BxTxHxK = attend.attend(
      query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, mask, kept_BxHx1xS
    )
    context_BxTxHxK = nn.with_logical_constraint(context_BxTxHxK, _HEADS)
    return self.out(context_BxTxHxK.reshape(*inputs_BxTxD.shape[:2], -1))

  def attend_cached(self, inputs_BxTxD, key_BxHxKxS, value_BxHxSxK, bias, mask):
    """`attend` without dropout, to keys and values as `cached_attention` keeps them."""
    query_BxTxHxK = self._heads('query', inputs_BxTxD)
    context_BxTxHxK = cached_attention.attend(
      query_BxTxHxK, key_BxHxKxS, value_BxHxSxK, bias, mask
    )
    context_BxTxHxK = nn.with_logical_constraint(context_BxTxHxK, _HEADS)
    return self.out(context_BxTxHxK.reshape(*inputs_BxTxD.shape[:2], -1))

  def _heads(self, name, inputs_BxTxD):
    joined_BxTxN = checkpoint_name(getattr(self, name)(inputs_BxTxD), name)
    heads_BxTxHxK = joined_BxTxN.reshape(
      *joined_BxTxN.shape[:2], self.config.num_heads, self.config.head_dim
    )
    return nn.with_logical_constraint(heads_BxTxHxK, _HEADS)
