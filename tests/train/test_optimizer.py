"""Learning rates and updates against their formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import ragged

from dss_jax import errors, models, objective
from dss_jax import sharding as sharding_lib
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib


def rates(steps, total, **fields):
  schedule = optimizer_lib.make_schedule(config_lib.OptimizerConfig(**fields), total)
  return [float(schedule(step)) for step in steps]


def test_linear_is_the_released_trainers():
  # transformers: rate * (total - step) / total without warm-up.
  assert rates([0, 1, 2500, 9999], 10_000, learning_rate=5e-5) == pytest.approx(
      [5e-5, 5e-5 * 9999 / 10_000, 3.75e-5, 5e-9], rel=1e-4)


def test_warm_up_then_decay():
  assert rates([0, 5, 10, 60, 110], 110, learning_rate=1.0, warmup_steps=10) == pytest.approx(
      [0, 0.5, 1.0, 0.5, 0.0], abs=1e-6)
  assert rates([10, 60, 110], 110, learning_rate=1.0, warmup_steps=10,
               schedule='cosine') == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)


def test_rsqrt_and_constant_are_t5s():
  assert rates([0, 100, 400], 1000, learning_rate=1.0, warmup_steps=100,
               schedule='rsqrt') == pytest.approx([0.1, 0.1, 0.05])
  assert rates([0, 999], 1000, learning_rate=1e-3, schedule='constant') == pytest.approx([1e-3] * 2)


def test_adamw_with_clipping_in_numpy():
  config = config_lib.OptimizerConfig(learning_rate=0.1, schedule='constant', clip_norm=1.0)
  optimizer = optimizer_lib.make_optimizer(config, lambda step: 0.1)
  param, state = np.array([1.0, -2.0], np.float32), None
  m = v = np.zeros(2)
  state = optimizer.init(param)
  ours = param
  for t, grad in enumerate([np.array([3.0, 4.0]), np.array([0.3, -0.1])], 1):
    updates, state = optimizer.update(grad.astype(np.float32), state, ours)
    ours = optax.apply_updates(ours, updates)
    clipped = grad / max(1.0, np.linalg.norm(grad))
    m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
    param = param - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
  np.testing.assert_allclose(ours, param, rtol=1e-5)


def test_adamw_of_transformers_4_in_numpy():
  """Epsilon before the bias correction, decay after the step, norm scales left out."""
  config = config_lib.OptimizerConfig(
      name='adamw_transformers4', epsilon=1e-3, weight_decay=0.5, no_decay=('scale',), clip_norm=0)
  optimizer = optimizer_lib.make_optimizer(config, lambda step: 0.1 / (step + 1))
  ours = {name: np.array([1.0, -2.0], np.float32) for name in ('kernel', 'scale')}
  params = {name: value.astype(np.float64) for name, value in ours.items()}
  state, m, v = optimizer.init(ours), np.zeros(2), np.zeros(2)
  for t, grad in enumerate([np.array([3e-3, 4.0]), np.array([-2e-3, -0.1])], 1):
    updates, state = optimizer.update(
        {name: grad.astype(np.float32) for name in ours}, state, ours)
    ours = optax.apply_updates(ours, updates)
    m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
    size = 0.1 / t * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    params = {name: value - size * m / (np.sqrt(v) + 1e-3) for name, value in params.items()}
    params['kernel'] -= 0.1 / t * 0.5 * params['kernel']
  for name, value in params.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-5)


@pytest.mark.parametrize('name', config_lib.OPTIMIZERS)
@pytest.mark.parametrize('no_decay', [None, ('scale', 'rel_embedding')])
def test_weight_decay_is_multiplied_by_the_learning_rate(name, no_decay):
  """Without a gradient only decay is left: 0.1 % of each parameter, of all or of the matrices."""
  config = config_lib.OptimizerConfig(name=name, weight_decay=1.0, no_decay=no_decay)
  optimizer = optimizer_lib.make_optimizer(config, lambda step: 1e-3)
  params = {'decoder': {'layers': {'norm': {'scale': jnp.ones((2, 3))}},
                        'relpos_bias': {'rel_embedding': jnp.ones((2, 4))},
                        'logits_dense': {'kernel': jnp.ones((3, 5))}}}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  after = {path[-1].key: value for path, value in
           jax.tree_util.tree_leaves_with_path(optax.apply_updates(params, updates))}
  for leaf, value in after.items():
    np.testing.assert_allclose(value, 1.0 if no_decay and leaf in no_decay else 0.999, rtol=1e-6)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'no_decay': 'scale'}, "OptimizerConfig.no_decay='scale': give a tuple of names"),
    ({'no_decay': ('scales',)}, "OptimizerConfig.no_decay='scales': did you mean 'scale'"),
])
def test_names_that_no_parameter_has_are_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.OptimizerConfig(**fields)


def test_adafactor_clips_its_updates_and_not_the_gradient():
  """T5's Adafactor has no clipping by the global norm; who asks for it gets it."""
  norms = {name: config_lib.OptimizerConfig(name=name).clip_norm for name in config_lib.OPTIMIZERS}
  assert norms == {'adamw': 1.0, 'adamw_transformers4': 1.0, 'adafactor': 0.0}
  params = {'kernel': jnp.full((4, 4), 0.5)}
  moved = {}
  for clip_norm in (None, 1.0):
    optimizer = optimizer_lib.make_optimizer(
        config_lib.OptimizerConfig(name='adafactor', clip_norm=clip_norm), lambda step: 1e-2)
    state = optimizer.init(params)
    for size in (100.0, 1.0):
      updates, state = optimizer.update({'kernel': jnp.full((4, 4), size)}, state, params)
    moved[clip_norm] = float(updates['kernel'][0, 0]) / (-1e-2 * 0.5)  # Of rate x scale.
  kept = 1 - 2**-0.8  # T5's decay at the second step.
  assert moved[None] == pytest.approx(1 / np.sqrt(kept * 100**2 + (1 - kept)), rel=1e-5)
  assert moved[1.0] == pytest.approx(1.0, rel=1e-5)  # Both gradients were made equally long.


