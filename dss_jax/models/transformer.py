"""T5: encoder, decoder and head."""

import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models import masks
from dss_jax.models.config import T5Config
from dss_jax.models.decoder import Decoder
from dss_jax.models.encoder import Encoder
from dss_jax.models.layers import Embed
from dss_jax.models.network import Network


class Transformer(Network):
  """The T5 encoder-decoder (Raffel et al. 2020), v1.0 or v1.1 by its config.

  Parameters have the names, shapes and logical axes of T5X's T5 example (upstream
  t5x/examples/t5/network.py), boxed by `nn.with_logical_partitioning`: `nn.unbox` gives plain
  arrays, `nn.get_partition_spec` the axis names.

  Shapes: B batch, S encoder length, T decoder length, D emb_dim, V vocab_size. Tokens and
  segment ids are int32. Token 0 is padding. Segment ids number the packed examples of a row
  from 1; 0 is padding. There are no positions: T5's are relative, and differences of indices are
  exact inside a packed example.
  """

  config: T5Config

  def setup(self):
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config)
    self.decoder = Decoder(self.config)

  def __call__(
      self, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids=None,
      decoder_segment_ids=None, decoder_cross_segment_ids=None, *, deterministic=True):
    """[B, S] and [B, T] -> float32 logits [B, T, V].

    Args:
      encoder_input_tokens: [B, S], padded with 0.
      decoder_input_tokens: [B, T], targets shifted right with start token 0 (per example).
      encoder_segment_ids: [B, S] for packed rows.
      decoder_segment_ids: [B, T] for packed rows.
      decoder_cross_segment_ids: [B, T], the encoder's segment that each position reads, where
        several targets share an input; by default decoder_segment_ids.
      deterministic: False needs an rng named 'dropout'.

    Raises:
      ValueError: if shapes disagree, or segment ids come for one side only.
    """
    hidden_BxTxD = self.hidden_states(
      encoder_input_tokens, decoder_input_tokens, encoder_segment_ids, decoder_segment_ids,
      decoder_cross_segment_ids, deterministic=deterministic,
    )
    return self.logits_from_hidden(hidden_BxTxD)

  def hidden_states(
      self, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids=None,
      decoder_segment_ids=None, decoder_cross_segment_ids=None, *, deterministic=True):
    """`__call__` without the head: config.dtype [B, T, D], for `logits_from_hidden`."""
    encoded_BxSxD = self.encode(
      encoder_input_tokens, encoder_segment_ids, deterministic=deterministic
    )
    return self.decode_hidden(
      encoded_BxSxD, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids,
      decoder_segment_ids, decoder_cross_segment_ids, deterministic=deterministic,
    )

  def encode(self, encoder_input_tokens, encoder_segment_ids=None, *, deterministic=True):
    """[B, S] -> config.dtype [B, S, D]."""
    _check_rank('encoder_input_tokens', encoder_input_tokens)
    _check_same('encoder', encoder_input_tokens, encoder_segment_ids)
    mask = masks.encoder_mask(encoder_input_tokens, encoder_segment_ids)
    return self.encoder(
      self.token_embedder(encoder_input_tokens), mask, deterministic=deterministic
    )

  def decode(
      self, encoded, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids=None,
      decoder_segment_ids=None, decoder_cross_segment_ids=None, *, deterministic=True):
    """Encoded inputs [B, S, D] and decoder inputs [B, T] -> float32 logits [B, T, V].

    `encoded` may be None if `fill_cache` has filled the cross cache.
    """
    hidden_BxTxD = self.decode_hidden(
      encoded, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids,
      decoder_segment_ids, decoder_cross_segment_ids, deterministic=deterministic,
    )
    return self.logits_from_hidden(hidden_BxTxD)

  def decode_hidden(
      self, encoded, encoder_input_tokens, decoder_input_tokens, encoder_segment_ids=None,
      decoder_segment_ids=None, decoder_cross_segment_ids=None, *, deterministic=True):
    """`decode` without the head: config.dtype [B, T, D]. `encoder_input_tokens` is for masks."""
    _check_rank('decoder_input_tokens', decoder_input_tokens)
    _check_same('decoder', decoder_input_tokens, decoder_segment_ids)
    _check_same('decoder_cross', decoder_input_tokens, decoder_cross_segment_ids)
    if (encoder_segment_ids is None) != (decoder_segment_ids is None):
      raise ValueError(
        'Segment ids came for one side only: pass encoder_segment_ids and decoder_segment_ids '
        'for packed rows, neither for plain ones.'
      )
    read = decoder_segment_ids if decoder_cross_segment_ids is None else decoder_cross_segment_ids
    cross_mask = masks.cross_mask(encoder_input_tokens, encoder_segment_ids, read)
    self_mask = masks.decoder_mask(decoder_segment_ids)
    return self.decoder(
      self.token_embedder(decoder_input_tokens), encoded, self_mask, cross_mask,
      deterministic=deterministic,
    )

  def logits_from_hidden(self, hidden_BxTxD):
    """The head, tied or not: [B, T, D] -> float32 logits [B, T, V]. T may be any chunk."""
    if self.config.logits_via_embedding:
      logits_BxTxV = self.token_embedder.attend(hidden_BxTxD)
    else:
      logits_BxTxV = self.decoder.logits(hidden_BxTxD)
    return nn.with_logical_constraint(logits_BxTxV, ('batch', 'length', 'vocab'))

  def fill_cache(self, encoded, max_decode_length: int):
    """Of encoded inputs [B, S, D]; `decode.init_cache` is the way to call it."""
    self.decoder.fill_cache(encoded, max_decode_length)

  def read_prompt(self, tokens_BxT, cross_mask, max_decode_length: int):
    """The first tokens of a cache at once, without logits; see `decode.init_cache`."""
    x_BxTxD = self.token_embedder(tokens_BxT)
    self.decoder.step(x_BxTxD, cross_mask, jnp.zeros((), jnp.int32), max_decode_length)

  def decode_step(self, tokens_B, cross_mask, index, max_decode_length: int):
    """One token per row over the cache -> float32 logits [B, V]; see `decode.decode_step`."""
    x_Bx1xD = self.token_embedder(tokens_B[:, None])
    hidden_Bx1xD = self.decoder.step(x_Bx1xD, cross_mask, index, max_decode_length)
    return self.logits_from_hidden(hidden_Bx1xD)[:, 0]


def _check_rank(name, tokens):
  if tokens.ndim != 2:
    raise ValueError(f'{name} has shape {tokens.shape}: pass [batch, length].')


def _check_same(side, tokens, segment_ids):
  if segment_ids is not None and segment_ids.shape != tokens.shape:
    raise ValueError(
      f'{side}_segment_ids has shape {segment_ids.shape}: pass the shape of '
      f'{side.partition("_")[0]}_input_tokens, {tokens.shape}.'
    )
