"""Meshes and microbatches change where things are computed, not what."""

import os

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import ragged

from dss_jax import models, objective
from dss_jax import sharding as sharding_lib
from dss_jax.train import config as config_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib
from dss_jax.train.rngs import Rngs

CONFIG = models.T5Config(
    vocab_size=64, emb_dim=32, num_heads=4, head_dim=8, num_encoder_layers=2,
    num_decoder_layers=2, mlp_dim=64, dropout_rate=0.0, scan_layers=True)
MODEL = models.Transformer(CONFIG)
EVEN = objective.table()
BATCH = ragged.packed_batch(ragged.examples(count=120), rows=32)
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2)]
CELLS = ([(mesh, microbatches) for mesh in MESHES for microbatches in (1, 2, 4)]
         if os.environ.get('DSS_ALL_MESHES') else [((2, 2, 2), 4)])  # All take ten minutes.
SGD = optax.sgd(0.5)
ADAMW = optax.adamw(1e-3)


def gradients(params, batch, microbatches):
  return step_lib.gradients(MODEL, params, batch, objectives=EVEN, microbatches=microbatches)


def five_steps(optimizer, mesh, microbatches):
  """(parameters, their largest change) after five steps; `mesh` None: one device, no mesh."""
  step = step_lib.make_train_step(
      MODEL, optimizer, lambda step: 0.0, objectives=EVEN, microbatches=microbatches)
  state, batch = state_lib.init_state(MODEL, optimizer, Rngs()), BATCH
  if mesh is None:
    compiled = jax.jit(step)
  else:
    sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(*mesh)))
    layout = state_lib.sharding(sharding, MODEL, optimizer)
    state, batch = jax.device_put(state, layout), sharding.shard_batch(BATCH)
    compiled = sharding.jit(step, out_shardings=(layout, sharding.replicated))
  for _ in range(5):
    state, _ = compiled(state, batch)
  return jax.device_get(state.params)


@pytest.fixture(scope='module')
def one_device():
  """What one device makes of the whole batch: gradients, loss, parameters after five steps."""
  params = nn.unbox(models.init_params(MODEL, jax.random.key(0)))
  grads, sums = jax.jit(lambda p, b: gradients(p, b, 1))(params, BATCH)
  return {'params': params, 'grads': grads, 'loss': objective.summarize(sums, EVEN)['loss'],
          'sgd': five_steps(SGD, None, 1), 'adamw': five_steps(ADAMW, None, 1)}


def largest_difference(a, b):
  return max(float(np.abs(x - y).max())
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(('mesh', 'microbatches'), CELLS)
def test_a_mesh_computes_what_one_device_does(one_device, mesh, microbatches):
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(*mesh)))
  params = jax.device_put(one_device['params'], sharding.params(MODEL))
  grads, sums = sharding.jit(lambda p, b: gradients(p, b, microbatches))(
      params, sharding.shard_batch(BATCH))
  loss = float(objective.summarize(sums, EVEN)['loss'])
  of_loss = abs(loss / float(one_device['loss']) - 1)
  of_grads = ragged.relative_difference(jax.device_get(grads), one_device['grads'])
  of_sgd = largest_difference(five_steps(SGD, mesh, microbatches), one_device['sgd'])
  of_adamw = largest_difference(five_steps(ADAMW, mesh, microbatches), one_device['adamw'])
  moved = largest_difference(one_device['sgd'], jax.device_get(one_device['params']))
  print(f'\n{mesh} x {microbatches}: loss {of_loss:.1e}, gradients {of_grads:.1e}, 5 steps of SGD '
        f'{of_sgd:.1e} (they moved by {moved:.1e}), of AdamW {of_adamw:.1e}')
  assert of_loss < 1e-5 and of_grads < 1e-5
  assert of_sgd < 1e-6 < 1e-2 < moved
