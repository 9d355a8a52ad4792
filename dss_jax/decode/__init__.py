"""How an encoder-decoder writes: search, sampling and scoring over its cache, in pure JAX.

No TensorFlow, SeqIO, gin or T5X is imported here.
"""

from dss_jax.decode.batch_decoder import BatchDecoder, Given, Prompts, Shapes
from dss_jax.decode.batching import batches_by_length
from dss_jax.decode.beam import BeamResult, beam_search
from dss_jax.decode.cache import Cache, decode_step, init_cache
from dss_jax.decode.greedy import GreedyResult, greedy_decode, greedy_search
from dss_jax.decode.sampling import SampleResult, Sampling, sample
from dss_jax.decode.scoring import score_targets

__all__ = [
  'BatchDecoder',
  'BeamResult',
  'Cache',
  'Given',
  'GreedyResult',
  'Prompts',
  'SampleResult',
  'Sampling',
  'Shapes',
  'batches_by_length',
  'beam_search',
  'decode_step',
  'greedy_decode',
  'greedy_search',
  'init_cache',
  'sample',
  'score_targets',
]
