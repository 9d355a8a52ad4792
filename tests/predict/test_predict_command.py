"""`python -m dss_jax.predict` and `python -m dss_jax.export`."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import dss_jax
from dss_jax import errors
from dss_jax.export import __main__ as export_main
from dss_jax.export import loader
from dss_jax.predict import __main__ as predict_main

ROWS = [{'id': f'r{i}', 'input': f'the {"left " * (i % 5)}ball {i}', 'label': 'left'}
        for i in range(40)]


@pytest.fixture
def rows(tmp_path):
  path = tmp_path / 'in.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
  return path


def run(folder, rows, *flags, output='out.jsonl'):
  assert predict_main.main([f'--model_dir={folder}', f'--input={rows}',
                            f'--output={rows.parent / output}', *flags]) == 0
  return [json.loads(line) for line in (rows.parent / output).read_text().splitlines()]


def test_rows_in_order_as_the_api_answers(student_folders, rows, capsys):
  found = run(student_folders / 'native', rows, '--rationale', '--samples=2', '--seed=3')
  expected = dss_jax.load(str(student_folders / 'native')).predict(
      [row['input'] for row in ROWS], rationale=True, samples=2, seed=3)
  assert [row['id'] for row in found] == [row['id'] for row in ROWS]
  for row, prediction in zip(found, expected):
    assert row['predicted_label'] == prediction.label
    assert row['rationale'] == prediction.rationale
    assert [s['label'] for s in row['samples']] == [s.label for s in prediction.samples]
    assert row['label'] == 'left'
  said = capsys.readouterr().out
  assert 'accuracy 0.00 % of 40 rows with a label' in said
  assert said.splitlines()[-2].split() == ['left', '0', '0', '40']  # None is a label.


def test_ranking_with_labels_from_flag_row_and_student(student_folders, rows, capsys):
  native = student_folders / 'native'
  assert set(run(native, rows, '--rank', output='a')[0]['scores']) == {'left', 'right'}
  assert set(run(native, rows, '--rank', '--labels=x,y,z', output='b')[0]['scores']) == {
      'x', 'y', 'z'}
  assert 'accuracy' in capsys.readouterr().out
  rows.write_text('{"input": "a", "labels": ["p", "q"]}\n{"input": "b"}\n')
  found = run(native, rows, '--rank', '--labels=x,y', output='c')
  assert [set(row['scores']) for row in found] == [{'p', 'q'}, {'x', 'y'}]
  assert [row['id'] for row in found] == ['0', '1']
  assert 'accuracy' not in capsys.readouterr().out.splitlines()[-1]


def test_labels_of_the_flag_are_a_csv_line_for_rank(student_folders, rows):
  found = run(student_folders / 'native', rows, '--rank', '--labels="a, b", c')
  assert set(found[0]['scores']) == {'a, b', 'c'}
  for flags, why in ((('--rank', '--labels=a,,b'), 'an empty label'),
                     (('--rank', '--labels=a,b, a'), 'one twice'),
                     (('--labels=a,b',), 'are what --rank scores'),
                     (('--beams=0',), '^--beams=0: use a whole number'),
                     (('--rank', '--max_target_length=1'), '^--rank: label ')):
    with pytest.raises(errors.UserError, match=why):
      run(student_folders / 'native', rows, *flags, output='d')


def test_rows_with_labels_choose_how_labels_are_compared(student_folders, rows, capsys):
  native = student_folders / 'native'
  known = rows.parent / 'known.jsonl'
  known.write_text(''.join(json.dumps({**row, 'label': 'right' if i % 2 else 'left'}) + '\n'
                           for i, row in enumerate(ROWS)))
  found = run(native, rows, '--rank', f'--calibration={known}')
  printed = capsys.readouterr().out
  way = re.search(r'ranking by (\w+), which has the least loss of 40 rows', printed)[1]
  assert re.search(r'of 40 rows with a label; expected calibration error [\d.]+ %', printed)
  assert found == run(native, rows, '--rank', f'--rank_by={way}', output='b')
  assert 'ranking by mean: not chosen on validation' in run_and_read(native, rows, capsys)
  for flags, why in ((('--rank_by=sum',), '--rank_by is how --rank compares'),
                     (('--rank', '--rank_by=sum', f'--calibration={known}'), 'one of the two'),
                     (('--rank', f'--calibration={rows}', '--labels=a,b'), 'row 1 has label')):
    with pytest.raises(errors.UserError, match=why):
      run(native, rows, *flags, output='d')


def run_and_read(folder, rows, capsys):
  run(folder, rows, '--rank', output='c')
  return capsys.readouterr().out


def test_a_registered_datasets_rows(student_folders, rows):
  rows.write_text(json.dumps({'premise': 'It rains.', 'hypothesis': 'It is wet.', 'uid': 'u1',
                              'label': 0}) + '\n')
  with pytest.raises(errors.UserError, match=r"line 1: no field 'input'.*--dataset"):
    run(student_folders / 'native', rows)
  with pytest.raises(errors.UserError, match="'entailment' is none that the student can give"):
    run(student_folders / 'native', rows, '--dataset=anli')
  (found,) = run(student_folders / 'native', rows, '--dataset=anli', '--rank',
                 '--labels=entailment,neutral')
  assert (found['id'], found['label']) == ('u1', 'entailment')


@pytest.mark.parametrize(('lines', 'flags', 'why'), [
    ([{'label': 'Left'}], (), "line 1: label 'Left' is none that .*: did you mean 'left'"),
    ([{'label': 'left '}], ('--rank',), "label 'left ' is none that .*: did you mean 'left'"),
    ([{'label': 'x', 'labels': ['y', 'z']}], ('--rank',), "label 'x' is none that .* y, z"),
    ([{'label': 'left'}, {'label': 'Left'}, {'label': 'up'}], (),
     "2 rows .*\n.*line 2: label 'Left' .*\n.*line 3: label 'up' is none"),
    ([{'id': '1'}, {}], (), 'line 2: some rows have an id and some none'),
    ([{}, {'id': 0}], (), 'line 2: some rows have an id and some none'),
    ([{'input': ' \n'}], (), 'line 1: the input is blank'),
    ([{}], ('--columns=lable=input',), "--columns=.*: no field 'lable': did you mean 'label'"),
    ([{}], ('--columns=inputs=input',), "no field 'inputs': did you mean 'input'"),
    ([{}], ('--temperature=0.5',), '^--temperature=0.5: it is of the samples'),
    ([{}], ('--seed=3', '--beams=2'), '^--seed=3: it is of the samples'),
    ([{}], ('--length_penalty=2',), '^--length_penalty=2.0: it is of the beams')])
def test_what_would_be_passed_over_or_untrue_is_refused(student_folders, rows, lines, flags, why):
  rows.write_text(''.join(json.dumps({'input': 'a ball', **line}) + '\n' for line in lines))
  with pytest.raises(errors.UserError, match=why):
    run(student_folders / 'native', rows, *flags)
  assert not (rows.parent / 'out.jsonl').exists()


def test_ids_that_are_there_twice_are_told_and_cut_inputs_marked(student_folders, rows, capsys):
  rows.write_text(''.join(json.dumps({'id': key, 'input': 'ball ' * times}) + '\n'
                          for key, times in (('a', 1), ('b', 900), ('a', 2))))
  found = run(student_folders / 'native', rows)
  assert [row.get('truncated', False) for row in found] == [False, True, False]
  said = capsys.readouterr()
  assert "1 rows have an id that another has, too, such as 'a': join" in said.err
  assert '1 of 3 inputs were cut: they are longer than the' in said.out


def test_other_flags_do_not_go_on_with_the_parts(student_folders, rows):
  parts = rows.parent / 'out.jsonl.parts'
  parts.mkdir()
  (parts / 'settings.json').write_text('{"beams": 2}')
  with pytest.raises(errors.UserError, match='beams was 2, is 1'):
    run(student_folders / 'native', rows)


@pytest.mark.slow
def test_killed_three_times_gives_the_file_of_an_uninterrupted_run(student_folders, rows):
  command = [sys.executable, '-m', 'dss_jax.predict', f'--model_dir={student_folders / "native"}',
             f'--input={rows}', '--rationale', '--samples=2', '--batch_size=1']
  environment = {**os.environ, 'XLA_FLAGS': ''}  # One device: rows of a batch are not split.
  rows.write_text(rows.read_text() * 3)
  whole, killed = rows.parent / 'whole', rows.parent / 'killed'
  subprocess.run([*command, f'--output={whole}'], check=True, timeout=600, env=environment)
  parts = rows.parent / 'killed.parts'
  for _ in range(3):
    job = subprocess.Popen([*command, f'--output={killed}'], env=environment)
    done = len(list(parts.glob('*.jsonl'))) if parts.exists() else 0
    while job.poll() is None and len(list(parts.glob('*.jsonl'))) <= done:
      time.sleep(0.005)
    assert job.poll() is None, 'finished before it was killed'
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
  subprocess.run([*command, f'--output={killed}'], check=True, timeout=600, env=environment)
  assert killed.read_bytes() == whole.read_bytes()
  assert not parts.exists()


WITHOUT_DSS_JAX = '''
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('dss_jax', 'flax', 'tensorflow', 'orbax', 'seqio'):
      raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import json, student
found = student.Student().predict(json.loads(sys.argv[2]))
print(json.dumps(found))
'''


@pytest.mark.slow
def test_the_portable_export_answers_the_same_with_jax_alone(student_folders, tmp_path):
  """Two batch sizes and two lengths; nothing of this project is importable."""
  output = tmp_path / 'portable'
  assert export_main.main([f'--model_dir={student_folders / "native"}', f'--output={output}']) == 0
  student = dss_jax.load(str(student_folders / 'native'))
  for texts in (['the ball is left', 'a', 'right</s>left'], ['where is it? ' * 4]):
    printed = subprocess.run(
        [sys.executable, '-c', WITHOUT_DSS_JAX, str(output), json.dumps(texts)], check=True,
        capture_output=True, text=True, timeout=600).stdout
    found, expected = json.loads(printed), student.predict(texts)
    assert [label for label, _ in found] == [p.label for p in expected]
    np.testing.assert_allclose(
        [p for _, p in found], [p.probability for p in expected], rtol=1e-4)


def test_bfloat16_parameters_survive_the_export(student_folders, tmp_path):
  output = tmp_path / 'portable'
  assert export_main.main([f'--model_dir={student_folders / "native"}', f'--output={output}',
                           '--dtype=bfloat16']) == 0
  exported = loader.Student(output)
  student = dss_jax.load(str(student_folders / 'native'), dtype='bfloat16')
  flat = traverse_util.flatten_dict(student.params, sep='/')
  assert set(exported._params) == set(flat)
  for name, x in flat.items():
    assert exported._params[name].dtype == jnp.bfloat16
    assert np.array_equal(exported._params[name], x), name
  tokens = np.arange(3, 35, dtype=np.int32)[None]
  assert exported.predict_tokens(tokens)[0].shape == (1, 12)


def test_export_refuses(student_folders, tmp_path):
  with pytest.raises(errors.UserError, match=r"unknown 'gpu'"):
    export_main.main([f'--model_dir={student_folders / "native"}', '--output=x',
                      '--platforms=gpu'])
  with pytest.raises(errors.UserError, match='exists'):
    export_main.main([f'--model_dir={student_folders / "native"}', f'--output={tmp_path}'])
