"""What `configure` hands to the tasks: a vocabulary, prefixes, a folder, whoever holds them."""

import pathlib

import pytest
import seqio
import tensorflow as tf

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, records
from dss_jax.data import vocabularies

LENGTHS = {'inputs': 64, 'targets': 24}


def vocabulary_of(name):
  return seqio.get_mixture_or_task(name).output_features['inputs'].vocabulary


def test_a_task_has_the_vocabulary_that_it_is_told(toy_records, toy_vocabulary):
  data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary)
  theirs = seqio.SentencePieceVocabulary(toy_vocabulary, extra_ids=0)
  assert vocabulary_of('dss_toy') == theirs and theirs == vocabulary_of('toy_finetune')
  assert vocabulary_of('dss_toy') is vocabularies.load(toy_vocabulary) is vocabularies.current()
  data.configure(records_dir=str(toy_records), vocabulary='bytes')
  assert seqio.ByteVocabulary() == vocabulary_of('dss_toy')


def test_our_tasks_join_somebody_elses_mixture(toy_records):
  data.configure(records_dir=str(toy_records), vocabulary='bytes')
  features = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
              for name in ('inputs', 'targets')}
  seqio.TaskRegistry.add(
      'others_task', source=seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None,
                                                     splits=['train']),
      preprocessors=[], output_features=features)
  try:
    mixture = seqio.MixtureRegistry.add(
        'others_mixture', ['others_task', 'dss_toy_label'], default_rate=1.0)
    assert set(mixture.output_features) == {'inputs', 'targets'}
  finally:
    seqio.TaskRegistry.remove('others_task')
    seqio.MixtureRegistry.remove('others_mixture')


@pytest.fixture
def mixtures_made_at_import():
  """Of our mixtures and tasks and of a task of their own, before `configure`."""
  data.configure()
  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  seqio.TaskRegistry.add(
      'theirs_text', seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
              {'inputs': 'a', 'targets': 'b'}).repeat(9), splits=['train']),
      output_features={'inputs': feature, 'targets': feature},
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos])
  seqio.MixtureRegistry.add('mine', ['dss_cqa', 'dss_svamp'], default_rate=1.0)
  seqio.MixtureRegistry.add('ours', ['dss_cqa', 'dss_svamp_label'], default_rate=1.0,
                            mixture_cls=data.DssMixture)
  seqio.MixtureRegistry.add('with_theirs', ['theirs_text', 'dss_cqa_rationale'], default_rate=1.0)
  yield
  seqio.TaskRegistry.remove('theirs_text')
  for name in ('mine', 'ours', 'with_theirs'):
    seqio.MixtureRegistry.remove(name)


def texts(name):
  rows = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, shuffle=False, num_epochs=None)
  vocabulary = seqio.ByteVocabulary()
  return {tuple(vocabulary.decode(row[side].tolist()) for side in ('inputs', 'targets'))
          for row in rows.take(200).as_numpy_iterator()}


@pytest.mark.slow
def test_mixtures_made_before_configure_read_what_it_says(
    mixtures_made_at_import, tmp_path, monkeypatch):
  monkeypatch.delenv('DSS_DATA_DIR', raising=False)
  for name in ('cqa', 'svamp'):
    records.write_records(str(tmp_path), name, 'train', [records.RationaleRecord(
        id='1', input=f'a {name}', label='yes', rationale='So.', teacher_label='no')])
  with pytest.raises(errors.UserError, match='no folder of records'):
    texts('mine')
  data.configure(records_dir=str(tmp_path), vocabulary='bytes', rationale_prefix='explain: ')
  cqa = {('[label] a cqa', 'yes'), ('explain: a cqa', 'So.')}
  svamp = {('[label] a svamp', 'yes'), ('explain: a svamp', 'So.')}
  assert texts('mine') == cqa | svamp
  assert texts('ours') == cqa | {('[label] a svamp', 'yes')}
  assert texts('with_theirs') == {('a', 'b'), ('explain: a cqa', 'So.')}
  data.configure(records_dir=str(tmp_path), vocabulary='bytes', objectives=[
      ('answer', '[answer] ', 'teacher_label', 0.2)])
  assert ('[answer] a cqa', 'no') in texts('mine') and len(texts('mine')) == 6
  read = seqio.TaskRegistry.get('dss_cqa_label').postprocessor
  assert read.reader().read('nest') == 'nest' and read.vocabulary == 'bytes'


def test_a_task_of_an_objective_that_is_no_more_goes(mixtures_made_at_import):
  data.configure(vocabulary='bytes', objectives=[('answer', '[answer] ', 'teacher_label', 0.2)])
  assert [task.name for task in seqio.get_mixture_or_task('dss_anli').tasks] == [
      'dss_anli_answer', 'dss_anli_label', 'dss_anli_rationale']
  data.configure(vocabulary='bytes')
  assert 'dss_anli_answer' not in seqio.TaskRegistry.names()
  assert len(seqio.get_mixture_or_task('dss_anli').tasks) == 2


@pytest.mark.parametrize(('row', 'message'), [
    (('teacher', '', 'label', 1), "'dss_.*_teacher' is a name of dataset .* already"),
    (('shuffled_rationale', '', 'label', 1), "'dss_.*_shuffled_rationale' is a name of"),
    (('premise', '', 'premise', 1), r"DSS_OBJECTIVES\['premise'\].target='premise' is no field")])
def test_an_objective_that_cannot_be_a_task_is_refused(mixtures_made_at_import, row, message):
  before = data.settings.current()
  with pytest.raises(errors.UserError, match=message):
    data.configure(vocabulary='bytes', objectives=[row])
  assert data.settings.current() is before
  assert len(seqio.get_mixture_or_task('dss_anli').tasks) == 2


def test_no_pure_function_of_the_data_reads_a_global():
  """Settings are handed in; `current` is for those that look at what is configured."""
  folder = pathlib.Path(data.__file__).parent
  for name in ('preprocessors', 'source', 'control', 'record_task', 'mixture', 'packing',
               'feature_converter'):
    text = (folder / f'{name}.py').read_text()
    assert 'current()' not in text and 'settings.records_dir' not in text, name
