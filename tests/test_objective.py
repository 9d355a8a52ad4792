"""The objective against the formula in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax import errors, objective

VOCAB = 11
EVEN, LABELS = objective.table(), objective.table(1.0)


def released_loss(labels, rationales, alpha):
  """The formula, on ragged lists of (logits [t, V], targets [t]) pairs: NumPy, float64."""
  def mean_cross_entropy(pairs):
    terms = []
    for logits, targets in pairs:
      logits = np.asarray(logits, np.float64)
      log_z = np.log(np.exp(logits).sum(-1))
      terms += list(log_z - logits[np.arange(len(targets)), targets])
    return np.mean(terms) if terms else 0.0
  return alpha * mean_cross_entropy(labels) + (1 - alpha) * mean_cross_entropy(rationales)


def padded(pairs_by_task, length):
  """The same pairs as arrays [B, length], with junk logits on the padding."""
  rng = np.random.default_rng(0)
  rows = [(pair, task) for task, pairs in pairs_by_task for pair in pairs]
  logits = rng.normal(size=(len(rows), length, VOCAB)).astype(np.float32) * 5
  targets = np.zeros((len(rows), length), np.int32)
  tasks = np.zeros((len(rows), length), np.int32)
  for row, ((values, ids), task) in enumerate(rows):
    logits[row, :len(ids)], targets[row, :len(ids)], tasks[row, :len(ids)] = values, ids, task
  return logits, targets, tasks


def pairs(seed, lengths):
  rng = np.random.default_rng(seed)
  return [(rng.normal(size=(n, VOCAB)).astype(np.float32), rng.integers(1, VOCAB, n))
          for n in lengths]


lengths = st.lists(st.integers(1, 9), max_size=6)


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(0, 99))
def test_equals_the_formula_on_ragged_pairs(label_lengths, rationale_lengths, alpha, seed):
  if not label_lengths and not rationale_lengths:
    return
  labels, rationales = pairs(seed, label_lengths), pairs(seed + 100, rationale_lengths)
  logits, targets, tasks = padded(
      [(objective.LABEL, labels), (objective.RATIONALE, rationales)], length=9)
  table = objective.table(alpha)
  loss, sums = objective.weighted_loss(
      logits, targets, tasks, objective.count_tokens(tasks, table), table)
  expected = released_loss(labels, rationales, alpha)
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(objective.summarize(sums, table)['loss'], expected, rtol=1e-5,
                             atol=1e-6)
  assert sums.tokens.tolist() == [sum(label_lengths), sum(rationale_lengths)]


THREE = objective.table(0.5, rows=[('premise', '[premise] ', 'teacher_label', 0.2)])


@pytest.mark.parametrize('present', [(1, 2, 3), (1, 3), (2,), (3,)])
@pytest.mark.parametrize('chunk', [0, 4])
def test_the_formula_holds_of_three_rows_and_an_absent_one_adds_nothing(present, chunk):
  all_pairs = {k: pairs(k, [3 * k, 2, k]) for k in present}
  logits, targets, tasks = padded(list(all_pairs.items()), length=9)
  counts = objective.count_tokens(tasks, THREE)
  assert counts.tolist() == [4 * k + 2 if k in present else 0 for k in (1, 2, 3)]
  if chunk:
    loss, sums = objective.weighted_loss_in_chunks(
        lambda hidden: hidden, jnp.asarray(logits), targets, tasks, counts, THREE, chunk)
  else:
    loss, sums = objective.weighted_loss(logits, targets, tasks, counts, THREE)
  expected = sum(row.weight * released_loss(all_pairs.get(k, []), [], 1.0)
                 for k, row in enumerate(THREE, 1))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  summary = objective.summarize(sums, THREE)
  np.testing.assert_allclose(summary['loss'], expected, rtol=1e-5)
  names = {k: row.name for k, row in enumerate(THREE, 1)}
  assert set(objective.only_present(summary)) == {'loss'} | {
      f'{names[k]}_{what}' for k in present for what in ('loss', 'token_accuracy', 'tokens')}


@pytest.mark.parametrize('chunk', [0, 4])
@pytest.mark.parametrize(('smoothing', 'z_loss'), [(0.1, 0.0), (0.0, 0.02), (0.3, 0.01)])
def test_smoothed_labels_and_z_loss_are_weighed_as_the_cross_entropy(smoothing, z_loss, chunk):
  """Against NumPy, and `optax.smooth_labels`; the sums are those of the plain cross entropy."""
  of_task = {objective.LABEL: pairs(1, [2, 3]), objective.RATIONALE: pairs(2, [9, 7])}
  logits, targets, tasks = padded(list(of_task.items()), 9)
  counts = objective.count_tokens(tasks, EVEN)
  def run(terms):
    arguments = (targets, tasks, counts, EVEN)
    if chunk:
      return objective.weighted_loss_in_chunks(
          lambda hidden: hidden, jnp.asarray(logits), *arguments, chunk, terms=terms)
    return objective.weighted_loss(jnp.asarray(logits), *arguments, terms=terms)

  def mean(rows):
    found = []
    for values, ids in rows:
      log_z = np.log(np.exp(np.float64(values)).sum(-1))
      target = (1 - smoothing) * np.eye(VOCAB)[ids] + smoothing / VOCAB
      np.testing.assert_allclose(
          optax.smooth_labels(jnp.eye(VOCAB)[ids], smoothing), target, rtol=1e-6)
      found += list(-(target * (values - log_z[:, None])).sum(-1) + z_loss * log_z**2)
    return np.mean(found)

  loss, sums = run(objective.Terms(smoothing, z_loss))
  np.testing.assert_allclose(loss, sum(map(mean, of_task.values())) / 2, rtol=1e-5)
  plain, plain_sums = run(objective.NO_TERMS)
  assert abs(float(loss - plain)) > 1e-2
  jax.tree.map(np.testing.assert_array_equal, sums, plain_sums)


@pytest.mark.parametrize(('terms', 'message'), [
    ({'label_smoothing': 1}, r'LABEL_SMOOTHING=1: use a number in \[0, 1\)'),
    ({'label_smoothing': 'a'}, "LABEL_SMOOTHING='a'"), ({'z_loss': -1e-4}, 'Z_LOSS=-0.0001: use')])
def test_terms_that_are_none_are_refused(terms, message):
  with pytest.raises(errors.UserError, match=message):
    objective.Terms(**terms)


def test_a_row_of_the_same_name_takes_its_place():
  assert [(row.name, row.weight) for row in objective.table(0.25)] == [
      ('label', 0.25), ('rationale', 0.75)]
  assert [(row.name, row.weight) for row in objective.table(
      rows=(('rationale', 'why: ', 'rationale', 0.3), ('premise', '', 'input', 1)))] == [
          ('label', 0.5), ('rationale', 0.3), ('premise', 1)]


@pytest.mark.parametrize(('rows', 'message'), [
    (('premise', '[premise] ', 'input', 0.2), "DSS_OBJECTIVES: 'premise' is no row"),
    ('abc', "DSS_OBJECTIVES: 'abc' is no row"), (5, 'DSS_OBJECTIVES: 5 is no row'),
    ([('a', 'b', 'input')], 'is no row: give .name, prefix, target, weight.'),
    ([('a b', '', 'input', 1)], r"DSS_OBJECTIVES\['a b'\]: a name is letters"),
    ([([], '', 'input', 1)], 'a name is letters'),
    ([('a', None, 'input', 1)], r"DSS_OBJECTIVES\['a'\].prefix=None: use a text"),
    ([('a', '', 'label', 1, 'no field')], r"DSS_OBJECTIVES\['a'\].inputs='no field': it has no"),
    ([('a', '', 'label', 1, '{input')], r"inputs='{input': .*; name fields of the record"),
    ([('a', '', 'label', 1, '{input!r} {label:3}')], 'a name alone stands in braces'),
    ([('a', '', 'label', 1, None)], r"\['a'\].inputs=None: use a text"),
    ([('a', '', 'label', ())], r"\['a'\].weight=\(\): give \(step, weight\) points"),
    ([('a', '', 'label', (3, 0.5))], r"weight=\(3, 0.5\): give \(step, weight\) points"),
    ([('a', '', 'label', ((0, 1), (5, -1)))], r"weight\[1\]: weight=-1: use a number of"),
    ([('a', '', 'label', ((0.5, 1),))], r"weight\[0\]: step=0.5: use a whole number"),
    ([('a', '', 'label', ((5, 1), (5, 2)))], 'in the order of their steps, each step once'),
    ([('a', '', 'input', -1)], r"DSS_OBJECTIVES\['a'\].weight=-1: use a number of at least 0")])
def test_what_is_no_row_is_refused(rows, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    objective.table(rows=rows)
  assert '\n' not in str(caught.value)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, objective.WHOLE))
def test_a_share_is_read_back(task, parts):
  found = jnp.array([objective.with_share(task, parts), 0], jnp.int32)
  assert objective.task_of(found).tolist() == [task, objective.PADDING]
  assert float(objective.share_of(found)[0]) == pytest.approx(parts / objective.WHOLE, rel=1e-6)


def test_soft_labels_are_the_cross_entropy_with_the_distribution():
  """sum_i sum_y p(y | i) CE(y) over sum_i sum_y p(y | i) |y|, and the counts likewise."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 5, 7)).astype(np.float32)
  targets = rng.integers(2, 7, (4, 5))
  lengths, shares = np.array([1, 3, 2, 5]), np.array([0.75, 0.25, 0.125, 0.875])
  real = np.arange(5) < lengths[:, None]
  tasks = np.where(real, objective.with_share(1, (shares * objective.WHOLE).astype(int))[:, None],
                   0)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  each = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
  weights = shares[:, None] * real
  arrays = jnp.array(logits), jnp.array(targets), jnp.array(tasks)
  counts = objective.count_tokens(arrays[2], EVEN)
  np.testing.assert_allclose(counts, [weights.sum(), 0], rtol=1e-6)
  loss, sums = objective.weighted_loss(*arrays, counts, EVEN)
  np.testing.assert_allclose(loss, 0.5 * (weights * each).sum() / weights.sum(), rtol=1e-5)
  np.testing.assert_allclose(sums.cross_entropy[0], (weights * each).sum(), rtol=1e-5)


