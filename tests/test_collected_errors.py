"""Rows that cannot be used are told all at once: the first ten, and how many more."""

import json
import re

import pytest

from dss_jax import datasets, errors
from dss_jax import rows as rows_lib
from dss_jax.predict import __main__ as predict_main
from dss_jax.predict import stream
from dss_jax.teacher.ask import recorded
from dss_jax.teacher.inputs import reading

TICKETS = datasets.Dataset('tickets', datasets.read_plain_row, labels=('bug', 'other'))


def said(call):
  with pytest.raises(errors.UserError) as caught:
    call()
  return str(caught.value).split('\n  ')


def test_an_error_is_as_it_was_and_several_are_a_list():
  wrong = errors.Collected('rows')
  with wrong:
    pass
  wrong.check()
  with wrong:
    raise errors.UserError('x.json, line 3: bad')
  assert said(wrong.check) == ['x.json, line 3: bad']
  for i in range(11):
    with wrong:
      raise errors.UserError(f'line {i}')
  assert said(wrong.check) == ['12 rows cannot be used:', 'x.json, line 3: bad',
                               *(f'line {i}' for i in range(9)), 'and 2 more']
  with pytest.raises(KeyError), wrong:  # A fault of the program is none of the rows'.
    raise KeyError('x')


def test_inputs_of_the_teacher(tmp_path):
  lines = ['{"id": "a", "input": "x", "label": "bug"}', 'no json', '{"id": "b"}', '[1]',
           '{"id": "a", "input": "y"}', '{"id": "c", "input": " "}',
           '{"id": "d", "input": "z", "label": "bugg"}', '{"id": "e", "input": null}',
           '{"id": "f", "input": "fine"}']
  path = tmp_path / 'in.jsonl'
  path.write_text('\n'.join(lines))
  head, *rows = said(lambda: reading.read_inputs(str(path), TICKETS))
  assert head == '7 rows of the inputs cannot be used:' and len(rows) == 7
  whats = ('not JSON', "no field 'input'", 'list instead of an object', "id 'a' occurs also in",
           'the input is empty', "label 'bugg' .* did you mean 'bug'", "field 'input' is null")
  for number, (row, what) in enumerate(zip(rows, whats), 2):
    assert row.startswith(f'{path}, line {number}: ') and re.search(what, row)
  path.write_text('\n'.join('{"id": "a"}' for _ in range(400)))
  assert said(lambda: reading.read_inputs(str(path), TICKETS))[-1] == 'and 390 more'


def test_recorded_completions(tmp_path):
  ids = [str(i) for i in range(4)]
  (tmp_path / 'rows.jsonl').write_text('{"id": "0", "completion": "So."}\n{"id": "9", '
                                       '"completion": "So."}\n{"completion": "So."}\n{bad\n')
  client = recorded.RecordedClient(str(tmp_path / 'rows.jsonl'))
  head, *found = said(lambda: client.prepare(ids))
  assert head.startswith('3 rows of --completions')
  assert [row.split(': ')[0][-6:] for row in found] == ['line 2', 'line 3', 'line 4']
  (tmp_path / 'list.json').write_text('["So.", 1, {"a": 1}, "So."]')
  client = recorded.RecordedClient(str(tmp_path / 'list.json'))
  assert said(lambda: client.prepare(ids))[0].startswith('2 completions cannot be used')


def test_inputs_of_predict_before_anything_is_loaded(tmp_path):
  path = tmp_path / 'in.jsonl'
  path.write_text('{"input": "a"}\n{"inptu": "b"}\n{"input": 1}\n{"input": true}\nno json\n')
  command = [f'--model_dir={tmp_path / "none"}', f'--input={path}', f'--output={tmp_path / "o"}']
  head, *found = said(lambda: predict_main.main(command))
  assert head == f'3 rows of {path} cannot be used:'
  assert ["line 2: no field 'input'" in found[0], "field 'input' is true" in found[1],
          'line 5: not JSON' in found[2]] == [True] * 3
  assert [one.name for one in tmp_path.iterdir()] == ['in.jsonl']
  path.write_text(json.dumps([{'input': 'a'}, 3, {'input': None}]))
  assert len(said(lambda: predict_main.main(command))) == 3
  path.write_text('\n')
  with pytest.raises(errors.UserError, match=f'^--calibration={path}: the file is empty'):
    rows_lib.Rows(str(path), '--calibration')
  seen = []
  path.write_text('{"input": "a"}\n\n{"input": "b"}\n')
  stream.check(rows_lib.Rows(str(path), '--input'),
               lambda row, number: seen.append((row['input'], number)))
  assert seen == [('a', 0), ('b', 1)]
