"""The encoder."""

from flax import linen as nn

from dss_jax.models import attend
from dss_jax.models.attention import Attention
from dss_jax.models.config import T5Config
from dss_jax.models.layers import Mlp, RMSNorm
from dss_jax.models.relative_position import RelativePositionBias
from dss_jax.models.stack import make_stack, run_stack


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each normalised before and added after."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.pre_attention_layer_norm = RMSNorm(cfg)
    self.attention = Attention(cfg)
    self.pre_mlp_layer_norm = RMSNorm(cfg)
    self.mlp = Mlp(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if cfg.relpos_per_layer:
      self.relpos_bias = RelativePositionBias(cfg, bidirectional=True)

  def __call__(self, x_BxSxD, bias, mask, deterministic):
    """Returns (x_BxSxD, None): a carry and no output, as `nn.scan` wants it.

    Bias and mask are those of `Attention.attend`; the bias is None where the layer has its own.
    """
    if bias is None:
      length = x_BxSxD.shape[1]
      bias = attend.bias_for(mask, self.relpos_bias.by_distance(), length, length)
    y_BxSxD = self.pre_attention_layer_norm(x_BxSxD)
    y_BxSxD = self.attention(y_BxSxD, y_BxSxD, bias, mask, deterministic=deterministic)
    x_BxSxD = x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)
    y_BxSxD = self.mlp(self.pre_mlp_layer_norm(x_BxSxD), deterministic=deterministic)
    x_BxSxD = x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)
    return nn.with_logical_constraint(x_BxSxD, ('batch', 'length', 'embed')), None


class Encoder(nn.Module):
  """Embedded input tokens -> encoded inputs."""

  config: T5Config

  def setup(self):
    cfg = self.config
    if not cfg.relpos_per_layer:
      self.relpos_bias = RelativePositionBias(cfg, bidirectional=True)
    self.layers = make_stack(EncoderLayer, cfg, cfg.num_encoder_layers, static_argnums=(4,))
    self.encoder_norm = RMSNorm(cfg)
    self.input_dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    # The only place where T5X draws one mask per position instead of one per row.
    self.output_dropout = nn.Dropout(cfg.dropout_rate)

  def __call__(self, x_BxSxD, mask, *, deterministic):
    """[B, S, D] and a `masks.Mask` -> config.dtype [B, S, D]."""
    batch, length, _ = x_BxSxD.shape
    seen = attend.seen_by(self.config, mask, batch, length, length)
    bias = None
    if not self.config.relpos_per_layer:
      bias = attend.bias_for(seen, self.relpos_bias.by_distance(), length, length)
    x_BxSxD = self.input_dropout(x_BxSxD, deterministic=deterministic)
    x_BxSxD = run_stack(self.layers, x_BxSxD, bias, seen, deterministic)
    x_BxSxD = self.encoder_norm(x_BxSxD)
    return self.output_dropout(x_BxSxD, deterministic=deterministic)
