"""The average of the parameters: its formula, its place on the devices, what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import ragged
from flax import linen as nn

from dss_jax import models, objective
from dss_jax import sharding as sharding_lib
from dss_jax.train import average, state, step
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train.rngs import Rngs

MODEL = models.Transformer(models.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dropout_rate=0.0))


@pytest.mark.parametrize('decay', [0.3, 0.9999])
def test_it_is_the_weighted_mean_of_what_each_update_left(decay):
  """In NumPy; the start has no part in it, and the updates are what they are without it."""
  plain, averaged = optax.adam(0.1), average.averaged(optax.adam(0.1), decay)
  params = {'w': jnp.array([1.0, -2.0, 3.0])}
  plain_state, found = plain.init(params), averaged.init(params)
  assert average.evaluated(params, plain_state) is params
  history = []
  for i in range(6):
    grads = jax.tree.map(lambda w, i=i: jnp.sin(w * (i + 1)), params)
    wanted, plain_state = plain.update(grads, plain_state, params)
    updates, found = averaged.update(grads, found, params)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)
    params = optax.apply_updates(params, updates)
    history.append(np.float64(params['w']))
    weights = decay ** np.arange(i, -1, -1.0)
    np.testing.assert_allclose(average.evaluated(params, found)['w'],
                               np.average(history, axis=0, weights=weights), rtol=1e-5)
  assert int(found.done) == 6


@pytest.mark.slow
def test_it_lies_where_the_parameters_do_and_is_the_same_there():
  settings = config_lib.OptimizerConfig(learning_rate=1e-2, schedule='constant', ema_decay=0.9)
  optimizer = optimizer_lib.make_optimizer(settings, lambda step: 1e-2)
  train_step = step.make_train_step(
      MODEL, optimizer, lambda step: 1e-2, objectives=objective.table(), microbatches=2)
  batch = ragged.packed_batch(ragged.examples(), rows=16)
  begun = state.init_state(MODEL, optimizer, Rngs())
  mesh = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  layout = state.sharding(mesh, MODEL, optimizer)
  found = {}
  for name, first, on, compiled in (
      ('one', begun, batch, jax.jit(train_step)),
      ('mesh', jax.device_put(begun, layout), mesh.shard_batch(batch),
       mesh.jit(train_step, out_shardings=(layout, mesh.replicated)))):
    after = first
    for _ in range(3):
      after, _ = compiled(after, on)
    found[name] = after
  one, spread = (average.evaluated(after.params, after.opt_state) for after in found.values())
  kernel = spread['encoder']['layers_0']['mlp']['wi_0']['kernel']  # embed x mlp
  assert kernel.addressable_shards[0].data.shape == (16 // 2, 32 // 2)
  assert ragged.relative_difference(jax.device_get(spread), jax.device_get(one)) < 1e-5
  assert ragged.relative_difference(jax.device_get(one), jax.device_get(found['one'].params)) > 1e-3


def test_a_state_of_given_parameters_may_be_donated():
  """It holds the parameters twice, in two places."""
  params = nn.unbox(models.init_params(MODEL, jax.random.key(0)))
  optimizer = average.averaged(optax.sgd(0.1), 0.9)
  begun = state.first_state(params, optimizer)
  jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(begun)
