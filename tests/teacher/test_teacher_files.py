"""Inputs and recorded completions: reading, joining, and one-line errors."""

import asyncio
import hashlib
import json
import os

import pytest
from etils import epath

from dss_jax import datasets, errors
from dss_jax.rows import opening
from dss_jax.teacher.ask import recorded
from dss_jax.teacher.inputs import reading


def _read_choices(row, row_number):
  return datasets.Example(id=f'r{row_number}', input=row['q'], label=row.get('a', ''),
                          choices=tuple(row['c']))


PLAIN = datasets.Dataset('plain', datasets.read_plain_row)
LABELS = datasets.Dataset('nli', datasets.read_plain_row, labels=('yes', 'no'))
CHOICE = datasets.Dataset('choice', _read_choices)
ROWS = [{'id': 'a', 'input': 'x', 'label': 'yes'}, {'id': 'b', 'input': 'y\u2028', 'label': 'no'}]


def _lines(rows):
  return '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows) + '\n'


@pytest.mark.parametrize('text', [
    _lines(ROWS), json.dumps(ROWS, indent=2), '\n' + _lines(ROWS).replace('\n', '\r\n\n'),
    '\ufeff' + _lines(ROWS)])
def test_json_lines_and_lists_read_alike(tmp_path, text):
  path = tmp_path / 'in.json'
  path.write_bytes(text.encode())
  read = reading.read_inputs(str(path), LABELS)
  assert tuple(read) == (
      datasets.Example('a', 'x', 'yes'), datasets.Example('b', 'y\u2028', 'no'))
  assert read.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_row_numbers_and_unknown_gold_labels(tmp_path):
  path = tmp_path / 'in.json'
  path.write_text('{"q": "1", "c": ["x"]}\n\n{"q": "2", "c": ["x"], "a": "x"}\n')
  assert [(e.id, e.label) for e in reading.read_inputs(str(path), CHOICE)] == [
      ('r0', ''), ('r1', 'x')]


@pytest.mark.parametrize('dataset, text, message', [
    (PLAIN, '', 'the file is empty'),
    (PLAIN, ' \n', 'the file is empty'),
    (PLAIN, '[]', 'the JSON list is empty'),
    (PLAIN, '[{"id": 1,]', 'not a JSON list'),
    (PLAIN, '{"id": "a", "input": "x"}\n{"id": "b"', 'in.json, line 2: not JSON'),
    (PLAIN, '{"id": "a", "input": "x"}\n\n{"id": "b"}', "line 3: no field 'input'.*has: id"),
    (PLAIN, '[{"id": "a", "input": "x"}, {"input": "y"}]', "item 2: no field 'id'"),
    (PLAIN, '"text"', 'line 1: str instead of an object'),
    (PLAIN, '{"id": "a", "input": "x"}\n{"id": "a", "input": "y"}',
     "line 2: id 'a' occurs also in .*line 1"),
    (PLAIN, '{"id": "a", "input": " "}', 'line 1: the input is empty'),
    (PLAIN, '{"id": "", "input": "x"}', 'line 1: the id is empty'),
    (PLAIN, '{"id": "a", "input": "\\ud83d"}', 'line 1: input holds half of a surrogate'),
    (CHOICE, '{"q": "1", "c": ["x", "\\udc4d"], "a": "x"}', 'line 1: choice 2 holds half of'),
    (LABELS, '{"id": "a", "input": "x", "label": "yess"}',
     "line 1: gold label 'yess' is not among the labels of 'nli': did you mean 'yes'"),
    (CHOICE, '{"q": "1", "c": ["x", "y"], "a": "z"}', "gold label 'z' is not among the choices"),
    (CHOICE, '{"q": "1", "c": 3}', "line 1: not a row of dataset 'choice'"),
])
def test_bad_inputs_are_named(tmp_path, dataset, text, message):
  path = tmp_path / 'in.json'
  path.write_text(text)
  with pytest.raises(errors.UserError, match=message) as error:
    reading.read_inputs(str(path), dataset)
  assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['{"id": 1, "input": "x"}\n\n{"id": 2, "input": "y"}\n',
                                  '[{"id": 1, "input": "x"}, {"id": 2, "input": "y"}]'])
def test_inputs_through_a_pipe(text):
  """As `zcat in.jsonl.gz | dss teacher --inputs=/dev/stdin` has them."""
  read, write = os.pipe()
  os.write(write, text.encode())
  os.close(write)
  found = reading.read_inputs(f'/dev/fd/{read}', PLAIN)
  os.close(read)
  assert [found[i].input for i in (1, 0, 1)] == ['y', 'x', 'y']
  assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_store_that_does_not_answer(monkeypatch):
  class Away(Exception):
    """As TensorFlow's, which is no OSError."""

  def opened(self, mode):
    raise Away('no route\nto host')
  monkeypatch.setattr(type(epath.Path('gs://b/x')), 'open', opened)
  with pytest.raises(errors.UserError, match=r'--inputs=gs://b/x: cannot be read \(no route to ho'):
    reading.read_inputs('gs://b/x', PLAIN)


