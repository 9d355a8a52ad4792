"""Dtypes, dropout, the two embeddings, the separate head, and sharding rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import models


def test_bfloat16_gives_float32_logits_near_the_float32_ones(
    tiny, random_params, ragged):
  inputs, decoder_inputs, _, _ = ragged
  exact = tiny('1.0', scan_layers=True)
  half = tiny('1.0', scan_layers=True, dtype='bfloat16')
  params = random_params(exact)
  expected = jax.jit(models.Transformer(exact).apply)({'params': params}, inputs, decoder_inputs)
  logits = jax.jit(models.Transformer(half).apply)({'params': params}, inputs, decoder_inputs)
  hidden = jax.eval_shape(
    functools.partial(models.Transformer(half).apply, method='hidden_states'),
    {'params': params}, inputs, decoder_inputs,
  )
  assert hidden.dtype == jnp.bfloat16
  assert logits.dtype == jnp.float32
  difference = np.abs(logits - expected)
  assert np.max(difference) > 0
  assert np.mean(difference) < 0.05 * np.std(expected)


def test_dropout_follows_the_rng_and_is_off_when_deterministic(tiny, random_params, ragged):
  inputs, decoder_inputs, _, _ = ragged
  config = tiny('1.1', scan_layers=True)
  variables = {'params': random_params(config)}
  model = models.Transformer(config)

  @jax.jit
  def noisy(seed):
    rngs = {'dropout': jax.random.key(seed, impl='rbg')}
    return model.apply(variables, inputs, decoder_inputs, deterministic=False, rngs=rngs)

  apply = jax.jit(model.apply)
  quiet = apply(variables, inputs, decoder_inputs)
  without = models.Transformer(tiny('1.1', scan_layers=True, dropout_rate=0.0))
  without = jax.jit(functools.partial(without.apply, deterministic=False))(
    variables, inputs, decoder_inputs
  )
  np.testing.assert_array_equal(noisy(0), noisy(0))
  assert np.max(np.abs(noisy(0) - noisy(1))) > 0.01
  assert np.max(np.abs(noisy(0) - quiet)) > 0.01
  np.testing.assert_array_equal(without, quiet)
  np.testing.assert_array_equal(
    quiet, apply(variables, inputs, decoder_inputs, rngs={'dropout': jax.random.key(5)})
  )


def test_dropout_is_where_t5x_has_it(tiny, random_params, ragged):
  inputs, decoder_inputs, _, _ = ragged
  config = tiny('1.1', num_encoder_layers=2, num_decoder_layers=2)
  shapes = {'encoder': [], 'decoder': []}

  def record(next_function, args, kwargs, context):
    if isinstance(context.module, nn.Dropout):
      side = 'encoder' if 'encoder' in context.module.path else 'decoder'
      shape = list(args[0].shape)
      for axis in context.module.broadcast_dims:
        shape[axis] = 1  # One mask for all positions.
      shapes[side].append(tuple(shape))
    return next_function(*args, **kwargs)

  variables = {'params': random_params(config)}
  noisy = functools.partial(models.Transformer(config).apply, deterministic=False)
  with nn.intercept_methods(record):
    jax.eval_shape(noisy, variables, inputs, decoder_inputs, rngs={'dropout': jax.random.key(0)})
  row, wide = (4, 1, 16), (4, 1, 24)
  encoder_layer = [(4, 2, 1, 9), row, wide, row]
  decoder_layer = [(4, 2, 1, 5), row, (4, 2, 1, 9), row, wide, row]
  assert shapes['encoder'] == [row, *2 * encoder_layer, (4, 9, 16)]
  assert shapes['decoder'] == [row, *2 * decoder_layer, row]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_one_hot_embedding_equals_the_gather(tiny, random_params, ragged, dtype):
  inputs, decoder_inputs, _, _ = ragged
  gather, one_hot = tiny('1.1', dtype=dtype), tiny('1.1', dtype=dtype, one_hot_embedding=True)
  variables = {'params': random_params(gather)}
  found, expected = (
    jax.jit(models.Transformer(config).apply)(variables, inputs, decoder_inputs)
    for config in (one_hot, gather)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_the_head_can_be_applied_in_chunks(tiny, random_params, ragged, version):
  inputs, decoder_inputs, _, _ = ragged
  config = tiny(version)
  variables = {'params': random_params(config)}
  apply = jax.jit(models.Transformer(config).apply, static_argnames='method')
  whole = apply(variables, inputs, decoder_inputs)
  encoded = apply(variables, inputs, method='encode')
  hidden = apply(variables, encoded, inputs, decoder_inputs, method='decode_hidden')
  assert hidden.shape == (4, 5, 16)
  chunks = [
    apply(variables, part, method='logits_from_hidden')
    for part in (hidden[:, :2], hidden[:, 2:])
  ]
  np.testing.assert_allclose(np.concatenate(chunks, axis=1), whole, rtol=1e-5, atol=1e-6)
  decoded = apply(variables, encoded, inputs, decoder_inputs, method='decode')
  np.testing.assert_allclose(decoded, whole, rtol=1e-5, atol=1e-6)


def test_axis_rules_on_a_mesh_change_no_number(tiny, random_params, ragged):
  inputs, decoder_inputs, _, _ = ragged
  config = tiny('1.1', scan_layers=True)
  variables = {'params': random_params(config)}
  model = models.Transformer(config)
  expected = jax.jit(model.apply)(variables, inputs, decoder_inputs)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ('data', 'model'))
  rules = (
    ('batch', 'data'), ('heads', 'model'), ('mlp', 'model'), ('vocab', 'model'), ('embed', None),
    ('length', None), ('kv', None),
  )

  def constrained(variables, inputs, decoder_inputs):
    return model.apply(variables, inputs, decoder_inputs)

  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    text = str(jax.make_jaxpr(constrained)(variables, inputs, decoder_inputs))
    found = jax.jit(constrained)(variables, inputs, decoder_inputs)
  assert 'sharding_constraint' in text
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