def test_a_weight_follows_its_schedule():
  table = objective.table(rows=[('label', '', 'label', ((10, 1.0), (20, 0.5), (40, 0.0))),
                                ('premise', '', 'input', 0.25)])
  def weights(step):
    return [float(row.weight) for row in objective.at_step(
        table, None if step is None else jnp.int32(step))]
  steps = (0, 10, 13, 20, 30, 39, 40, 1000)
  expected = np.interp(steps, (10, 20, 40), (1.0, 0.5, 0.0))
  np.testing.assert_allclose([weights(step)[0] for step in steps], expected, rtol=1e-6)
  assert weights(3)[1:] == [0.5, 0.25] and weights(None) == weights(40)
  plain = objective.table()
  assert objective.at_step(plain, jnp.int32(3)) is plain


def test_rationales_do_not_outweigh_labels_by_their_length():
  labels, rationales = pairs(1, [2, 2]), pairs(2, [9, 9])
  arrays = padded([(objective.LABEL, labels), (objective.RATIONALE, rationales)], 9)
  _, sums = objective.weighted_loss(*arrays, objective.count_tokens(arrays[2], EVEN), EVEN)
  token_sum_loss = float(sums.cross_entropy.sum() / sums.tokens.sum())
  assert abs(token_sum_loss - released_loss(labels, rationales, 0.5)) > 1e-2


