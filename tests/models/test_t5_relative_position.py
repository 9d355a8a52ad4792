"""Buckets and biases against slow loops."""

import math

import jax
import numpy as np
import pytest

from dss_jax import models
from dss_jax.models import attend
from dss_jax.models.relative_position import RelativePositionBias


def slow_bucket(difference, bidirectional, num_buckets, max_distance):
  """Raffel et al. 2020 as the Mesh TensorFlow code has it, one number at a time."""
  bucket, distance = 0, -difference
  if bidirectional:
    num_buckets //= 2
    bucket = num_buckets if distance < 0 else 0
    distance = abs(distance)
  else:
    distance = max(distance, 0)
  exact = num_buckets // 2
  if distance < exact:
    return bucket + distance
  # The small term keeps exact powers on the right side of the floor.
  share = math.log(distance / exact) / math.log(max_distance / exact) + 1e-12
  return bucket + min(exact + int(share * (num_buckets - exact)), num_buckets - 1)


@pytest.mark.parametrize('num_buckets, max_distance', [(32, 128), (8, 20), (12, 100)])
@pytest.mark.parametrize('bidirectional', [True, False])
def test_buckets(bidirectional, num_buckets, max_distance):
  difference = np.arange(-300, 301)
  expected = [slow_bucket(int(d), bidirectional, num_buckets, max_distance) for d in difference]
  found = models.relative_position_bucket(
    difference, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
  )
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, expected)


def test_the_edges_of_the_encoder_buckets_are_exact():
  found = models.relative_position_bucket(
    np.array([-15, -16, -31, -32, -63, -64, -500, 64]), bidirectional=True
  )
  assert found.tolist() == [9, 10, 11, 12, 13, 14, 15, 30]


@pytest.mark.parametrize('query_length, key_length', [(1, 1), (6, 6), (3, 40), (40, 3)])
@pytest.mark.parametrize('bidirectional', [True, False])
def test_bias_matrix_and_rows(tiny, bidirectional, query_length, key_length):
  module = RelativePositionBias(tiny('1.1'), bidirectional)
  table = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
  variables = {'params': {'rel_embedding': table}}
  values = module.apply(variables, method='by_distance')
  bias = attend.bias_matrix(values, query_length, key_length)
  assert bias.shape == (1, 2, query_length, key_length)
  for t in range(query_length):
    for s in range(key_length):
      bucket = slow_bucket(s - t, bidirectional, 32, 128)
      np.testing.assert_array_equal(bias[0, :, t, s], table[:, bucket])
  last = query_length - 1
  for first in {0, last // 2, last}:
    rows = jax.jit(lambda t, first=first: module.apply(
        variables, t, query_length - first, key_length, method='rows'))(first)
    np.testing.assert_array_equal(rows, bias[:, :, first:])
