"""How attention over whole sequences is computed: the only place that knows.

`seen_by` settles it, once for a stack, and hands on what queries may look at in the form that the
implementation wants; `bias_for` does so with the biases, and `attend` goes by that form:

  xla     the matrix of scores is written out; anywhere
  pallas  `fused_attention`: no matrix, and nothing between packed examples; on TPUs, and on other
          devices interpreted, which is for tests
  cudnn   of NVIDIA GPUs; the mask and the bias are written out, the scores are not

Dropout of probabilities has one mask for all queries of a head, as in T5X, so a kernel takes it
and draws nothing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from dss_jax.models import fused_attention
from dss_jax.models.config import T5Config
from dss_jax.models.masks import MASKED_SCORE, Mask

_JOINED = ('batch', 'length', 'joined_kv')


@struct.dataclass
class Ids:
  """What queries see, for `pallas`: the keys with their id, see `fused_attention.attend`."""

  queries: jax.Array
  keys: jax.Array
  kernel: fused_attention.Kernel = struct.field(pytree_node=False)


@struct.dataclass
class Matrix:
  """What queries see, for `cudnn`: bool [B or 1, 1, T or 1, S]."""

  matrix: jax.Array


def seen_by(config: T5Config, mask: Mask, batch: int, query_length: int, key_length: int) -> Any:
  """What queries see, in the form of the implementation that config.attention picks.

  'pallas' is 'xla' where the kernel cannot: for rows of more than 2,048 positions (in bfloat16),
  heads whose width does not divide 128, distances above 128 that have a bucket of their own, a
  batch or heads that do not divide among the mesh, and lengths that are not known yet. 'cudnn' is
  'xla' off GPUs, in float32 and for odd lengths.

  Returns:
    A bool array (`xla`), Ids or Matrix.
  """
  asked, on_tpu = config.attention, platform() == 'tpu'
  if asked == 'auto':  # On GPUs nothing was run yet.
    asked = 'pallas' if on_tpu and _mesh_is_known() else 'xla'
  if asked == 'cudnn' and _suits_cudnn(config, query_length, key_length):
    return Matrix(mask.matrix(query_length))
  if asked != 'pallas' or not _fits(config, batch, query_length, key_length):
    return mask.matrix(query_length)
  queries = (jnp.ones((batch, query_length), jnp.int32) if mask.query_segments is None
             else _or(mask.query_segments, fused_attention.NO_QUERY))
  keys = (jnp.ones((batch, key_length), jnp.int32) if mask.key_segments is None
          else _or(mask.key_segments, fused_attention.NO_KEY))
  if mask.keys is not None:
    keys = jnp.where(mask.keys, keys, fused_attention.NO_KEY)
  return Ids(queries, keys, fused_attention.Kernel(
      config.head_dim, mask.causal, interpret=not on_tpu))


def bias_for(seen, values_HxD, query_length: int, key_length: int):
  """Biases by distance, float32 [H, 2R + 1] for -R..R and all beyond, as `attend` wants them."""
  if isinstance(seen, Ids):
    blocks = -(-max(query_length, key_length) // fused_attention.BLOCK)
    return fused_attention.bias_tiles(values_HxD, blocks)
  return bias_matrix(values_HxD, query_length, key_length)


def bias_matrix(values_HxD, query_length: int, key_length: int):
  """[H, 2R + 1] -> float32 [1, H, T, S] for queries 0..T-1 and keys 0..S-1."""
  reach = values_HxD.shape[1] // 2
  if not isinstance(query_length, int):  # A symbolic length, in `jax.export`: no reshapes.
    difference_TxS = jnp.arange(key_length)[None, :] - jnp.arange(query_length)[:, None]
    return values_HxD[None][:, :, jnp.clip(difference_TxS, -reach, reach) + reach]
  period = query_length + key_length
  index_P = np.arange(period)
  difference_P = np.where(index_P < key_length, index_P, index_P - period)
  values_HxP = values_HxD[:, np.clip(difference_P, -reach, reach) + reach]
  return fused_attention.skew(values_HxP, query_length, key_length)[None]


def attend(query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, seen, kept_BxHx1xS=None):
  """Attends from queries to keys; no scale (T5, section 2.1).

  Args:
    query_BxTxHxK, key_BxSxHxK, value_BxSxHxK: of one dtype.
    bias: of `bias_for`, or float32 and broadcastable to [B, H, T, S], or None.
    seen: of `seen_by`, or bool and broadcastable to [B, H, T, S].
    kept_BxHx1xS: factors of the probabilities, for dropout; or None.

  Returns:
    [B, T, H, K]. A query that sees nothing gets 0, or a mean of all values.
  """
  way = _pallas if isinstance(seen, Ids) else _cudnn if isinstance(seen, Matrix) else _xla
  return way(query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, seen, kept_BxHx1xS)


def _xla(query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, mask, kept_BxHx1xS):
  # bfloat16 products are added up in, and stay in, float32 up to and with the softmax.
  score_BxHxTxS = jnp.einsum(
      'bthk,bshk->bhts', query_BxTxHxK, key_BxSxHxK, preferred_element_type=jnp.float32)
  if bias is not None:
    score_BxHxTxS = score_BxHxTxS + bias
  score_BxHxTxS = jnp.where(mask, score_BxHxTxS, MASKED_SCORE)
  prob_BxHxTxS = jax.nn.softmax(score_BxHxTxS, axis=-1)
  if kept_BxHx1xS is not None:
    prob_BxHxTxS = prob_BxHxTxS * kept_BxHx1xS
  prob_BxHxTxS = prob_BxHxTxS.astype(value_BxSxHxK.dtype)
  context_BxTxHxK = jnp.einsum('bhts,bshk->bthk', prob_BxHxTxS, value_BxSxHxK)
  return _named(context_BxTxHxK)


def _cudnn(query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, seen: Matrix, kept_BxHx1xS):
  if kept_BxHx1xS is not None:  # A probability times a factor times a value.
    kept_BxSxHx1 = jnp.transpose(kept_BxHx1xS, (0, 3, 1, 2))
    value_BxSxHxK = (value_BxSxHxK * kept_BxSxHx1).astype(value_BxSxHxK.dtype)
  if bias is not None:
    bias = bias.astype(query_BxTxHxK.dtype)
  context_BxTxHxK = jax.nn.dot_product_attention(
      query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, seen.matrix, scale=1.0,
      implementation='cudnn')
  return _named(context_BxTxHxK)


def _named(context_BxTxHxK):
  # With heads joined: on a TPU, lanes are not filled up to 128 then.
  named_BxTxN = checkpoint_name(_joined(context_BxTxHxK), fused_attention.CONTEXT)
  return named_BxTxN.reshape(context_BxTxHxK.shape)


def _pallas(query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, tiles, seen: Ids, kept_BxHx1xS):
  kept_BxHxS = None if kept_BxHx1xS is None else kept_BxHx1xS[:, :, 0]
  call = functools.partial(fused_attention.attend, kernel=seen.kernel)
  args = (*map(_joined, (query_BxTxHxK, key_BxSxHxK, value_BxSxHxK)), tiles, kept_BxHxS,
          seen.queries, seen.keys)
  if not jax.sharding.get_abstract_mesh().empty:
    rows, ids, heads, kept = (nn.logical_to_mesh_axes(axes) for axes in (
        _JOINED, _JOINED[:2], ('heads',), ('batch', 'heads', 'length')))
    call = jax.shard_map(call, in_specs=(rows, rows, rows, heads, kept, ids, ids),
                         out_specs=rows, check_vma=False)
  return call(*args).reshape(query_BxTxHxK.shape)


def _fits(config: T5Config, batch: int, query_length: int, key_length: int) -> bool:
  if not all(isinstance(size, int) for size in (batch, query_length, key_length)):
    return False
  return (config.relpos_max_distance <= fused_attention.BLOCK
          and batch % _shares('batch') == 0 and config.num_heads % _shares('heads') == 0
          and fused_attention.fits(query_length, key_length, config.head_dim, config.dtype))


def _suits_cudnn(config: T5Config, query_length: int, key_length: int) -> bool:
  return (platform() in ('gpu', 'cuda') and config.dtype == jnp.bfloat16
          and query_length % 2 == key_length % 2 == 0)


def _shares(axis: str) -> int:
  """Among how many devices a logical axis is divided."""
  mesh = jax.sharding.get_abstract_mesh()
  spec = None if mesh.empty else nn.logical_to_mesh_axes((axis,))[0]
  names = (spec,) if isinstance(spec, str) else spec or ()
  return int(np.prod([mesh.shape[name] for name in names], dtype=int))


def platform() -> str:
  """That of the mesh, which may be elsewhere, or else of this process."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _mesh_is_known() -> bool:
  """Whether the mesh is known, or there is one device: XLA cannot divide a kernel by itself."""
  return not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1


def _joined(x_BxTxHxK):
  return x_BxTxHxK.reshape(*x_BxTxHxK.shape[:2], -1)


def _or(segments, none: int):
  """Segment 0 is padding."""
  return jnp.where(segments > 0, segments, none)
