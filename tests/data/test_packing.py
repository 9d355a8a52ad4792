"""Packing: every example once, whole, in a row that has room for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.data import packing

MAX_INPUTS, MAX_TARGETS = 16, 9
examples_st = st.lists(
    st.tuples(st.integers(1, MAX_INPUTS), st.integers(1, MAX_TARGETS), st.sampled_from([1, 2])),
    min_size=1, max_size=60)


def window(spec):
  """Examples whose tokens are all different, so that none can stand for another."""
  counter = iter(range(1, 10_000))
  return [(np.array([next(counter) for _ in range(n)]), np.array([next(counter) for _ in range(m)]),
           task) for n, m, task in spec]


def pack(examples, same_input=None, **kwargs):
  return packing.pack_window(
      np.concatenate([e[0] for e in examples]), np.array([len(e[0]) for e in examples]),
      np.concatenate([e[1] for e in examples]), np.array([len(e[1]) for e in examples]),
      np.concatenate([np.full(len(e[1]), e[2]) for e in examples]), MAX_INPUTS, MAX_TARGETS,
      same_input, **kwargs)


def unpack(arrays):
  """Back to a set of (inputs, targets, task) tuples, by segment id."""
  inputs, in_segments, in_positions, targets, segments, positions, tasks = arrays
  found = set()
  for row in range(len(inputs)):
    for segment in range(1, segments[row].max() + 1):
      source, target = in_segments[row] == segment, segments[row] == segment
      np.testing.assert_array_equal(in_positions[row][source], np.arange(source.sum()))
      np.testing.assert_array_equal(positions[row][target], np.arange(target.sum()))
      assert np.all(np.diff(np.flatnonzero(source)) == 1)  # Contiguous.
      assert np.all(np.diff(np.flatnonzero(target)) == 1)
      task, = set(tasks[row][target])
      found.add((tuple(inputs[row][source]), tuple(targets[row][target]), int(task)))
    for segment_ids, tokens in ((in_segments, inputs), (segments, targets)):
      np.testing.assert_array_equal(segment_ids[row] > 0, tokens[row] > 0)
  return found


@settings(max_examples=150, deadline=None)
@given(examples_st, st.lists(st.booleans(), min_size=60, max_size=60), st.booleans())
def test_every_example_comes_back_once_and_whole(spec, same_input, alone):
  examples = window(spec)
  found = unpack(pack(examples, None if alone else np.array(same_input[:len(spec)])))
  assert found == {(tuple(map(int, e[0])), tuple(map(int, e[1])), e[2]) for e in examples}


@settings(max_examples=100, deadline=None)
@given(examples_st)
def test_no_row_is_closed_while_another_example_would_fit(spec):
  inputs, targets = np.array([s[0] for s in spec]), np.array([s[1] for s in spec])
  rows = packing.assign_rows(inputs, targets, MAX_INPUTS, MAX_TARGETS)
  assert rows.max() + 1 == len(set(rows))  # No gaps.
  for row in range(rows.max() + 1):
    mine, later = rows == row, rows > row
    free = MAX_INPUTS - inputs[mine].sum(), MAX_TARGETS - targets[mine].sum()
    assert min(free) >= 0
    assert not np.any((inputs[later] <= free[0]) & (targets[later] <= free[1]))
    assert not later.any() or np.argmax(mine) < np.argmax(later)  # The one that waits longest.


@settings(max_examples=100, deadline=None)
@given(examples_st, st.lists(st.booleans(), min_size=60, max_size=60))
def test_the_examples_of_an_input_share_a_row_that_holds_them(spec, same_input):
  inputs, targets = np.array([s[0] for s in spec]), np.array([s[1] for s in spec])
  same = np.array(same_input[:len(spec)])
  rows = packing.assign_rows(inputs, targets, MAX_INPUTS, MAX_TARGETS, same)
  number = np.cumsum(~same | (np.arange(len(spec)) == 0))
  for one in set(number):
    mine = number == one
    if inputs[mine].sum() <= MAX_INPUTS and targets[mine].sum() <= MAX_TARGETS:
      assert len(set(rows[mine])) == 1


def test_the_docstring_examples():
  lengths = np.array([5, 4, 3]), np.array([2, 2, 2])
  assert packing.assign_rows(*lengths, 8, 4).tolist() == [0, 1, 0]
  assert packing.assign_rows(*lengths, 8, 4, [False, False, True]).tolist() == [0, 1, 1]
  assert packing.assign_rows(*map(np.array, ([], [])), 8, 4).tolist() == []


def test_a_too_long_example_is_refused():
  with pytest.raises(ValueError, match='17 / 1 tokens does not fit a row of 16 / 9'):
    packing.assign_rows(np.array([17]), np.array([1]), MAX_INPUTS, MAX_TARGETS)


@pytest.mark.parametrize('pairs', [False, True])
def test_rows_are_well_filled_on_both_sides(pairs):
  """CommonsenseQA's lengths, a row of about four inputs: each as label and rationale, or alone."""
  rng = np.random.default_rng(0)
  inputs = np.repeat(np.clip(26 + rng.gamma(4.6, 4.87, packing.WINDOW // 2), 20, 100), 2)
  targets = np.stack([2 + rng.poisson(0.6, packing.WINDOW // 2), np.clip(
      12 + rng.gamma(6.9, 2.53, packing.WINDOW // 2), 6, 80)], axis=1).reshape(-1)
  inputs, targets = inputs.astype(int), targets.astype(int)
  same = np.arange(packing.WINDOW) % 2 == 1
  rows = packing.assign_rows(inputs, targets, 384, 128, same if pairs else None).max() + 1
  assert inputs.sum() / (rows * 384) > 0.95 and targets.sum() / (rows * 128) > 0.95


def test_no_batch_holds_the_long_examples_alone():
  rng = np.random.default_rng(0)
  inputs, targets = rng.integers(20, 90, packing.WINDOW), rng.integers(2, 30, packing.WINDOW)
  rows = packing.assign_rows(inputs, targets, 512, 160)
  for lengths in (inputs, targets):
    means = [lengths[part].mean() for part in np.array_split(np.argsort(rows), 4)]
    assert max(means) < 1.15 * min(means)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, MAX_INPUTS), st.lists(
    st.tuples(st.integers(1, MAX_TARGETS), st.booleans()), min_size=1, max_size=3)),
                min_size=1, max_size=30))
def test_shared_inputs_are_there_once_and_every_target_reads_its_own(spec):
  """Inputs with up to three targets, of which some have an input of their own."""
  counter = iter(range(1, 10_000))
  examples, same = [], []
  for length, targets in spec:
    shared = [next(counter) for _ in range(length)]
    for i, (number, is_shared) in enumerate(targets):
      source = shared if is_shared else [next(counter) for _ in range(length)]
      examples.append((np.array(source), np.array([next(counter) for _ in range(number)]), 1))
      same.append(i > 0)
  inputs, in_segments, _, targets, segments, _, _, read = pack(
      examples, np.array(same), share_inputs=True)
  found = []
  for row in range(len(inputs)):
    for segment in range(1, segments[row].max() + 1):
      mine = segments[row] == segment
      source, = set(read[row][mine])
      found.append((tuple(inputs[row][in_segments[row] == source]), tuple(targets[row][mine])))
    np.testing.assert_array_equal(read[row] > 0, targets[row] > 0)
    tokens = inputs[row][inputs[row] > 0]
    assert len(set(tokens)) == len(tokens)  # No input twice.
  assert sorted(found) == sorted(
      (tuple(map(int, source)), tuple(map(int, target))) for source, target, _ in examples)


def test_one_input_is_spared_of_a_pair():
  rng = np.random.default_rng(0)
  inputs, targets = np.repeat(rng.integers(20, 60, 512), 2), rng.integers(4, 30, 1024)
  same = np.arange(1024) % 2 == 1
  apart, shared = (packing.assign_rows(inputs, targets, 384, 512, same, repeats).max() + 1
                   for repeats in (None, same))
  assert shared < 0.55 * apart
