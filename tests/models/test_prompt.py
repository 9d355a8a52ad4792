"""Decoding behind a prompt is decoding of what follows it, by the whole decoder and no cache."""

import jax
import numpy as np
import pytest

from dss_jax import decode, models

PROMPT, LENGTH = (7, 9, 4), 5


@pytest.fixture(scope='module')
def inputs():
  rows = np.random.default_rng(3).integers(2, 48, (3, 6)).astype(np.int32)
  rows[1, 4:] = 0
  rows[2] = 0
  return rows


def reference(model, params, inputs, prompt):
  """log_probs(tokens [B, t] behind the prompt) -> float32 [B, V] of the next token."""
  def log_probs(tokens):
    given = np.tile(np.array([0, *prompt], np.int32), (len(inputs), 1))
    logits = model.apply({'params': params}, inputs, np.concatenate([given, tokens], axis=1))
    return np.asarray(jax.nn.log_softmax(logits[:, -1]))
  return log_probs


@pytest.mark.parametrize(('version', 'scanned', 'prompt'), [
    ('1.0', True, PROMPT),
    pytest.param('1.1', False, (11,), marks=pytest.mark.slow),
    pytest.param('1.1', False, PROMPT, marks=pytest.mark.slow),
    pytest.param('1.0', True, (11,), marks=pytest.mark.slow),
    pytest.param('umt5', True, PROMPT, marks=pytest.mark.slow),
    pytest.param('umt5', True, (11,), marks=pytest.mark.slow)])
def test_greedy_search_goes_on_from_the_prompt(
    tiny, random_params, inputs, version, scanned, prompt):
  config = tiny(version, scan_layers=scanned)
  model, params = models.Transformer(config), random_params(config)
  found = jax.jit(lambda p, x: decode.greedy_search(model, p, x, LENGTH, given=prompt))(
      params, inputs)
  next_of = reference(model, params, inputs, prompt)
  tokens, total, ended = np.zeros((3, 0), np.int32), np.zeros(3), np.array([False, False, True])
  for _ in range(LENGTH):
    log_probs = next_of(tokens)
    best = np.where(ended, 0, log_probs.argmax(-1))
    total += np.where(ended, 0, log_probs.max(-1))
    ended |= best == 1
    tokens = np.concatenate([tokens, best[:, None].astype(np.int32)], axis=1)
  np.testing.assert_array_equal(found.tokens, tokens)
  np.testing.assert_allclose(found.log_probs, total, rtol=1e-4, atol=1e-5)
  assert found.steps <= LENGTH
  plain = decode.greedy_search(model, params, inputs, LENGTH)
  assert np.abs(plain.log_probs - found.log_probs)[:2].min() > 1e-2  # The prompt is heard.


def test_scores_are_those_of_the_targets_alone(tiny, random_params, inputs):
  config = tiny('1.1')
  model, params = models.Transformer(config), random_params(config)
  targets = np.random.default_rng(5).integers(2, 48, (3, 2, 3)).astype(np.int32)
  targets[:, :, -1] = 1
  scores = decode.score_targets(model, params, inputs, targets, PROMPT)
  next_of = reference(model, params, inputs, PROMPT)
  for k in range(2):
    total = sum(next_of(targets[:, k, :t])[np.arange(3), targets[:, k, t]] for t in range(3))
    np.testing.assert_allclose(scores[:, k], total, rtol=1e-4)


@pytest.mark.slow
def test_beams_and_samples_have_the_probabilities_of_what_follows_the_prompt(
    tiny, random_params, inputs):
  config = tiny('1.1')
  model, params = models.Transformer(config), random_params(config)
  beams = decode.beam_search(model, params, inputs, LENGTH, num_beams=3, num_return=2,
                             length_penalty=0.5, given=PROMPT)
  drawn = decode.sample(model, params, inputs, LENGTH, jax.random.split(jax.random.key(0), 3),
                        decode.Sampling(2), given=PROMPT)
  for found in (beams, drawn):
    scores = decode.score_targets(model, params, inputs, found.tokens, PROMPT)
    np.testing.assert_allclose(found.log_probs[:2], scores[:2], rtol=1e-4)
  lengths = (beams.tokens > 0).sum(-1)
  np.testing.assert_allclose(beams.scores[:2], (beams.log_probs / lengths**0.5)[:2], rtol=1e-5)
  greedy = decode.greedy_search(model, params, inputs, LENGTH, given=PROMPT)
  one = decode.beam_search(model, params, inputs, LENGTH, num_beams=1, given=PROMPT)
  np.testing.assert_array_equal(one.tokens[:, 0], greedy.tokens)