# Wide enough for Adafactor to factor (128), stacks of different depths.
WIDE = models.T5Config(
    vocab_size=64, emb_dim=128, num_heads=2, head_dim=64, num_encoder_layers=1,
    num_decoder_layers=2, mlp_dim=256, dropout_rate=0.0)
ADAFACTOR = config_lib.OptimizerConfig(
    name='adafactor', learning_rate=1e-2, schedule='constant', weight_decay=0.1,
    no_decay=('scale',))


def three_steps(scanned, **fields):
  """Unrolled parameters before and after, state; real gradients of both tasks."""
  wide = models.T5Config(**{**WIDE.__dict__, **fields})
  model = models.Transformer(models.T5Config(**{**wide.__dict__, 'scan_layers': scanned}))
  schedule = optimizer_lib.make_schedule(ADAFACTOR, 3)
  optimizer = optimizer_lib.make_optimizer(ADAFACTOR, schedule)
  before = nn.unbox(models.init_params(models.Transformer(wide), jax.random.key(0)))
  params = models.stack_layers(before) if scanned else before
  state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  step = jax.jit(step_lib.make_train_step(model, optimizer, schedule, objectives=objective.table()))
  batch = ragged.packed_batch(ragged.examples(), rows=8)
  for _ in range(3):
    state, _ = step(state, batch)
  return before, models.unstack_layers(state.params) if scanned else state.params, state


@pytest.mark.slow
@pytest.mark.parametrize('per_layer', [False, True])
def test_adafactor_of_scanned_layers_is_that_of_unrolled_ones(per_layer):
  before, wanted, _ = three_steps(scanned=False, relpos_per_layer=per_layer)
  _, found, state = three_steps(scanned=True, relpos_per_layer=per_layer)
  assert ragged.relative_difference(wanted, before) > 1e-2  # They have moved.
  assert ragged.relative_difference(found, wanted) < 1e-6
  factored = state.opt_state[1][0]
  shapes = [tree['decoder']['layers']['mlp']['wi_0']['kernel'].shape
            for tree in (factored.v_row, factored.v_col, factored.v)]
  assert shapes == [(2, 128), (2, 256), (2, 1)]  # A layer by itself, whole in neither axis.


@pytest.mark.slow
def test_adafactor_on_a_mesh_is_that_on_one_device():
  model = models.Transformer(models.T5Config(**{**WIDE.__dict__, 'scan_layers': True}))
  optimizer = optimizer_lib.make_optimizer(ADAFACTOR, lambda step: 1e-2)
  params = nn.unbox(models.init_params(model, jax.random.key(0)))
  grads = jax.tree.map(lambda param: jnp.cos(300 * param), params)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  layout = state_lib.sharding(sharding, model, optimizer)
  one, there = jax.jit(optimizer.update), sharding.jit(
      optimizer.update, out_shardings=(layout.params, layout.opt_state))
  state = optimizer.init(params)
  spread = jax.device_put((grads, state, params), (layout.params, layout.opt_state, layout.params))
  for _ in range(2):
    wanted, state = one(grads, state, params)
    found, after = there(*spread)
    spread = (spread[0], after, spread[2])
    assert ragged.relative_difference(jax.device_get(found), wanted) < 1e-6
  scale = after[1][0].v['decoder']['layers']['pre_mlp_layer_norm']['scale']  # Not factored.
  assert scale.addressable_shards[0].data.shape == (2, 128 // 2)
  rows = after[1][0].v_row['decoder']['layers']['mlp']['wi_0']['kernel']
  assert rows.sharding.is_fully_replicated


@pytest.mark.parametrize('shape', [(200, 130), (140, 130, 200)])
def test_a_deep_stack_is_no_axis_to_factor(shape):
  """More layers than a layer is wide: a stack is still what Optax makes of each layer."""
  optimizer = optimizer_lib.make_optimizer(
      config_lib.OptimizerConfig(name='adafactor'), lambda step: 1e-3)
  layer = optax.adafactor(1e-3)
  keys = jax.random.split(jax.random.key(0), 4)
  params = {'encoder': {'layers': jax.random.normal(keys[0], shape)}}
  wanted = {i: params['encoder']['layers'][i] for i in (0, shape[0] - 1)}
  state, states = optimizer.init(params), {i: layer.init(wanted[i]) for i in wanted}
  for number, key in enumerate(keys[1:]):
    sizes = jnp.exp(jnp.arange(shape[0]) / 20).reshape(-1, *[1] * (len(shape) - 1))
    grads = sizes * jax.random.normal(key, shape) * 10**number  # No layer is like another.
    updates, state = optimizer.update({'encoder': {'layers': grads}}, state, params)
    params = optax.apply_updates(params, updates)
    for i in wanted:
      update, states[i] = layer.update(grads[i], states[i], wanted[i])
      wanted[i] = optax.apply_updates(wanted[i], update)
  for i, value in wanted.items():
    np.testing.assert_allclose(params['encoder']['layers'][i], value, rtol=1e-6, atol=1e-7)
