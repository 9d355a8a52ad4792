"""The parts that both stacks are made of: norm, linear map, embedding, feed-forward block."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

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


class Dense(nn.Module):
  """Linear map of the last axis by a float32 kernel [in, features]; T5 has no biases.

  Attention kernels are 2-D too ([embed, heads * head_dim]): the names, shapes and axis names of
  T5X's T5 (upstream t5x/examples/t5/layers.py, `DenseGeneral`), so that checkpoints load.

  Attributes:
    features: size of the output's last axis.
    axes: logical names of the kernel's two axes.
    kernel_init: initialiser of the kernel.
    dtype: dtype of the product and of the output.
  """

  features: int
  axes: tuple[str, str]
  kernel_init: jax.nn.initializers.Initializer
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs):
    """[..., in] -> [..., features] in `dtype`."""
    kernel = self.param(
      'kernel', nn.with_logical_partitioning(self.kernel_init, self.axes),
      (inputs.shape[-1], self.features), jnp.float32,
    )
    # Of a matrix, not of a batch of them: for the kernel's gradient, XLA's CPU compiler would turn
    # a batch around first, which takes a quarter of the train step.
    flat = inputs.astype(self.dtype).reshape(-1, inputs.shape[-1])
    return jnp.dot(flat, kernel.astype(self.dtype)).reshape(*inputs.shape[:-1], self.features)


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


_FUNCTIONS = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True),  # T5 v1.1 was trained with tanh's.
  'linear': lambda x: x,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}


class Mlp(nn.Module):
  """ReLU (v1.0) or gated GELU (v1.1, "GLU Variants Improve Transformer", Shazeer 2020)."""

  config: T5Config

  @nn.compact
  def __call__(self, x_BxTxD, *, deterministic):
    """[B, T, D] -> config.dtype [B, T, D]; F below is config.mlp_dim."""
    cfg = self.config
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    hidden_BxTxF = None
    for i, activation in enumerate(cfg.mlp_activations):
      # The names of T5X's and Hugging Face's checkpoints: `wi` alone, `wi_0` and `wi_1` gated.
      name = 'wi' if len(cfg.mlp_activations) == 1 else f'wi_{i}'
      branch_BxTxF = Dense(cfg.mlp_dim, ('embed', 'mlp'), init, cfg.dtype, name=name)(x_BxTxD)
      branch_BxTxF = checkpoint_name(branch_BxTxF, 'mlp')
      branch_BxTxF = _FUNCTIONS[activation](branch_BxTxF)
      hidden_BxTxF = branch_BxTxF if hidden_BxTxF is None else hidden_BxTxF * branch_BxTxF
    dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    hidden_BxTxF = dropout(hidden_BxTxF, deterministic=deterministic)
    hidden_BxTxF = nn.with_logical_constraint(hidden_BxTxF, ('batch', 'length', 'mlp'))
    return Dense(cfg.emb_dim, ('mlp', 'embed'), init, cfg.dtype, name='wo')(hidden_BxTxF)
