"""The decoder: whole sequences in training, one token at a time over a cache in decoding.

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

  def step(self, x_Bx1xD, bias_1xHx1xL, self_mask_L, cross_mask, index):
    """One position over the cache; returns (x_Bx1xD, None).

    Args:
      x_Bx1xD: residual stream.
      bias_1xHx1xL: relative position bias of this position; None where the layer has its own.
      self_mask_L: bool [L], the positions up to this one.
      cross_mask: bool [B, 1, 1, S].
      index: int32 scalar, the position.
    """
    if bias_1xHx1xL is None:
      bias_1xHx1xL = self.relpos_bias.row(index, self_mask_L.shape[0])
    y_Bx1xD = self.pre_self_attention_layer_norm(x_Bx1xD)
    read = [self.get_variable('cache', name) for name in _CACHED]
    written = cached_attention.write(read, *self.self_attention.keys_values(y_Bx1xD), index)
    self._put('cache', written)
    x_Bx1xD += self.self_attention.attend_cached(y_Bx1xD, *written, bias_1xHx1xL, self_mask_L)
    y_Bx1xD = self.pre_cross_attention_layer_norm(x_Bx1xD)
    x_Bx1xD += self._attend_to_cached_inputs(y_Bx1xD, cross_mask)
    x_Bx1xD += self.mlp(self.pre_mlp_layer_norm(x_Bx1xD), deterministic=True)
    return nn.with_logical_constraint(x_Bx1xD, ('batch', 'length', 'embed')), None

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

  def step(self, x_Bx1xD, cross_mask, index, max_decode_length: int):
    """One position over the cache: [B, 1, D] -> hidden [B, 1, D]."""
    bias_1xHx1xL = (None if self.config.relpos_per_layer
                    else self.relpos_bias.row(index, max_decode_length))
    self_mask_L = jnp.arange(max_decode_length) <= index
    x_Bx1xD = run_stack(
      self.layers, x_Bx1xD, bias_1xHx1xL, self_mask_L, cross_mask, index, method='step'
    )
    return self.decoder_norm(x_Bx1xD)

