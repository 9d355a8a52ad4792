"""The feed-forward block."""

import jax
from flax import linen as nn

from dss_jax.models.config import T5Config
from dss_jax.models.dense import Dense

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
      branch_BxTxF = _FUNCTIONS[activation](branch_BxTxF)
      hidden_BxTxF = branch_BxTxF if hidden_BxTxF is None else hidden_BxTxF * branch_BxTxF
    dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    hidden_BxTxF = dropout(hidden_BxTxF, deterministic=deterministic)
    hidden_BxTxF = nn.with_logical_constraint(hidden_BxTxF, ('batch', 'length', 'mlp'))
    return Dense(cfg.emb_dim, ('mlp', 'embed'), init, cfg.dtype, name='wo')(hidden_BxTxF)
