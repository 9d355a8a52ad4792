"""EMA_DECAY: an average of the parameters, which is evaluated and kept in their place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class AveragedState(NamedTuple):
  """`inner` state of the optimizer, `done` updates, float32 `average` of the parameters."""

  inner: Any
  done: jax.Array
  average: Any


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
  """The same updates, and in the state the average of the parameters after each of them.

  With p_i the parameters after update i,

    average_t = sum_i decay^(t - i) * p_i / sum_i decay^(t - i)

  This is the moving average corrected for its bias (Kingma and Ba 2015, section 3): those that
  training starts from have no part in it, and after one update it is the parameters.
  """
  def init(params):
    return AveragedState(
        optimizer.init(params), jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

  def update(updates, state, params=None):
    updates, inner = optimizer.update(updates, state.inner, params)
    done = optax.safe_increment(state.done)
    share = (1 - decay) / -jnp.expm1(done * np.log(decay))
    average = optax.incremental_update(optax.apply_updates(params, updates), state.average, share)
    return updates, AveragedState(inner, done, average)

  return optax.GradientTransformation(init, update)


def evaluated(params: Any, opt_state: Any) -> Any:
  """The average, where the optimizer keeps one, else `params`."""
  return opt_state.average if isinstance(opt_state, AveragedState) else params
