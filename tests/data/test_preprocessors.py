"""From a record to tokens, with literal rows."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from dss_jax import data, errors, objective, records
from dss_jax.data import pipeline, settings, vocabularies
from dss_jax.data import preprocessors as prep

ROW = records.RationaleRecord(
    id='7', input='Where do birds live?', label='nest', teacher_label='tree', dataset='birds',
    teacher_model='llm', rationale='Birds build nests.', split='train')


def rows(*changes):
  """A dataset of ROW with some fields changed."""
  made = [dataclasses.replace(ROW, **change) for change in changes or ({},)]
  return tf.data.Dataset.from_tensor_slices(
      {key: [getattr(m, key) for m in made] for key in records.TEXT_FIELDS})


def texts(dataset):
  return [(ex['inputs'].decode(), ex['targets'].decode(), int(ex['objective']))
          for ex in dataset.as_numpy_iterator()]


BYTES = settings.DataSettings(vocabulary='bytes')


def example(prefix, target, task, inputs='{input}'):
  return functools.partial(
      prep.example, learnt=objective.Objective('it', prefix, target, 1.0, inputs), task=task)


RATIONALE = example('[rationale] ', 'rationale', objective.RATIONALE)


def test_label_and_rationale_share_the_input_and_differ_in_the_prefix():
  assert texts(rows().map(example('[label] ', 'label', objective.LABEL))) == [
      ('[label] Where do birds live?', 'nest', objective.LABEL)]
  assert texts(rows().map(RATIONALE)) == [
      ('[rationale] Where do birds live?', 'Birds build nests.', objective.RATIONALE)]


def test_any_field_of_a_record_is_a_target():
  made = rows({}, {'teacher_model': ''})
  assert texts(made.map(example('who? ', 'dataset', 3)))[0] == (
      'who? Where do birds live?', 'birds', 3)
  assert len(list(made.filter(functools.partial(prep.has_target, target='teacher_model')))) == 1


def test_an_input_is_made_of_any_fields():
  """Rationale-conditioned labels, and rationales of a given label."""
  made = rows({}, {'parse_status': 'truncated', 'teacher_label': 'tree'}, {'label': ''})
  conditioned = example('[answer] ', 'label', 3, '{input}</s>{rationale}')
  explained = example('', 'rationale', 3, 'Why {label}? {input}')
  assert texts(made.map(conditioned))[:2] == [
      ('[answer] Where do birds live?</s>Birds build nests.', 'nest', 3),
      ('[answer] Where do birds live?</s>', 'nest', 3)]
  assert texts(made.map(explained))[0] == (
      'Why nest? Where do birds live?', 'Birds build nests.', 3)
  def kept(target, *reads):
    keep = functools.partial(prep.has_target, target=target, reads=reads)
    return [i for i, row in enumerate(made) if keep(row)]
  assert kept('label', 'input') == [0, 1]
  assert kept('label', 'input', 'rationale') == [0]  # What failed is nobody's input.
  assert kept('label', 'teacher_label') == [0]
  assert kept('rationale', 'label', 'input') == [0]


def test_the_released_prefixes_are_a_setting():
  chosen = data.configure(
      vocabulary='bytes', label_prefix='predict: ', rationale_prefix='explain: ')
  assert [row.prefix for row in chosen.table()] == ['predict: ', 'explain: ']
  assert [task.objective.prefix for task in pipeline.record_tasks('dss_toy')] == [
      'predict: ', 'explain: ']


def test_baselines_have_no_prefix():
  assert texts(rows().map(example('', 'label', objective.LABEL))) == [
      ('Where do birds live?', 'nest', objective.LABEL)]
  assert pipeline.record_tasks('toy_finetune')[0].objective.prefix == ''


def test_teacher_labels_replace_gold_on_train_only():
  made = rows({}, {'split': 'validation'}, {'split': 'validation', 'label': ''})
  examples = made.map(example('', 'teacher_label', objective.LABEL))
  targets = [target for _, target, _ in texts(examples)]
  assert targets == ['tree', 'nest', 'tree']


def test_a_failed_row_keeps_its_gold_label_and_nothing_else():
  failed = {'parse_status': 'no_answer_phrase', 'teacher_label': '', 'rationale': ''}
  made = rows({}, {'id': '8', **failed})
  def kept(keep):
    return [r['id'].decode() for r in made.filter(keep).as_numpy_iterator()]
  assert kept(prep.has_gold_label) == ['7', '8']
  assert kept(prep.parsed) == ['7']
  assert kept(functools.partial(prep.has_target, target='teacher_label')) == ['7']
  assert kept(functools.partial(prep.has_target, target='label')) == ['7', '8']
  assert kept(functools.partial(prep.has_target, target='rationale')) == ['7']
  assert kept(prep.is_for_rationale_then_label) == ['7']


def test_rows_without_gold_labels_are_for_the_teacher_tasks():
  made = rows({'label': ''})
  assert not list(made.filter(prep.has_gold_label))
  assert len(list(made.filter(functools.partial(prep.has_target, target='teacher_label')))) == 1


def test_rows_are_marked_and_left_out_at_the_end():
  made = rows({'parse_status': 'truncated'}, {'id': '8'})
  marked = prep.map_rows(made, RATIONALE, prep.parsed)
  assert [bool(r['keep']) for r in marked.as_numpy_iterator()] == [False, True]
  assert len({int(r['record']) for r in marked.as_numpy_iterator()}) == 2
  left, = prep.kept(marked).as_numpy_iterator()
  assert set(left) == {'id', 'inputs', 'targets', 'label', 'objective'} and left['id'] == b'8'


def test_rationale_then_label_and_back():
  phrase = 'So the answer is'
  made = rows().map(lambda r: prep.rationale_then_label_example(r, answer_phrase=phrase))
  assert texts(made)[0][1] == 'Birds build nests. So the answer is nest'
  read = prep.ReadAnswer('birds', 'bytes', phrase=phrase)
  assert read('A. So the answer is b? So the answer is nest ') == 'nest'
  assert read('no phrase here') == ''
  row, = made.as_numpy_iterator()
  assert read('what the vocabulary made of it', example=row, is_target=True) == 'nest'
  with pytest.raises(errors.UserError, match='cache it again'):
    read('nest', example={}, is_target=True)


def tokenized(text):
  features = {side: type('F', (), {'vocabulary': vocabularies.load('bytes')})
              for side in ('inputs', 'targets')}
  made = tf.data.Dataset.from_tensor_slices(
      {'inputs': [text, 'other'], 'targets': ['ab', ''], 'objective': [2, 1]})
  return list(prep.tokenize(made, features, BYTES).as_numpy_iterator())[0]


def test_the_marker_becomes_the_eos_id():
  ids = tokenized('ab</s>c')['inputs']
  a = 3 + ord('a')
  assert ids.tolist() == [a, a + 1, 1, a + 2] and ids.dtype == np.int32
  assert tokenized('ab')['inputs'].tolist() == [a, a + 1]


def test_every_target_token_carries_its_task():
  spread, = prep.spread_objective(tf.data.Dataset.from_tensors(
      {'targets': [5, 6, 1], 'objective': 2})).as_numpy_iterator()
  assert spread['objective'].tolist() == [2, 2, 2]
