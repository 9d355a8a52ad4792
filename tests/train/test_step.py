"""The train step: exact packing, exact accumulation, any mesh, and learning."""

import contextlib
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ragged

from dss_jax import models, objective
from dss_jax import sharding as sharding_lib
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib
from dss_jax.train.rngs import RngConfig, Rngs

CONFIG = models.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dropout_rate=0.0)
MODEL = models.Transformer(CONFIG)
EVEN = objective.table()


@pytest.fixture(scope='module')
def params():
  return nn.unbox(models.init_params(MODEL, jax.random.key(0)))


def loss_and_gradients(params, batch, model=MODEL, table=EVEN, **kwargs):
  grads, sums = jax.jit(
      lambda p, b: step_lib.gradients(model, p, b, objectives=table, **kwargs))(params, batch)
  return float(objective.summarize(sums, table)['loss']), jax.device_get(grads)


THREE = objective.table(rows=[('premise', '[premise] ', 'teacher_label', 0.2)])


@pytest.mark.parametrize('table', [EVEN, THREE], ids=['two', 'three'])
def test_packed_equals_unpacked(params, table):
  examples = ragged.examples(tasks=range(len(table), 0, -1))
  packed = ragged.packed_batch(examples)
  assert len(packed['encoder_input_tokens']) < len(examples) / 2  # It does pack.
  loss, grads = loss_and_gradients(params, packed, table=table)
  loss_unpacked, grads_unpacked = loss_and_gradients(
      params, ragged.unpacked_batch(examples), table=table)
  assert loss == pytest.approx(loss_unpacked, rel=1e-5)
  assert ragged.relative_difference(grads, grads_unpacked) < 1e-5


TERMS = objective.Terms(label_smoothing=0.1, z_loss=1e-2)


def test_smoothing_and_z_loss_are_exact(params):
  """Packed, in parts, on a mesh: the gradients of an unpacked batch on one device."""
  examples = ragged.examples()
  wanted, plain = (loss_and_gradients(params, ragged.unpacked_batch(examples), **terms)[1]
                   for terms in ({'terms': TERMS}, {}))
  batch = ragged.packed_batch(examples, rows=16)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  grads, _ = sharding.jit(lambda p, b: step_lib.gradients(
      MODEL, p, b, objectives=EVEN, terms=TERMS, microbatches=2, loss_chunk=7))(
          jax.device_put(params, sharding.params(MODEL)), sharding.shard_batch(batch))
  assert ragged.relative_difference(grads, wanted) < 1e-5
  assert ragged.relative_difference(plain, wanted) > 1e-2


@contextlib.contextmanager
def float64():
  """The network, the loss and the accumulation in float64: what is float32 by name, too."""
  with pytest.MonkeyPatch.context() as patch:
    jax.config.update('jax_enable_x64', True)
    patch.setattr(jnp, 'float32', jnp.float64)
    config = dataclasses.replace(CONFIG)
    object.__setattr__(config, 'dtype', np.dtype('float64'))  # The config itself refuses it.
    try:
      yield models.Transformer(config)
    finally:
      jax.config.update('jax_enable_x64', False)


def rounding_error(grads, exact):
  """Root mean square over all entries, relative to that of the gradients."""
  differences, sizes = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
                        for tree in (jax.tree.map(np.subtract, grads, exact), exact))
  return np.sqrt(np.mean(differences**2) / np.mean(sizes**2))


@pytest.mark.parametrize('make_batch', [
    pytest.param(ragged.unpacked_batch, id='unpacked', marks=pytest.mark.slow),
    pytest.param(lambda e: ragged.packed_batch(e, rows=16), id='packed')])
def test_microbatches_give_the_gradients_of_one_batch(params, make_batch):
  """In float64, to its precision; in float32, with no more rounding than one batch has.

  The worst entry of one batch's gradients in float32 is off by some 7e-7, and another order of
  sums, which is XLA's to choose, is off by as much elsewhere: the two can be twice that apart.
  """
  # Sorted by task: the first microbatches would hold no rationale if they were divided alone.
  batch = make_batch(sorted(ragged.examples(), key=lambda e: e[2]))
  with float64() as model:
    exact_params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    exact = {k: loss_and_gradients(exact_params, batch, model, microbatches=k) for k in (1, 2, 4)}
  wanted_loss, wanted = exact[1]
  assert {leaf.dtype.name for leaf in jax.tree.leaves(wanted)} == {'float64'}
  errors = {}
  for loss, grads in exact.values():
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    assert ragged.relative_difference(grads, wanted) < 1e-12
  for k in (1, 4):
    loss, grads = loss_and_gradients(params, batch, microbatches=k)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    errors[k] = rounding_error(grads, wanted)
  print(f'rounding errors: {errors}')
  assert errors[1] < 1e-6 and errors[4] < 1.5 * errors[1]


