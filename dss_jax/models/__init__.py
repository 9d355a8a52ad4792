"""Flax T5 v1.0 and v1.1, in pure JAX: no TensorFlow, SeqIO, gin or T5X is imported here."""

from dss_jax.models.batching import batches_by_length
from dss_jax.models.beam import BeamResult, beam_search
from dss_jax.models.cache import Cache, decode_step, init_cache
from dss_jax.models.config import T5Config
from dss_jax.models.decoding import GreedyResult, greedy_decode, greedy_search
from dss_jax.models.layout import is_stacked, stack_layers, unstack_layers
from dss_jax.models.relative_position import relative_position_bucket
from dss_jax.models.sampling import SampleResult, sample
from dss_jax.models.scoring import score_targets
from dss_jax.models.sizes import NAMED, SIZES, t5_config
from dss_jax.models.transformer import Transformer

__all__ = [
  'NAMED',
  'SIZES',
  'BeamResult',
  'Cache',
  'GreedyResult',
  'SampleResult',
  'T5Config',
  'Transformer',
  'batches_by_length',
  'beam_search',
  'decode_step',
  'greedy_decode',
  'greedy_search',
  'init_cache',
  'is_stacked',
  'relative_position_bucket',
  'sample',
  'score_targets',
  'stack_layers',
  't5_config',
  'unstack_layers',
]
