"""SHARED_ENCODER: the prefix is the first of the target, given and not learnt."""

import numpy as np
import pytest

from dss_jax import data, errors, objective
from dss_jax.data import checks, feature_converter, pipeline, row_lengths, vocabularies
from dss_jax.data.row_lengths import AUTO, Asked

LENGTHS = {'inputs': 64, 'targets': 48}
FURTHER = (('conditioned', '[answer] ', 'label', 0.5, '{input} {rationale}'),)


@pytest.fixture
def configure(toy_records, toy_vocabulary):
  def of(**settings):
    data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary, **settings)
    return vocabularies.current()
  return of


def rows_of(name, lengths=None):
  task = pipeline.get_mixture_or_task(name)
  return list(task.get_dataset(lengths, split='train', shuffle=False, num_epochs=1)
              .as_numpy_iterator())


@pytest.mark.parametrize('part', ['label', 'rationale', 'conditioned'])
def test_the_prefix_changes_sides(configure, part):
  configure(objectives=FURTHER)
  plain = rows_of(f'dss_toy_{part}')
  vocabulary = configure(objectives=FURTHER, shared_encoder=True)
  prompt = vocabulary.encode({'conditioned': '[answer] '}.get(part, f'[{part}] '))
  shared = rows_of(f'dss_toy_{part}')
  assert len(plain) == len(shared) > 9 and len(prompt) > 0
  for one, other in zip(plain, shared, strict=True):
    assert one['inputs'].tolist() == [*prompt, *other['inputs']]
    assert other['targets'].tolist() == [*prompt, *one['targets']]
    assert other['objective'].tolist() == [objective.PADDING] * len(prompt) + list(one['objective'])


def test_what_has_no_prefix_is_as_it_was(configure):
  configure()
  plain = rows_of('toy_finetune', LENGTHS)
  configure(shared_encoder=True)
  for one, other in zip(plain, rows_of('toy_finetune', LENGTHS), strict=True):
    assert all(np.array_equal(one[name], other[name]) for name in ('inputs', 'targets'))


def test_a_target_is_cut_with_its_prompt(configure):
  vocabulary = configure(shared_encoder=True)
  prompt = vocabulary.encode('[rationale] ')
  limit = len(prompt) + 3
  rows = rows_of('dss_toy_rationale', {'inputs': 64, 'targets': limit})
  for row in rows:
    assert row['targets'][:len(prompt)].tolist() == prompt and row['targets'][-1] == 1
    assert len(row['targets']) <= limit
  assert max(len(row['targets']) for row in rows) == limit
  checks.check_answers('dss_toy', 24)
  with pytest.raises(errors.UserError, match='tokens'):
    checks.check_answers('dss_toy', len(vocabulary.encode('[label] ')) + 1)


def test_a_packed_row_has_each_input_once(configure):
  configure()
  inputs = sum(len(row['inputs']) for row in rows_of('toy_finetune'))
  configure(shared_encoder=True)
  rows = list(pipeline.make_dataset(
      'dss_toy', 'train', LENGTHS, pack=True, shuffle=False, seed=0,
      num_epochs=1).as_numpy_iterator())
  assert sum(int((row['encoder_input_tokens'] > 0).sum()) for row in rows) == inputs
  row = rows[0]
  label, rationale = ((row['decoder_segment_ids'] == number) for number in (1, 2))
  read = row['decoder_cross_segment_ids']
  assert set(read[label]) == set(read[rationale]) == {1}
  learnt = [row['decoder_objective'][mine].max() for mine in (label, rationale)]
  assert learnt == [objective.LABEL, objective.RATIONALE]
  for batch in pipeline.eval_batches('dss_toy', 'validation', LENGTHS, batch_size=4, pack=False):
    assert feature_converter.READ not in batch


def test_an_input_of_its_own_is_not_shared(configure):
  configure(shared_encoder=True, objectives=FURTHER)
  lengths = {'inputs': 256, 'targets': 128}
  row = next(pipeline.make_dataset('dss_toy', 'train', lengths, pack=True, shuffle=False, seed=0,
                                   num_epochs=1).as_numpy_iterator())
  found = {}
  for segment in range(1, row['decoder_segment_ids'].max() + 1):
    mine = row['decoder_segment_ids'] == segment
    found[segment] = (row['decoder_objective'][mine].max(), row[feature_converter.READ][mine][0])
  assert [found[i] for i in (1, 2, 3)] == [(3, 1), (1, 2), (2, 2)]


def test_auto_rows_count_an_input_once(configure):
  limits = {'inputs': 64, 'targets': 40}
  configure()
  apart = row_lengths.measure('dss_toy', limits, Asked(AUTO, AUTO))
  configure(shared_encoder=True)
  shared = row_lengths.measure('dss_toy', limits, Asked(AUTO, AUTO))
  assert apart.saved == 0.0 and 'saves' not in str(apart)
  assert 0.4 < shared.saved <= 0.5 and 'whose encoder saves' in str(shared)
  ratio = [rows.lengths['targets'] / rows.lengths['inputs'] for rows in (apart, shared)]
  assert ratio[1] > 1.5 * ratio[0]
  held = [len(set(read[read > 0])) for batch in [next(iter(pipeline.train_iterator(
      'dss_toy', shared.lengths, batch_size=shared.batch_size, pack=True, seed=0)))]
          for read in batch[feature_converter.READ].numpy()]
  assert abs(sum(held) / shared.inputs - 1) < 0.15


def test_half_the_tokens_of_pairs_are_saved():
  rng = np.random.default_rng(0)
  inputs, targets = np.repeat(rng.integers(20, 60, 2048), 2), rng.integers(4, 40, 4096)
  same = np.arange(4096) % 2 == 1
  rows = row_lengths.choose(inputs, targets, same, Asked(AUTO, AUTO), same)
  assert rows.saved == pytest.approx(0.5) and min(rows.filled.values()) > 0.9


def test_caches_tell_them_apart(configure):
  configure()
  plain = vocabularies.describe(data.settings.current())
  configure(shared_encoder=True)
  assert vocabularies.describe(data.settings.current()) != plain


def test_what_is_no_flag_is_refused():
  with pytest.raises(errors.UserError, match='DataSettings.shared_encoder=1: use True or False'):
    data.configure(shared_encoder=1)
