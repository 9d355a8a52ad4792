"""Learning-rate schedules and optimizers of the paper and of T5, on Optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dss_jax.train import config as config_lib

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # step (from 0) -> learning rate


def make_schedule(config: config_lib.OptimizerConfig, steps: int) -> Schedule:
  """The learning rate at each step; see `OptimizerConfig.schedule`.

  'linear' is what the released trainer uses (transformers' linear schedule): full rate at
  step 0 without warm-up, `learning_rate / steps` at the last.
  """
  peak, warmup = config.learning_rate, config.warmup_steps
  if config.schedule == 'rsqrt':
    return lambda step: peak / jnp.sqrt(jnp.maximum(step, max(warmup, 1)))
  after = {
      'linear': optax.linear_schedule(peak, 0.0, max(steps - warmup, 1)),
      'cosine': optax.cosine_decay_schedule(peak, max(steps - warmup, 1)),
      'constant': optax.constant_schedule(peak),
  }[config.schedule]
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    config: config_lib.OptimizerConfig, schedule: Schedule
) -> optax.GradientTransformation:
  """Clipping, then AdamW (Loshchilov and Hutter 2019) or Adafactor (Shazeer and Stern 2018).

  Adafactor has T5's settings: relative to the parameters' scale, no momentum, decay 0.8.
  """
  clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
  if config.name == 'adafactor':
    update = optax.adafactor(
        schedule, multiply_by_parameter_scale=True, decay_rate=0.8, clipping_threshold=1.0,
        weight_decay_rate=config.weight_decay or None)
  else:
    update = optax.adamw(
        schedule, b1=config.beta1, b2=config.beta2, eps=config.epsilon,
        weight_decay=config.weight_decay)
  return optax.chain(clip, update)
