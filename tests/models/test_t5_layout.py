"""Scanned and unrolled layers are one network; remat changes no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import models

TWO = {'num_encoder_layers': 2, 'num_decoder_layers': 2}


def assert_same_bits(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('version', ['1.0', '1.1', 'umt5'])
def test_scanned_logits_equal_unrolled_ones(tiny, random_params, ragged, version):
  unrolled, scanned = tiny(version, **TWO), tiny(version, scan_layers=True, **TWO)
  params = random_params(unrolled)
  inputs, decoder_inputs, _, _ = ragged
  expected = jax.jit(models.Transformer(unrolled).apply)(
    {'params': params}, inputs, decoder_inputs
  )
  found = jax.jit(models.Transformer(scanned).apply)(
    {'params': models.stack_layers(params)}, inputs, decoder_inputs
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('convert', [np.asarray, jnp.asarray])
def test_the_round_trip_is_bit_equal(tiny, random_params, convert):
  unrolled, scanned = tiny('1.1', **TWO), tiny('1.1', scan_layers=True, **TWO)
  params = jax.tree.map(convert, random_params(unrolled))
  stacked = models.stack_layers(params)
  assert jax.tree.structure(stacked) == jax.tree.structure(random_params(scanned))
  assert_same_bits(models.unstack_layers(stacked), params)
  assert_same_bits(models.stack_layers(models.unstack_layers(stacked)), stacked)
  assert type(jax.tree.leaves(stacked)[0]) is type(jax.tree.leaves(params)[0])
  second = params['decoder']['layers_1']['mlp']['wo']['kernel']
  np.testing.assert_array_equal(stacked['decoder']['layers']['mlp']['wo']['kernel'][1], second)


def test_boxed_parameters_keep_their_axis_names(tiny):
  tokens = jnp.ones((1, 2), jnp.int32)

  def boxed(scanned):
    init = models.Transformer(tiny('1.1', scan_layers=scanned, **TWO)).init
    return jax.eval_shape(init, jax.random.key(0), tokens, tokens)['params']

  stacked = jax.eval_shape(models.stack_layers, boxed(False))
  assert nn.get_partition_spec(stacked) == nn.get_partition_spec(boxed(True))
  unstacked = jax.eval_shape(models.unstack_layers, boxed(True))
  assert nn.get_partition_spec(unstacked) == nn.get_partition_spec(boxed(False))


def test_trees_of_the_wrong_layout_are_refused(tiny, random_params):
  params = random_params(tiny('1.1', num_decoder_layers=3))
  with pytest.raises(ValueError, match='stacked already'):
    models.stack_layers(models.stack_layers(params))
  with pytest.raises(ValueError, match='not stacked'):
    models.unstack_layers(params)
  with pytest.raises(ValueError, match="no 'encoder'"):
    models.stack_layers({'params': params})
  del params['decoder']['layers_1']
  with pytest.raises(ValueError, match=r'decoder has layers \[0, 2\]'):
    models.stack_layers(params)


@pytest.mark.parametrize('version, scanned, remats', [
  ('1.1', False, ['dots']), ('1.1', True, ['scores', 'full']),
  pytest.param('umt5', True, ['full'], marks=pytest.mark.slow)])
def test_remat_gives_the_same_gradients(tiny, random_params, ragged, version, scanned, remats):
  inputs, decoder_inputs, _, _ = ragged
  fields = {'scan_layers': scanned, **({'num_decoder_layers': 2} if scanned else {})}
  params = random_params(tiny(version, **fields))

  def make_loss(remat):
    model = models.Transformer(tiny(version, remat=remat, **fields))

    def loss(params):  # With dropout: the second pass must draw the masks of the first.
      rngs = {'dropout': jax.random.key(3, impl='rbg')}  # Compiles faster than threefry.
      logits = model.apply(
        {'params': params}, inputs, decoder_inputs, deterministic=False, rngs=rngs
      )
      return -jax.nn.log_softmax(logits)[..., 3].mean()

    return loss

  expected = jax.jit(jax.grad(make_loss('none')))(params)
  for remat in remats:
    assert 'remat' in str(jax.make_jaxpr(make_loss(remat))(params))
    found = jax.jit(jax.grad(make_loss(remat)))(params)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, expected
    )
