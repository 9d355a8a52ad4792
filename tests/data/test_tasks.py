"""Registered tasks and mixtures over real record files."""

import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

import dss_jax.tasks  # noqa: F401
from dss_jax import data, datasets, errors, objective, records
from dss_jax.data import checks, pipeline, settings
from dss_jax.data import source as source_lib

LENGTHS = {'inputs': 64, 'targets': 24}
DATASETS = ('esnli', 'anli', 'cqa', 'svamp', 'asdiv', 'toy')


@pytest.mark.parametrize('name', DATASETS)
def test_all_names_of_the_design_are_registered(name):
  for mixture, parts in ((f'dss_{name}', ['label', 'rationale']),
                         (f'dss_{name}_teacher', ['rationale', 'teacher_label']),
                         (f'dss_{name}_shuffled', ['label', 'shuffled_rationale'])):
    tasks = [task.name for task in seqio.get_mixture_or_task(mixture).tasks]
    assert tasks == [f'dss_{name}_{part}' for part in parts]
  for task in (f'{name}_finetune', f'{name}_distill', f'{name}_rationale_then_label'):
    assert seqio.get_mixture_or_task(task).metric_fns


def test_importing_the_tasks_touches_no_file_and_no_network(tmp_path):
  code = """
import builtins, os, socket, sys
import seqio, tensorflow as tf, dss_jax.data  # the libraries may read; the tasks must not
def refuse(*args, **kwargs): raise AssertionError(f'touched {args}')
real_open = builtins.open
def guarded(path, *args, **kwargs):
  if not str(path).endswith(('.py', '.pyc')): refuse(path)
  return real_open(path, *args, **kwargs)
builtins.open = guarded
tf.io.gfile.GFile = tf.io.gfile.exists = tf.io.gfile.glob = refuse
socket.socket = refuse
import dss_jax.tasks
assert seqio.get_mixture_or_task('dss_anli').tasks
"""
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path, timeout=600)


def test_a_dss_batch_holds_each_input_as_label_and_as_rationale(toy_data):
  rows = pipeline.make_dataset('dss_toy', 'train', LENGTHS, pack=False, shuffle=True, seed=0,
                               num_epochs=None)
  batch = next(rows.batch(32).as_numpy_iterator())
  tasks = batch['decoder_objective'].max(axis=1)
  assert (tasks == objective.LABEL).sum() == (tasks == objective.RATIONALE).sum() == 16
  vocabulary = seqio.get_mixture_or_task('dss_toy').output_features['inputs'].vocabulary
  inputs = [vocabulary.decode(row.tolist()) for row in batch['encoder_input_tokens']]
  stripped = [text.replace('[label] ', '').replace('[rationale] ', '') for text in inputs]
  assert stripped[0::2] == stripped[1::2]
  np.testing.assert_array_equal(batch['decoder_objective'] > 0, batch['decoder_target_tokens'] > 0)


def test_packed_and_unpacked_hold_the_same_examples(toy_data):
  def examples(pack):
    found = []
    for row in pipeline.make_dataset('dss_toy', 'train', LENGTHS, pack=pack, shuffle=False, seed=0,
                                     num_epochs=1).as_numpy_iterator():
      segments = row.get('decoder_segment_ids', (row['decoder_target_tokens'] > 0).astype(int))
      sources = row.get('encoder_segment_ids', (row['encoder_input_tokens'] > 0).astype(int))
      for one in range(1, segments.max() + 1):
        found.append((tuple(row['encoder_input_tokens'][sources == one]),
                      tuple(row['decoder_input_tokens'][segments == one]),
                      tuple(row['decoder_target_tokens'][segments == one]),
                      tuple(row['decoder_objective'][segments == one])))
    return sorted(found)
  assert examples(pack=True) == examples(pack=False)
  assert len(examples(pack=True)) == 2 * 96


def test_fractions_are_exact_and_nested(toy_records, toy_vocabulary):
  def ids(fraction, seed=0):
    data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary,
                   train_fraction=fraction, train_fraction_seed=seed)
    task = seqio.get_mixture_or_task('dss_toy_label')
    ds = task.get_dataset(LENGTHS, split='train', shuffle=False)
    return {ex['id'] for ex in ds.as_numpy_iterator()}
  eighth, quarter, all_ids = ids(0.125), ids(0.25), ids(1.0)
  assert [len(eighth), len(quarter), len(all_ids)] == [12, 24, 96]
  assert eighth < quarter < all_ids
  assert ids(0.25, seed=1) != quarter


def test_the_fraction_is_the_same_on_every_process(toy_records, toy_vocabulary):
  data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary, train_fraction=0.25)
  source = source_lib.RecordsSource(datasets.get('toy'), settings.current())
  def ids(shard_info=None):
    ds = source.get_dataset('train', shuffle=False, shard_info=shard_info)
    return sorted(row['id'] for row in ds.as_numpy_iterator())
  parts = [ids(seqio.ShardInfo(i, 2)) for i in range(2)]
  assert sorted(parts[0] + parts[1]) == ids()


