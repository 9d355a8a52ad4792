"""The vocabulary that our tasks hold equals the one it stands for, from either side."""

import copy
import pickle

import seqio

from dss_jax import data
from dss_jax.data import vocabularies


def test_equal_from_both_sides(toy_records, toy_vocabulary):
  ours = vocabularies.VOCABULARY
  data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary)
  theirs = seqio.SentencePieceVocabulary(toy_vocabulary, extra_ids=0)
  assert ours == theirs and theirs == ours
  assert copy.deepcopy(ours) is ours and pickle.loads(pickle.dumps(ours)) is ours
  assert seqio.ByteVocabulary() != ours and ours != seqio.ByteVocabulary()
  data.configure(records_dir=str(toy_records), vocabulary='bytes')
  assert seqio.ByteVocabulary() == ours and ours == seqio.ByteVocabulary()
  assert theirs != ours


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
