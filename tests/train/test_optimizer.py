"""Learning rates and updates against their formulas."""

import numpy as np
import optax
import pytest

from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib


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
