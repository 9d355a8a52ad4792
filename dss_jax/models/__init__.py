"""Flax T5 v1.0, v1.1 and umT5, in pure JAX: no TensorFlow, SeqIO, gin or T5X is imported here."""

from dss_jax.models.config import Config, T5Config
from dss_jax.models.layout import is_stacked, stack_layers, unstack_layers
from dss_jax.models.network import Network, init_params
from dss_jax.models.relative_position import relative_position_bucket
from dss_jax.models.sizes import NAMED, SIZES, t5_config
from dss_jax.models.transformer import Transformer

__all__ = [
  'Config',
  'NAMED',
  'Network',
  'SIZES',
  'T5Config',
  'Transformer',
  'init_params',
  'is_stacked',
  'relative_position_bucket',
  'stack_layers',
  't5_config',
  'unstack_layers',
]
