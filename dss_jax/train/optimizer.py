"""Learning-rate schedules and optimizers of the paper and of T5, on Optax."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dss_jax import models
from dss_jax.train import average
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

  'adamw' is the paper's and PyTorch's: -rate * (m / (sqrt(v) + epsilon) + decay * parameter),
  m and v corrected for their bias. 'adamw_transformers4' is that of transformers before
  version 5, with which the released code trains: epsilon is added to sqrt(v) before v is
  corrected, so it counts 1 / sqrt(1 - beta2^t) times more (30 times at the first step), and the
  parameter decays after the step.

  'adafactor' has T5's settings: relative to the parameters' scale, no momentum, decay 0.8,
  updates clipped to a root mean square of 1, each layer by itself. Weight decay is multiplied by
  the rate here, too; T5X does that with `weight_decay_rate_lr_exponent = 1` only.

  With `ema_decay` the state has an average of the parameters beside it, see `average.averaged`.
  """
  clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
  mask = functools.partial(_decays, config.no_decay) if config.no_decay else None
  if config.name == 'adamw_transformers4':
    update = optax.chain(
        _scale_by_transformers4_adam(config.beta1, config.beta2, config.epsilon),
        _step_then_decay(schedule, config.weight_decay, mask))
  elif config.name == 'adafactor':
    update = optax.chain(
        _scale_by_adafactor(), optax.add_decayed_weights(config.weight_decay, mask),
        optax.scale_by_learning_rate(schedule))
  else:
    update = optax.adamw(
        schedule, b1=config.beta1, b2=config.beta2, eps=config.epsilon,
        weight_decay=config.weight_decay, mask=mask)
  chained = optax.chain(clip, update)
  return average.averaged(chained, config.ema_decay) if config.ema_decay else chained


def _decays(no_decay: Sequence[str], params: Any) -> Any:
  """A tree of whether each parameter decays, from the last part of its name."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: path[-1].key not in no_decay, params)


def _scale_by_transformers4_adam(
    beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
  adam = optax.scale_by_adam(beta1, beta2)

  def update(grads, state, params=None):
    _, state = adam.update(grads, state, params)  # The moments alone are of use.
    size = jnp.sqrt(1 - beta2**state.count) / (1 - beta1**state.count)
    return jax.tree.map(
        lambda m, v: size * m / (jnp.sqrt(v) + epsilon), state.mu, state.nu), state

  return optax.GradientTransformation(adam.init, update)


def _step_then_decay(
    schedule: Schedule, weight_decay: float, mask: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
  """Multiplies by the rate, then lets the parameter that has moved decay."""
  by_rate = optax.scale_by_learning_rate(schedule)

  def update(updates, state, params):
    updates, after = by_rate.update(updates, state)
    if weight_decay:
      shrink = weight_decay * schedule(state.count)
      updates = jax.tree.map(
          lambda u, p, decays: u - shrink * (p + u) if decays else u,
          updates, params, mask(params) if mask else jax.tree.map(lambda _: True, params))
    return updates, after

  return optax.GradientTransformation(by_rate.init, update)


def _scale_by_adafactor() -> optax.GradientTransformation:
  """Optax's three parts of Adafactor, on one layer at a time, also of a scanned stack.

  Without that, clipping and scale would be of the whole stack, and a long stack one of the two
  axes that are factored. So a stack learns as its layers do unrolled. T5X agrees, but factors in
  a stack any matrix, unrolled only those with both axes of at least 128, as here.
  """
  rms = optax.scale_by_factored_rms(decay_rate=0.8)
  clip, scale = optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
  statistics = ('v_row', 'v_col', 'v')

  def init(params):
    return optax.FactoredState(jnp.zeros((), jnp.int32), *(
        _by_layer(lambda param, name=name: getattr(rms.init(param), name), params)
        for name in statistics))

  def update(grads, state, params):
    def one_layer(grad, v_row, v_col, v, param):
      made, after = rms.update(grad, optax.FactoredState(state.count, v_row, v_col, v), param)
      for part in (clip, scale):
        made, _ = part.update(made, optax.EmptyState(), param)
      return made, *(getattr(after, name) for name in statistics)

    found = _by_layer(one_layer, grads, state.v_row, state.v_col, state.v, params)
    updates, *after = jax.tree.transpose(
        jax.tree.structure(grads), jax.tree.structure(('update', *statistics)), found)
    return updates, optax.FactoredState(optax.safe_increment(state.count), *after)

  return optax.GradientTransformation(init, update)


def _by_layer(fn: Callable[..., Any], *trees: Any) -> Any:
  """`fn` of the trees' leaves, and of each layer of those that are stacked."""
  return jax.tree_util.tree_map_with_path(
      lambda path, *leaves: (jax.vmap(fn) if models.is_stacked(path) else fn)(*leaves), *trees)
