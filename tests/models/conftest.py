"""Tiny networks with random weights, shared by the tests of dss_jax.models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import models

# One layer each, since compiling is what takes time; tests of depth ask for more.
TINY = {
  'vocab_size': 48, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 5, 'mlp_dim': 24,
  'num_encoder_layers': 1, 'num_decoder_layers': 1, 'dropout_rate': 0.1,
}


@pytest.fixture(autouse=True)
def quick_compilation():
  """These networks run for microseconds and compile for seconds."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def tiny():
  """tiny('1.1', **fields) -> T5Config."""
  return lambda version, **fields: models.t5_config(version, 'small', **{**TINY, **fields})


@functools.cache
def _shapes(config):
  tokens = jnp.ones((1, 2), jnp.int32)
  init = models.Transformer(config).init
  return nn.unbox(jax.eval_shape(init, jax.random.key(0), tokens, tokens))['params']


@pytest.fixture
def random_params():
  """random_params(config) -> plain float32 parameters without a constant among them."""

  def make(config, seed=0):
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
      noise = rng.standard_normal(leaf.shape).astype(np.float32)
      name = path[-1].key
      # Small embeddings: large ones make a tied network repeat its last token.
      scale = {'kernel': leaf.shape[-2:][0] ** -0.5, 'scale': 0.2, 'embedding': 0.3}.get(name, 1.0)
      return scale * noise + np.float32(name == 'scale')

    return jax.tree_util.tree_map_with_path(fill, _shapes(config))

  return make


@pytest.fixture
def ragged():
  """Four ragged examples as padded rows: encoder inputs, decoder inputs, and their lengths."""
  rng = np.random.default_rng(7)
  input_lengths, target_lengths = (9, 4, 1, 6), (3, 5, 2, 1)
  inputs = np.zeros((4, 9), np.int32)
  decoder_inputs = np.zeros((4, 5), np.int32)
  for row, (s, t) in enumerate(zip(input_lengths, target_lengths, strict=True)):
    inputs[row, :s] = rng.integers(2, TINY['vocab_size'], s)
    decoder_inputs[row, 1:t] = rng.integers(2, TINY['vocab_size'], t - 1)
  return inputs, decoder_inputs, input_lengths, target_lengths
