"""The fused attention is the written-out one; here its kernels are interpreted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import models
from dss_jax import sharding as sharding_lib
from dss_jax.models import attend, fused_attention, masks

REACH = 128


def segments(rng, rows, length, examples):
  """Ragged packed rows: int32 ids from 1, padding of 0 at the end."""
  ids = np.zeros((rows, length), np.int32)
  for row in ids:
    cuts = np.sort(rng.choice(np.arange(1, length), examples, replace=False))
    for number, (start, stop) in enumerate(zip([0, *cuts], cuts, strict=False), 1):
      row[start:stop] = number
  return ids


def config(heads, head_dim, attention, **fields):
  return models.T5Config(num_heads=heads, head_dim=head_dim, attention=attention, **fields)


def outputs_and_gradients(settings, arrays, values, mask, weights, kept=None):
  """Context, and the gradients of query, key, value and biases; `weights` on the contexts."""
  batch, length = arrays[0].shape[:2]
  seen = attend.seen_by(settings, mask, batch, length, arrays[1].shape[1])
  assert isinstance(seen, attend.Ids) == (settings.attention == 'pallas')

  def context(query, key, value, values):
    bias = None if values is None else attend.bias_for(seen, values, length, key.shape[1])
    return attend.attend(query, key, value, bias, seen, kept)

  @jax.jit
  def both(*args):
    found, gradient = jax.vjp(context, *args)
    return found * (weights != 0), gradient(weights)

  found, gradients = both(*arrays, values)
  return found, [x for x in gradients if x is not None]


CASES = {
  'packed': (2, 300, 300, 3, 64, 4, False),
  'causal': (2, 200, 200, 2, 64, 3, True),
  'cross': (2, 90, 300, 2, 64, 3, False),
  'padded': (2, 140, 140, 1, 32, 0, False),
  'causal and padded': (2, 140, 140, 1, 128, 0, True),
  'cross and padded': (2, 20, 150, 5, 32, 0, False),
  'long': (1, 700, 700, 1, 64, 6, False),
}


@pytest.mark.parametrize('name', CASES)
def test_fused_attention_is_the_written_out_one(name):
  """In float32: contexts to 1e-5, gradients, those of the biases too, to 1e-4."""
  batch, length, key_length, heads, head_dim, examples, causal = CASES[name]
  rng = np.random.default_rng(len(name))

  def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  query = normal(batch, length, heads, head_dim) * head_dim**-0.5
  key, value = (normal(batch, key_length, heads, head_dim) for _ in range(2))
  values = None if length != key_length else normal(heads, 2 * REACH + 1)
  tokens = segments(rng, batch, key_length, max(examples, 1))
  real = np.ones((batch, length), bool)
  if causal:
    ids = segments(rng, batch, length, examples) if examples else None
    mask, real = masks.decoder_mask(ids), real if ids is None else ids > 0
  elif values is None:
    ids = segments(rng, batch, length, examples) if examples else None
    mask = masks.cross_mask(tokens, tokens if examples else None, ids)
    real = real if ids is None else ids > 0
  else:
    mask = masks.encoder_mask(tokens, tokens if examples else None)
    real = tokens > 0 if examples else real
  weights = normal(*query.shape) * real[:, :, None, None]
  kept = (rng.random((batch, heads, 1, key_length)) < 0.8).astype(np.float32) / 0.8
  expected, found = (
    outputs_and_gradients(
      config(heads, head_dim, way), (query, key, value), values, mask, weights, kept)
    for way in ('xla', 'pallas'))
  np.testing.assert_allclose(found[0], expected[0], atol=1e-5, rtol=1e-5)
  assert len(found[1]) == (3 if values is None else 4)
  for x, y in zip(found[1], expected[1], strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4)


def test_a_row_of_padding_passes_nothing_on():
  settings = config(2, 64, 'pallas')
  arrays = [jnp.ones((1, 8, 2, 64))] * 3
  mask = masks.encoder_mask(jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 8), jnp.int32))
  found, gradients = outputs_and_gradients(
    settings, arrays, jnp.ones((2, 2 * REACH + 1)), mask, jnp.ones(arrays[0].shape))
  for x in (found, *gradients):
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize('ids, first, stop', [
  ([[1] * 128 + [2] * 100 + [3] * 28 + [0] * 128], [0, 1, 0], [1, 2, 0]),
  ([[1] * 200 + [2] * 56 + [2] * 10 + [0] * 118], [0, 0, 1], [2, 3, 3])])
def test_blocks_without_a_pair_are_left_out(ids, first, stop):
  ids = jnp.asarray(ids).reshape(1, 3, 128)
  found = fused_attention._ranges(jnp.where(ids > 0, ids, -1), jnp.where(ids > 0, ids, -2), False)
  assert [x[0].tolist() for x in found] == [first, stop]


def losses(settings, params, batch, mesh=None):
  """A packed step's loss and gradients, dropout on."""
  model = models.Transformer(settings)

  def loss(params):
    logits = model.apply(
      {'params': params}, *batch, deterministic=False,
      rngs={'dropout': jax.random.key(3, impl='rbg')})
    return -(jax.nn.log_softmax(logits)[..., 3] * (batch[3] > 0)).mean()

  step = jax.value_and_grad(loss)
  return jax.jit(step)(params) if mesh is None else mesh.jit(step)(params)