def test_rows_that_cannot_be_split_are_refused(params):
  with pytest.raises(ValueError, match='24 rows cannot be split into 5'):
    loss_and_gradients(params, ragged.unpacked_batch(ragged.examples()), microbatches=5)


@pytest.mark.parametrize('mesh', [
    (2, 2, 2), *(pytest.param(mesh, marks=pytest.mark.slow)
                 for mesh in ((8, 1, 1), (1, 8, 1), (4, 1, 2)))])
def test_every_mesh_gives_the_gradients_of_one_device(params, mesh):
  batch = ragged.packed_batch(ragged.examples(), rows=16)
  loss, grads = loss_and_gradients(params, batch)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(*mesh)))
  sharded_params = jax.device_put(params, sharding.params(MODEL))
  compiled = sharding.jit(
      lambda p, b: step_lib.gradients(MODEL, p, b, objectives=EVEN, microbatches=2))
  grads_mesh, sums = compiled(sharded_params, sharding.shard_batch(batch))
  assert float(objective.summarize(sums, EVEN)['loss']) == pytest.approx(loss, rel=1e-5)
  assert ragged.relative_difference(grads_mesh, grads) < 1e-5


@pytest.mark.parametrize(('chunk', 'alpha'), [
    (7, 0.0), *(pytest.param(*chosen, marks=pytest.mark.slow)
                for chosen in [(1, 0.3), (24, 1.0), (100, 0.3)])])
