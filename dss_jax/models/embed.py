"""The token embedding, which v1.0 also uses as its output head."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models.config import T5Config


class Embed(nn.Module):
  """Token ids -> vectors; one float32 table [vocab, embed], N(0, 1) at initialisation."""

  config: T5Config

  def setup(self):
    init = nn.initializers.normal(stddev=1.0)
    self.embedding = self.param(
      'embedding', nn.with_logical_partitioning(init, ('vocab', 'embed')),
      (self.config.vocab_size, self.config.emb_dim), jnp.float32,
    )

  def __call__(self, tokens_BxT):
    """int [B, T] -> config.dtype [B, T, D].

    Raises:
      ValueError: if the tokens are not integers.
    """
    if not jnp.issubdtype(tokens_BxT.dtype, jnp.integer):
      raise ValueError(f'Tokens are {tokens_BxT.dtype}: pass integer token ids.')
    dtype = self.config.dtype
    if self.config.one_hot_embedding:
      one_hot_BxTxV = jax.nn.one_hot(tokens_BxT, self.config.vocab_size, dtype=dtype)
      x_BxTxD = jnp.dot(one_hot_BxTxV, self.embedding.astype(dtype))
    else:
      # Casting after the gather touches B*T rows instead of the whole table, and lets the
      # gradient add up in float32.
      x_BxTxD = jnp.asarray(self.embedding)[tokens_BxT].astype(dtype)
    return nn.with_logical_constraint(x_BxTxD, ('batch', 'length', 'embed'))

  def attend(self, hidden_BxTxD):
    """The tied head: [B, T, D] -> float32 logits [B, T, V], scaled by D ** -0.5.

    The scale keeps the logits of an N(0, 1) table near unit variance (upstream
    t5x/examples/t5/network.py; Hugging Face scales the hidden states in the same way).
    """
    scaled_BxTxD = hidden_BxTxD.astype(jnp.float32) * self.config.emb_dim**-0.5
    return jnp.einsum('btd,vd->btv', scaled_BxTxD, self.embedding)
