"""Rows and batches by the data: full on both sides, with the inputs that a step is to see."""

import numpy as np
import pytest

from dss_jax import data
from dss_jax.data import packing, pipeline, row_lengths
from dss_jax.data.row_lengths import AUTO, Asked


def examples(n=4096, inputs=46, labels=2.6, rationales=29):
  """Of n inputs, each as label and as rationale, or (rationales=0) as label alone."""
  rng = np.random.default_rng(0)
  sources = np.clip(rng.gamma(12, inputs / 12, n), 8, 110).astype(int)
  targets = 2 + rng.poisson(labels - 2, n)
  if not rationales:
    return sources, targets, np.zeros(n, bool)
  pairs = np.stack([targets, np.clip(rng.gamma(8, rationales / 8, n), 4, 90).astype(int)], axis=1)
  return np.repeat(sources, 2), pairs.reshape(-1), np.arange(2 * n) % 2 == 1


def test_both_sides_are_full_and_a_batch_has_the_inputs():
  rows = row_lengths.choose(*examples(), Asked(AUTO, AUTO))
  assert rows.lengths['inputs'] % 128 == 0 and rows.lengths['targets'] % 32 == 0
  assert min(rows.filled.values()) >= row_lengths.FULL
  assert rows.batch_size % 8 == 0 and abs(rows.inputs / 64 - 1) < 0.06
  assert str(rows).startswith(f'a batch is {rows.batch_size} rows of 384 / ')
  assert row_lengths.choose(*examples(), Asked(AUTO, AUTO)) == rows


def test_what_is_promised_is_what_the_packer_does():
  inputs, targets, same = examples()
  rows = row_lengths.choose(inputs, targets, same, Asked(AUTO, AUTO))
  count = 0
  for start in range(0, len(inputs), packing.WINDOW):
    one = slice(start, start + packing.WINDOW)
    count += 1 + packing.assign_rows(
        inputs[one], targets[one], *rows.lengths.values(), same[one]).max()
  assert abs(inputs.sum() / count / rows.lengths['inputs'] - rows.filled['inputs']) < 0.01
  assert abs(targets.sum() / count / rows.lengths['targets'] - rows.filled['targets']) < 0.01
  assert abs(4096 / count * rows.batch_size / rows.inputs - 1) < 0.02


def test_half_the_batch_is_half_the_rows_or_shorter_ones():
  whole, half = (row_lengths.choose(*examples(), Asked(AUTO, AUTO, number)) for number in (64, 32))
  assert abs(half.inputs / 32 - 1) < 0.06
  assert half.batch_size == whole.batch_size // 2 and half.lengths == whole.lengths


def test_labels_alone_fill_their_inputs():
  """Eight rows with 64 inputs have not 32 tokens of labels each."""
  rows = row_lengths.choose(*examples(rationales=0), Asked(AUTO, AUTO))
  assert rows.lengths['targets'] == 32 and rows.filled['inputs'] > row_lengths.FULL
  assert abs(rows.inputs / 64 - 1) < 0.12


def test_a_side_that_is_given_stays():
  lengths = {'inputs': 1024, 'targets': 256}
  rows = row_lengths.choose(*examples(), Asked(lengths, AUTO))
  assert rows.lengths == lengths and rows.batch_size == 8
  rows = row_lengths.choose(*examples(), Asked(AUTO, 8))
  assert rows.batch_size == 8 and abs(rows.inputs / 64 - 1) < 0.06


@pytest.mark.parametrize('n', [1, 5, 40])
def test_a_few_long_examples(n):
  inputs, targets, same = np.full(n, 1024), np.full(n, 256), np.zeros(n, bool)
  rows = row_lengths.choose(inputs, targets, same, Asked(AUTO, AUTO))
  assert rows == row_lengths.Rows(
      {'inputs': 1024, 'targets': 256}, 64, {'inputs': 1.0, 'targets': 1.0}, 64.0)


def test_without_packing_a_row_is_the_longest_example():
  inputs, targets, same = examples()
  rows = row_lengths.choose(inputs, targets, same, Asked(AUTO, AUTO, pack=False))
  assert rows.lengths == {'inputs': 128, 'targets': -(-targets.max() // 32) * 32}
  assert (rows.batch_size, rows.inputs) == (128, 64)


def test_measures_the_examples_of_a_task(toy_data):
  limits = {'inputs': 64, 'targets': 24}
  rows = row_lengths.measure('dss_toy', limits, Asked(AUTO, AUTO))
  assert row_lengths.measure('dss_toy', limits, Asked(AUTO, AUTO)) == rows
  batch = next(iter(pipeline.train_iterator(
      'dss_toy', rows.lengths, batch_size=rows.batch_size, pack=True, seed=0)))
  held = len(set(map(tuple, _label_inputs(batch))))
  assert abs(held - rows.inputs) < 8


def _label_inputs(batch):
  """Where label examples are: (row, segment)."""
  labels = batch['decoder_objective'].numpy() == 1
  return zip(np.nonzero(labels)[0], batch['decoder_segment_ids'].numpy()[labels], strict=True)


def test_an_example_is_cut_at_its_limit_and_not_at_the_row(toy_data):
  data.configure(records_dir=toy_data.records_dir, vocabulary=toy_data.vocabulary,
                 example_lengths={'inputs': 6, 'targets': 4})
  for lengths, longest in (({'inputs': 64, 'targets': 24}, (6, 4)),
                           ({'inputs': 5, 'targets': 24}, (5, 4)), (None, None)):
    found = pipeline.get_mixture_or_task('dss_toy_rationale').get_dataset(
        lengths, split='train', shuffle=False, num_epochs=1)
    rows = [(ex['inputs'].tolist(), ex['targets'].tolist()) for ex in found.as_numpy_iterator()]
    assert all(row[-1] == 1 for pair in rows for row in pair)  # EOS at the end.
    measured = tuple(max(len(pair[side]) for pair in rows) for side in (0, 1))
    assert measured == longest if longest else measured > (6, 4)  # None: to be measured.