def test_unreadable_inputs(tmp_path):
  with pytest.raises(errors.UserError, match='--inputs=.*none.json: cannot be read'):
    reading.read_inputs(str(tmp_path / 'none.json'), PLAIN)
  with pytest.raises(errors.UserError, match='cannot be read'):
    reading.read_inputs(str(tmp_path), PLAIN)
  (tmp_path / 'latin').write_bytes(b'{"id": "caf\xe9"}')
  with pytest.raises(errors.UserError, match='not UTF-8 .byte 11'):
    reading.read_inputs(str(tmp_path / 'latin'), PLAIN)


# --- Completions ---------------------------------------------------------------------------------

EXAMPLES = tuple(datasets.Example(f'q{i}', 'x') for i in range(4))


def _complete(tmp_path, examples=EXAMPLES):
  client = recorded.RecordedClient(str(tmp_path / 'c_*'), 'palm')
  client.prepare([example.id for example in examples])
  return asyncio.run(client.complete(examples)), client


def _texts(completions):
  return [c.text for (c,) in completions]


def test_lists_are_joined_in_natural_order(tmp_path):
  for name, texts in (('c_9.json', ['0', '1']), ('c_10.json', ['2']), ('c_100.json', ['3'])):
    (tmp_path / name).write_text(json.dumps(texts))
  completions, client = _complete(tmp_path)
  assert _texts(completions) == ['0', '1', '2', '3']
  assert client.provenance()['completions'][1] == {
      'name': 'c_10.json', 'rows': 1, 'sha256': hashlib.sha256(b'["2"]').hexdigest()}


def test_natural_order_is_numeric_in_every_part(tmp_path):
  for name in ('b2', 'a10x2', 'a10x1', 'a9x3', 'a'):
    (tmp_path / name).write_text('')
  found = opening.natural_glob(str(tmp_path / '*'))
  assert [p.rsplit('/', 1)[1] for p in found] == ['a', 'a9x3', 'a10x1', 'a10x2', 'b2']


def test_json_lines_are_joined_by_id(tmp_path):
  rows = [{'id': f'q{i}', 'completion': f't{i}'} for i in (2, 0, 3, 1)]
  rows[0]['finish_reason'] = 'length'
  (tmp_path / 'c_1.jsonl').write_text(_lines(rows[:3]))
  (tmp_path / 'c_2.jsonl').write_text(_lines(rows[3:]))
  completions, _ = _complete(tmp_path)
  assert [(c.text, c.finish_reason) for (c,) in completions] == [
      ('t0', ''), ('t1', ''), ('t2', 'length'), ('t3', '')]


def test_half_an_emoji_becomes_a_replacement_character(tmp_path):
  (tmp_path / 'c_1').write_text('["so \\ud83d", "\\ud83d\\ude00", "", "x"]')
  assert _texts(_complete(tmp_path)[0]) == ['so \ufffd', '\U0001f600', '', 'x']


@pytest.mark.parametrize('contents, message', [
    ({}, 'no such file'),
    ({'c_1': '["0", "1"]', 'c_2': '["2"]'},
     r'--inputs has 4 rows, but --completions=.* has 3 \(c_1: 2, c_2: 1\)'),
    ({'c_1': '["0", "1", "2", "3", "4"]'}, r'has 4 rows, but .* has 5 \(c_1: 5\)'),
    ({'c_1': '["0", 1, "2", "3"]'}, 'c_1, item 2: the number 1 instead of the compl'),
    ({'c_1': '["0"', }, 'c_1: not a JSON list'),
    ({'c_1': '["0"]', 'c_2': '{"id": "q1", "completion": "t"}'}, 'some files are JSON lists'),
    ({'c_1': '{"id": "q0"}'}, r'c_1, line 1: expected an object with id and completion, gen'),
    ({'c_1': '{"completion": "t"}'}, 'c_1, line 1: expected an object with id'),
    ({'c_1': '"t"'}, 'c_1, line 1: expected an object with id'),
    ({'c_1': '{"id": "q0", "completion": ["t", 1]}'}, 'line 1: the number 1 instead of the compl'),
    ({'c_1': '{"id": "q0", "rationale": "t"}'}, 'line 1: expected .* rationale and label; or a li'),
    ({'c_1': '{"id": "q0", "rationale": "t", "label": ["a"]}'}, "line 1: field 'label' is a list"),
    ({'c_1': '{"id": "q0", "output": "t", "response": "u"}'},
     'line 1: both response and output; name the one'),
    ({'c_1': '{"custom_id": "q0", "response": {"body": {"choices": ["t"]}}}'},
     r'line 1: response.body is no completion'),
    ({'c_1': '{"id": null, "completion": "t"}'}, "line 1: field 'id' is null"),
    ({'c_1': '{"id": true, "completion": "t"}'}, "line 1: field 'id' is true"),
    ({'c_1': '{"id": "q0", "completion": NaN}'}, 'line 1: NaN instead of the completion'),
    ({'c_1': '{"id": "q0", "completion": "t", "finish_reason": 1}'},
     "line 1: field 'finish_reason' is the number 1"),
    ({'c_1': '{"id": "z", "completion": "t"}'}, "line 1: id 'z' is not in --inputs"),
])
def test_bad_completions_are_named(tmp_path, contents, message):
  for name, text in contents.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(errors.UserError, match=message):
    _complete(tmp_path)
