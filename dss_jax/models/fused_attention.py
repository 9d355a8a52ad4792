"""Attention on a TPU without its matrix: one Pallas kernel forward, one backward.

A program of the grid holds one row of the batch and 128 lanes of heads (two of 64) in the chip's
fast memory. It goes over the row's queries in blocks, and for each over the blocks of keys that
share a segment with it: of a packed row, its neighbours. Scores live for one pair of blocks. The
softmax is the online one (Milakov and Gimelshein 2018), and the backward pass computes the scores
again from queries, keys and each query's log-sum-exp (Dao et al. 2022).

T5's bias depends on head and distance alone, and all distances from the largest on share a value.
So a pair of blocks finds its biases in one of a few tiles, by how many blocks they are apart.

Shapes: B batch, T queries, S keys, N = heads * head_dim joined, G groups of heads that share 128
lanes, H heads, W tiles of bias, R the largest distance.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

CONTEXT = 'context'  # Name of what attention returns, for the policies of rematerialisation.
BLOCK = 128  # Queries or keys; also the lanes of a vector register.
# Ids below 0 match nothing, so that a block of padding is skipped.
NO_QUERY, NO_KEY = -1, -2
# A masked score is far below the least maximum, so its exponential is exactly 0 even in a row
# of which every score is masked.
_MASKED, _LEAST = -1e30, -1e29


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What does not change between calls.

  Attributes:
    head_dim: width of a head; divides 128.
    causal: whether a query sees only the keys up to itself.
    interpret: run as plain JAX, on any device.
  """

  head_dim: int
  causal: bool = False
  interpret: bool = False

  @property
  def heads(self) -> int:
    """Heads that share the lanes of a program."""
    return BLOCK // self.head_dim


