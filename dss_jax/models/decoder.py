"""The decoder: whole sequences in training, a token (or a prompt) at a time over a cache.

Two variable collections hold the cache, per layer:
  cache/{key,value}        self-attention [B, H, K, L] and [B, H, L, K], written at every step;
  cross_cache/{key,value}  the encoded inputs' [B, H, K, S] and [B, H, S, K], written once.
A scanned stack has a leading layers axis. They are apart so that a step returns (and a loop
copies) only the first.

Beams, samples and candidate targets are several decoder rows of one input: with N of them, the
decoder's B is N times the cross cache's, rows of one input side by side.
"""

import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models import attend, cached_attention
from dss_jax.models.attention import Attention
from dss_jax.models.config import T5Config
from dss_jax.models.layers import Dense, Mlp, RMSNorm
from dss_jax.models.relative_position import RelativePositionBias
from dss_jax.models.stack import make_stack, run_stack

_CACHED = ('key', 'value')


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoded inputs, MLP."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.pre_self_attention_layer_norm = RMSNorm(cfg)
    self.self_attention = Attention(cfg)
    self.pre_cross_attention_layer_norm = RMSNorm(cfg)
    self.encoder_decoder_attention = Attention(cfg)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = Mlp(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if cfg.relpos_per_layer:
      self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)

  def __call__(self, x_BxTxD, encoded_BxSxD, bias, self_mask, cross_mask, deterministic):
    """Returns (x_BxTxD, None): a carry and no output, as `nn.scan` wants it.

    Args:
      x_BxTxD: residual stream.
      encoded_BxSxD: the encoder's output; None to read its keys and values from the cache.
      bias: relative position bias, see `Attention.attend`; None where the layer has its own.
      self_mask: see `Attention.attend`.
      cross_mask: see there.
      deterministic: True switches dropout off.
    """
    if bias is None:
      length = x_BxTxD.shape[1]
      bias = attend.bias_for(self_mask, self.relpos_bias.by_distance(), length, length)
    y_BxTxD = self.pre_self_attention_layer_norm(x_BxTxD)
    y_BxTxD = self.self_attention(y_BxTxD, y_BxTxD, bias, self_mask, deterministic=deterministic)
    x_BxTxD = x_BxTxD + self.dropout(y_BxTxD, deterministic=deterministic)

    y_BxTxD = self.pre_cross_attention_layer_norm(x_BxTxD)
    if encoded_BxSxD is None:
      y_BxTxD = self._attend_to_cached_inputs(y_BxTxD, cross_mask)
    else:
      y_BxTxD = self.encoder_decoder_attention(
        y_BxTxD, encoded_BxSxD, None, cross_mask, deterministic=deterministic
      )
    x_BxTxD = x_BxTxD + self.dropout(y_BxTxD, deterministic=deterministic)

    y_BxTxD = self.mlp(self.pre_mlp_layer_norm(x_BxTxD), deterministic=deterministic)
    x_BxTxD = x_BxTxD + self.dropout(y_BxTxD, deterministic=deterministic)
    return nn.with_logical_constraint(x_BxTxD, ('batch', 'length', 'embed')), None

  def step(self, x_BxTxD, bias_1xHxTxL, self_mask_TxL, cross_mask, index):
    """The next positions (one, but for a prompt) over the cache; returns (x_BxTxD, None).

    Args:
      x_BxTxD: residual stream.
      bias_1xHxTxL: relative position bias of these positions; None where the layer has its own.
      self_mask_TxL: bool [T, L], the positions up to each.
      cross_mask: bool [B, 1, 1, S].
      index: int32 scalar, the first position.
    """
    if bias_1xHxTxL is None:
      bias_1xHxTxL = self.relpos_bias.rows(index, *self_mask_TxL.shape)
    y_BxTxD = self.pre_self_attention_layer_norm(x_BxTxD)
    read = [self.get_variable('cache', name) for name in _CACHED]
    written = cached_attention.write(read, *self.self_attention.keys_values(y_BxTxD), index)
    self._put('cache', written)
    x_BxTxD += self.self_attention.attend_cached(y_BxTxD, *written, bias_1xHxTxL, self_mask_TxL)
    y_BxTxD = self.pre_cross_attention_layer_norm(x_BxTxD)
    x_BxTxD += self._attend_to_cached_inputs(y_BxTxD, cross_mask)
    x_BxTxD += self.mlp(self.pre_mlp_layer_norm(x_BxTxD), deterministic=True)
    return nn.with_logical_constraint(x_BxTxD, ('batch', 'length', 'embed')), None

  def fill_cache(self, carry, encoded_BxSxD, max_decode_length):
    """Projects the encoded inputs once and makes room for `max_decode_length` tokens."""
    attention = self.encoder_decoder_attention
    cross = cached_attention.arrange(*attention.keys_values(encoded_BxSxD))
    self._put('cross_cache', cross)
    batch, heads, head_dim, _ = cross[0].shape
    room_BxLxHxK = jnp.zeros((batch, max_decode_length, heads, head_dim), self.config.dtype)
    self._put('cache', cached_attention.arrange(room_BxLxHxK, room_BxLxHxK))
    return carry, None

  def _attend_to_cached_inputs(self, y_BxTxD, cross_mask):
    """Of any number of rows per input, side by side: [B * N, T, D] -> the same."""
    key, value = (self.get_variable('cross_cache', name) for name in _CACHED)
    # Nothing in this attention tells queries apart, so the N rows of an input are N*T queries
    # to one copy of its keys and values.
    queries = y_BxTxD.reshape(key.shape[0], -1, y_BxTxD.shape[-1])
    attended = self.encoder_decoder_attention.attend_cached(queries, key, value, None, cross_mask)
    return attended.reshape(y_BxTxD.shape)

  def _put(self, collection: str, arrays) -> None:
    for name, array in zip(_CACHED, arrays, strict=True):
      self.put_variable(collection, name, array)


