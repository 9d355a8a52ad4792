"""Packed rows are exact, padding is harmless, wrong shapes are refused."""

import jax
import numpy as np
import pytest

from dss_jax import models


def pack(rows, lengths, order, total):
  """Concatenates ragged rows; returns tokens and segment ids, [1, total]."""
  tokens, segments = np.zeros((2, 1, total), np.int32)
  at = 0
  for segment, row in enumerate(order, start=1):
    tokens[0, at:at + lengths[row]] = rows[row, :lengths[row]]
    segments[0, at:at + lengths[row]] = segment
    at += lengths[row]
  return tokens, segments


@pytest.mark.parametrize('version, scanned', [('1.0', False), ('1.1', True), ('umt5', True)])
def test_packed_logits_equal_unpacked_ones(tiny, random_params, ragged, version, scanned):
  depth = {'num_encoder_layers': 2, 'num_decoder_layers': 2} if version == 'umt5' else {}
  config = tiny(version, scan_layers=scanned, **depth)
  params = random_params(config)
  apply = jax.jit(models.Transformer(config).apply)
  inputs, decoder_inputs, input_lengths, target_lengths = ragged
  plain = apply({'params': params}, inputs, decoder_inputs)
  order = (2, 0, 3, 1)
  tokens, segments = pack(inputs, input_lengths, order, 23)
  decoder_tokens, decoder_segments = pack(decoder_inputs, target_lengths, order, 14)
  packed = apply(
    {'params': params}, tokens, decoder_tokens, encoder_segment_ids=segments,
    decoder_segment_ids=decoder_segments,
  )
  assert np.all(np.isfinite(packed))
  for segment, row in enumerate(order, start=1):
    found = packed[0][decoder_segments[0] == segment]
    expected = plain[row, :target_lengths[row]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # The comparison means something: without segment ids the examples see each other.
  mixed = apply({'params': params}, tokens, decoder_tokens)
  assert np.max(np.abs(mixed - packed)) > 0.1


@pytest.mark.parametrize('packed, dtype', [(False, 'float32'), (True, 'bfloat16')])
def test_a_row_of_padding_gives_finite_loss_and_gradient(
    tiny, random_params, ragged, packed, dtype):
  config = tiny('1.1', dtype=dtype)
  params = random_params(config)
  inputs, decoder_inputs, _, target_lengths = ragged
  inputs[1], decoder_inputs[1] = 0, 0
  segments = {}
  if packed:
    decoder_segments = np.arange(5)[None, :] < np.array(target_lengths)[:, None]
    decoder_segments[1] = False
    segments = {
      'encoder_segment_ids': (inputs > 0).astype(np.int32),
      'decoder_segment_ids': decoder_segments.astype(np.int32),
    }

  def loss(params):
    logits = models.Transformer(config).apply(
      {'params': params}, inputs, decoder_inputs, **segments
    )
    return -jax.nn.log_softmax(logits)[..., 3].sum()  # Of every position, padding included.

  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_wrong_arguments_are_refused(tiny, random_params, ragged):
  config = tiny('1.1')
  variables = {'params': random_params(config)}
  inputs, decoder_inputs, _, _ = ragged

  def apply(*args, **kwargs):
    return jax.eval_shape(models.Transformer(config).apply, *args, **kwargs)

  with pytest.raises(ValueError, match='one side only'):
    apply(variables, inputs, decoder_inputs, encoder_segment_ids=inputs)
  with pytest.raises(ValueError, match=r'decoder_segment_ids has shape \(4, 9\)'):
    apply(variables, inputs, decoder_inputs, encoder_segment_ids=inputs,
          decoder_segment_ids=inputs)
  with pytest.raises(ValueError, match=r'encoder_input_tokens has shape \(9,\)'):
    apply(variables, inputs[0], decoder_inputs)
  with pytest.raises(ValueError, match='float32: pass integer'):
    apply(variables, inputs.astype(np.float32), decoder_inputs)