def test_the_loss_in_chunks_is_the_loss(params, chunk, alpha):
  """24 target positions: with a rest, without, and more than there are."""
  batch = ragged.packed_batch(ragged.examples(), rows=8)
  table = objective.table(alpha)
  counts = objective.count_tokens(batch['decoder_objective'], table)

  def loss(params, loss_chunk):
    return step_lib.batch_loss(MODEL, params, batch, counts, table, loss_chunk=loss_chunk)
  (whole, sums), grads = jax.jit(jax.value_and_grad(lambda p: loss(p, 0), has_aux=True))(params)
  (found, found_sums), found_grads = jax.jit(
      jax.value_and_grad(lambda p: loss(p, chunk), has_aux=True))(params)
  assert float(found) == pytest.approx(float(whole), rel=1e-6)
  for a, b in zip(found_sums, sums, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert ragged.relative_difference(found_grads, grads) < 2e-6


def test_the_loss_in_chunks_never_holds_all_logits():
  """A vocabulary so large that everything else is small beside its logits."""
  config = models.T5Config(**{**CONFIG.__dict__, 'vocab_size': 16_384})
  model = models.Transformer(config)
  params = jax.eval_shape(lambda: nn.unbox(models.init_params(model, jax.random.key(0))))
  batch = ragged.packed_batch(ragged.examples(count=120), rows=32)
  needed = {}
  for chunk in (0, 4):
    compiled = jax.jit(lambda p, b, chunk=chunk: step_lib.gradients(
        model, p, b, objectives=EVEN, loss_chunk=chunk)).lower(params, batch).compile()
    needed[chunk] = compiled.memory_analysis().temp_size_in_bytes
  logits = 4 * 32 * 24 * 16_384
  assert needed[0] > logits
  assert needed[4] < logits / 2


def test_parameters_are_really_split():
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  optimizer = optimizer_lib.make_optimizer(config_lib.OptimizerConfig(), lambda step: 1e-3)
  state = sharding.jit(lambda: state_lib.init_state(MODEL, optimizer, Rngs()),
                       out_shardings=state_lib.sharding(sharding, MODEL, optimizer))()
  for tree in (state.params, state.opt_state[1][0].mu):
    kernel = tree['encoder']['layers_0']['mlp']['wi_0']['kernel']  # embed x mlp
    assert kernel.addressable_shards[0].data.shape == (16 // 2, 32 // 2)


@pytest.mark.parametrize('name', [
    'adamw', pytest.param('adafactor', marks=pytest.mark.slow)])
def test_both_losses_fall(name):
  config = config_lib.OptimizerConfig(name=name, learning_rate=3e-2, schedule='constant')
  schedule = optimizer_lib.make_schedule(config, 30)
  optimizer = optimizer_lib.make_optimizer(config, schedule)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  state_sharding = state_lib.sharding(sharding, MODEL, optimizer)
  state = sharding.jit(lambda: state_lib.init_state(MODEL, optimizer, Rngs()),
                       out_shardings=state_sharding)()
  step = sharding.jit(step_lib.make_train_step(MODEL, optimizer, schedule, objectives=EVEN),
                      out_shardings=(state_sharding, sharding.replicated))
  batch = sharding.shard_batch(ragged.packed_batch(ragged.examples(), rows=16))
  history = []
  for _ in range(30):
    state, metrics = step(state, batch)
    history.append(jax.device_get(metrics))
  assert int(state.step) == 30
  assert history[0]['examples'] == 24
  for side in ('label_loss', 'rationale_loss'):
    assert history[-1][side] < 0.7 * history[0][side]


def test_dropout_differs_by_step_and_repeats_with_the_seed():
  model = models.Transformer(models.T5Config(**{**CONFIG.__dict__, 'dropout_rate': 0.5}))
  config = config_lib.OptimizerConfig(learning_rate=0.0, schedule='constant')
  schedule = optimizer_lib.make_schedule(config, 10)
  optimizer = optimizer_lib.make_optimizer(config, schedule)
  batch = ragged.unpacked_batch(ragged.examples())
  step = jax.jit(step_lib.make_train_step(
      model, optimizer, schedule, objectives=EVEN, rngs=Rngs(3)))
  state = state_lib.init_state(model, optimizer, Rngs())
  next_state, first = step(state, batch)
  _, again = step(state, batch)
  _, second = step(next_state, batch)  # The rate is 0: only the dropout key differs.
  assert float(first['loss']) == float(again['loss'])
  assert float(first['loss']) != float(second['loss'])


@pytest.mark.parametrize('default', ['threefry2x32', 'rbg'])
def test_a_stream_is_its_seed_its_generator_and_the_step(default):
  """The literal keys: another folding would be another run, also of those begun before."""
  with jax.default_prng_impl(default):
    rngs = Rngs(3)
    params, masks = rngs.params(), rngs.dropout(7)
    assert [str(jax.random.key_impl(key)) for key in (params, masks)] == ['threefry2x32', 'rbg']
    assert jax.random.key_data(params).tolist() == [0, 3]
    assert jax.random.key_data(masks).tolist() == [2647473427, 4234374204, 2647473427, 4234374204]
  other = Rngs(3, RngConfig(dropout='threefry2x32')).dropout(7)
  assert jax.random.key_data(other).tolist() == [2647473427, 4234374204]


def test_a_scheduled_weight_is_that_of_its_step():
  """Each step is that of the table with the weights written out, whatever the microbatches."""
  fading = objective.table(rows=[('rationale', '', 'rationale', ((0, 1.0), (4, 0.0)))])
  batch = ragged.packed_batch(ragged.examples(tasks=(2, 1)))
  config = config_lib.OptimizerConfig(learning_rate=1e-2)
  schedule = optimizer_lib.make_schedule(config, 5)
  optimizer = optimizer_lib.make_optimizer(config, schedule)
  def run(table_of, **kwargs):
    state, losses = state_lib.init_state(MODEL, optimizer, Rngs(0, RngConfig())), []
    @functools.cache
    def step_of(table):
      return jax.jit(step_lib.make_train_step(
          MODEL, optimizer, schedule, objectives=table, **kwargs))
    for i in range(5):
      state, metrics = step_of(table_of(i))(state, batch)
      losses.append(float(metrics['loss']))
    return losses
  expected = run(lambda i: objective.table(
      rows=[('rationale', '', 'rationale', 1.0 - i / 4)]))
  for kwargs in ({}, {'microbatches': len(batch['encoder_input_tokens'])}, {'loss_chunk': 3}):
    np.testing.assert_allclose(run(lambda i: fading, **kwargs), expected, rtol=1e-5)


@pytest.mark.slow
def test_a_soft_label_is_so_many_votes(params):
  """Shares of 3/4 and 1/4 are three examples and one, packed or not, in microbatches and chunks."""
  inputs = [one[:2] for one in ragged.examples(12, tasks=(objective.LABEL,))]
  rng = np.random.default_rng(3)
  votes = [(text, np.append(rng.integers(2, 64, rng.integers(1, 5)), 1), count)
           for text, _ in inputs for count in (3, 1)]
  rationales = ragged.examples(12, seed=5, tasks=(objective.RATIONALE,))
  soft = [(text, target, objective.with_share(objective.LABEL, objective.WHOLE * count // 4))
          for text, target, count in votes] + rationales
  repeated = [(text, target, objective.LABEL) for text, target, count in votes
              for _ in range(count)] + rationales
  loss, grads = loss_and_gradients(params, ragged.unpacked_batch(repeated))
  packed = ragged.packed_batch(soft)
  packed = ragged.packed_batch(soft, rows=-(-len(packed['decoder_objective']) // 4) * 4)
  for batch, kwargs in (
      (ragged.unpacked_batch(soft), {}), (packed, {}), (packed, {'microbatches': 4}),
      (packed, {'loss_chunk': 5})):
    other, others = loss_and_gradients(params, batch, **kwargs)
    assert other == pytest.approx(loss, rel=1e-5)
    assert ragged.relative_difference(others, grads) < 1e-5
