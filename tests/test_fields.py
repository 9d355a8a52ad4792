"""What a row's field may be, in every reader of rows, and what `register` takes."""

import json

import numpy as np
import pytest

import dss_jax.tasks  # noqa: F401
from dss_jax import data, datasets, errors, fields
from dss_jax.predict import __main__ as predict_main
from dss_jax.tasks import cqa
from dss_jax.teacher.inputs import reading, sources

ROWS = {  # A right row of each reader, as its file has it.
    'plain': {'id': '1', 'input': 'x', 'label': 'a'},
    'predict': {'id': '1', 'input': 'x', 'label': 'a', 'labels': ['a', 'b']},
    'anli': {'uid': '1', 'premise': 'x', 'hypothesis': 'y', 'label': 'neutral'},
    'esnli': {'id': '1', 'premise': 'x', 'hypothesis': 'y', 'label': 'neutral'},
    'cqa': {'id': '1', 'question': 'x', 'choices': ['a', 'b'], 'answer': 'a'},
    'svamp': {'ID': '1', 'Body': 'x', 'Question': 'y', 'Equation': '( 1 + 2 )'},
    'asdiv': {'ID': '1', 'Body': 'x', 'Question': 'y', 'Formula': '1+2=3'},
    'toy': {'id': '1', 'input': 'x', 'label': 'left'},
}
NO_TEXT = {'true': 'true', 'NaN': 'NaN', '["a"]': 'a list', '{"a": 1}': 'an object',
           '[[1]]': 'a list', '-Infinity': 'infinite'}


def _reader(name):
  if name == 'predict':
    return predict_main.read_input_row
  return datasets.read_plain_row if name == 'plain' else datasets.get(name).read_row


def _read(name, line):
  return datasets.as_example(_reader(name)(fields.parse_json(line), 0))


@pytest.mark.parametrize('name', ROWS)
@pytest.mark.parametrize('value', [*NO_TEXT, 'null'])
def test_what_is_no_text_is_refused_by_field(name, value):
  for field in ROWS[name]:
    is_label = field in ('label', 'answer', 'Equation', 'Formula', 'labels')
    if value == 'null' and is_label:
      continue  # Not known: below.
    row = {**ROWS[name], field: '@'}
    if field in ('choices', 'labels') and value == '["a"]':
      continue
    with pytest.raises(errors.UserError, match=f"^field '{field}'.* {NO_TEXT.get(value, value)}"):
      _read(name, json.dumps(row).replace('"@"', value))


@pytest.mark.parametrize('name, field', [
    ('plain', 'label'), ('predict', 'label'), ('cqa', 'answer'), ('svamp', 'Equation'),
    ('asdiv', 'Formula'),
    ('esnli', 'label')])
def test_a_null_label_is_not_known(name, field):
  assert _read(name, json.dumps({**ROWS[name], field: None})).label == ''


@pytest.mark.parametrize('written', ['1', '0', '-7', '1.0', '1e3', '0.10', '-0.5E-2', '1E400',
                                     '123456789012345678901234567890', '0.1000000000000000055511'])
def test_numbers_are_read_as_they_are_written(written):
  line = f'{{"id": {written}, "input": {written}, "label": {written}}}'
  for name in ('plain', 'predict'):
    assert _read(name, line) == datasets.Example(written, written, written)


def test_other_fields_may_hold_anything():
  line = '{"id": 7, "input": "x", "label": "a", "score": NaN, "meta": {"k": [null]}}'
  assert _read('plain', line) == datasets.Example('7', 'x', 'a')


@pytest.mark.parametrize('label, name', [
    (0, 'entailment'), ('2', 'contradiction'), (1.0, 'neutral'), (-1, ''), (3, '3'), ('x', 'x')])
def test_class_indices(label, name):
  for reader in ('anli', 'esnli'):
    assert _read(reader, json.dumps({**ROWS[reader], 'label': label})).label == name


