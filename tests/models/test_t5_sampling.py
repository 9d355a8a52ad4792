"""Sampling: frequencies, supports, and that a row's draws are its own."""

import functools

import jax
import numpy as np
import pytest

from dss_jax import decode, models
from dss_jax.decode import sampling

DRAWS = 4000


def make_model(tiny, random_params, scanned=False, **fields):
  model = models.Transformer(tiny('1.1', scan_layers=scanned, **fields))
  params = random_params(tiny('1.1', **fields), seed=1)
  return model, models.stack_layers(params) if scanned else params


def make_sample(model, params, length=8, **options):
  """(inputs, seeds: one key each, eos_id) -> SampleResult, compiled once."""
  run = jax.jit(lambda x, keys, eos_id: decode.sample(
    model, params, x, length, keys, decode.Sampling(**options), eos_id=eos_id))

  def sample(inputs, seeds, eos_id=1):
    keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
    return jax.device_get(run(inputs, keys, eos_id))

  return sample


@functools.cache
def _drawer(temperature, top_k, top_p):
  return jax.jit(jax.vmap(
    lambda logits, key: sampling.draw_token(
      logits, key, decode.Sampling(1, temperature, top_k, top_p)), (None, 0)))


def draw(logits, temperature=1.0, top_k=0, top_p=1.0, seed=0):
  keys = jax.random.split(jax.random.key(seed), DRAWS)
  return np.asarray(_drawer(temperature, top_k, top_p)(np.asarray(logits, np.float32), keys))


def assert_frequencies(counts, probs):
  """Pearson's statistic, six standard deviations wide; nothing outside of the support."""
  assert not np.any(counts[probs == 0])
  common = probs * counts.sum() >= 5
  expected = probs[common] * counts.sum()
  statistic = ((counts[common] - expected)**2 / expected).sum()
  degrees = max(common.sum() - 1, 1)
  assert statistic < degrees + 6 * np.sqrt(2 * degrees), statistic


def softmax(logits):
  exp = np.exp(logits - np.max(logits))
  return exp / exp.sum()


def test_a_row_draws_the_same_in_any_batch(tiny, random_params, ragged):
  inputs, seeds = ragged[0], np.arange(10, 14)
  options = {'num_samples': 3, 'temperature': 0.8, 'top_k': 20, 'top_p': 0.9}
  model, params = make_model(tiny, random_params, scanned=True, num_decoder_layers=2)
  sample = make_sample(model, params, **options)
  result = sample(inputs, seeds)
  assert result.tokens.shape == (4, 3, 8) and result.tokens.dtype == np.int32
  assert len({tuple(row) for row in result.tokens.reshape(12, 8)}) == 12
  order = np.array([2, 0, 3, 1])
  padded = np.zeros((6, 17), np.int32)
  padded[1:5, :9] = inputs[order]
  other = sample(padded, [7, *seeds[order], 8])
  np.testing.assert_array_equal(other.tokens[1:5], result.tokens[order])
  np.testing.assert_allclose(other.log_probs[1:5], result.log_probs[order], rtol=1e-5)
  for row in (0, 5):  # Nothing but padding.
    assert not np.any(other.tokens[row]) and not np.any(other.log_probs[row])
  # Alone, unrolled, and drawn once.
  options['num_samples'] = 1
  sample = make_sample(*make_model(tiny, random_params, num_decoder_layers=2), **options)
  np.testing.assert_array_equal(
    sample(inputs[1:2, :4], seeds[1:2]).tokens[0, 0], result.tokens[1, 0])


def test_log_probabilities_are_the_models_own(tiny, random_params, ragged):
  model, params = make_model(tiny, random_params)
  inputs = ragged[0].copy()
  inputs[3] = 0
  sample = make_sample(model, params, num_samples=4, temperature=2.0, top_k=30, top_p=0.8)
  free = sample(inputs, range(4), -1)
  assert int(free.steps) == 8
  eos_id = next(token for token in free.tokens[0, 0, 4:].tolist() if token)
  result = sample(inputs, range(4), eos_id)
  ended = result.tokens == eos_id
  behind = np.cumsum(ended, axis=-1) - ended > 0
  behind[3] = True
  np.testing.assert_array_equal(result.tokens, np.where(behind, 0, free.tokens))
  assert int(result.steps) == (~behind).sum(axis=-1).max()
  assert 0 < np.any(ended, axis=-1).sum() < 12
  expected = jax.jit(lambda y: decode.score_targets(model, params, inputs, y))(result.tokens)
  # A cut sequence whose last token is 0 looks shorter than it is.
  whole = np.any(ended, axis=-1) | (result.tokens[:, :, -1] != 0)
  assert whole[:3].sum() > 8
  np.testing.assert_allclose(result.log_probs[whole], expected[whole], rtol=1e-5)