def fits(query_length: int, key_length: int, head_dim: int, dtype) -> bool:
  """Whether the backward pass has room in the 16 MiB of fast memory that a kernel gets.

  Rows of query, key, value, context and of their gradients, and tiles and theirs, come and go in
  pairs; gradients of keys and values add up in float32. 2 MiB are left to the compiler.
  """
  if BLOCK % head_dim:
    return False
  rows = 2 * 4 * (query_length + key_length) * BLOCK * jnp.dtype(dtype).itemsize
  tiles = 2 * 2 * (BLOCK // head_dim) * 5 * BLOCK**2 * 4
  return rows + 2 * key_length * BLOCK * 4 + tiles <= 14 * 2**20


def bias_tiles(values_HxD, blocks: int):
  """Biases by distance -R..R, float32 [H, 2R + 1] -> tiles [H, W, BLOCK, BLOCK].

  Tile w is of the blocks of keys that are w - W // 2 blocks to the right of the queries', and the
  outermost of all that are further, where every distance is R or more.

  Args:
    values_HxD: bias of `key position - query position`, clipped to -R..R.
    blocks: most blocks of a row.
  """
  reach = values_HxD.shape[1] // 2
  far = min(-(-(reach + BLOCK - 1) // BLOCK), blocks - 1)
  period = 2 * BLOCK
  offset_P = (np.arange(period) + BLOCK) % period - BLOCK
  distance_WxP = np.arange(-far, far + 1)[:, None] * BLOCK + offset_P
  index_WxP = np.clip(distance_WxP, -reach, reach) + reach
  return skew(values_HxD[:, index_WxP], BLOCK, BLOCK)


def skew(values, query_length: int, key_length: int):
  """[..., P] indexed by (difference mod P) -> [..., T, S] with values[(s - t) mod P] at (t, s).

  T copies of a row of length P, read again as rows of length P - 1, move one step to the right
  per row. So a bias matrix costs T + S look-ups instead of T * S, and its gradient is a sum
  instead of a scatter.
  """
  *rest, period = values.shape
  tiled = jnp.broadcast_to(values[..., None, :], (*rest, query_length, period))
  flat = tiled.reshape(*rest, -1)[..., : query_length * (period - 1)]
  return flat.reshape(*rest, query_length, period - 1)[..., :key_length]


def attend(
    query_BxTxN, key_BxSxN, value_BxSxN, tiles, kept_BxHxS, query_ids_BxT, key_ids_BxS,
    kernel: Kernel):
  """Context [B, T, N] of queries that see the keys with their id.

  A query without a key gets 0 and passes no gradient.

  Args:
    query_BxTxN, key_BxSxN, value_BxSxN: heads joined.
    tiles: of `bias_tiles`, or None.
    kept_BxHxS: float32 factors of the probabilities of a key, for dropout; or None. They get no
      gradient.
    query_ids_BxT, key_ids_BxS: int32; NO_QUERY and NO_KEY where there is none. Where they do not
      fall along a row, few blocks are computed that have no pair.
    kernel: see there.
  """
  lengths = query_BxTxN.shape[1:]
  query, key, value = (_padded(x, 0) for x in (query_BxTxN, key_BxSxN, value_BxSxN))
  groups = query.shape[2] // BLOCK
  query_ids = _padded(query_ids_BxT, NO_QUERY).reshape(query.shape[0], -1, BLOCK)
  key_ids = _padded(key_ids_BxS, NO_KEY).reshape(key.shape[0], -1, BLOCK)
  if tiles is not None:
    tiles = _filled(tiles, 0, groups * kernel.heads)
  if kept_BxHxS is not None:
    kept_BxHxS = _filled(_filled(kept_BxHxS, 1, groups * kernel.heads), 2, key.shape[1])
    kept_BxHxS = kept_BxHxS.reshape(key.shape[0], groups, kernel.heads, -1, BLOCK)
  context = _attend(query, key, value, tiles, kept_BxHxS, query_ids, key_ids, kernel)
  return context[:, : lengths[0], : lengths[1]]


def _padded(x, value):
  """Axes after the first filled up to whole blocks."""
  for axis, size in enumerate(x.shape[1:], 1):
    x = _filled(x, axis, size + -size % BLOCK, value)
  return x


def _filled(x, axis: int, size: int, value=0):
  """An axis filled up to a size."""
  widths = [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
  return jnp.pad(x, widths, constant_values=value) if widths[axis][1] else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _attend(query, key, value, tiles, kept, query_ids, key_ids, kernel):
  return _forward((query, key, value, tiles, kept, query_ids, key_ids), kernel)[0]


def _attend_fwd(*args):
  *given, kernel = args
  context, lse = (checkpoint_name(x, CONTEXT) for x in _forward(given, kernel))
  return context, (given, context, lse)


def _attend_bwd(kernel, residuals, d_context):
  *grads, d_tiles = _backward(*residuals, d_context, kernel)
  return *grads, d_tiles, None, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _ranges(query_ids, key_ids, causal: bool):
  """First, and one past the last, block of keys that each block of queries may see.

  Ids [B, blocks, BLOCK] -> two int32 [B, blocks of queries]; empty ranges have 0 and 0.
  """
  low, high = [], []
  for ids in (query_ids, key_ids):
    low.append(jnp.where(ids < 0, np.iinfo(np.int32).max, ids).min(-1))
    high.append(ids.max(-1))  # Below 0 where there is none.
  meets = ((low[0][:, :, None] <= high[1][:, None]) & (low[1][:, None] <= high[0][:, :, None])
           & (high[0][:, :, None] >= 0) & (high[1][:, None] >= 0))
  if causal:
    meets &= np.tri(*meets.shape[1:], dtype=bool)
  index = jnp.arange(meets.shape[2], dtype=jnp.int32)
  stop = jnp.where(meets, index + 1, 0).max(-1)
  return jnp.minimum(jnp.where(meets, index, meets.shape[2]).min(-1), stop), stop


def _rows(length):
  """Spec of [B, length, N]: all of a row, 128 lanes of it."""
  return pl.BlockSpec((1, length, BLOCK), lambda g, b, *_: (b, 0, g))


def _of_heads(kernel, length):
  """Spec of [B, G, heads, blocks, BLOCK]: of each position of a row and each head a number."""
  return pl.BlockSpec((1, 1, kernel.heads, length // BLOCK, BLOCK),
                      lambda g, b, *_: (b, g, 0, 0, 0))


def _specs(given, kernel):
  """Specs of what is there of query, key, value, tiles, kept, and the two ids."""
  query, key, _, tiles, kept, *_ = given
  ids = [pl.BlockSpec((1, x.shape[1] // BLOCK, BLOCK), lambda g, b, *_: (b, 0, 0))
         for x in (query, key)]
  of_tiles = [] if tiles is None else [
      pl.BlockSpec((kernel.heads, *tiles.shape[1:]), lambda g, b, *_: (g, 0, 0, 0))]
  of_kept = [] if kept is None else [_of_heads(kernel, key.shape[1])]
  rows = [_rows(query.shape[1]), _rows(key.shape[1]), _rows(key.shape[1])]
  return rows, of_tiles, [*rows, *of_tiles, *of_kept, *ids]


def _call(body, kernel, query, key, products, moved, **spec):
  """`pallas_call` over groups of heads and rows. `moved`: arrays that are read or written."""
  batch, length, lanes = query.shape
  pairs = batch * length * key.shape[1] * (lanes // kernel.head_dim)
  return pl.pallas_call(
      body, out_shape=spec.pop('out_shape'), interpret=kernel.interpret,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(lanes // BLOCK, batch), **spec),
      # Rows of one group follow each other, since its tiles' gradient adds up over them.
      compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(  # As if no block were skipped.
          flops=2 * products * pairs * kernel.head_dim, transcendentals=pairs,
          bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved)))


def _forward(given, kernel):
  """Context, and the log-sum-exp of each query's scores, float32 [B, G, heads, blocks, BLOCK]."""
  query, key, _, tiles, kept, *ids = given
  batch, length, lanes = query.shape
  there = [x for x in given if x is not None]
  made = [jax.ShapeDtypeStruct(query.shape, query.dtype), jax.ShapeDtypeStruct(
      (batch, lanes // BLOCK, kernel.heads, length // BLOCK, BLOCK), jnp.float32)]
  call = _call(
      functools.partial(_forward_body, kernel, tiles is not None, kept is not None), kernel, query,
      key, 2, [*there, *made], in_specs=_specs(given, kernel)[-1],
      out_specs=[_rows(length), _of_heads(kernel, length)], out_shape=made)
  return call(*_ranges(*ids, kernel.causal), *there)


def _backward(given, context, lse, d_context, kernel):
  """Gradients of query, key, value and tiles (None without)."""
  query, key, value, tiles, kept, *ids = given
  rows, of_tiles, specs = _specs(given, kernel)
  there = [*(x for x in given if x is not None), context, d_context, lse]
  made = [jax.ShapeDtypeStruct(x.shape, x.dtype)
          for x in (query, key, value, tiles) if x is not None]
  call = _call(
      functools.partial(_backward_body, kernel, tiles is not None, kept is not None), kernel,
      query, key, 5, [*there, *made],
      in_specs=[*specs, rows[0], rows[0], _of_heads(kernel, query.shape[1])],
      out_specs=[*rows, *of_tiles], out_shape=made,
      scratch_shapes=[pltpu.VMEM((key.shape[1], BLOCK), jnp.float32)] * 2)
  grads = call(*_ranges(*ids, kernel.causal), *there)
  return (*grads, None) if tiles is None else grads


# --- Inside a program. Q and C are a block of queries and one of keys, L the lanes. ---------------


def _block(index):
  return pl.ds(pl.multiple_of(index * BLOCK, BLOCK), BLOCK)


def _as_column(row_1xQ):
  """[1, Q] -> [Q, L], each lane the same."""
  return jnp.broadcast_to(row_1xQ, (BLOCK, BLOCK)).T


def _as_row(column_Qx1):
  return jnp.broadcast_to(column_Qx1, (BLOCK, BLOCK)).T[:1]


def _only(kernel, head, x_QxL):
  """float32, with 0 in the lanes of other heads: a product over all lanes is then the head's."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x_QxL.shape, 1)
  own = (lane >= head * kernel.head_dim) & (lane < (head + 1) * kernel.head_dim)
  return jnp.where(own, x_QxL.astype(jnp.float32), 0.0)


def _product(left, right, over):
  """float32 product over an axis of each."""
  return jax.lax.dot_general(
      left, right, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


def _sees(kernel, i, j, query_ids_QxC, key_ids_1xC):
  """bool [Q, C]."""
  sees = query_ids_QxC == key_ids_1xC
  if kernel.causal:
    shape = (BLOCK, BLOCK)
    difference = (jax.lax.broadcasted_iota(jnp.int32, shape, 1)
                  - jax.lax.broadcasted_iota(jnp.int32, shape, 0))
    sees &= difference + (j - i) * BLOCK <= 0
  return sees


def _scores(tiles_ref, head, i, j, query_QxL, key_CxL, sees_QxC):
  score_QxC = _product(query_QxL, key_CxL, (1, 1))
  if tiles_ref is not None:
    score_QxC += tiles_ref[head, _tile(tiles_ref, i, j)]
  return jnp.where(sees_QxC, score_QxC, _MASKED)


def _kept(kept_ref, head, j, prob_QxC):
  return prob_QxC if kept_ref is None else prob_QxC * kept_ref[0, 0, head, pl.ds(j, 1), :]


def _tile(tiles_ref, i, j):
  far = tiles_ref.shape[1] // 2
  return jnp.clip(j - i, -far, far) + far


def _forward_body(
    kernel, biased, dropped, first_ref, stop_ref, query_ref, key_ref, value_ref, *refs):
  tiles_ref, *refs = refs if biased else (None, *refs)
  kept_ref, *refs = refs if dropped else (None, *refs)
  query_ids_ref, key_ids_ref, context_ref, lse_ref = refs
  row, heads = pl.program_id(1), range(kernel.heads)

  def of_queries(i, _):
    query_QxL = query_ref[0, _block(i), :]
    queries = [_only(kernel, h, query_QxL).astype(query_QxL.dtype) for h in heads]
    query_ids_QxC = _as_column(query_ids_ref[0, pl.ds(i, 1), :])

    def of_keys(j, carry):
      key_CxL, value_CxL = (ref[0, _block(j), :] for ref in (key_ref, value_ref))
      sees_QxC = _sees(kernel, i, j, query_ids_QxC, key_ids_ref[0, pl.ds(j, 1), :])
      after = []
      for h, (most_Qx1, sum_Qx1, context_QxL) in zip(heads, carry, strict=True):
        score_QxC = _scores(tiles_ref, h, i, j, queries[h], key_CxL, sees_QxC)
        new_Qx1 = jnp.maximum(most_Qx1, score_QxC.max(1, keepdims=True))
        prob_QxC, shrink_Qx1 = jnp.exp(score_QxC - new_Qx1), jnp.exp(most_Qx1 - new_Qx1)
        sum_Qx1 = sum_Qx1 * shrink_Qx1 + prob_QxC.sum(1, keepdims=True)
        # In the lanes of other heads this is of no use, and left out in the end.
        context_QxL = context_QxL * shrink_Qx1 + _product(
            _kept(kept_ref, h, j, prob_QxC).astype(value_CxL.dtype), value_CxL, (1, 0))
        after.append((new_Qx1, sum_Qx1, context_QxL))
      return tuple(after)

    column = (BLOCK, 1)
    start = (jnp.full(column, _LEAST), jnp.zeros(column), jnp.zeros((BLOCK, BLOCK)))
    found = jax.lax.fori_loop(first_ref[row, i], stop_ref[row, i], of_keys, (start,) * len(heads))
    joined_QxL = jnp.zeros((BLOCK, BLOCK))
    for h, (most_Qx1, sum_Qx1, context_QxL) in zip(heads, found, strict=True):
      any_Qx1 = sum_Qx1 > 0
      sum_Qx1 = jnp.where(any_Qx1, sum_Qx1, 1.0)
      joined_QxL += _only(kernel, h, context_QxL / sum_Qx1)
      lse_ref[0, 0, h, pl.ds(i, 1), :] = _as_row(
          jnp.where(any_Qx1, most_Qx1 + jnp.log(sum_Qx1), 0.0))
    context_ref[0, _block(i), :] = joined_QxL.astype(context_ref.dtype)
    return 0

  jax.lax.fori_loop(0, query_ref.shape[1] // BLOCK, of_queries, 0)


def _backward_body(
    kernel, biased, dropped, first_ref, stop_ref, query_ref, key_ref, value_ref, *refs):
  tiles_ref, *refs = refs if biased else (None, *refs)
  kept_ref, *refs = refs if dropped else (None, *refs)
  query_ids_ref, key_ids_ref, context_ref, d_context_ref, lse_ref, *refs = refs
  d_query_ref, d_key_ref, d_value_ref, *refs = refs
  d_tiles_ref, key_sum_ref, value_sum_ref = refs if biased else (None, *refs)
  row, heads = pl.program_id(1), range(kernel.heads)
  key_sum_ref[...], value_sum_ref[...] = (jnp.zeros(key_sum_ref.shape),) * 2

  if biased:
    @pl.when(row == 0)
    def _():
      d_tiles_ref[...] = jnp.zeros(d_tiles_ref.shape)

  def of_queries(i, _):
    query_QxL, d_context_QxL = (ref[0, _block(i), :] for ref in (query_ref, d_context_ref))
    dtype = query_QxL.dtype
    queries = [_only(kernel, h, query_QxL).astype(dtype) for h in heads]
    d_contexts = [_only(kernel, h, d_context_QxL) for h in heads]
    context_QxL = context_ref[0, _block(i), :].astype(jnp.float32)
    deltas = [(d * context_QxL).sum(1, keepdims=True) for d in d_contexts]
    lses = [_as_column(lse_ref[0, 0, h, pl.ds(i, 1), :]) for h in heads]
    query_ids_QxC = _as_column(query_ids_ref[0, pl.ds(i, 1), :])

    def of_keys(j, d_query_QxL):
      key_CxL, value_CxL = (ref[0, _block(j), :] for ref in (key_ref, value_ref))
      sees_QxC = _sees(kernel, i, j, query_ids_QxC, key_ids_ref[0, pl.ds(j, 1), :])
      for h in heads:
        d_head_QxL = d_contexts[h].astype(dtype)
        score_QxC = _scores(tiles_ref, h, i, j, queries[h], key_CxL, sees_QxC)
        prob_QxC = jnp.exp(score_QxC - lses[h])
        d_prob_QxC = _kept(kept_ref, h, j, _product(d_head_QxL, value_CxL, (1, 1)))
        d_score_QxC = prob_QxC * (d_prob_QxC - deltas[h])
        if biased:
          d_tiles_ref[h, _tile(tiles_ref, i, j)] += d_score_QxC
        value_sum_ref[_block(j), :] += _product(
            _kept(kept_ref, h, j, prob_QxC).astype(dtype), d_head_QxL, (0, 0))
        d_score_QxC = d_score_QxC.astype(dtype)
        key_sum_ref[_block(j), :] += _product(d_score_QxC, queries[h], (0, 0))
        d_query_QxL += _only(kernel, h, _product(d_score_QxC, key_CxL, (1, 0)))
      return d_query_QxL

    d_query_QxL = jax.lax.fori_loop(
        first_ref[row, i], stop_ref[row, i], of_keys, jnp.zeros((BLOCK, BLOCK)))
    d_query_ref[0, _block(i), :] = d_query_QxL.astype(dtype)
    return 0

  jax.lax.fori_loop(0, query_ref.shape[1] // BLOCK, of_queries, 0)
  d_key_ref[0], d_value_ref[0] = (
      ref[...].astype(d_key_ref.dtype) for ref in (key_sum_ref, value_sum_ref))
