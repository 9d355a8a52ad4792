"""Beam search against a plain one without a cache, and against all sequences there are."""

import functools
import itertools

import jax
import numpy as np
import pytest

from dss_jax import decode, models

LENGTH = 7


def make_log_probs(model, params, width):
  """(one input, its prefixes) -> float32 [prefixes, V], log-probabilities of the next token.

  The whole network again at every call, in rows of one shape.
  """
  apply = jax.jit(lambda x, d: jax.nn.log_softmax(model.apply({'params': params}, x, d)))

  def log_probs(source, prefixes):
    decoder_inputs = np.zeros((width, LENGTH), np.int32)
    for row, prefix in enumerate(prefixes):
      decoder_inputs[row, 1:1 + len(prefix)] = prefix
    logits = apply(np.tile(source, (width, 1)), decoder_inputs)
    return np.asarray(logits)[:len(prefixes), len(prefixes[0])]

  return log_probs


def naive_beam_search(log_probs, beams, penalty, early_stopping, eos_id):
  """One input; returns [(score, log_prob, tokens)], the best first, and the steps it took."""
  live, found = [(0.0, ())], []
  for length in range(1, LENGTH + 1):
    rows = log_probs([tokens for _, tokens in live])
    grown = [(total + row[token], (*tokens, token))
             for (total, tokens), row in zip(live, rows) for token in range(len(row))]
    grown = sorted(grown, key=lambda one: -one[0])[:2 * beams]
    for rank, (total, tokens) in enumerate(grown):
      if rank < beams and (tokens[-1] == eos_id or length == LENGTH):
        found.append((total / length**penalty, total, tokens))
    found = sorted(found, key=lambda one: -one[0])[:beams]
    live = [one for one in grown if one[1][-1] != eos_id][:beams]
    enough = len(found) == beams
    if enough and (early_stopping or live[0][0] / length**penalty <= found[-1][0]):
      break
  return found, length


def make_search(model, params, **options):
  """(inputs, eos_id) -> BeamResult, compiled once."""
  search = jax.jit(
    lambda x, eos: decode.beam_search(model, params, x, LENGTH, eos_id=eos, **options))

  def run(inputs, eos_id):
    result = jax.device_get(search(inputs, eos_id))
    assert result.tokens.dtype == np.int32
    assert result.scores.dtype == result.log_probs.dtype == np.float32
    return result

  return run


def common_tokens(search, inputs):
  """Three that beams write often, so that as EOS they end them early and late."""
  tokens, counts = np.unique(search(inputs, -1).tokens[:, :, 1:], return_counts=True)
  return tokens[np.argsort(-counts)][:3].tolist()


@pytest.mark.parametrize('version, scanned, beams, penalty, early_stopping', [
  ('1.1', False, 4, 1.0, False), ('1.0', True, 3, 0.6, False), ('1.1', True, 4, 1.0, True),
  ('1.1', False, 2, -1.0, False), ('umt5', True, 3, 1.0, False),
])
def test_equals_the_plain_search(
    tiny, random_params, ragged, version, scanned, beams, penalty, early_stopping):
  fields = {'num_decoder_layers': 2} if scanned else {}
  model = models.Transformer(tiny(version, scan_layers=scanned, **fields))
  params = random_params(tiny(version, **fields), seed=1)
  params = models.stack_layers(params) if scanned else params
  inputs = ragged[0].copy()
  inputs[2] = 0
  search = make_search(model, params, num_beams=beams, num_return=beams,
                       length_penalty=penalty, early_stopping=early_stopping)
  log_probs = make_log_probs(model, params, beams)
  lengths = set()
  for eos_id in common_tokens(search, inputs):
    result, slowest = search(inputs, eos_id), 0
    for row in (0, 1, 3):
      found, steps = naive_beam_search(
        functools.partial(log_probs, inputs[row]), beams, penalty, early_stopping, eos_id)
      slowest = max(slowest, steps)
      lengths |= {len(tokens) for _, _, tokens in found}
      expected = np.zeros((beams, LENGTH), np.int32)
      for i, (_, _, tokens) in enumerate(found):
        expected[i, :len(tokens)] = tokens
      np.testing.assert_array_equal(result.tokens[row], expected)
      np.testing.assert_allclose(result.scores[row], [one[0] for one in found], rtol=1e-5)
      np.testing.assert_allclose(result.log_probs[row], [one[1] for one in found], rtol=1e-5)
    assert int(result.steps) == slowest
    for zeros in (result.tokens, result.scores, result.log_probs):  # The row of padding.
      assert not np.any(zeros[2])
  assert len(lengths) > 2, lengths