def test_tokens_come_as_often_as_the_softmax_says(tiny, random_params, ragged):
  model, params = make_model(tiny, random_params)
  inputs = ragged[0][:2]
  sample = make_sample(model, params, length=2, num_samples=DRAWS, temperature=0.7)
  tokens = sample(inputs, [1, 2], -1).tokens
  apply = jax.jit(model.apply)
  for row in range(2):
    first_probs = softmax(np.asarray(
      apply({'params': params}, inputs, np.zeros((2, 2), np.int32))[row, 0]) / 0.7)
    counts = np.bincount(tokens[row, :, 0], minlength=48)
    assert_frequencies(counts, first_probs)
    first = counts.argmax()  # The second token, given the most common first one.
    second_probs = softmax(np.asarray(
      apply({'params': params}, inputs, np.array([[0, first]] * 2))[row, 1]) / 0.7)
    assert_frequencies(
      np.bincount(tokens[row, tokens[row, :, 0] == first, 1], minlength=48), second_probs)


LOGITS = np.log([0.05, 0.4, 0.02, 0.2, 0.13, 0.2])


@pytest.mark.parametrize('options, support', [
  ({}, [0, 1, 2, 3, 4, 5]),
  ({'top_k': 1}, [1]),
  ({'top_k': 2}, [1, 3]),  # A tie at the border: k tokens all the same, the lower id first.
  ({'top_k': 4}, [1, 3, 4, 5]),
  ({'top_k': 99}, [0, 1, 2, 3, 4, 5]),
  ({'top_p': 1e-6}, [1]),
  ({'top_p': 0.39}, [1]),
  ({'top_p': 0.41}, [1, 3]),  # The token with which the sum gets there is in.
  ({'top_p': 0.79}, [1, 3, 5]),
  ({'top_p': 0.81}, [1, 3, 4, 5]),
  ({'top_k': 3, 'top_p': 0.74}, [1, 3]),  # 0.4 and 0.2 are 0.75 of what top_k left over.
  ({'top_k': 3, 'top_p': 0.76}, [1, 3, 5]),
  ({'temperature': 0.5, 'top_p': 0.62}, [1, 3]),  # 0.6 and 0.15: after the temperature.
  ({'temperature': 1e-30}, [1]),
])
def test_support_and_frequencies_of_what_is_left(options, support):
  probs = softmax(LOGITS / options.get('temperature', 1.0))
  probs = np.where(np.isin(np.arange(6), support), probs, 0)
  counts = np.bincount(draw(LOGITS, **options), minlength=6)
  assert np.flatnonzero(counts).tolist() == support
  assert_frequencies(counts, probs / probs.sum())


def test_the_noise_belongs_to_the_token_and_not_to_its_rank():
  """Logits of another batch's shape, a rounding apart, must not swap tokens."""
  swapped = LOGITS.copy()
  swapped[3] += 1e-6
  other = LOGITS.copy()
  other[5] += 1e-6
  np.testing.assert_array_equal(draw(swapped, top_p=0.9), draw(other, top_p=0.9))


def test_nucleus_is_the_smallest_set_that_reaches_top_p():
  assert sampling.nucleus(np.array([0.5, 0.25, 0.25]), 0.5).tolist() == [True, False, False]
  assert sampling.nucleus(np.array([0.5, 0.25, 0.25]), 0.6).tolist() == [True, True, False]
  rng = np.random.default_rng(0)
  for top_p in (0.1, 0.5, 0.9, 0.99):
    probs = np.sort(rng.dirichlet(np.full(50, 0.3)))[::-1].astype(np.float32)
    count = np.flatnonzero(np.cumsum(probs.astype(np.float64)) >= top_p)[0] + 1
    assert sampling.nucleus(probs, top_p).tolist() == [i < count for i in range(50)]


def test_typed_keys_one_per_input(tiny, ragged):
  model = models.Transformer(tiny('1.1'))
  with pytest.raises(ValueError, match='row_keys is uint32: pass typed keys'):
    decode.sample(model, {}, ragged[0], 3, np.zeros((4, 2), np.uint32))
  with pytest.raises(ValueError, match=r'row_keys has shape \(\): pass one key per input, \(4,\)'):
    decode.sample(model, {}, ragged[0], 3, jax.random.key(0))


@pytest.mark.parametrize('options, message', [
  ({'temperature': 0.0}, 'temperature is 0.0: .* use greedy_search'),
  ({'temperature': float('nan')}, 'temperature is nan'),
  ({'num_samples': 0}, 'num_samples is 0: use at least 1'),
  ({'top_k': -1}, 'top_k is -1'),
  ({'top_k': 0.5}, 'top_k is 0.5'),
  ({'top_p': 0.0}, 'top_p is 0.0'),
  ({'top_p': 1.1}, 'top_p is 1.1'),
])
def test_settings_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    decode.Sampling(**options)
