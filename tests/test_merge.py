"""`dss merge`: several teachers' records become samples of the same inputs."""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import errors, merge, records

FAILED = {'parse_status': 'truncated', 'rationale': '', 'teacher_label': ''}


def row(key, teacher='a', label='yes', **changes):
  return dataclasses.replace(records.RationaleRecord(
      id=key, input=f'input {key}', label=label, teacher_label='no',
      rationale=f'{teacher} of {key}', teacher_model=teacher, dataset='d', split='train'),
      **changes)


def write(folder, rows, split='train', **provenance):
  records.write_records(str(folder), 'd', split, rows, num_shards=2, provenance=provenance)
  return str(folder)


def read(folder, split='train'):
  return list(records.read_records(str(folder), 'd', split, samples=True, verify=True))


def test_the_first_folder_comes_first_and_names_stay(tmp_path, capsys):
  usage = {'completions': 2, 'prompt_tokens': 5, 'completion_tokens': 7}
  one = write(tmp_path / 'a', [row('1'), row('2', **FAILED), row('3', label='')],
              teacher={'model': 'a', 'usage': usage})
  two = write(tmp_path / 'b', records.numbered([row('2', 'b'), row('2', 'b', rationale='more')]) +
              [dataclasses.replace(row('3', 'b'), schema_version=2), row('4', 'b', **FAILED),
               *records.numbered([row('1', 'b', teacher_label='yes')])],
              teacher={'model': 'b', 'usage': usage})
  write(tmp_path / 'b', [row('9', 'b')], 'test')
  assert merge.main([one, two, f'--output={tmp_path / "c"}', '--num_shards=3']) == 0
  assert [(one.id, one.sample, one.rationale, one.teacher_model, one.label)
          for one in read(tmp_path / 'c')] == [
      ('1', 0, 'a of 1', 'a', 'yes'), ('1', 1, 'b of 1', 'b', 'yes'),
      ('2', 0, 'b of 2', 'b', 'yes'), ('2', 1, 'more', 'b', 'yes'),
      ('3', 0, 'a of 3', 'a', 'yes'), ('3', 1, 'b of 3', 'b', 'yes'), ('4', 0, '', 'b', 'yes')]
  assert [one.teacher_model for one in read(tmp_path / 'c', 'test')] == ['b']
  found = records.find_set(str(tmp_path / 'c'), 'd', 'train')
  assert (found.num_inputs, found.num_records, found.max_samples) == (4, 7, 2)
  assert found.entry['parse_status'] == {'ok': 3, 'truncated': 1}
  assert found.entry['teacher']['model'] == 'a + b'
  assert found.entry['teacher']['usage'] == {name: 2 * count for name, count in usage.items()}
  assert 'd-train: 7 records of 4 inputs, at most 2 of one' in capsys.readouterr().out


def test_rows_of_other_inputs_are_named_and_nothing_is_written(tmp_path):
  one = write(tmp_path / 'a', [row(str(i)) for i in range(9)])
  two = write(tmp_path / 'b', [row(str(i), label='' if i else 'no', input=f'other {i}' if i > 6
                                   else f'input {i}') for i in range(9)])
  with pytest.raises(errors.UserError, match=r"d-train: 3 ids .*'0' \(label 'no' and 'yes' in .*b "
                                             r"and before\), '7' \(input 'other 7' and 'input 7'"):
    merge.merge([one, two], str(tmp_path / 'c'))
  assert not (tmp_path / 'c').exists()


@pytest.mark.parametrize('words, says', [
    (['a', '--output=c'], 'give two folders'), (['a', 'b', '--output=b/'], '--output=b/ is one of'),
    (['a', 'none', '--output=c'], 'none/manifest.json does not exist'),
    (['a', 'b', '--output=c', '--num_shards=0'], '--num_shards=0')])
