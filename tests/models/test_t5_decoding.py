"""Greedy decoding over the cache against a loop without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import decode, models
from dss_jax.decode import greedy

LENGTH = 8


def naive_greedy(model, params, inputs, eos_id):
  """The whole decoder again for every token; returns tokens and the steps it took."""
  apply = jax.jit(lambda d: model.apply({'params': params}, inputs, d))
  tokens = np.zeros((len(inputs), LENGTH), np.int32)
  ended = ~np.any(inputs > 0, axis=1)
  steps = 0
  while steps < LENGTH and not np.all(ended):
    decoder_inputs = np.pad(tokens, ((0, 0), (1, 0)))[:, :LENGTH]
    next_tokens = np.asarray(apply(decoder_inputs))[:, steps].argmax(-1)
    tokens[:, steps] = np.where(ended, 0, next_tokens)
    ended |= tokens[:, steps] == eos_id
    steps += 1
  return tokens, steps


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('version', ['1.0', '1.1', 'umt5'])
def test_cached_greedy_equals_the_naive_loop(tiny, random_params, ragged, version, scanned):
  model = models.Transformer(tiny(version, scan_layers=scanned, num_decoder_layers=2))
  params = random_params(tiny(version, num_decoder_layers=2), seed=1)
  params = models.stack_layers(params) if scanned else params
  inputs = ragged[0]
  free, steps = naive_greedy(model, params, inputs, eos_id=-1)
  assert steps == LENGTH
  assert len({tuple(row) for row in free}) == len(free)  # The rows tell something apart.
  search = jax.jit(lambda p, x, eos: decode.greedy_search(model, p, x, LENGTH, eos))
  result = search(params, inputs, -1)
  np.testing.assert_array_equal(result.tokens, free)
  # Some token that the first row writes at its third step ends rows at different times.
  eos_id = int(free[0, 2])
  expected, steps = naive_greedy(model, params, inputs, eos_id)
  result = search(params, inputs, eos_id)
  assert result.tokens.dtype == jnp.int32
  np.testing.assert_array_equal(result.tokens, expected)
  assert int(result.steps) == steps
  assert np.any(expected != free)


def test_the_loop_stops_when_every_row_has_ended(tiny, random_params, ragged):
  config = tiny('1.1')
  model, params = models.Transformer(config), random_params(config)
  search = jax.jit(lambda x, eos: decode.greedy_search(model, params, x, 30, eos))
  inputs = ragged[0][:2].copy()
  inputs[1] = 0  # A row that only fills up the batch must not keep the loop going.
  free = search(inputs, -1)
  assert int(free.steps) == 30
  eos_id = int(free.tokens[0, 2])
  first = np.asarray(free.tokens[0]).tolist().index(eos_id)
  result = search(inputs, eos_id)
  assert int(result.steps) == first + 1 <= 3
  np.testing.assert_array_equal(result.tokens[0, :first + 1], free.tokens[0, :first + 1])
  assert not np.any(result.tokens[0, first + 1:])
  assert not np.any(result.tokens[1])
  tokens = jax.jit(lambda x: decode.greedy_decode(model, params, x, 30, eos_id))(inputs)
  np.testing.assert_array_equal(tokens, result.tokens)
  nothing = search(np.zeros_like(inputs), 1)
  assert int(nothing.steps) == 0


@pytest.mark.parametrize('scanned, dtype, tolerance', [
  (False, 'float32', 1e-5), (True, 'bfloat16', 0.15),
])
def test_steps_give_the_logits_of_the_whole_sequence(
    tiny, random_params, ragged, scanned, dtype, tolerance):
  config = tiny('1.1', scan_layers=scanned, dtype=dtype)
  model, params = models.Transformer(config), random_params(config)
  inputs, decoder_inputs, _, _ = ragged
  whole = jax.jit(model.apply)({'params': params}, inputs, decoder_inputs)
  cache = jax.jit(lambda x: decode.init_cache(model, params, x, decoder_inputs.shape[1]))(inputs)
  assert {x.dtype for x in jax.tree.leaves(cache.self_attention)} == {jnp.dtype(dtype)}
  step = jax.jit(lambda tokens, cache: decode.decode_step(model, params, tokens, cache))
  for t in range(decoder_inputs.shape[1]):
    logits, cache = step(decoder_inputs[:, t], cache)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, whole[:, t], rtol=tolerance, atol=tolerance)
  assert int(cache.index) == decoder_inputs.shape[1]


def test_the_encoded_inputs_are_projected_once(tiny, random_params, ragged):
  config = tiny('1.1', num_decoder_layers=2)
  model, params = models.Transformer(config), random_params(config)
  projected = []

  def record(next_function, args, kwargs, context):
    path = '/'.join(context.module.path)
    if context.method_name == '__call__' and path.endswith(
        ('encoder_decoder_attention/key', 'encoder_decoder_attention/value')):
      projected.append(path)
    return next_function(*args, **kwargs)

  def first_step(inputs):
    cache = decode.init_cache(model, params, inputs, LENGTH)
    assert len(projected) == 2 * config.num_decoder_layers
    logits, after = decode.decode_step(model, params, np.zeros(4, np.int32), cache)
    assert after.cross_attention is cache.cross_attention
    return logits

  with nn.intercept_methods(record):
    jax.eval_shape(first_step, ragged[0])
  assert len(projected) == 2 * config.num_decoder_layers


def test_a_length_below_one_is_refused(tiny, random_params, ragged):
  config = tiny('1.1')
  with pytest.raises(ValueError, match='max_decode_length is 0'):
    decode.greedy_decode(models.Transformer(config), random_params(config), ragged[0], 0)


@pytest.mark.parametrize('vocab', [48, 128, 640])
def test_the_likeliest_token_is_the_first_of_the_best(vocab):
  rng = np.random.default_rng(0)
  logits = rng.integers(-3, 4, (50, 2, vocab)).astype(np.float32)  # Many are equal.
  logits[0, 0, 100 % vocab] = np.nan
  logits[1] = -np.inf
  found = jax.jit(greedy.likeliest)(logits)
  assert found.dtype == jnp.int32
  np.testing.assert_array_equal(found, jnp.argmax(logits, axis=-1))


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('samples', [0, 3])
def test_inputs_that_have_ended_are_dropped(
    tiny, random_params, monkeypatch, scanned, samples):
  """The loop over fewer rows writes what the loop over all would have."""
  model = models.Transformer(tiny('1.1', scan_layers=scanned, num_decoder_layers=2))
  params = random_params(tiny('1.1', num_decoder_layers=2), seed=3)
  params = models.stack_layers(params) if scanned else params
  rng = np.random.default_rng(2)
  inputs = np.where(np.arange(10) < rng.integers(0, 11, (18, 1)), rng.integers(2, 48, (18, 10)), 0)
  keys = jax.random.split(jax.random.key(0), 18)
  decoded = []

  def search(eos_id, drops):
    monkeypatch.setattr(greedy, '_LONG', 32 if drops else 1000)
    sizes = []
    monkeypatch.setattr(greedy, 'decode_step', lambda model, params, tokens, cache: (
      sizes.append(len(tokens)), decode.decode_step(model, params, tokens, cache))[1])
    run = (lambda x: decode.sample(model, params, x, 32, keys, decode.Sampling(samples), eos_id)
           ) if samples else lambda x: decode.greedy_search(model, params, x, 32, eos_id)
    found = jax.jit(run)(inputs.astype(np.int32))
    decoded.append(set(sizes))
    return found

  free = np.asarray(search(-1, False).tokens).reshape(-1, 32)
  counts = [(free == token).any(axis=1).sum() for token in range(48)]
  eos_id = int(np.argsort(counts)[-2])  # Ends many rows, and not all.
  expected, found = search(eos_id, False), search(eos_id, True)
  rows = 18 * max(samples, 1)
  assert decoded[-2:] == [{rows}, {rows, 4 * max(samples, 1)}]
  lengths = (np.asarray(expected.tokens).reshape(-1, 32) > 0).sum(axis=1)
  assert len(set(lengths.tolist())) > 3
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-5)
  assert int(found.steps) == int(expected.steps)
