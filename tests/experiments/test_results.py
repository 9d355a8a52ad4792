"""results.jsonl: whole lines whatever happens, and readers that guess at nothing."""

import json

import made_up
import pytest
from hypothesis import given, strategies

from dss_jax import errors
from dss_jax.experiments import results


def test_a_line_is_appended_behind_a_torn_one(tmp_path):
  path = tmp_path / 'results.jsonl'
  results.append(str(path), {'key': 'a'})
  with path.open('a') as f:
    f.write('{"key": "b", "te')  # Killed while writing.
  results.append(str(path), {'key': 'c'})
  assert [row['key'] for row in results.read_lines(str(path))] == ['a', 'c']
  assert path.read_text().count('\n') == 3


def test_what_a_results_file_should_not_hold_is_told(tmp_path):
  cells = made_up.toy(seeds=(0, 1))
  made_up.sweep(tmp_path, cells[:-1])
  (tmp_path / 'sweep.json').write_text(json.dumps({'cells': [cell.key for cell in cells]}))
  rows = results.read_lines(str(tmp_path / 'results.jsonl'))
  (tmp_path / 'results.jsonl').write_text('')
  rows[0]['test']['accuracy'] = float('nan')
  rows[1]['colour'] = 'blue'
  del rows[2]['test']['accuracy']
  for row in [*rows, rows[3], '{"key": "torn', [1], {'key': 'x', 'seed': 'zero'}]:
    made_up.append(tmp_path, row)
  found = results.read(str(tmp_path))
  assert len(found.rows) == len(rows) and found.missing == [cells[-1].key]
  said = '\n'.join(found.problems)
  count = len(rows)
  for expected in (
      f'line 1: {rows[0]["key"]} has test accuracy nan', 'line 2: unknown fields colour',
      f'line 3: {rows[2]["key"]} has no test accuracy',
      f'line {count + 1}: a second result of {rows[3]["key"]}; the first one counts',
      f'line {count + 2}: not a result', f'line {count + 3}: not a result',
      f'line {count + 4}: not a result'):
    assert expected in said
  assert len(found.problems) == 7
  assert found.rows[rows[0]['key']].accuracy is None
  assert found.rows[rows[1]['key']].accuracy == rows[1]['test']['accuracy']


def test_several_machines_files_are_one_sweep(tmp_path):
  cells = made_up.toy(seeds=(0,))
  made_up.sweep(tmp_path, cells)
  lines = (tmp_path / 'results.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'results.jsonl').unlink()
  for shard in range(2):
    (tmp_path / results.file_name(shard, 2)).write_text(''.join(lines[shard::2]))
  found = results.read(str(tmp_path))
  assert set(found.rows) == {cell.key for cell in cells} and not found.problems


def test_a_folder_that_is_no_sweep_is_told(tmp_path):
  with pytest.raises(errors.UserError, match=r'no results\*\.jsonl'):
    results.read(str(tmp_path))


@pytest.mark.parametrize('name, value', [
    ('fraction', float('nan')), ('fraction', 2), ('alpha', 'half'), ('dataset', ['toy']),
    ('model_dir', None), ('seed', 'first'), ('key', 3), ('test', 7), ('settings', 3)])
def test_a_value_that_cannot_be_is_left_out_and_told(tmp_path, name, value):
  cells = made_up.toy(seeds=(0,))
  made_up.sweep(tmp_path, cells)
  row = results.read_lines(str(tmp_path / 'results.jsonl'))[0]
  made_up.append(tmp_path, {**row, 'key': 'other', name: value})
  found = results.read(str(tmp_path))
  problem, = found.problems
  assert f'line {len(cells) + 1}: not a result' in problem and len(found.rows) == len(cells)


@given(strategies.lists(strategies.one_of(
    strategies.text(max_size=40),
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.floats() | strategies.text(),
        lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(
            strategies.sampled_from(['key', 'seed', 'fraction', 'test', 'dataset', 'x']), inner),
        max_leaves=8).map(json.dumps))))
def test_any_lines_are_read_without_an_error(tmp_path_factory, lines):
  folder = tmp_path_factory.mktemp('any')
  (folder / 'results.jsonl').write_text('\n'.join(lines), encoding='utf-8', errors='replace')
  found = results.read(str(folder))
  for row in found.rows.values():
    assert row.accuracy is None or isinstance(row.accuracy, int | float)
