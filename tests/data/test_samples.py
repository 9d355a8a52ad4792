"""Several rationales of an input: which are learnt, in which epoch, and what stays as it was."""

import collections
import dataclasses

import numpy as np
import pytest
import seqio
import tensorflow as tf

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, records
from dss_jax.data import checks, pipeline, row_lengths
from dss_jax.train import watchdogs

LENGTHS = {'inputs': 64, 'targets': 48}
INPUTS = 60
GOLD = '( 1.0 + 2.0 )'
LABELS = ('( 3.0 )', '( 7.0 )', '( 2.0 + 1.0 )')  # of samples 0, 1, 2


def of_input(number):
  """One to three samples; every seventh input has none that parsed."""
  one = records.RationaleRecord(
      id=str(number), input=f'input {number}', label=GOLD, schema_version=records.SAMPLES_VERSION)
  if number % 7 == 3:
    return [dataclasses.replace(one, parse_status='truncated')]
  return [dataclasses.replace(one, sample=k, teacher_label=LABELS[k], rationale=f'{number} by {k}')
          for k in range(1 + number % 3)]


ROWS = [row for number in range(INPUTS) for row in of_input(number)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = str(tmp_path_factory.mktemp('samples'))
  for split in ('train', 'validation'):
    records.write_records(made, 'svamp', split, ROWS, num_shards=3)
  return made


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """The same with sample 0 alone, as schema 1 has it."""
  made = str(tmp_path_factory.mktemp('plain'))
  for split in ('train', 'validation'):
    records.write_records(made, 'svamp', split, [
        dataclasses.replace(row, schema_version=1) for row in ROWS if not row.sample],
        num_shards=3)
  return made


def configure(folder, **settings):
  data.configure(records_dir=folder, vocabulary='bytes', **settings)


def examples(name, split='train', **arguments):
  task = seqio.get_mixture_or_task(name)
  decode = task.output_features['targets'].vocabulary.decode
  rows = task.get_dataset(LENGTHS, split=split, **{'seed': 1, 'num_epochs': 1, **arguments})
  return [(int(row['objective'][0]), *(decode(row[side].tolist()) for side in (
      'inputs', 'targets'))) for row in rows.as_numpy_iterator()]


def rationales(*which, **arguments):
  return [target for _, _, target in examples('dss_svamp_rationale', *which, **arguments)]


def learnt(keep):
  """The rationales of the records that `keep` is true of."""
  return sorted(row.rationale for row in ROWS if row.rationale and keep(row))


def batches(settings, pack=True):
  configure(**settings)
  lengths = {'inputs': 256, 'targets': 160} if pack else LENGTHS
  return pipeline.train_iterator('dss_svamp', lengths, batch_size=4, pack=pack, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize('settings', [{}, {'train_fraction': 0.4}])
def test_the_first_samples_make_the_batches_of_records_without_others(folder, plain, settings):
  ours, theirs = (batches({'folder': one, **settings}) for one in (folder, plain))
  for _ in range(25):
    found, wanted = pipeline.to_numpy(next(ours)), pipeline.to_numpy(next(theirs))
    for name, value in wanted.items():
      np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize('shuffle', [True, False])
def test_each_epoch_has_the_next_rationale(folder, shuffle):
  configure(folder, rationales='cycle')
  found = rationales(num_epochs=7, shuffle=shuffle)
  each = len(learnt(lambda row: not row.sample))
  assert len(found) == 7 * each
  for epoch in range(7):
    assert sorted(found[epoch * each:(epoch + 1) * each]) == learnt(
        lambda row, epoch=epoch: row.sample == epoch % len(of_input(int(row.id))))
  if not shuffle:
    assert rationales(shuffle=False) == found[:each]
  assert len(examples('dss_svamp_label', num_epochs=2, shuffle=shuffle)) == 2 * INPUTS


def test_all_of_them_and_the_label_once(folder):
  configure(folder, rationales='all')
  assert sorted(rationales()) == learnt(lambda row: True)
  found = examples('dss_svamp', num_epochs=2)
  assert collections.Counter(target for _, _, target in found) == collections.Counter(
      {GOLD: 2 * INPUTS, **dict.fromkeys(learnt(lambda row: True), 2)})
  names = [text.split('] ')[1] for _, text, _ in found]
  assert len([1 for one, two in zip(names, names[1:]) if one != two]) == 2 * INPUTS - 1
  both = [target for _, _, target in examples('svamp_rationale_then_label')]
  assert len(both) == len(rationales()) and all(target.endswith(GOLD) for target in both)


@pytest.mark.parametrize(('agreeing', 'wanted'), [
    ('any', {0, 1, 2}), ('label', {0, 2}), ('teacher_label', {0, 2})])
def test_agreement_is_by_value(folder, agreeing, wanted):
  configure(folder, rationales='all', agreeing=agreeing)
  assert sorted(rationales()) == learnt(lambda row: row.sample in wanted)
  configure(folder, rationales='cycle', agreeing=agreeing)
  each = len(learnt(lambda row: not row.sample))
  second = rationales(num_epochs=2)[each:]
  assert second.count('2 by 2') == (agreeing != 'any') and second.count('2 by 1') != second.count(
      '2 by 2')


def test_agreement_is_by_the_metric(tmp_path):
  data.register('pets', metric='normalized_text')
  said = ('cat', 'the cat.', 'Dog', 'a cat')
  records.write_records(str(tmp_path), 'pets', 'train', records.numbered([
      records.RationaleRecord(id='1', input='x', label='The Cat', teacher_label=one,
                              rationale=f'of {one}', dataset='pets', split='train')
      for one in said], ()))
  for agreeing in ('label', 'teacher_label'):
    configure(str(tmp_path), rationales='all', agreeing=agreeing)
    assert [target for _, _, target in examples('dss_pets_rationale')] == [
        f'of {one}' for one in said if one != 'Dog']
  data.register('pets')  # By the text alone none agrees, and what is the cause is named.
  configure(str(tmp_path), agreeing='label')
  with pytest.raises(errors.UserError, match="this task can use; AGREEING is 'label'"):
    checks.measure('dss_pets_rationale', 'train')


@pytest.mark.parametrize(('name', 'chosen', 'says'), [
    ('dss_svamp', {'soft_labels': 1.0}, ['SOFT_LABELS=1']),
    ('dss_svamp_teacher', {'soft_labels': 1.0}, []), ('svamp_distill', {'soft_labels': 1.0}, []),
    ('svamp_finetune', {'rationales': 'all', 'agreeing': 'label', 'shared_encoder': True},
     ['RATIONALE_SAMPLES=all', 'AGREEING=label', 'SHARED_ENCODER']),
    ('svamp_rationale_then_label', {'rationales': 'all', 'agreeing': 'label'}, []),
    ('dss_svamp', {'rationales': 'all', 'shared_encoder': True}, []), ('dss_svamp', {}, [])])
def test_what_changes_nothing_is_told(folder, name, chosen, says):
  configure(folder, **chosen)
  said = checks.check_effect(name)
  assert [line.split()[0] for line in said] == says
  assert all(f'changes nothing: no task of {name} ' in line for line in said)


@pytest.mark.parametrize(('agreeing', 'explained'), [
    ('any', ['of a', 'of b', 'of c']), ('label', ['of a', 'of c']),
    ('teacher_label', ['of a', 'of b', 'of c'])])
def test_agreement_of_records_with_one_rationale(tmp_path, agreeing, explained):
  records.write_records(str(tmp_path), 'toy', 'train', [
      records.RationaleRecord(id=one, input=one, label=label, teacher_label='left',
                              rationale=f'of {one}')
      for one, label in (('a', 'left'), ('b', 'right'), ('c', ''))])
  configure(str(tmp_path), agreeing=agreeing)
  assert sorted(target for _, _, target in examples('dss_toy_rationale')) == explained
  assert len(examples('dss_toy_label')) == 2
  assert len(examples('dss_toy_teacher_label')) == 3  # It says which rationales are learnt.


@pytest.mark.parametrize('rationales_', ['first', 'cycle', 'all'])
def test_validation_sees_each_input_once(folder, plain, rationales_):
  configure(folder, rationales=rationales_, agreeing='label')
  found = examples('dss_svamp', 'validation', shuffle=False)
  configure(plain)
  assert found == examples('dss_svamp', 'validation', shuffle=False)


@pytest.mark.parametrize('rationales_', ['first', 'all'])
def test_a_fraction_is_of_inputs_whatever_their_samples(folder, plain, rationales_):
  configure(plain, train_fraction=0.2)
  wanted = {text for _, text, _ in examples('dss_svamp')}
  configure(folder, train_fraction=0.2, rationales=rationales_)
  assert {text for _, text, _ in examples('dss_svamp')} == wanted
  assert len(examples('dss_svamp_label')) == INPUTS // 5


@pytest.mark.slow
@pytest.mark.parametrize('rationales_', ['cycle', 'all'])
def test_packed_and_unpacked_hold_the_same_examples(folder, rationales_):
  configure(folder, rationales=rationales_)
  def found(pack):
    rows = pipeline.make_dataset('dss_svamp', 'train', {'inputs': 128, 'targets': 128}, pack=pack,
                                 shuffle=True, seed=0, num_epochs=2)
    for row in rows.as_numpy_iterator():
      inside = [row.get(f'{side}_segment_ids', row[f'{side}_{tokens}'] > 0).astype(int)
                for side, tokens in (('encoder', 'input_tokens'), ('decoder', 'target_tokens'))]
      for one in range(1, inside[1].max() + 1):
        yield (*row['encoder_input_tokens'][inside[0] == one], 0,
               *row['decoder_target_tokens'][inside[1] == one],
               *row['decoder_objective'][inside[1] == one])
  assert sorted(found(True)) == sorted(found(False))


@pytest.mark.slow
@pytest.mark.parametrize('rationales_', ['cycle', 'all'])
def test_a_saved_position_goes_on_in_its_epoch(folder, tmp_path, rationales_):
  """Epochs are of some eight batches."""
  settings = {'folder': folder, 'rationales': rationales_, 'agreeing': 'label'}
  whole = batches(settings)
  for _ in range(20):
    next(whole)
  saved = tf.train.Checkpoint(iterator=whole).write(str(tmp_path / 'position'))
  resumed = batches(settings)
  tf.train.Checkpoint(iterator=resumed).read(saved).assert_consumed()
  for _ in range(25):
    ours, theirs = pipeline.to_numpy(next(whole)), pipeline.to_numpy(next(resumed))
    for name, value in ours.items():
      np.testing.assert_array_equal(theirs[name], value)


def test_rows_of_a_batch_are_measured_on_all_rationales(tmp_path):
  long = [dataclasses.replace(row, rationale=row.rationale + ' so' * 40 * row.sample)
          for row in ROWS if row.rationale]
  records.write_records(str(tmp_path), 'svamp', 'train', long)
  configure(str(tmp_path), rationales='cycle')
  found = row_lengths.measure('dss_svamp', {'inputs': 256, 'targets': 256}, row_lengths.Asked(
      row_lengths.AUTO, row_lengths.AUTO, pack=False))
  assert found.lengths['targets'] == 256


@pytest.mark.slow
def test_a_batch_finds_its_records_in_any_epoch(folder):
  lengths = {'inputs': 256, 'targets': 160}
  found = batches({'folder': folder, 'rationales': 'cycle'})
  for _ in range(20):
    batch = pipeline.to_numpy(next(found))
  ids = watchdogs.batch_ids('dss_svamp', lengths, batch)
  assert len(ids) >= int(batch['encoder_segment_ids'].max(axis=1).sum()) // 2


def test_rows_have_the_votes(tmp_path):
  votes = dataclasses.replace(ROWS[0], label_votes=(2.0, 0.5))
  records.write_records(str(tmp_path), 'toy', 'train', [votes, *ROWS[1:3]])
  for settings in ({}, {'rationales': 'all'}):
    configure(str(tmp_path), **settings)
    source = pipeline.sources('dss_toy')[0]
    found = {row['id']: row['label_votes'].tolist()
             for row in source.get_dataset('train', shuffle=False).as_numpy_iterator()}
    assert found[b'0'] == [2.0, 0.5] and not any(found[b'1'])


def test_coverage_counts_each_label_once_and_each_rationale(folder):
  for rationales_ in ('cycle', 'all'):
    configure(folder, rationales=rationales_)
    texts = checks._texts(pipeline.sources('dss_svamp')[0], 'train', 10_000)
    assert [len(texts[field]) for field in ('input', 'label')] == [INPUTS, INPUTS]
    assert sorted(texts['rationale']) == learnt(lambda row: True)


@pytest.mark.parametrize('rationales_', ['cycle', 'all'])
def test_one_rationale_an_input_is_nothing_to_choose_from(plain, rationales_):
  configure(plain, rationales=rationales_)
  with pytest.raises(errors.UserError, match=f"rationales='{rationales_}': svamp-train of .* one ra"
                                             '.*--keep_samples.*dss merge'):
    examples('dss_svamp')


def test_the_control_is_of_first_rationales(folder):
  configure(folder, rationales='all')
  with pytest.raises(errors.UserError, match="rationales='all'.*dss_svamp_shuffled exchanges"):
    examples('dss_svamp_shuffled')


def test_a_task_without_rows_counts_inputs(tmp_path):
  records.write_records(str(tmp_path), 'svamp', 'train', [
      dataclasses.replace(row, label='') for row in ROWS])
  configure(str(tmp_path))
  with pytest.raises(errors.UserError, match='svamp-train holds 60 inputs'):
    checks.measure('svamp_finetune', 'train')


@pytest.mark.parametrize('field', ['rationales', 'agreeing'])
def test_an_unknown_word_is_refused(field):
  with pytest.raises(errors.UserError, match=f'DataSettings.{field}='):
    data.configure(**{field: 'some'})