def _hugging_face(key='B', keys=('A', 'B'), texts=('nest', 'sea')):
  return {'id': '1', 'question': 'Where?', 'question_concept': 'birds', 'answerKey': key,
          'choices': {'label': list(keys), 'text': list(texts)}}


@pytest.mark.parametrize('key, label', [('A', 'nest'), ('B', 'sea'), ('', '')])
def test_commonsense_qa_as_hugging_face_has_it(key, label):
  assert cqa.read_row(_hugging_face(key), 0) == datasets.Example(
      '1', 'Where?\nAnswer Choices:\n(a) nest\n(b) sea', label, ('nest', 'sea'))


@pytest.mark.parametrize('row, message', [
    (_hugging_face('C'), "answerKey 'C' is none of A, B"),
    (_hugging_face(keys=('A', 'A')), 'labels A, A: give each one of its own'),
    (_hugging_face(keys='A'), '2 choices have the labels A'),
    (_hugging_face(texts=('nest', None)), "'text', entry 2 is null"),
    ({**ROWS['cqa'], 'choices': 'abc'}, "'choices' is one text 'abc': give a list"),
    ({**ROWS['cqa'], 'choices': [{'label': 'A', 'text': 'nest'}]}, 'entry 1 is an object'),
    ({**ROWS['cqa'], 'choices': ['a', ' ']}, 'entry 2, is blank'),
    ({**ROWS['cqa'], 'choices': [str(i) for i in range(27)]}, '27 choices, but 26 letters'),
])
def test_choices_that_are_none(row, message):
  with pytest.raises(errors.UserError, match=message):
    cqa.read_row(row, 0)


@pytest.mark.parametrize('name, row, message', [
    ('svamp', {**ROWS['svamp'], 'Equation': 'forty-two'}, "line 1: gold equation 'forty-two'"),
    ('svamp', {**ROWS['svamp'], 'Equation': '( 4 / 0 )'}, 'division by zero'),
    ('anli', {**ROWS['anli'], 'label': 7}, "gold label '7' is not among the labels"),
    ('esnli', {**ROWS['esnli'], 'label': 1.5}, "gold label '1.5' is not among the labels"),
    ('free', {'id': '1', 'input': 'x', 'label': ' '}, 'the gold label is blank'),
    ('free', {'id': None, 'input': 'x'}, "line 1: field 'id' is null"),
])
def test_gold_labels_that_are_none(tmp_path, name, row, message):
  (tmp_path / 'in').write_text(json.dumps(row))
  dataset = (datasets.Dataset('free', datasets.read_plain_row) if name == 'free'
             else datasets.get(name))
  with pytest.raises(errors.UserError, match=message) as error:
    reading.read_inputs(str(tmp_path / 'in'), dataset)
  assert '\n' not in str(error.value)


def test_whoever_makes_an_example_its_fields_are_texts(tmp_path):
  assert datasets.Example(7, 'x', None) == datasets.Example('7', 'x')
  assert datasets.Example('7', 'x', np.int64(3), ['a', 1]).choices == ('a', '1')
  with pytest.raises(errors.UserError, match='its input is null'):
    datasets.Example('7', None)
  (tmp_path / 'in').write_text('{"x": 1}')
  for made in ({'id': '1'}, None):
    with pytest.raises(errors.UserError, match='line 1: read_row gave .*: return a datasets.Exam'):
      reading.read_inputs(str(tmp_path / 'in'), datasets.Dataset('d', lambda row, i, m=made: m))


def test_a_source_of_rows(tmp_path):
  def find(name, *rows):
    dataset = datasets.Dataset(name, datasets.read_plain_row, load=lambda split: rows)
    return sources.find(dataset, 'train', None, str(tmp_path))
  good = {'id': np.int32(3), 'input': b'caf\xc3\xa9', 'label': np.float32(0.1),
          'more': {'nested': np.arange(2)}}
  assert find('good', good)[0] == datasets.Example('3', 'café', '0.1')
  for name, row, message in (
      ('bytes', {'id': 1, 'input': b'\xff'}, "row 1 of the source, field 'input'"),
      ('set', {'id': 1, 'input': {'x'}}, "field 'input'.*set is not JSON"),
      ('nan', {'id': 1, 'input': float('nan')}, "line 1: field 'input' is NaN"),
      ('row', ('1', 'x'), 'row 1 of the source is a list')):
    with pytest.raises(errors.UserError, match=message):
      find(name, row)


