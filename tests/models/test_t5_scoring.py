"""Scores of given targets: against whole-sequence logits, and against what searches report."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import decode, models

LENGTH = 6


@pytest.fixture
def targets():
  """[4, 3, 5], ragged; one has a zero inside, one is nothing but padding."""
  rng = np.random.default_rng(3)
  tokens = rng.integers(1, 48, (4, 3, 5)).astype(np.int32)
  for (row, k), length in np.ndenumerate(rng.integers(1, 6, (4, 3))):
    tokens[row, k, length:] = 0
  tokens[0, 1] = (7, 0, 9, 1, 0)
  tokens[2, 2] = 0
  return tokens


def naive_scores(model, params, inputs, targets):
  """Every target alone and without padding, token by token from its logits."""
  apply = jax.jit(lambda x, d: jax.nn.log_softmax(model.apply({'params': params}, x, d)))
  scores = np.full(targets.shape[:2], -np.inf)
  for row, k in np.ndindex(*targets.shape[:2]):
    tokens = np.trim_zeros(targets[row, k], 'b')
    decoder_inputs = np.zeros((1, targets.shape[2]), np.int32)
    decoder_inputs[0, 1:len(tokens)] = tokens[:-1]
    log_probs = apply(inputs[row:row + 1], decoder_inputs)
    if len(tokens):
      scores[row, k] = sum(float(log_probs[0, t, token]) for t, token in enumerate(tokens))
  return scores


@pytest.mark.parametrize('version, scanned, dtype, tolerance', [
  ('1.0', False, 'bfloat16', 0.05), ('1.1', True, 'float32', 1e-5),
  ('umt5', True, 'float32', 1e-5),
])
def test_equals_the_sum_over_tokens(
    tiny, random_params, ragged, targets, version, scanned, dtype, tolerance):
  config = tiny(version, scan_layers=scanned, num_decoder_layers=2, dtype=dtype)
  model = models.Transformer(config)
  params = random_params(tiny(version, num_decoder_layers=2))
  params = models.stack_layers(params) if scanned else params
  scores = jax.jit(lambda x, y: decode.score_targets(model, params, x, y))(ragged[0], targets)
  assert scores.dtype == np.float32 and scores.shape == (4, 3)
  expected = naive_scores(model, params, ragged[0], targets)
  np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance)
  assert np.isneginf(scores[2, 2]) and np.isfinite(scores).sum() == 11


def test_searches_report_the_same_log_probabilities(tiny, random_params, ragged):
  model = models.Transformer(tiny('1.1', scan_layers=True))
  params = models.stack_layers(random_params(tiny('1.1'), seed=1))
  inputs = ragged[0].copy()
  inputs[3] = 0

  @jax.jit
  def run(inputs, eos_id):
    greedy = decode.greedy_search(model, params, inputs, LENGTH, eos_id)
    beam = decode.beam_search(model, params, inputs, LENGTH, num_beams=3, num_return=3,
                              eos_id=eos_id)
    tokens = jax.numpy.concatenate([greedy.tokens[:, None], beam.tokens], axis=1)
    reported = jax.numpy.concatenate([greedy.log_probs[:, None], beam.log_probs], axis=1)
    return tokens, reported, decode.score_targets(model, params, inputs, tokens), greedy

  eos_id = int(run(inputs, -1)[0][0, 0, 2])
  tokens, reported, scores, greedy = run(inputs, eos_id)
  assert reported.dtype == np.float32
  ends = np.any(tokens == eos_id, axis=-1)
  assert 0 < ends[:3].sum() < 12
  # A cut sequence whose last token is 0 looks shorter than it is.
  whole = ends | (np.asarray(tokens)[:, :, -1] != 0)
  assert whole[:3].sum() > 8
  np.testing.assert_allclose(reported[whole], scores[whole], rtol=1e-5, atol=1e-5)
  assert np.all(reported[:3] < 0) and not np.any(reported[3])
  assert not np.any(greedy.tokens[3])


def test_inputs_are_encoded_and_projected_once(tiny, random_params, ragged, targets):
  config = tiny('1.1')
  model, params = models.Transformer(config), random_params(config)
  calls = []

  def record(next_function, args, kwargs, context):
    path = '/'.join(context.module.path)
    if context.method_name == '__call__' and path in (
        'encoder', 'decoder/layers_0/encoder_decoder_attention/key'):
      calls.append(path)
    return next_function(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(lambda x, y: decode.score_targets(model, params, x, y), ragged[0], targets)
  assert sorted(calls) == ['decoder/layers_0/encoder_decoder_attention/key', 'encoder']


@pytest.mark.parametrize('shape', [(4, 5), (3, 2, 5), (4, 2, 0)])
def test_shapes_are_checked(tiny, ragged, shape):
  with pytest.raises(ValueError, match='targets has shape'):
    decode.score_targets(models.Transformer(tiny('1.1')), {}, ragged[0], np.ones(shape, np.int32))