def test_what_cannot_be_merged_is_refused(tmp_path, monkeypatch, words, says):
  monkeypatch.chdir(tmp_path)
  for folder in 'ab':
    write(tmp_path / folder, [row('1')])
  before = (tmp_path / 'b' / 'manifest.json').read_text()
  with pytest.raises(errors.UserError, match=says):
    merge.main(words)
  assert (tmp_path / 'b' / 'manifest.json').read_text() == before and not (tmp_path / 'c').exists()


def test_a_row_of_training_stays_out_of_validation(tmp_path):
  one = write(tmp_path / 'a', [row('1'), row('2')])
  two = write(tmp_path / 'b', [row('1', 'b')])
  write(tmp_path / 'b', [row('2', 'b')], 'validation')
  with pytest.raises(errors.UserError, match="d-validation: 1 .* such as '2'.* in d-train of .*a"):
    merge.merge([one, two], str(tmp_path / 'c'))


_FOLDER = st.dictionaries(st.sampled_from('pqrst'), st.lists(
    st.tuples(st.booleans(), st.sampled_from(['yes', 'no'])), min_size=1, max_size=3), min_size=1)


def samples(teacher, key, found, votes):
  """An input's records as a teacher's job writes them: a failed one is alone."""
  parsed = [row(key, teacher, teacher_label=label, rationale=f'{teacher} {i}')
            for i, (ok, label) in enumerate(found) if ok]
  return records.numbered(parsed or [row(key, teacher, **FAILED)], votes)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(_FOLDER, min_size=2, max_size=3), st.integers(1, 4))
def test_nothing_is_lost_and_nothing_made_up(tmp_path_factory, folders, num_shards):
  tmp = tmp_path_factory.mktemp('merge')
  written = [[record for key, found in folder.items()
              for record in samples(str(i), key, found, (1.0, float(i)))]
             for i, folder in enumerate(folders)]
  paths = [write(tmp / str(i), rows) for i, rows in enumerate(written)]
  merge.merge(paths, str(tmp / 'out'), num_shards=num_shards)
  rows = read(tmp / 'out')
  everything = [record for one in written for record in one]
  assert list(dict.fromkeys(one.id for one in rows)) == list(dict.fromkeys(
      one.id for one in everything))
  for key in {one.id for one in rows}:
    merged = [one for one in rows if one.id == key]
    wanted = [one for one in everything if one.id == key]
    holders = [i for i, folder in enumerate(folders) if key in folder]
    assert [one.sample for one in merged] == list(range(len(merged)))
    assert merged[0].label_votes == (len(holders), sum(holders))
    assert [(one.rationale, one.teacher_label, one.teacher_model) for one in merged] == [
        (one.rationale, one.teacher_label, one.teacher_model) for one in
        [one for one in wanted if one.parse_status == 'ok'] or wanted[:1]]


def test_votes_that_a_folder_lacks_are_not_made_up(tmp_path):
  one = write(tmp_path / 'a', records.numbered([row('1')], (1.0, 2.0)))
  two = write(tmp_path / 'b', [row('1', 'b')])
  merge.merge([one, two], str(tmp_path / 'c'))
  assert [one.label_votes for one in read(tmp_path / 'c')] == [(), ()]
  assert json.loads((tmp_path / 'c' / 'manifest.json').read_text())['sets']['d-train'][
      'teacher']['client'] == 'merge'


def test_a_field_that_a_folder_lacks_is_taken_from_another(tmp_path):
  one = write(tmp_path / 'a', [row('1', extra={'team': ''}), row('2', extra={'team': 'web'})])
  two = write(tmp_path / 'b', [row('1', 'b', extra={'team': 'app'}), row('2', 'b')])
  assert merge.main([one, two, f'--output={tmp_path / "c"}']) == 0
  assert [(found.id, found.extra) for found in read(tmp_path / 'c')] == [
      ('1', {'team': 'app'}), ('1', {'team': 'app'}), ('2', {'team': 'web'}),
      ('2', {'team': 'web'})]
