"""Files of predictions: order, windows, resumption after a kill, errors."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dss_jax import errors, rows
from dss_jax.predict import stream


def write_lines(path, values, separator='\n'):
  path.write_text(''.join(json.dumps(value) + separator for value in values))
  return path


def double(calls=None):
  """Predicts twice the number; notes the windows it was asked for."""
  def predict(window, first):
    if calls is not None:
      calls.append((first, len(window)))
    return [{'id': first + i, 'double': 2 * row['x']} for i, row in enumerate(window)]
  return predict


def run(folder, predict=None, window=4, **same):
  return stream.run(rows.Rows(str(folder / 'in.jsonl'), '--input'), str(folder / 'out.jsonl'),
                    predict or double(), settings=same, window=window)


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 20), window=st.integers(1, 8), blank=st.booleans(),
       as_list=st.booleans())
def test_every_row_once_in_order(tmp_path_factory, count, window, blank, as_list):
  folder = tmp_path_factory.mktemp('stream')
  made = [{'x': i} for i in range(count)]
  if as_list:
    (folder / 'in.jsonl').write_text(json.dumps(made))
  else:
    write_lines(folder / 'in.jsonl', made, '\n\n' if blank else '\n')
  calls = []
  assert run(folder, double(calls), window) == count
  assert lines(folder / 'out.jsonl') == [{'id': i, 'double': 2 * i} for i in range(count)]
  assert calls == [(i, min(window, count - i)) for i in range(0, count, window)]
  assert sorted(p.name for p in folder.iterdir()) == ['in.jsonl', 'out.jsonl']


def test_finished_windows_are_not_predicted_again(tmp_path):
  write_lines(tmp_path / 'in.jsonl', [{'x': i} for i in range(10)])
  calls = []
  def fails(rows, first):
    if first == 8:
      raise RuntimeError('killed')
    return double(calls)(rows, first)
  with pytest.raises(RuntimeError):
    run(tmp_path, fails)
  assert not (tmp_path / 'out.jsonl').exists()
  run(tmp_path, double(calls))
  assert calls == [(0, 4), (4, 4), (8, 2)]
  assert [row['id'] for row in lines(tmp_path / 'out.jsonl')] == list(range(10))


def test_another_commands_parts_are_refused_with_the_difference(tmp_path):
  write_lines(tmp_path / 'in.jsonl', [{'x': i} for i in range(9)])
  def fails(rows, first):
    if first:
      raise RuntimeError('killed')
    return rows
  with pytest.raises(RuntimeError):
    run(tmp_path, fails, beams=1)
  with pytest.raises(errors.UserError, match=r'parts.*beams was 1, is 4.*remove the folder'):
    run(tmp_path, beams=4)


def test_an_output_that_exists_is_left_alone(tmp_path):
  write_lines(tmp_path / 'in.jsonl', [{'x': 1}])
  (tmp_path / 'out.jsonl').write_text('precious')
  with pytest.raises(errors.UserError, match='exists'):
    run(tmp_path)
  assert (tmp_path / 'out.jsonl').read_text() == 'precious'


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'file is empty'), ('\n \n', 'file is empty'), ('[]', 'list is empty'),
    ('{"x": 1}\n{"x": ', 'line 2: not JSON'), ('{"x": 1}\n7\n', 'line 2: int instead of an object'),
    ('[{"x": 1}, 2]', 'item 2: int'),
])
def test_unusable_inputs_are_named(tmp_path, text, message):
  (tmp_path / 'in.jsonl').write_text(text)
  with pytest.raises(errors.UserError, match=message):
    run(tmp_path)


def test_not_utf8_and_missing_files(tmp_path):
  (tmp_path / 'in.jsonl').write_bytes(b'{"x": "\xff"}\n')
  with pytest.raises(errors.UserError, match='line 1: not UTF-8'):
    run(tmp_path)
  with pytest.raises(errors.UserError, match=r'nowhere.*cannot be read'):
    rows.Rows(str(tmp_path / 'nowhere'), '--input')


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path):
  (tmp_path / 'in.jsonl').write_text('{"x": 1, "t": "a\u2028b\x85c"}\n', encoding='utf-8')
  assert list(rows.Rows(str(tmp_path / 'in.jsonl'), '--input')) == [
      {'x': 1, 't': 'a\u2028b\x85c'}]


SLOW_JOB = '''
import sys, time
from dss_jax import rows
from dss_jax.predict import stream
def predict(rows, first):
  time.sleep(0.02)
  return [{'id': first + i, 'double': 2 * row['x']} for i, row in enumerate(rows)]
stream.run(rows.Rows(sys.argv[1], '--input'), sys.argv[2], predict, settings={}, window=3)
'''


def test_killed_at_any_moment_and_restarted_gives_the_same_bytes(tmp_path):
  write_lines(tmp_path / 'in.jsonl', [{'x': i} for i in range(100)])
  run(tmp_path, window=3)
  expected = (tmp_path / 'out.jsonl').read_bytes()
  output = tmp_path / 'killed.jsonl'
  command = [sys.executable, '-c', SLOW_JOB, str(tmp_path / 'in.jsonl'), str(output)]
  parts, kills = stream.parts_folder(str(output)), 0
  while kills < 4:
    job = subprocess.Popen(command)
    done = len(list(parts.glob('*.jsonl'))) if parts.exists() else 0
    while job.poll() is None and len(list(parts.glob('*.jsonl'))) < done + 5:
      time.sleep(0.003)
    assert job.poll() is None, 'finished before it was killed'
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    kills += 1
  assert subprocess.run(command, check=False).returncode == 0
  assert output.read_bytes() == expected and not parts.exists()


@pytest.mark.parametrize('row', [
    {'probability': math.nan}, {'scores': {'a': math.inf}},
    {'samples': [{'probability': -math.inf}]}])
def test_no_nan_is_written(tmp_path, row):
  (tmp_path / 'in.jsonl').write_text('{"input": "a"}\n')
  with pytest.raises(errors.UserError, match=rf"row '7': {[*row][0]} is .*(nan|inf).*no JSON"):
    stream.run(rows.Rows(str(tmp_path / 'in.jsonl'), '--input'), str(tmp_path / 'out.jsonl'),
               lambda rows, first: [{'id': '7', **row}], settings={}, window=2)
  assert not (tmp_path / 'out.jsonl').exists()
  assert not (tmp_path / 'out.jsonl.parts').exists()
