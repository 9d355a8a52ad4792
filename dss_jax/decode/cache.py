"""The key/value cache of decoding: one token read per row and step.

Nothing here knows how the next token is chosen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dss_jax.decode import inputs
from dss_jax.models import Network, masks


@struct.dataclass
class Cache:
  """What a decoder remembers; B inputs, N rows (beams, samples) of each, side by side.

  Attributes:
    self_attention: keys and values of the tokens so far, leaves [B*N, H, K, L] and
      [B*N, H, L, K] (`models.cached_attention`), with an axis of layers in front with scan_layers.
    cross_attention: keys and values of the encoded inputs, leaves [B, H, K, S] and [B, H, S, K]
      likewise; computed once, and shared by the rows of an input.
    cross_mask: bool [B, 1, 1, S], the encoder's tokens that are not padding.
    index: int32 scalar, how many tokens were read.
    max_decode_length: L, room for that many tokens. Static.
    given: token ids that every row begins with. Static.
  """

  self_attention: Any
  cross_attention: Any
  cross_mask: jax.Array
  index: jax.Array
  max_decode_length: int = struct.field(pytree_node=False)
  given: tuple[int, ...] = struct.field(pytree_node=False, default=())

  @property
  def written(self) -> jax.Array:
    """int32 scalar, how many tokens were chosen and read behind those given."""
    return self.index - len(self.given)

  @property
  def room(self) -> int:
    """For so many tokens behind those given."""
    return self.max_decode_length - len(self.given)


def init_cache(
    model: Network, params, encoder_input_tokens, max_decode_length: int,
    rows_per_input: int = 1, given: tuple[int, ...] = ()) -> Cache:
  """Encodes int [B, S] (not packed, padded with 0) and returns a cache that has read what is given.

  Its last token is still to be read (the start token, where nothing is given): see `first_token`.

  Args:
    model: the network.
    params: its parameters.
    encoder_input_tokens: int [B, S].
    max_decode_length: tokens behind those given, at least 1. Static.
    rows_per_input: N, decoder rows of each input. Static.
    given: token ids that every answer begins with. Static.

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  if max_decode_length < 1:
    raise ValueError(f'max_decode_length is {max_decode_length}: use at least 1.')
  max_decode_length += len(given)
  encoded = inputs.encode(model, params, encoder_input_tokens)
  _, filled = model.apply(
    {'params': params}, encoded, max_decode_length, method='fill_cache',
    mutable=['cache', 'cross_cache'],
  )
  cross_mask = masks.padding_mask(encoder_input_tokens)
  if given:
    read_BxP = jnp.broadcast_to(
      jnp.array([model.config.start_id, *given[:-1]], jnp.int32),
      (encoder_input_tokens.shape[0], len(given)))
    _, changed = model.apply({'params': params, **filled}, read_BxP, cross_mask, max_decode_length,
                             method='read_prompt', mutable=['cache'])
    filled = {**filled, **changed}
  room, axis = filled['cache'], rows_axis(model)
  if rows_per_input > 1:
    room = jax.tree.map(lambda x: jnp.repeat(x, rows_per_input, axis), room)
  return Cache(
    self_attention=room,
    cross_attention=filled['cross_cache'],
    cross_mask=cross_mask,
    index=jnp.array(len(given), jnp.int32),
    max_decode_length=max_decode_length,
    given=given,
  )


def first_token(model: Network, cache: Cache) -> int:
  """What the first step reads."""
  return cache.given[-1] if cache.given else model.config.start_id


def rows_axis(model: Network) -> int:
  """Which axis of a cache's leaves the rows are on."""
  return int(model.config.scan_layers)


def decode_step(model: Network, params, tokens_B, cache: Cache):
  """Reads one token per row.

  Args:
    model: the network.
    params: its parameters.
    tokens_B: int [B] ([B*N] with N rows per input), the tokens at position `cache.index`
      (the config's start_id at first).
    cache: from `init_cache` or the step before. Reading more than max_decode_length tokens
      overwrites the last.

  Returns:
    float32 logits [B, V] ([B*N, V]) of the next token, and the cache with `tokens_B` read.
  """
  variables = {
    'params': params, 'cache': cache.self_attention, 'cross_cache': cache.cross_attention,
  }
  logits_BxV, changed = model.apply(
    variables, tokens_B, cache.cross_mask, cache.index, cache.max_decode_length,
    method='decode_step', mutable=['cache'],
  )
  return logits_BxV, cache.replace(self_attention=changed['cache'], index=cache.index + 1)


def select_rows(model: Network, cache: Cache, rows_BxN) -> Cache:
  """A cache whose row n of input b is the old row `rows_BxN[b, n]` of the same input.

  The keys and values of the encoded inputs stay where they are.
  """
  axis, (batch, rows) = rows_axis(model), rows_BxN.shape

  def select(leaf):
    # Input by input, so that inputs spread over devices need nothing of each other's.
    split = leaf.reshape(*leaf.shape[:axis], batch, rows, *leaf.shape[axis + 1:])
    take = jax.vmap(
      lambda x, indices: jnp.take(x, indices, axis=axis, mode='clip'),
      in_axes=(axis, 0), out_axes=axis,
    )
    return take(split, rows_BxN).reshape(leaf.shape)

  return cache.replace(self_attention=jax.tree.map(select, cache.self_attention))


def select_inputs(model: Network, cache: Cache, inputs_F, rows_F) -> Cache:
  """A cache of these inputs, int32 [F], and of these rows of theirs, int32 [F*N], alone."""
  axis = rows_axis(model)
  def select(tree, indices):
    return jax.tree.map(lambda x: jnp.take(x, indices, axis, mode='clip'), tree)

  return cache.replace(
    self_attention=select(cache.self_attention, rows_F),
    cross_attention=select(cache.cross_attention, inputs_F),
    cross_mask=cache.cross_mask[inputs_F],
  )