# --- register ------------------------------------------------------------------------------------


@pytest.mark.parametrize('labels, found', [
    (('x ', ' y'), ('x ', ' y')), (['b', 'a'], ('b', 'a')), ((0, 1), ('0', '1')),
    (range(2), ('0', '1')), ((-1, 0.5), ('-1', '0.5')), ((x for x in 'ab'), ('a', 'b')),
    (np.array(['n', 'y']), ('n', 'y')), (('A', 'a'), ('A', 'a')), (('👍', '>50K'), ('👍', '>50K')),
    (None, None)])
def test_labels_are_taken_exactly(monkeypatch, labels, found):
  monkeypatch.setattr(datasets, '_REGISTRY', {})
  assert data.register('mine', labels=labels).labels == found
  assert datasets.get('mine').completion.label_kind == ('class' if found else 'text')


@pytest.mark.parametrize('arguments, message', [
    ({'labels': 'yes'}, "'mine': labels is one text 'yes': give a list"),
    ({'labels': {'y', 'n'}}, 'labels is a set, which has no order'),
    ({'labels': {'y': 0}}, 'labels is an object'),
    ({'labels': b'yn'}, 'labels is bytes'),
    ({'labels': 3}, 'labels is the number 3'),
    ({'labels': ()}, 'labels is empty: leave it out'),
    ({'labels': ('x', '')}, 'entry 2, is blank'),
    ({'labels': ('x', ' \t')}, 'entry 2, is blank'),
    ({'labels': ('x', None)}, 'entry 2 is null'),
    ({'labels': (True, False)}, 'entry 1 is true'),
    ({'labels': ('x', float('nan'))}, 'entry 2 is NaN'),
    ({'labels': (('x',),)}, 'entry 1 is a list'),
    ({'labels': ('x', 'y', 'x')}, "'x' is there twice"),
    ({'labels': (1, '1')}, "'1' is there twice"),
    ({'labels': ('x\ud83d',)}, 'half of a surrogate pair'),
    ({'records': {'train': 'svamp'}}, r"records\['train'\] is one text 'svamp'"),
    ({'completion': 'Q:'}, "completion is one text 'Q:': give a CompletionFormat"),
    ({'read_row': 'id'}, "read_row is one text 'id': give a function"),
    ({'load': [{'id': 1}]}, 'load is a list'),
])
def test_arguments_that_are_none(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    data.register('mine', **arguments)
  assert 'mine' not in datasets.names()


@pytest.mark.parametrize('arguments, message', [
    ({'end_marker': ['Q:']}, 'end_marker is a list'), ({'end_marker': None}, 'end_marker is null'),
    ({'answer_phrase': 3}, 'answer_phrase is the number 3'),
    ({'answer_phrase': ' '}, 'answer_phrase is blank')])
def test_a_completion_format_holds_texts(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    datasets.CompletionFormat(**arguments)


def test_number_labels_are_those_of_the_rows(tmp_path):
  dataset = datasets.Dataset('parity', datasets.read_plain_row, labels=(0, 1))
  (tmp_path / 'in').write_text('{"id": 1, "input": "x", "label": 1}\n'
                               '{"id": 2, "input": "y", "label": 0}\n')
  assert [e.label for e in reading.read_inputs(str(tmp_path / 'in'), dataset)] == ['1', '0']
  (tmp_path / 'in').write_text('{"id": 1, "input": "x", "label": 1.0}\n')
  with pytest.raises(errors.UserError, match="gold label '1.0' is not among .*: known: 0, 1"):
    reading.read_inputs(str(tmp_path / 'in'), dataset)