@pytest.mark.parametrize('version, remat, devices', [
  ('umt5', 'none', 1), pytest.param('1.1', 'full', 8, marks=pytest.mark.slow)])
def test_the_network_is_the_same(tiny, random_params, version, remat, devices):
  """With the same draws of dropout; also under a mesh that divides rows and heads."""
  rng = np.random.default_rng(1)
  settings = tiny(version, head_dim=32, num_heads=4, scan_layers=True, remat=remat)
  inputs, targets = segments(rng, 4, 40, 3), segments(rng, 4, 20, 3)
  batch = (np.where(inputs, rng.integers(2, 48, inputs.shape), 0),
           np.where(targets, rng.integers(2, 48, targets.shape), 0), inputs, targets)
  mesh = None
  if devices > 1:
    mesh = sharding_lib.Sharding(sharding_lib.make_mesh(sharding_lib.MeshConfig(2, 2, 2)))
  params = random_params(settings)
  expected, found = (
    losses(dataclasses.replace(settings, attention=way), params, batch, mesh)
    for way in ('xla', 'pallas'))
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), *(
    one[1] for one in (found, expected)))


def test_what_the_kernel_cannot_do_is_written_out(tiny):
  mask = masks.encoder_mask(jnp.ones((2, 8), jnp.int32))
  for settings, length in ((tiny('1.1', head_dim=5), 8), (tiny('1.1', head_dim=64), 4096)):
    settings = dataclasses.replace(settings, attention='pallas')
    assert attend.seen_by(settings, mask, 2, length, length).dtype == bool
  assert attend.seen_by(tiny('1.1'), mask, 2, 8, 8).dtype == bool  # 'auto' on a CPU.


def test_cudnn_is_called_forward_and_backward(monkeypatch):
  """Lowered for a GPU that is not there; nothing runs. Off GPUs it is written out."""
  version = 'jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version'
  monkeypatch.setattr(version, lambda: 91000)
  settings = config(2, 64, 'cudnn', dtype='bfloat16')
  ids, mask = jnp.ones((2, 128), jnp.int32), masks.encoder_mask
  assert attend.seen_by(settings, mask(ids, ids), 2, 128, 128).dtype == bool
  monkeypatch.setattr(attend, 'platform', lambda: 'gpu')

  def loss(query, values, ids, kept):
    seen = attend.seen_by(settings, mask(ids, ids), 2, 128, 128)
    assert isinstance(seen, attend.Matrix)
    bias = attend.bias_for(seen, values, 128, 128)
    return attend.attend(query, query, query, bias, seen, kept).sum()

  query, kept = jnp.ones((2, 128, 2, 64), jnp.bfloat16), jnp.ones((2, 2, 1, 128))
  step = jax.jit(jax.grad(loss, (0, 1))).trace(query, jnp.ones((2, 257)), ids, kept)
  text = step.lower(lowering_platforms=('cuda',)).as_text()
  assert '__cudnn$fmhaScaleBiasSoftmaxBackward' in text and text.count('custom_call @__cudnn') == 2
