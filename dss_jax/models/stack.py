"""A stack of equal layers: unrolled or scanned, rematerialised or not."""

import jax
from flax import linen as nn

from dss_jax.models import fused_attention
from dss_jax.models.config import T5Config

LAYERS_AXIS = 'layers'
_KEPT = ('query', 'key', 'value', fused_attention.CONTEXT, 'mlp')

_POLICIES = {
  'full': None,  # Nothing but a layer's input is kept.
  # Products with weights are kept. Attention scores have batch dimensions, are large and cheap
  # to do again, and are not.
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  # Nothing that has as many numbers as there are scores.
  'scores': jax.checkpoint_policies.save_only_these_names(*_KEPT),
}


def make_stack(layer_cls, config: T5Config, num_layers: int, *, static_argnums, methods=()):
  """Builds a stack inside a parent's `setup`; assign the result to `self.layers`.

  Args:
    layer_cls: module class whose methods take (carry, *broadcast) and return (carry, None).
    config: the network's config.
    num_layers: depth.
    static_argnums: arguments of `__call__` that are Python values, counted with self as 0.
    methods: methods besides `__call__` that are run over the stack.

  Returns:
    One scanned module (parameters `layers/...` with a leading axis 'layers') if
    config.scan_layers, otherwise a list (parameters `layers_0/...`, `layers_1/...`).
  """
  remat = 'scores' if config.remat == 'auto' else config.remat
  if remat != 'none':
    layer_cls = nn.remat(
      layer_cls, policy=_POLICIES[remat], static_argnums=static_argnums,
      # Inside a scan XLA cannot merge the two computations anyway, and the guard costs time.
      prevent_cse=not config.scan_layers,
    )
  if not config.scan_layers:
    return [layer_cls(config) for _ in range(num_layers)]
  scanned_cls = nn.scan(
    layer_cls, variable_axes={'params': 0, 'cache': 0, 'cross_cache': 0},
    split_rngs={'params': True, 'dropout': True}, in_axes=nn.broadcast, length=num_layers,
    metadata_params={nn.PARTITION_NAME: LAYERS_AXIS}, methods=['__call__', *methods],
  )
  return scanned_cls(config)


def run_stack(layers, carry, *broadcast, method: str = '__call__'):
  """Threads `carry` through the layers, giving each the same further arguments."""
  for layer in layers if isinstance(layers, (list, tuple)) else [layers]:
    carry, _ = getattr(layer, method)(carry, *broadcast)
  return carry