def test_a_beam_as_wide_as_all_sequences_finds_the_best(tiny, random_params, ragged):
  config = tiny('1.1', vocab_size=4)
  model, params = models.Transformer(config), random_params(config, seed=3)
  inputs = np.minimum(ragged[0], 3)[:2]
  length, eos_id, penalty = 3, 1, 1.5
  result = jax.jit(lambda x: decode.beam_search(
    model, params, x, length, num_beams=64, num_return=5, length_penalty=penalty))(inputs)
  sequences = [
    tokens for n in range(1, length + 1) for tokens in itertools.product(range(4), repeat=n)
    if eos_id not in tokens[:-1] and (tokens[-1] == eos_id or n == length)
  ]
  padded = np.array([tokens + (0,) * (length - len(tokens)) for tokens in sequences])
  decoder_inputs = np.pad(padded, ((0, 0), (1, 0)))[:, :-1]
  for row in range(2):
    logits = jax.jit(model.apply)(
      {'params': params}, np.tile(inputs[row], (len(padded), 1)), decoder_inputs)
    token_log_probs = np.take_along_axis(
      np.asarray(jax.nn.log_softmax(logits)), padded[..., None], axis=-1)[..., 0]
    scores = np.array([token_log_probs[i, :len(tokens)].sum() / len(tokens)**penalty
                       for i, tokens in enumerate(sequences)])
    best = np.argsort(-scores)[:5]
    np.testing.assert_array_equal(result.tokens[row], padded[best])
    np.testing.assert_allclose(result.scores[row], scores[best], rtol=1e-5)


def test_places_without_a_sequence_are_blank(tiny, random_params, ragged):
  """Three tokens make 7 sequences of at most 2, for 9 beams."""
  config = tiny('1.1', vocab_size=3)
  model, params = models.Transformer(config), random_params(config)
  inputs = np.minimum(ragged[0], 2)
  result = jax.jit(lambda x: decode.beam_search(
    model, params, x, 2, num_beams=9, num_return=9))(inputs)
  all_seven = [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1], [2, 2]]
  for row in range(4):
    assert sorted(result.tokens[row, :7].tolist()) == all_seven
  np.testing.assert_allclose(np.exp(result.log_probs[:, :7]).sum(axis=1), 1.0, rtol=1e-5)
  assert not np.any(result.tokens[:, 7:])
  assert np.all(np.isneginf(result.scores[:, 7:])) and np.all(np.isneginf(result.log_probs[:, 7:]))


def test_one_beam_is_greedy_search(tiny, random_params, ragged):
  config = tiny('1.1', dtype='bfloat16')
  model, params = models.Transformer(config), random_params(config, seed=1)
  search = make_search(model, params, num_beams=1)
  greedy_search = jax.jit(lambda x, eos: decode.greedy_search(model, params, x, LENGTH, eos))
  for eos_id in common_tokens(search, ragged[0]):
    beam, greedy = search(ragged[0], eos_id), greedy_search(ragged[0], eos_id)
    np.testing.assert_array_equal(beam.tokens[:, 0], greedy.tokens)
    np.testing.assert_allclose(beam.log_probs[:, 0], greedy.log_probs, rtol=1e-5)
    assert int(beam.steps) == int(greedy.steps)


@pytest.mark.parametrize('scanned', [False, True])
def test_beams_share_the_encoded_input(tiny, random_params, ragged, scanned):
  model = models.Transformer(tiny('1.1', scan_layers=scanned, num_decoder_layers=2))
  params = random_params(tiny('1.1', num_decoder_layers=2))
  params = models.stack_layers(params) if scanned else params

  def steps(inputs, tokens, rows):
    cache = decode.init_cache(model, params, inputs, 3, rows_per_input=3)
    _, after = decode.decode_step(model, params, tokens, cache)
    assert after.cross_attention is cache.cross_attention
    return cache, after, decode.cache.select_rows(model, after, rows)

  rows = np.array([[2, 2, 0], [0, 1, 2], [1, 0, 0], [2, 1, 0]])
  cache, after, selected = jax.jit(steps)(ragged[0], np.arange(12) + 2, rows)
  axis = int(scanned)
  assert {x.shape[axis] for x in jax.tree.leaves(cache.cross_attention)} == {4}
  flat = (rows + 3 * np.arange(4)[:, None]).reshape(-1)
  for old, new in zip(*(jax.tree.leaves(c.self_attention) for c in (after, selected)), strict=True):
    assert old.shape[axis] == 12
    np.testing.assert_array_equal(np.take(np.asarray(old), flat, axis), new)


@pytest.mark.parametrize('options, message', [
  ({'num_beams': 0}, 'num_beams is 0: use an integer of at least 1'),
  ({'num_beams': 2, 'num_return': 3}, 'num_return is 3: use 1 to num_beams, 2'),
  ({'num_return': 0}, 'num_return is 0'),
  ({'length_penalty': float('nan')}, 'length_penalty is nan'),
  ({'early_stopping': 'never'}, "early_stopping is 'never': use True or False"),
])
def test_arguments_are_checked(tiny, ragged, options, message):
  with pytest.raises(ValueError, match=message):
    decode.beam_search(models.Transformer(tiny('1.1')), {}, ragged[0], 3, **options)
