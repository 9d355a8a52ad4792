"""Encoding the inputs of a search."""

import jax
import jax.numpy as jnp

from dss_jax.models import Network

_WIDTH = 256  # Tokens of a packed row: of 128, 256 and 512 the fastest on two cores.


def encode(model: Network, params, tokens_BxS):
  """int [B, S], padded with 0 -> config.dtype [B, S, D]; what stands at padding means nothing.

  Half of a batch may be padding, even of inputs that were sorted by length. A CPU, whose time is
  that of the arithmetic, encodes packed rows one after the other, as many as there are. (It also
  keeps what a layer makes in the processor's cache.) Accelerators want all rows at once, and rows
  that are split over devices should stay where they are.
  """
  def plain(params, tokens_BxS):
    return model.apply({'params': params}, tokens_BxS, method='encode')

  def packed(params, tokens_BxS):
    return _encode_packed(model, params, tokens_BxS)

  sizes = tokens_BxS.shape
  static = all(isinstance(size, int) for size in sizes)  # They are not in `jax.export`.
  if not static or sizes[0] * sizes[1] <= _WIDTH or is_spread():
    return plain(params, tokens_BxS)
  return jax.lax.platform_dependent(params, tokens_BxS, cpu=packed, default=plain)


def is_spread() -> bool:
  """Whether rows may lie on several devices: they are best left where they are."""
  return jax.sharding.get_abstract_mesh().size > 1


def _encode_packed(model: Network, params, tokens_BxS):
  batch, length = tokens_BxS.shape
  width = max(_WIDTH, length)
  # A row that the next input does not fit into holds at least width // length of them.
  rows = -(-batch // (width // length))
  position_S = jnp.arange(length)
  length_B = jnp.max(jnp.where(tokens_BxS != 0, position_S + 1, 0), axis=1)
  start_B = starts(length_B, width)
  place_BxS = start_B[:, None] + position_S
  real_BxS = position_S < length_B[:, None]
  into_BxS = jnp.where(real_BxS, place_BxS, rows * width)  # Out of it: dropped.

  def pack(values_BxS):
    flat = jnp.zeros(rows * width, jnp.int32).at[into_BxS].set(values_BxS, mode='drop')
    return flat.reshape(rows, 1, width)

  tokens_Rx1xW = pack(tokens_BxS)
  segments_Rx1xW = pack(jnp.broadcast_to(jnp.arange(1, batch + 1)[:, None], tokens_BxS.shape))

  def encode_row(row, encoded_RxWxD):
    encoded_1xWxD = model.apply(
      {'params': params}, tokens_Rx1xW[row], segments_Rx1xW[row], method='encode'
    )
    return jax.lax.dynamic_update_slice_in_dim(encoded_RxWxD, encoded_1xWxD, row, axis=0)

  config = model.config
  used = jnp.max(start_B + length_B + width - 1) // width
  encoded_RxWxD = jax.lax.fori_loop(
    0, used, encode_row, jnp.zeros((rows, width, config.emb_dim), config.dtype)
  )
  return encoded_RxWxD.reshape(-1, config.emb_dim).at[place_BxS].get(mode='clip')


def starts(length_B, width: int):
  """Where inputs of these lengths begin, laid into rows of `width` in their order: int32 [B].

  Row r begins at r * width. starts([3, 4, 2, 5], 8) == [0, 3, 8, 10]
  """
  def place(end, length):
    row_end = -(-end // width) * width
    start = jnp.where(end + length > row_end, row_end, end)
    return start + length, start

  return jax.lax.scan(place, jnp.int32(0), length_B)[1]
