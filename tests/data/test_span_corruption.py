"""T5's span corruption: its numbers, and a task that resumes."""

import numpy as np
import pytest
import tensorflow as tf

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, objective
from dss_jax.data import pipeline, span_corruption

LENGTHS = {'inputs': 32, 'targets': 12}
LAST = 999
# What t5 0.9.4 makes of the tokens 10, 11, ... with seeds [[s, 0], [s, 1]]: (tokens, s) -> sides.
FROM_T5 = {
    (1, 0): ([10], [999]),
    (2, 0): ([10, 999], [999, 11]),
    (24, 7): ([*range(10, 30), 999], [999, 30, 31, 32, 33]),
    (40, 3): ([*range(10, 25), 999, *range(27, 46), 998], [999, 25, 26, 998, 46, 47, 48, 49]),
}


def mask(length, first, second):
  return span_corruption.noise_mask(tf.constant(length), tf.constant([first, second], tf.int64))


@pytest.mark.parametrize('length, seed', FROM_T5)
def test_literal_output_of_t5(length, seed):
  tokens = tf.range(10, 10 + length)
  made = span_corruption.corrupt(tokens, mask(length, [seed, 0], [seed, 1]), LAST)
  assert (made['inputs'].numpy().tolist(), made['targets'].numpy().tolist()) == (
      FROM_T5[length, seed])


def test_every_mask_is_t5s():
  t5 = pytest.importorskip('t5.data.preprocessors', reason='t5 is not installed (`--no-deps`)')
  for length in (*range(1, 80), 568, 2009):
    seeds = tf.constant([[length, 5], [length, 6]], tf.int64)
    theirs = t5.random_spans_noise_mask(tf.constant(length), 0.15, seeds, 3.0)
    np.testing.assert_array_equal(span_corruption.noise_mask(tf.constant(length), seeds), theirs)
  for inputs in range(12, 1810):
    tokens = span_corruption.chunk_length({'inputs': inputs, 'targets': inputs})
    assert (tokens, span_corruption.lengths_of(tokens)['targets']) == t5.random_spans_helper(
        inputs, 0.15, 3.0, 1, 1)


@pytest.mark.parametrize('length', [1, 2, 3, 7, 50, 568])
def test_both_sides_put_together_are_the_text(length):
  noise = mask(length, [length, 1], [length, 2]).numpy()
  tokens, spans = span_corruption.noise_counts(length)
  assert noise.sum() == (tokens if length > 1 else 0) and not noise[0]
  assert (np.diff(np.append(noise, False).astype(int)) < 0).sum() == (spans if length > 1 else 0)
  made = span_corruption.corrupt(tf.range(1, length + 1), tf.constant(noise), LAST)
  left_out = {}
  for token in made['targets'].numpy().tolist():
    if token > LAST - 100:
      left_out[token] = []
    else:
      left_out[max(left_out) - len(left_out) + 1].append(token)
  text = []
  for token in made['inputs'].numpy().tolist():
    text += left_out[token] if token > LAST - 100 else [token]
  assert text == list(range(1, length + 1))
  sizes = {side: len(ids) + 1 for side, ids in made.items()}
  assert length == 1 or sizes == span_corruption.lengths_of(length)


def test_places_of_spans_are_drawn_evenly():
  """Of 40 tokens 6 are noise in two spans: the first begins anywhere, the second ends the text."""
  found = [np.flatnonzero(mask(40, [seed, 0], [seed, 1])) for seed in range(300)]
  assert all(len(noisy) == 6 and noisy[-1] == 39 for noisy in found)
  assert {noisy[0] for noisy in found} == set(range(1, 34))


@pytest.mark.parametrize('lengths, says', [
    ({'inputs': 512, 'targets': 113}, "have 114 tokens: write {'inputs': 512, 'targets': 114}"),
    ({'inputs': 2048, 'targets': 512}, 'more than 1809 tokens have more spans than the 100')])
def test_lengths_that_cannot_be_are_refused(lengths, says):
  with pytest.raises(errors.UserError, match=says):
    span_corruption.chunk_length(lengths)
  assert span_corruption.chunk_length({'inputs': 1809, 'targets': 402}) == 2009


def examples(seed=0, epochs=1, split='train', shuffle=True):
  task = pipeline.get_mixture_or_task('toy_pretrain')
  rows = task.get_dataset(LENGTHS, split=split, shuffle=shuffle, seed=seed, num_epochs=epochs)
  return list(rows.as_numpy_iterator())


def test_all_text_is_in_an_epoch_and_the_noise_is_a_function_of_the_seed(toy_data):
  first, again, other = examples(), examples(), examples(seed=1)
  for one, two in zip(first, again, strict=True):
    np.testing.assert_array_equal(one['inputs'], two['inputs'])
    np.testing.assert_array_equal(one['targets'], two['targets'])
  features = pipeline.get_mixture_or_task('toy_pretrain').output_features
  size = features['inputs'].vocabulary.vocab_size

  def words(rows):  # Without sentinels and EOS.
    ids = np.concatenate([row[side] for row in rows for side in ('inputs', 'targets')])
    return np.sort(ids[(ids > 1) & (ids < size - 100)])
  np.testing.assert_array_equal(words(first), words(other))
  assert {tuple(row['inputs']) for row in first} != {tuple(row['inputs']) for row in other}
  # The first chunk of a stream of 128 texts is full.
  assert {side: len(first[0][side]) for side in LENGTHS} == span_corruption.lengths_of(
      span_corruption.chunk_length(LENGTHS))
  assert all(set(row['objective']) == {objective.LABEL} for row in first)
  assert all(np.array_equal(a['inputs'], b['inputs']) for a, b in zip(
      examples(split='validation', shuffle=False), examples(split='validation', shuffle=False,
                                                            seed=7), strict=True))


def test_epochs_have_noise_of_their_own(toy_data):
  one, two = len(examples()), examples(epochs=2)
  assert len(two) == 2 * one
  assert not {tuple(row['targets']) for row in two[:one]} & {
      tuple(row['targets']) for row in two[one:]}


@pytest.mark.parametrize('saved_at', [1, 7])
def test_a_saved_position_goes_on(toy_data, tmp_path, saved_at):
  def iterator():
    return pipeline.train_iterator(
        'toy_pretrain', LENGTHS, batch_size=4, pack=False, seed=3)
  whole = [pipeline.to_numpy(batch) for _, batch in zip(range(12), iterator())]
  part, restored = iterator(), iterator()
  for _ in range(saved_at):
    next(part)
  saved = tf.train.Checkpoint(iterator=part).write(str(tmp_path / 'position'))
  tf.train.Checkpoint(iterator=restored).read(saved).assert_consumed()
  for expected in whole[saved_at:]:
    for name, found in pipeline.to_numpy(next(restored)).items():
      np.testing.assert_array_equal(found, expected[name])


def test_sentinels_are_the_last_ids(toy_records):
  data.configure(records_dir=str(toy_records), vocabulary='bytes')
  row = examples()[0]
  assert row['targets'][0] == 259 + 100 - 1 and row['targets'].max() == 358
