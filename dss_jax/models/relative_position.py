"""Relative position biases (T5, Raffel et al. 2020, section 2.1).

An attention score gets a learned scalar that depends on the head and on a bucket of
`key position - query position`. Near distances have a bucket each, far ones share buckets of
exponentially growing width, and everything from `max_distance` on shares the last.
"""

import functools

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dss_jax.models.config import T5Config


@functools.cache
def _bucket_of_distance(num_buckets: int, max_distance: int) -> np.ndarray:
  """Bucket of each distance 0..max_distance in one direction, int32 [max_distance + 1].

  With e = num_buckets // 2 buckets for distances below e and r = num_buckets - e for the rest,
  distance n >= e is in bucket e + floor(r * log(n / e) / log(max_distance / e)). It is worked
  out in integers, floor(...) >= k if and only if n^r * e^k >= max_distance^k * e^r: a float32
  logarithm can fall on either side of an edge such as n = 64, depending on the platform.
  """
  exact = num_buckets // 2
  rest = num_buckets - exact
  table = list(range(exact))
  for n in range(exact, max_distance + 1):
    reached = sum(
      n**rest * exact**k >= max_distance**k * exact**rest for k in range(1, rest)
    )
    table.append(exact + reached)
  return np.asarray(table, np.int32)


def relative_position_bucket(difference, *, bidirectional, num_buckets=32, max_distance=128):
  """Bucket of `key position - query position`.

  Args:
    difference: int array of any shape.
    bidirectional: True in the encoder, where the upper half of the buckets is for keys to the
      right of the query; False in the decoder, where those keys are masked anyway.
    num_buckets: number of buckets.
    max_distance: distance from which all share the last bucket.

  Returns:
    int32 array of difference's shape with values in [0, num_buckets).
  """
  difference = jnp.asarray(difference, jnp.int32)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(difference > 0, num_buckets, 0)
    distance = jnp.abs(difference)
  else:
    offset = 0
    distance = jnp.maximum(-difference, 0)
  table = jnp.asarray(_bucket_of_distance(num_buckets, max_distance))
  return (offset + table[jnp.minimum(distance, max_distance)]).astype(jnp.int32)


class RelativePositionBias(nn.Module):
  """One bias table [heads, buckets], of a layer or shared by the layers of a stack.

  Positions are indices in the row. That is exact for packed rows: an example is contiguous, so
  differences inside it are the same, and differences across examples are masked.
  """

  config: T5Config
  bidirectional: bool

  def setup(self):
    init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
    self.rel_embedding = self.param(
      'rel_embedding', nn.with_logical_partitioning(init, ('heads', 'relpos_buckets')),
      (self.config.num_heads, self.config.relpos_num_buckets), jnp.float32,
    )

  def by_distance(self):
    """Returns float32 [H, 2R + 1] for `key position - query position` of -R..R, R the distance
    from which all share a bucket.
    """
    reach = self.config.relpos_max_distance
    return self._look_up(np.arange(-reach, reach + 1))

  def rows(self, first_position, query_length: int, key_length: int):
    """Returns float32 [1, H, T, S] for queries from a position on, which may be traced."""
    query_T = first_position + jnp.arange(query_length)
    return self._look_up(jnp.arange(key_length) - query_T[:, None])[None]

  def _look_up(self, difference):
    """int of any shape -> float32 [H, *shape]."""
    bucket = relative_position_bucket(
      difference, bidirectional=self.bidirectional,
      num_buckets=self.config.relpos_num_buckets, max_distance=self.config.relpos_max_distance,
    )
    # NumPy parameters cannot be indexed by traced buckets.
    return jnp.asarray(self.rel_embedding)[:, bucket]