@pytest.mark.parametrize('fraction', [0, -0.5, 1.5])
def test_a_senseless_fraction_is_refused(fraction):
  with pytest.raises(errors.UserError, match='train_fraction'):
    settings.DataSettings(train_fraction=fraction)


def test_the_data_position_resumes_exactly(toy_data, tmp_path):
  def iterator():
    return pipeline.train_iterator('dss_toy', LENGTHS, batch_size=4, pack=True, seed=5)
  first = iterator()
  for _ in range(40):  # Past the first epoch, into the shuffle of a later one.
    next(first)
  path = tf.train.Checkpoint(iterator=first).write(str(tmp_path / 'position'))
  expected = [pipeline.to_numpy(next(first)) for _ in range(50)]
  second = iterator()
  tf.train.Checkpoint(iterator=second).read(path).assert_consumed()
  for want in expected:
    got = pipeline.to_numpy(next(second))
    assert all(np.array_equal(got[key], want[key]) for key in want)


def test_somebody_elses_mixture_takes_our_tasks_with_stock_converters(toy_data):
  vocabulary = seqio.get_mixture_or_task('dss_toy').output_features['inputs'].vocabulary
  feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
  seqio.TaskRegistry.remove('theirs')
  seqio.TaskRegistry.add(
      'theirs',
      seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
              {'inputs': [5, 6, 1], 'targets': [7, 1]}).repeat(40), splits=['train']),
      output_features={'inputs': feature, 'targets': feature}, preprocessors=[
          lambda ds: ds.map(lambda ex: {k: tf.cast(v, tf.int32) for k, v in ex.items()})])
  seqio.MixtureRegistry.remove('theirs_and_ours')
  seqio.MixtureRegistry.add('theirs_and_ours', ['theirs', 'dss_toy'], default_rate=1.0)
  rows = seqio.get_dataset(
      'theirs_and_ours', LENGTHS, seqio.EncDecFeatureConverter(pack=True), verbose=False)
  row = next(rows.as_numpy_iterator())
  assert 'decoder_objective' not in row and row['decoder_segment_ids'].max() > 1
  with pytest.raises(errors.UserError, match="no 'objective' feature"):
    seqio.get_dataset('theirs_and_ours', LENGTHS, data.DssFeatureConverter(pack=True))


def test_a_dataset_of_ones_own_is_one_call(tmp_path):
  data.register('tickets', labels=('bug', 'billing'))
  data.configure(records_dir=str(tmp_path), vocabulary='bytes')
  records.write_records(str(tmp_path), 'tickets', 'train', [records.RationaleRecord(
      id='1', input='It crashes.', label='bug', rationale='Software broke.', teacher_label='bug')])
  rows = list(pipeline.make_dataset('dss_tickets', 'train', LENGTHS, pack=False, shuffle=False,
                                    seed=0, num_epochs=1).as_numpy_iterator())
  assert len(rows) == 2
  with pytest.raises(errors.UserError, match="metric='bleu'"):
    data.register('tickets', metric='bleu')


def test_an_unknown_task_suggests_the_nearest():
  with pytest.raises(errors.UserError, match="'dss_cka'.*did you mean.*'dss_cqa'"):
    pipeline.get_mixture_or_task('dss_cka')


def test_a_split_without_usable_rows_says_what_is_there(tmp_path):
  data.configure(records_dir=str(tmp_path), vocabulary='bytes')
  records.write_records(str(tmp_path), 'toy', 'train', [
      records.RationaleRecord(id='1', input='x', label='left', parse_status='no_answer_phrase')])
  with pytest.raises(errors.UserError, match=r"dss_toy_rationale' has no rows.*1 no_answer_phrase"):
    checks.measure('dss_toy', 'train')


@pytest.mark.parametrize('task', ['dss_toy', 'toy_finetune', 'toy_rationale_then_label'])
def test_without_gold_labels_the_teachers_are_named(tmp_path, task):
  rows = [records.RationaleRecord(id=str(i), input=f'x {i}', teacher_label='left',
                                  rationale='So.', parse_status='ok') for i in range(3)]
  records.write_records(str(tmp_path), 'toy', 'train', rows)
  data.configure(records_dir=str(tmp_path), vocabulary='bytes')
  with pytest.raises(errors.UserError, match=r'no gold labels: .*gin/native/dss_teacher\.gin '
                                             r'\(dss_toy_teacher\).*distill\.gin'):
    checks.measure(task, 'train')
  assert [one.task for one in checks.measure('dss_toy_teacher', 'train')]  # It is the way.