class Decoder(nn.Module):
  """Embedded decoder inputs and encoded inputs -> hidden states, and hidden states -> logits."""

  config: T5Config

  def setup(self):
    cfg = self.config
    if not cfg.relpos_per_layer:
      self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)
    self.layers = make_stack(
      DecoderLayer, cfg, cfg.num_decoder_layers, static_argnums=(6,),
      methods=('fill_cache', 'step'),
    )
    self.decoder_norm = RMSNorm(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if not cfg.logits_via_embedding:
      init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
      # Always float32: a bfloat16 head loses the differences between likely tokens.
      self.logits_dense = Dense(cfg.vocab_size, ('embed', 'vocab'), init, jnp.float32)

  def __call__(self, x_BxTxD, encoded_BxSxD, self_mask, cross_mask, *, deterministic):
    """Whole sequences: [B, T, D] -> config.dtype [B, T, D], ready for the head.

    Without `encoded_BxSxD` (None) the cross cache is read, for targets that share an input. The
    masks are of `masks.Mask`.
    """
    cfg, (batch, length, _) = self.config, x_BxTxD.shape
    self_seen = attend.seen_by(cfg, self_mask, batch, length, length)
    bias = None
    if not cfg.relpos_per_layer:
      bias = attend.bias_for(self_seen, self.relpos_bias.by_distance(), length, length)
    if encoded_BxSxD is None:
      cross_seen = cross_mask.matrix(length)
    else:
      cross_seen = attend.seen_by(cfg, cross_mask, batch, length, encoded_BxSxD.shape[1])
    x_BxTxD = self.dropout(x_BxTxD, deterministic=deterministic)
    x_BxTxD = run_stack(
      self.layers, x_BxTxD, encoded_BxSxD, bias, self_seen, cross_seen, deterministic
    )
    return self.dropout(self.decoder_norm(x_BxTxD), deterministic=deterministic)

  def logits(self, hidden_BxTxD):
    """The untied head: [B, T, D] -> float32 [B, T, V]."""
    return self.logits_dense(hidden_BxTxD)

  def fill_cache(self, encoded_BxSxD, max_decode_length: int):
    """Writes both collections of the cache; they must be mutable."""
    run_stack(self.layers, None, encoded_BxSxD, max_decode_length, method='fill_cache')

  def step(self, x_BxTxD, cross_mask, index, max_decode_length: int):
    """The next positions over the cache: [B, T, D] -> hidden [B, T, D]."""
    length = x_BxTxD.shape[1]
    bias_1xHxTxL = (None if self.config.relpos_per_layer
                    else self.relpos_bias.rows(index, length, max_decode_length))
    self_mask_TxL = jnp.arange(max_decode_length) <= index + jnp.arange(length)[:, None]
    x_BxTxD = run_stack(
      self.layers, x_BxTxD, bias_1xHxTxL, self_mask_TxL, cross_mask, index, method='step'
    )
    return self.decoder_norm(x_BxTxD)

