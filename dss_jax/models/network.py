"""What the network of every family is to the rest of the project."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dss_jax.models.config import Config


class Network(nn.Module):
  """An encoder-decoder. `Transformer` is T5's, and its docstrings say what these methods take:

  `__call__`, `hidden_states` and `logits_from_hidden` (training), `encode`, `decode`, `fill_cache`,
  `read_prompt` and `decode_step` (decoding, over the collections `cache` and `cross_cache`).

  Parameters are boxed by `nn.with_logical_partitioning` with axes that `sharding` knows; those of
  a layer are under `encoder/layers_{i}` and `decoder/layers_{i}`, or stacked under `layers`.
  """

  config: Config


def init_params(model: Network, key: jax.Array) -> Any:
  """Fresh parameters, boxed with their logical axis names."""
  tokens = jnp.ones((1, 8), jnp.int32)  # Shapes of the parameters do not depend on it.
  return model.init({'params': key}, tokens, tokens)['params']