def test_lengths_that_cut_are_counted_and_refused_when_all_are(toy_data):
  measured = checks.measure('dss_toy', 'train')
  warnings = checks.check_lengths(measured, {'inputs': 64, 'targets': 24})
  assert warnings == []
  rationale = next(m for m in measured if m.task.endswith('rationale'))
  assert rationale.targets.tolist() == [7] * 96  # Three facts, three lanes, EOS.
  with pytest.raises(errors.UserError, match=r"96 of 96 targets .*\['targets'\] = 6 .*all would"):
    checks.check_lengths(measured, {'inputs': 64, 'targets': 6})
  assert len(checks.check_lengths(measured, {'inputs': 10, 'targets': 24})) == 2


def test_a_vocabulary_that_does_not_fit_is_refused(toy_data):
  with pytest.raises(errors.UserError, match=r'has \d+ ids, the model only 16.*VOCAB_SIZE=128'):
    checks.check_vocabulary('dss_toy', 16)


def test_a_vocabulary_that_is_not_there_is_named():
  data.configure(vocabulary='no/such.model')
  with pytest.raises(errors.UserError, match='vocabulary=no/such.model'):
    checks.check_vocabulary('dss_toy', 128)


@pytest.mark.slow
@pytest.mark.parametrize('saved_at', [1, 25])
def test_a_saved_position_goes_on_as_if_nothing_had_happened(toy_data, tmp_path, saved_at):
  """Over the ends of several epochs, which is where tf.data's own reshuffling loses its seeds."""
  def batches():
    return pipeline.train_iterator('dss_toy', LENGTHS, batch_size=8, pack=True, seed=0)
  whole = batches()
  wanted = [pipeline.to_numpy(next(whole)) for _ in range(150)]
  part = batches()
  for _ in range(saved_at):
    next(part)
  saved = tf.train.Checkpoint(iterator=part).write(str(tmp_path / 'position'))
  restored = batches()
  tf.train.Checkpoint(iterator=restored).read(saved).assert_consumed()
  for number, batch in enumerate(wanted[saved_at:], saved_at):
    found = pipeline.to_numpy(next(restored))
    for name, value in batch.items():
      np.testing.assert_array_equal(found[name], value, err_msg=f'{name} of batch {number}')


@pytest.mark.parametrize('fraction, rows', [(1.0, 96), (0.25, 24)])
def test_epochs_are_permutations_and_differ(toy_records, toy_vocabulary, fraction, rows):
  data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary, train_fraction=fraction)
  task = seqio.get_mixture_or_task('dss_toy_label')
  three = task.get_dataset(LENGTHS, split='train', shuffle=True, seed=3, num_epochs=3)
  ids = [row['id'] for row in three.as_numpy_iterator()]
  epochs = [ids[start:start + rows] for start in range(0, len(ids), rows)]
  assert len(epochs) == len({tuple(epoch) for epoch in epochs}) == 3
  assert all(sorted(epoch) == sorted(set(ids)) for epoch in epochs)
  forever = task.get_dataset(LENGTHS, split='train', shuffle=True, seed=3, num_epochs=None)
  assert [row['id'] for row in forever.take(len(ids)).as_numpy_iterator()] == ids


@pytest.fixture
def numbered_records(tmp_path):
  """32 rows of toy, train and validation: every rationale says whose it is, one row has none."""
  for split in ('train', 'validation'):
    records.write_records(str(tmp_path), 'toy', split, [
        records.RationaleRecord(
            id=str(i), input=f'input {i}', label='left', split=split, rationale=f'of {i}',
            parse_status='ok' if i else 'no_rationale') for i in range(32)])
  return str(tmp_path)


@pytest.mark.parametrize('fraction', [1.0, 0.5])
def test_the_control_gives_every_input_the_rationale_of_another(numbered_records, fraction):
  data.configure(records_dir=numbered_records, vocabulary='bytes', train_fraction=fraction)
  def pairs(task, split='train', **arguments):
    task = seqio.get_mixture_or_task(task)
    decode = task.output_features['targets'].vocabulary.decode
    rows = task.get_dataset({'inputs': 64, 'targets': 64}, split=split,
                            **{'shuffle': False, **arguments}).as_numpy_iterator()
    return {tuple(decode(row[side].tolist()) for side in ('inputs', 'targets')) for row in rows}
  own, exchanged = pairs('dss_toy_rationale'), pairs('dss_toy_shuffled_rationale')
  assert len(own) == len(exchanged) in ((31,) if fraction == 1 else (15, 16))
  assert not own & exchanged
  for side in (0, 1):
    assert {pair[side] for pair in own} == {pair[side] for pair in exchanged}
  assert pairs('dss_toy_shuffled_rationale', shuffle=True, seed=3, num_epochs=2) == exchanged
  assert pairs('dss_toy_shuffled_rationale', 'validation') == pairs(
      'dss_toy_rationale', 'validation')


def test_the_control_needs_two_rationales(numbered_records):
  data.configure(records_dir=numbered_records, vocabulary='bytes', train_fraction=0.03)
  with pytest.raises(errors.UserError, match='dss_toy_shuffled.*larger TRAIN_FRACTION'):
    checks.measure('dss_toy_shuffled', 'train')
