"""Inputs laid into rows for encoding, against encoding them as they are."""

import jax
import numpy as np
import pytest

from dss_jax import decode, models
from dss_jax.decode import inputs


def batch(rng, lengths, width):
  tokens = rng.integers(2, 48, (len(lengths), width)).astype(np.int32)
  return np.where(np.arange(width) < np.asarray(lengths)[:, None], tokens, 0)


def test_inputs_follow_each_other_in_rows():
  assert inputs.starts(np.array([3, 4, 2, 5]), 8).tolist() == [0, 3, 8, 10]
  assert inputs.starts(np.array([0, 8, 0, 8, 1]), 8).tolist() == [0, 0, 8, 8, 16]


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('length', [3, 60, 100, 256])
def test_the_rows_are_enough_and_nothing_overlaps(seed, length):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(length // 2 if seed else length, length + 1, 40)
  starts = np.asarray(inputs.starts(lengths, 256))
  ends = starts + lengths
  assert (starts[1:] >= ends[:-1]).all() and (starts // 256 == (ends - 1) // 256).all()
  assert ends[-1] <= 256 * -(-40 // (256 // length))


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('version', ['1.1', 'umt5'])
def test_packed_inputs_are_encoded_as_they_are_alone(tiny, random_params, version, scanned):
  model = models.Transformer(tiny(version, scan_layers=scanned))
  params = random_params(tiny(version), seed=1)
  params = models.stack_layers(params) if scanned else params
  tokens = batch(np.random.default_rng(0), [50, 7, 0, 100, 1, 60, 33, 100, 99, 2], 100)
  tokens[0, 20] = 0  # Not at its end, and not attended to either.
  plain = model.apply({'params': params}, tokens, method='encode')
  packed = jax.jit(lambda x: inputs.encode(model, params, x))(tokens)
  real = (tokens > 0)[..., None]
  np.testing.assert_allclose(packed * real, plain * real, atol=1e-5)


def test_only_rows_with_tokens_are_encoded(tiny, random_params, monkeypatch):
  """A search finds the same of a batch of which most is padding."""
  config = tiny('1.1')
  model, params = models.Transformer(config), random_params(config, seed=1)
  tokens = batch(np.random.default_rng(1), [9, 0, 12, 64, 3, 0], 64)
  search = jax.jit(lambda x: decode.greedy_search(model, params, x, 8, eos_id=-1))
  packed = search(tokens)
  assert 'while' in jax.jit(lambda x: inputs.encode(model, params, x)).lower(tokens).as_text()
  monkeypatch.setattr(inputs, '_WIDTH', tokens.size)
  plain = jax.jit(lambda x: decode.greedy_search(model, params, x, 8, eos_id=-1))(tokens)
  np.testing.assert_array_equal(packed.tokens, plain.tokens)
  np.testing.assert_allclose(packed.log_probs, plain.log_probs, rtol=1e-5)