@pytest.mark.parametrize('task', [objective.LABEL, objective.RATIONALE])
def test_an_absent_side_contributes_nothing_and_its_weight_is_not_given_away(task):
  only = pairs(3, [4, 2])
  arrays = padded([(task, only)], 5)
  loss, _ = objective.weighted_loss(*arrays, objective.count_tokens(arrays[2], EVEN), EVEN)
  np.testing.assert_allclose(loss, 0.5 * released_loss(only, [], 1.0), rtol=1e-5)


def test_padding_has_no_gradient():
  arrays = padded([(objective.LABEL, pairs(4, [3])), (objective.RATIONALE, pairs(5, [5]))], 7)
  counts = objective.count_tokens(arrays[2], EVEN)
  gradient = jax.grad(lambda logits: objective.weighted_loss(logits, *arrays[1:], counts, EVEN)[0])(
      jnp.asarray(arrays[0]))
  assert np.all(np.asarray(gradient)[np.asarray(arrays[2]) == objective.PADDING] == 0)
  assert np.all(np.abs(np.asarray(gradient)[np.asarray(arrays[2]) > 0]).sum(-1) > 0)


def test_bfloat16_logits_are_summed_in_float32():
  arrays = padded([(objective.LABEL, pairs(6, [9] * 40)), (objective.RATIONALE, [])], 9)
  logits = jnp.asarray(arrays[0], jnp.bfloat16)
  loss, sums = objective.weighted_loss(
      logits, *arrays[1:], objective.count_tokens(arrays[2], LABELS), LABELS)
  assert loss.dtype == sums.cross_entropy.dtype == jnp.float32
  exact, _ = objective.weighted_loss(
      logits.astype(jnp.float32), *arrays[1:], objective.count_tokens(arrays[2], LABELS), LABELS)
  np.testing.assert_allclose(loss, exact, rtol=1e-6)


@pytest.mark.parametrize('chunk', [0, 2])
def test_token_accuracy_is_of_what_was_written_not_that_it_ended(chunk):
  """Labels 'a' and 'b': EOS is right both times, a word once; of one pair EOS has another id."""
  targets, tasks = np.array([[3, 1, 0], [4, 1, 0]]), np.array([[1, 1, 0], [1, 1, 0]])
  logits = np.eye(VOCAB, dtype=np.float32)[[[3, 1, 0], [3, 1, 0]]]
  counts = objective.count_tokens(tasks, LABELS)
  for eos_id, accuracy in ((1, 50.0), (4, 100.0)):
    if chunk:
      _, sums = objective.weighted_loss_in_chunks(
          lambda hidden: hidden, jnp.asarray(logits), targets, tasks, counts, LABELS, chunk, eos_id)
    else:
      _, sums = objective.weighted_loss(logits, targets, tasks, counts, LABELS, eos_id)
    summary = objective.summarize(sums, LABELS)
    assert summary['label_token_accuracy'] == accuracy and summary['label_tokens'] == 4
