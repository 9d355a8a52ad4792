"""SOFT_LABELS: of a closed set, every label that the teacher voted for, with its share."""

import collections
import dataclasses

import pytest
import seqio

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, objective, records
from dss_jax.data import pipeline

VOTES = {'0': (3.0, 1.0), '1': (0.0, 2.0), '2': (), '3': (1.0, 1.0)}  # left, right
LENGTHS = {'inputs': 48, 'targets': 24}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = str(tmp_path_factory.mktemp('votes'))
  rows = []
  for one, votes in VOTES.items():
    row = records.RationaleRecord(id=one, input=f'parcel {one}', label='left', schema_version=2)
    if not votes:
      rows.append(dataclasses.replace(row, parse_status='truncated'))
    else:
      best = 'left' if votes[0] >= votes[1] else 'right'
      rows.append(dataclasses.replace(
          row, teacher_label=best, rationale=f'first {one}', label_votes=votes))
      rows.append(dataclasses.replace(
          row, teacher_label='right', rationale=f'second {one}', sample=1))
  for split in ('train', 'test'):
    records.write_records(made, 'toy', split, rows, num_shards=2)
  return made


def configure(folder, **settings):
  data.configure(records_dir=folder, vocabulary='bytes', **settings)


def shares(name, split='train'):
  """{(id, target): share} of a task's examples."""
  task = seqio.get_mixture_or_task(name)
  decode = task.output_features['targets'].vocabulary.decode
  found = collections.Counter()
  for row in task.get_dataset(LENGTHS, split=split, num_epochs=1).as_numpy_iterator():
    assert set(objective.task_of(row['objective'])) == {int(row['objective'][0]) % 256}
    text = decode(row['inputs'].tolist())[-1], decode(row['targets'].tolist())
    found[text] += float(objective.share_of(row['objective'])[0])
  return found


@pytest.mark.parametrize('name', ['dss_toy_teacher_label', 'toy_distill'])
def test_each_label_has_its_share_of_the_votes(folder, name):
  configure(folder, soft_labels=1.0)
  assert shares(name) == pytest.approx({
      ('0', 'left'): 0.75, ('0', 'right'): 0.25, ('1', 'right'): 1.0,
      ('3', 'left'): 0.5, ('3', 'right'): 0.5})
  assert shares(name, 'test') == {(one, 'left'): 1.0 for one in VOTES}  # Gold, as ever.


def test_the_temperature_flattens_and_sharpens(folder):
  for temperature, share in ((2.0, 3**0.5 / (3**0.5 + 1)), (0.5, 0.9)):
    configure(folder, soft_labels=temperature)
    assert shares('dss_toy_teacher_label')['0', 'left'] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize('rationales', ['first', 'all'])
def test_gold_labels_and_rationales_are_what_they_were(folder, rationales):
  found = []
  for soft_labels in (0.0, 1.0):
    configure(folder, soft_labels=soft_labels, rationales=rationales)
    found.append([shares(f'dss_toy_{part}') for part in ('label', 'rationale')])
  assert found[0] == found[1] and sum(found[0][1].values()) == (3 if rationales == 'first' else 6)


def test_the_mixture_holds_the_labels_of_an_input_side_by_side(folder):
  configure(folder, soft_labels=1.0)
  rows, = pipeline.eval_batches('dss_toy_teacher', 'train', LENGTHS, batch_size=8, pack=False)
  tasks = objective.task_of(rows['decoder_objective'][:, 0])
  assert collections.Counter(tasks.tolist()) == {1: 5, 2: 3}


def test_what_has_no_votes_is_refused(folder, tmp_path):
  records.write_records(str(tmp_path), 'toy', 'train', [
      records.RationaleRecord(id='1', input='x', label='left')], num_shards=1)
  configure(str(tmp_path), soft_labels=1.0)
  with pytest.raises(errors.UserError, match='soft_labels=1.0: .* have no votes: write them with'):
    shares('toy_distill')
  with pytest.raises(errors.UserError, match='soft_labels=-1: use a number of at least 0'):
    configure(folder, soft_labels=-1)
  configure(folder, soft_labels=1.0)
  with pytest.raises(errors.UserError, match='soft_labels=1.0: dss_toy_shuffled exchanges'):
    shares('dss_toy_shuffled_rationale')
