"""A field of one's own rows that the student learns to write, or reads."""

import json

import pytest
import sentencepiece
import seqio

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, records, vocab
from dss_jax.data import checks
from dss_jax.inspect import __main__ as inspect
from dss_jax.teacher import __main__ as teacher

LENGTHS = {'inputs': 64, 'targets': 32}
ROWS = [{'id': '1', 'input': 'page 2 is empty', 'label': 'bug', 'team': 'web', 'level': 3},
        {'id': '2', 'input': 'charged twice', 'label': 'billing', 'team': None},
        {'id': '3', 'input': 'an office?', 'label': 'other', 'team': 'Büro ü', 'level': ''},
        {'id': '4', 'input': 'it crashes', 'label': 'bug'}]
WRITES = ('team', '[team] ', 'team', 0.5)
READS = ('known', '', 'label', 0.5, '{team}: {input} ({level})')


def register(**arguments):
  return data.register('desk', labels=('billing', 'bug', 'other'), holdout=None,
                       **{'extra_fields': ('team', 'level'), **arguments})


@pytest.fixture
def write(tmp_path):
  """Rows and the flags of `dss teacher` -> the folder of their records, with a rationale each."""
  def written(rows=ROWS, name='in.jsonl', *flags):
    inputs, answers, folder = (tmp_path / one for one in (name, 'answers.jsonl', 'records'))
    inputs.write_text(''.join(json.dumps(row) + '\n' for row in rows)
                      if isinstance(rows, list) else rows)
    answers.write_text(''.join(json.dumps(
        {'id': str(i), 'completion': f'Since it is {i}. So the answer is bug.'}) + '\n'
        for i in range(1, 5)))
    teacher.main(['--dataset=desk', '--split=train', f'--inputs={inputs}', '--client=recorded',
                  f'--completions={answers}', f'--records_dir={folder}', '--num_shards=2', *flags])
    return str(folder)
  return written


def examples(folder, name, *objectives, **settings):
  data.configure(records_dir=folder, vocabulary='bytes', objectives=objectives, **settings)
  task = seqio.get_mixture_or_task(name)
  decode = task.output_features['targets'].vocabulary.decode
  return {tuple(decode(row[side].tolist()) for side in LENGTHS)
          for row in task.get_dataset(LENGTHS, split='train', num_epochs=1).as_numpy_iterator()}


@pytest.mark.parametrize('flags', [(), ('--keep_samples',)])
def test_it_is_written_and_read_where_a_row_has_it(write, flags):
  register()
  folder = write(ROWS, 'in.jsonl', *flags)
  assert examples(folder, 'dss_desk_team', WRITES) == {
      ('[team] page 2 is empty', 'web'), ('[team] an office?', 'Büro ü')}
  assert examples(folder, 'dss_desk_known', READS) == {('web: page 2 is empty (3)', 'bug')}
  assert ('[team] an office?', 'Büro ü') in examples(folder, 'dss_desk', WRITES)
  if flags:
    assert examples(folder, 'dss_desk_team', WRITES, rationales='all', agreeing='label') == {
        ('[team] page 2 is empty', 'web'), ('[team] an office?', 'Büro ü')}


def test_a_column_of_any_name(write):
  register()
  folder = write('id,input,label,group\n1,a b,bug,"x, y"\n2,c d,other,\n3,e,bug,\n4,f,bug,\n',
                 'in.csv', '--columns=team=group')
  assert examples(folder, 'dss_desk_team', WRITES) == {('[team] a b', 'x, y')}


def test_the_record_has_what_its_row_has(write):
  register()
  found = {row.id: row for row in records.read_records(write(), 'desk', 'train')}
  assert found['1'].extra == {'team': 'web', 'level': '3'}
  assert found['4'].extra == {'team': '', 'level': ''} and found['4'].rationale == 'Since it is 4.'
  assert records.from_bytes(records.to_bytes(found['3'])) == found['3']


def test_a_vocabulary_and_a_look_at_records_have_it(write, tmp_path):
  register()
  rows = [{**ROWS[0], 'level': 'ÞÞÞ'}, *ROWS[1:]]
  folder = write(rows)
  data.configure(records_dir=folder, vocabulary='bytes', objectives=[WRITES, READS])
  vocab.train(folder, str(tmp_path / 'v.model'), vocab_size=64, model_type='char')
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'v.model'))
  assert {'B', 'ü', 'Þ'} <= {pieces.id_to_piece(i) for i in range(len(pieces))}
  said = '\n'.join(inspect.show('dss_desk', 'train', 8, LENGTHS))
  assert "team: 'Büro ü'" in said and "level: 'ÞÞÞ'" in said and "level: ''" in said


def test_what_cannot_be_is_refused_and_says_what_to_do(write):
  register()
  with pytest.raises(errors.UserError, match=r"line 1.*'team'.*list"):
    write([{**ROWS[0], 'team': ['a']}])
  folder = write()
  with pytest.raises(errors.UserError, match="'taem' is no field .*did you mean 'team'"):
    examples(folder, 'dss_desk_team', ('team', '', 'taem', 0.5))
  for wrong, message in (('team', 'give a list of texts'), (('label',), 'which a record has'),
                         ((' ',), 'blank')):
    with pytest.raises(errors.UserError, match=message):
      register(extra_fields=wrong)


def test_records_from_before_have_none(write):
  data.configure(vocabulary='bytes')
  register(extra_fields=())
  folder = write()
  register()
  assert examples(folder, 'dss_desk_team', WRITES) == set()
  assert checks.measure('dss_desk_label', 'train')
  with pytest.raises(errors.UserError, match="task 'dss_desk_team' has no rows in split 'train'"):
    checks.measure('dss_desk_team', 'train')
