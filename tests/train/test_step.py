"""The train step: exact packing, exact accumulation, any mesh, and learning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import models, objective
from dss_jax.data import packing
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import sharding as sharding_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib

CONFIG = models.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dropout_rate=0.0)
MODEL = models.Transformer(CONFIG)


@pytest.fixture(scope='module')
def params():
  return nn.unbox(state_lib.init_params(MODEL, jax.random.key(0)))


def ragged_examples(count=24, seed=0):
  """(inputs, targets, task): rationales are long, labels short, both ragged."""
  rng = np.random.default_rng(seed)
  examples = []
  for i in range(count):
    task = objective.LABEL if i % 2 else objective.RATIONALE
    target_length = rng.integers(1, 4) if task == objective.LABEL else rng.integers(3, 11)
    examples.append((np.append(rng.integers(2, 64, rng.integers(2, 12)), 1),
                     np.append(rng.integers(2, 64, target_length), 1), task))
  return examples


def shift_right(targets, segments):
  inputs = np.zeros_like(targets)
  inputs[:, 1:] = np.where(segments[:, 1:] == segments[:, :-1], targets[:, :-1], 0)
  return inputs


def packed_batch(examples, rows=None):
  arrays = packing.pack_window(
      np.concatenate([e[0] for e in examples]), np.array([len(e[0]) for e in examples]),
      np.concatenate([e[1] for e in examples]), np.array([len(e[1]) for e in examples]),
      np.concatenate([np.full(len(e[1]), e[2]) for e in examples]),
      max_inputs=32, max_targets=24)
  names = ('encoder_input_tokens', 'encoder_segment_ids', 'encoder_positions',
           'decoder_target_tokens', 'decoder_segment_ids', 'decoder_positions',
           'decoder_objective')
  batch = dict(zip(names, arrays, strict=True))
  batch['decoder_input_tokens'] = shift_right(
      batch['decoder_target_tokens'], batch['decoder_segment_ids'])
  if rows:
    batch = {k: np.pad(v, ((0, rows - len(v)), (0, 0))) for k, v in batch.items()}
  return batch


def unpacked_batch(examples):
  batch = {name: np.zeros((len(examples), length), np.int32) for name, length in (
      ('encoder_input_tokens', 14), ('decoder_target_tokens', 12), ('decoder_objective', 12))}
  for row, (inputs, targets, task) in enumerate(examples):
    batch['encoder_input_tokens'][row, :len(inputs)] = inputs
    batch['decoder_target_tokens'][row, :len(targets)] = targets
    batch['decoder_objective'][row, :len(targets)] = task
  ones = np.ones_like(batch['decoder_target_tokens'])
  batch['decoder_input_tokens'] = shift_right(batch['decoder_target_tokens'], ones)
  return batch


def loss_and_gradients(params, batch, **kwargs):
  grads, sums = jax.jit(
      lambda p, b: step_lib.gradients(MODEL, p, b, alpha=0.5, **kwargs))(params, batch)
  return float(objective.summarize(sums, 0.5)['loss']), grads


def relative_difference(a, b):
  """Largest difference over all leaves, relative to each leaf's largest entry."""
  return max(float(jnp.max(jnp.abs(x - y)) / (jnp.max(jnp.abs(y)) + 1e-12))
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_packed_equals_unpacked(params):
  examples = ragged_examples()
  packed = packed_batch(examples)
  assert len(packed['encoder_input_tokens']) < len(examples) / 2  # It does pack.
  loss, grads = loss_and_gradients(params, packed)
  loss_unpacked, grads_unpacked = loss_and_gradients(params, unpacked_batch(examples))
  assert loss == pytest.approx(loss_unpacked, rel=1e-5)
  assert relative_difference(grads, grads_unpacked) < 1e-5


@pytest.mark.parametrize('microbatches', [2, 4])
@pytest.mark.parametrize('make_batch', [unpacked_batch, lambda e: packed_batch(e, rows=16)])
def test_microbatches_give_the_gradients_of_one_batch(params, microbatches, make_batch):
  # Sorted by task: the first microbatches would hold no rationale if they were divided alone.
  batch = make_batch(sorted(ragged_examples(), key=lambda e: e[2]))
  loss, grads = loss_and_gradients(params, batch)
  loss_k, grads_k = loss_and_gradients(params, batch, microbatches=microbatches)
  assert loss_k == pytest.approx(loss, rel=1e-6)
  assert relative_difference(grads_k, grads) < 1e-6


def test_rows_that_cannot_be_split_are_refused(params):
  with pytest.raises(ValueError, match='24 rows cannot be split into 5'):
    loss_and_gradients(params, unpacked_batch(ragged_examples()), microbatches=5)


@pytest.mark.parametrize('mesh', [(8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2)])
def test_every_mesh_gives_the_gradients_of_one_device(params, mesh):
  batch = packed_batch(ragged_examples(), rows=16)
  loss, grads = loss_and_gradients(params, batch)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(*mesh)))
  sharded_params = jax.device_put(params, sharding.params(MODEL))
  compiled = sharding.jit(lambda p, b: step_lib.gradients(MODEL, p, b, alpha=0.5, microbatches=2))
  grads_mesh, sums = compiled(sharded_params, sharding.put(batch))
  assert float(objective.summarize(sums, 0.5)['loss']) == pytest.approx(loss, rel=1e-5)
  assert relative_difference(grads_mesh, grads) < 1e-5


def test_parameters_are_really_split():
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  optimizer = optimizer_lib.make_optimizer(config_lib.OptimizerConfig(), lambda step: 1e-3)
  state = sharding.jit(lambda: state_lib.init_state(MODEL, optimizer, 0),
                       out_shardings=sharding.state(MODEL, optimizer))()
  for tree in (state.params, state.opt_state[1][0].mu):
    kernel = tree['encoder']['layers_0']['mlp']['wi_0']['kernel']  # embed x mlp
    assert kernel.addressable_shards[0].data.shape == (16 // 2, 32 // 2)


@pytest.mark.parametrize('name', ['adamw', 'adafactor'])
def test_both_losses_fall(name):
  config = config_lib.OptimizerConfig(name=name, learning_rate=3e-2, schedule='constant')
  schedule = optimizer_lib.make_schedule(config, 30)
  optimizer = optimizer_lib.make_optimizer(config, schedule)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  state_sharding = sharding.state(MODEL, optimizer)
  state = sharding.jit(lambda: state_lib.init_state(MODEL, optimizer, 0),
                       out_shardings=state_sharding)()
  step = sharding.jit(step_lib.make_train_step(MODEL, optimizer, schedule, alpha=0.5),
                      out_shardings=(state_sharding, sharding.replicated))
  batch = sharding.put(packed_batch(ragged_examples(), rows=16))
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
  batch = unpacked_batch(ragged_examples())
  step = jax.jit(step_lib.make_train_step(model, optimizer, schedule, alpha=0.5, seed=3))
  state = state_lib.init_state(model, optimizer, 0)
  next_state, first = step(state, batch)
  _, again = step(state, batch)
  _, second = step(next_state, batch)  # The rate is 0: only the dropout key differs.
  assert float(first['loss']) == float(again['loss'])
  assert float(first['loss']) != float(second['loss'])
