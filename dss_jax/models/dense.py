"""A matrix product without a bias."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dense(nn.Module):
  """Linear map of the last axis by a float32 kernel [in, features]; T5 has no biases.

  Attention kernels are 2-D too ([embed, heads * head_dim]): the names, shapes and axis names of
  T5X's T5 (upstream t5x/examples/t5/layers.py, `DenseGeneral`), so that checkpoints load.

  Attributes:
    features: size of the output's last axis.
    axes: logical names of the kernel's two axes.
    kernel_init: initialiser of the kernel.
    dtype: dtype of the product and of the output.
  """

  features: int
  axes: tuple[str, str]
  kernel_init: jax.nn.initializers.Initializer
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs):
    """[..., in] -> [..., features] in `dtype`."""
    kernel = self.param(
      'kernel', nn.with_logical_partitioning(self.kernel_init, self.axes),
      (inputs.shape[-1], self.features), jnp.float32,
    )
    return jnp.dot(inputs.astype(self.dtype), kernel.astype(self.dtype))
