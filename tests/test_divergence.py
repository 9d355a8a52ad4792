"""Token distributions in the loss, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import divergence, errors, objective

B, T, V = 3, 5, 11
EVEN = objective.table()
FLOOR = 1e-6


def log_softmax(logits):
  logits = np.float64(logits) - np.max(logits, axis=-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def made(top_k, seed=0, spread=2.0):
  """The student's logits, and a teacher's k likeliest ids and log probabilities."""
  rng = np.random.default_rng(seed)
  logits, theirs = rng.normal(size=(2, B, T, V)).astype(np.float32) * spread
  log_p = log_softmax(theirs)
  ids = np.argsort(-log_p, axis=-1)[..., :top_k]
  return logits, theirs, ids, np.take_along_axis(log_p, ids, -1)


def stored(ids, log_probs):
  """As a batch has it."""
  rows = [np.frombuffer(divergence.pack(*row), np.int32) for row in zip(ids, log_probs)]
  return jnp.array(rows).reshape(*ids.shape[:2], -1)


def of_the_partition(logits, ids, log_p, direction):
  """The formula of the module, cell by cell, in float64."""
  log_q, found = np.take_along_axis(log_softmax(logits), ids, -1), np.zeros((B, T))
  for b in range(B):
    for t in range(T):
      p, q = ([*np.exp(x[b, t]), max(1 - np.exp(x[b, t]).sum(), FLOOR)] for x in (log_p, log_q))
      if direction == 'reverse':
        p, q = q, p
      found[b, t] = sum(one * (np.log(one) - np.log(other)) for one, other in zip(p, q))
  return found


@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
@pytest.mark.parametrize('top_k', [1, 4, V])
def test_equals_the_formula(direction, top_k):
  logits, _, ids, log_p = made(top_k)
  found, known = divergence.divergence(jnp.array(logits), stored(ids, log_p), direction)
  assert known.all()
  np.testing.assert_allclose(
      found, of_the_partition(logits, ids, log_p, direction), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
def test_of_all_tokens_it_is_the_divergence_of_the_whole_and_else_less(direction):
  logits, theirs, *_ = made(V)
  log_p, log_q = log_softmax(theirs), log_softmax(logits)
  if direction == 'reverse':
    log_p, log_q = log_q, log_p
  whole = (np.exp(log_p) * (log_p - log_q)).sum(-1)
  by_k = [divergence.divergence(jnp.array(logits), stored(*made(k)[2:]), direction)[0]
          for k in (1, 3, 6, V)]
  np.testing.assert_allclose(by_k[-1], whole, rtol=2e-5, atol=2e-6)
  for less, more in zip(by_k, by_k[1:]):
    assert (less <= more + 1e-6).all() and (less > -1e-6).all()


@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
def test_nothing_pulls_a_student_that_is_its_teacher(direction):
  _, theirs, ids, log_p = made(4)
  def total(logits):
    return divergence.divergence(logits, stored(ids, log_p), direction)[0].sum()
  value, gradient = jax.value_and_grad(total)(jnp.array(theirs))
  assert abs(value) < 1e-5 and np.abs(gradient).max() < 1e-5
  assert np.abs(jax.grad(total)(jnp.array(made(4)[0]))).max() > 1e-1


@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
@pytest.mark.parametrize('spread', [1e-3, 60.0, 1e4])
def test_it_is_finite_where_one_is_sure_and_nothing_is_left(direction, spread):
  logits, _, ids, log_p = made(3, spread=spread)
  def total(logits):
    return divergence.divergence(logits, stored(ids, log_p), direction)[0].sum()
  value, gradient = jax.value_and_grad(total)(jnp.array(logits))
  assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize('chunk', [0, 2])
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
def test_it_takes_its_share_of_each_tokens_loss(direction, smoothing, chunk):
  """By the weights of the cross entropy; a token without one keeps its cross entropy whole."""
  logits, _, ids, log_p = made(4)
  rng = np.random.default_rng(1)
  targets, tasks = rng.integers(1, V, (B, T)), rng.integers(0, 3, (B, T))
  known = rng.integers(0, 2, (B, T)).astype(bool)
  counts = objective.count_tokens(tasks, EVEN)
  arguments = (targets, tasks, counts, EVEN)
  terms = {'terms': objective.Terms(smoothing, 0.01, direction, 0.3),
           'stored_BxTx2K': jnp.where(known[..., None], stored(ids, log_p), 0)}
  if chunk:
    loss, sums = objective.weighted_loss_in_chunks(
        lambda hidden: hidden, jnp.array(logits), *arguments, chunk, **terms)
  else:
    loss, sums = objective.weighted_loss(jnp.array(logits), *arguments, **terms)
  log_q = log_softmax(logits)
  entropy = -np.take_along_axis(log_q, targets[..., None], -1)[..., 0]
  smooth = (1 - smoothing) * entropy - smoothing * log_q.mean(-1)
  each = np.where(known, 0.7 * smooth + 0.3 * of_the_partition(logits, ids, log_p, direction),
                  smooth) + 0.01 * np.log(np.exp(np.float64(logits)).sum(-1))**2
  np.testing.assert_allclose(
      loss, sum(0.5 * each[tasks == k].mean() for k in (1, 2)), rtol=1e-5)
  for k in (1, 2):  # What is logged stays the cross entropy.
    np.testing.assert_allclose(sums.cross_entropy[k - 1], entropy[tasks == k].sum(), rtol=1e-5)


def test_a_record_holds_what_was_put_in():
  _, _, ids, log_p = made(4)
  data = divergence.pack(ids[0], log_p[0])
  found = divergence.unpack(data, 4)
  np.testing.assert_array_equal(found[0], ids[0])
  np.testing.assert_array_equal(found[1], log_p[0].astype(np.float32))
  assert len(data) == T * 4 * 8


@pytest.mark.parametrize('weight', [0, 1.5, 'a'])
def test_a_share_that_is_none_is_refused(weight):
  with pytest.raises(errors.UserError, match=r'^TOKEN_DISTRIBUTION_WEIGHT=.*in \(0, 1\]'):
    objective.Terms(distribution_weight=weight)
