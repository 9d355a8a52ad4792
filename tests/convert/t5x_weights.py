"""Weights that the T5X tests write and compare."""


import jax
import ml_dtypes
import numpy as np

from dss_jax import models
from dss_jax.convert import weights as weights_lib

# Three and two layers, and no two axes of one size, so that a wrong axis shows.
TINY = {'vocab_size': 48, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 5, 'mlp_dim': 24,
        'num_encoder_layers': 3, 'num_decoder_layers': 2}
VERSIONS = ['1.0', '1.1']
BFLOAT16 = ml_dtypes.bfloat16


class Given(weights_lib.Weights):
  """Random weights that count what is alive of what was read."""

  path = 'given'

  def __init__(self, version='1.1', dtype=np.float32, **fields):
    self.config = models.t5_config(version, 'small', **{**TINY, **fields})
    self.specs = {name: jax.ShapeDtypeStruct(spec.shape, dtype)
                  for name, spec in weights_lib.expected_specs(self.config).items()}
    rng = np.random.default_rng(0)
    # Of the size that keeps a deep network's activations from growing.
    self.values = {
        name: (rng.standard_normal(spec.shape) * spec.shape[0] ** -0.5).astype(dtype)
        for name, spec in self.specs.items()}
    self.reads = []
    self.on_read = lambda name: None

  def read(self, name):
    self.on_read(name)
    self.reads.append(name)
    return self.values[name].copy()


def assert_same_bits(found, expected):
  for name, array in expected.items():
    other = np.asarray(found[name])
    assert (other.dtype, other.shape) == (array.dtype, array.shape), name
    assert other.tobytes() == array.tobytes(), name
  assert set(found) == set(expected)


def read_all(weights):
  assert set(weights.specs) == set(weights_lib.expected_specs(weights.config))
  arrays = {name: weights.read(name) for name in weights.specs}
  for name, spec in weights.specs.items():
    assert (arrays[name].shape, arrays[name].dtype) == (spec.shape, spec.dtype), name
  return arrays


def scanned_values(given):
  """scalable_t5's arrays: layers stacked along axis 1, heads apart, a bias per layer."""
  config, values = given.config, dict(given.values)
  heads = (config.num_heads, config.head_dim)
  result = {}
  for side, layers in (('encoder', config.num_encoder_layers),
                       ('decoder', config.num_decoder_layers)):
    if not config.relpos_per_layer:
      bias = values.pop(f'{side}/relpos_bias/rel_embedding')
      result[f'{side}/{side}/relpos_bias/rel_embedding'] = np.stack([bias] * layers, 1)
    prefix = f'{side}/layers_0/'
    for rest in [name.removeprefix(prefix) for name in given.values if name.startswith(prefix)]:
      arrays = [values.pop(f'{side}/layers_{i}/{rest}') for i in range(layers)]
      if rest.endswith('attention/out/kernel'):
        arrays = [a.reshape(*heads, -1) for a in arrays]
      elif 'attention/' in rest:
        arrays = [a.reshape(-1, *heads) for a in arrays]
      result[f'{side}/{side}/{rest}'] = np.stack(arrays, 1)
  return {**values, **result}
