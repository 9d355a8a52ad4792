"""The whole network against a slow float64 T5 in NumPy, one example at a time, unpadded."""

import jax
import numpy as np
import pytest

from dss_jax import models


def rms(x, params):
  return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * params['scale']


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def attend(params, x, memory, heads, bias=0.0):
  split = lambda y: y.reshape(len(y), heads, -1).swapaxes(0, 1)  # noqa: E731
  query, key, value = (
    split(y @ params[n]['kernel'])
    for n, y in (('query', x), ('key', memory), ('value', memory))
  )
  context = softmax(query @ key.swapaxes(1, 2) + bias) @ value
  return context.swapaxes(0, 1).reshape(len(x), -1) @ params['out']['kernel']


def feed_forward(params, x):
  if 'wi' in params:
    return np.maximum(x @ params['wi']['kernel'], 0) @ params['wo']['kernel']
  gate = x @ params['wi_0']['kernel']
  gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
  return (gate * (x @ params['wi_1']['kernel'])) @ params['wo']['kernel']


def relative_bias(params, length, bidirectional):
  index = np.arange(length)
  bucket = models.relative_position_bucket(index[None] - index[:, None],
                                           bidirectional=bidirectional)
  return params['rel_embedding'][:, np.asarray(bucket)]


def slow_t5(params, config, inputs, decoder_inputs):
  table, heads = params['token_embedder']['embedding'], config.num_heads
  x, tree = table[inputs], params['encoder']
  for i in range(config.num_encoder_layers):
    layer = tree[f'layers_{i}']
    own = layer if config.relpos_per_layer else tree
    bias = relative_bias(own['relpos_bias'], len(inputs), True)
    y = rms(x, layer['pre_attention_layer_norm'])
    x = x + attend(layer['attention'], y, y, heads, bias)
    x = x + feed_forward(layer['mlp'], rms(x, layer['pre_mlp_layer_norm']))
  encoded = rms(x, tree['encoder_norm'])
  x, tree = table[decoder_inputs], params['decoder']
  length = len(decoder_inputs)
  for i in range(config.num_decoder_layers):
    layer = tree[f'layers_{i}']
    bias = relative_bias((layer if config.relpos_per_layer else tree)['relpos_bias'], length, False)
    bias = np.where(np.tril(np.ones((length, length), bool)), bias, -np.inf)
    y = rms(x, layer['pre_self_attention_layer_norm'])
    x = x + attend(layer['self_attention'], y, y, heads, bias)
    y = rms(x, layer['pre_cross_attention_layer_norm'])
    x = x + attend(layer['encoder_decoder_attention'], y, encoded, heads)
    x = x + feed_forward(layer['mlp'], rms(x, layer['pre_mlp_layer_norm']))
  hidden = rms(x, tree['decoder_norm'])
  if config.logits_via_embedding:
    return hidden @ table.T / np.sqrt(config.emb_dim)
  return hidden @ tree['logits_dense']['kernel']


@pytest.mark.parametrize('version', ['1.0', '1.1', 'umt5'])
def test_logits_of_padded_rows_equal_the_slow_reference(tiny, random_params, ragged, version):
  config = tiny(version, num_encoder_layers=2, num_decoder_layers=2)
  params = random_params(config)
  inputs, decoder_inputs, input_lengths, target_lengths = ragged
  logits = jax.jit(models.Transformer(config).apply)({'params': params}, inputs, decoder_inputs)
  exact = jax.tree.map(lambda x: x.astype(np.float64), params)
  for row, (s, t) in enumerate(zip(input_lengths, target_lengths, strict=True)):
    expected = slow_t5(exact, config, inputs[row, :s], decoder_inputs[row, :t])
    np.testing.assert_allclose(logits[row, :t], expected, rtol=2e-4, atol=2e-5)
