"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models.config import T5Config

EPSILON = 1e-6


class RMSNorm(nn.Module):
  """Divides by the root mean square, then scales; no mean, no bias (T5, section 2.1).

  Computed in float32 and returned in config.dtype: squares of bfloat16 lose too much.
  """

  config: T5Config

  @nn.compact
  def __call__(self, x_BxTxD):
    """[B, T, D] -> config.dtype [B, T, D]."""
    scale_D = self.param(
      'scale', nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
      (x_BxTxD.shape[-1],), jnp.float32,
    )
    x_BxTxD = x_BxTxD.astype(jnp.float32)
    mean_square_BxTx1 = jnp.mean(jnp.square(x_BxTxD), axis=-1, keepdims=True)
    y_BxTxD = x_BxTxD * jax.lax.rsqrt(mean_square_BxTx1 + EPSILON) * scale_D
    return y_BxTxD.astype(self.config.dtype)
