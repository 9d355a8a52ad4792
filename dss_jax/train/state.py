"""What a step of training changes, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from dss_jax import models


@struct.dataclass
class TrainState:
  """`step` int32 (optimizer steps done), `params` float32 tree, `opt_state` of Optax."""

  step: jax.Array
  params: Any
  opt_state: Any


def init_params(model: models.Transformer, key: jax.Array) -> Any:
  """Fresh parameters, boxed with their logical axis names."""
  tokens = jnp.ones((1, 8), jnp.int32)  # Shapes of the parameters do not depend on it.
  return model.init({'params': key}, tokens, tokens)['params']


def init_state(
    model: models.Transformer, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """Step 0. Parameters are unboxed: plain arrays from here on."""
  params = nn.unbox(init_params(model, jax.random.key(seed)))
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
