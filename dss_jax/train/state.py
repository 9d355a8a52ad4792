"""What a step of training changes, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from dss_jax import models
from dss_jax import sharding as sharding_lib
from dss_jax.train import rngs as rngs_lib


@struct.dataclass
class TrainState:
  """`step` int32 (optimizer steps done), `params` float32 tree, `opt_state` of Optax."""

  step: jax.Array
  params: Any
  opt_state: Any


def init_state(
    model: models.Network, optimizer: optax.GradientTransformation, rngs: rngs_lib.Rngs
) -> TrainState:
  """Step 0. Parameters are unboxed: plain arrays from here on."""
  params = nn.unbox(models.init_params(model, rngs.params()))
  return first_state(params, optimizer)


def first_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
  """Step 0 of given parameters."""
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def sharding(
    mesh: sharding_lib.Sharding, model: models.Network,
    optimizer: optax.GradientTransformation) -> TrainState:
  """NamedSharding of every leaf: optimizer statistics lie where their parameters do.

  Statistics of another shape than their parameter (Adafactor's factored ones are vectors) are
  replicated.
  """
  params = mesh.params(model)
  abstract = jax.eval_shape(lambda: init_state(model, optimizer, rngs_lib.Rngs()))
  opt_state = optax.tree_utils.tree_map_params(
      optimizer,
      lambda leaf, param, place: place if leaf.shape == param.shape else mesh.replicated,
      abstract.opt_state, abstract.params, params,
      transform_non_params=lambda _: mesh.replicated)
  replicated: Any = mesh.replicated
  return TrainState(replicated, params, opt_state)
