"""--keep_samples: all samples that parsed are records, the vote's choice first."""

import asyncio
import json
import pathlib
import shlex

import pytest

from dss_jax import datasets, errors, merge, records
from dss_jax.teacher import __main__ as teacher
from dss_jax.teacher import job, protocol, report

LABELS = ('yes', 'no', 'maybe')
DATASET = datasets.Dataset('mine', datasets.read_plain_row, labels=LABELS, holdout=None,
                           completion=datasets.CompletionFormat(label_kind='class'))
SAID = {'a': ['no', 'yes', None, 'yes'], 'b': [None, None], 'c': ['maybe']}


class Client(protocol.Client):
  name, model = 'scripted', 'me'

  async def complete(self, examples, attempt=0):
    await asyncio.sleep(0)
    return [tuple(protocol.Completion(
        f'{one.id}{i}. So the answer is {label}.' if label else 'Hm.', 'stop')
        for i, label in enumerate(SAID[one.id])) for one in examples]


def run(folder, **options):
  rows = [datasets.Example(one, f'input {one}', 'yes') for one in SAID]
  outcome = job.run(DATASET, 'test', rows, Client(), 'strict', str(folder), num_shards=2, **options)
  return outcome, list(records.read_records(str(folder), 'mine', 'test', samples=True))


def test_all_that_parsed_are_there_and_the_votes(tmp_path):
  outcome, rows = run(tmp_path, keep_samples=True)
  assert [(row.id, row.sample, row.rationale, row.teacher_label, row.label_votes)
          for row in rows] == [
      ('a', 0, 'a1.', 'yes', (2.0, 1.0, 0.0)), ('a', 1, 'a0.', 'no', ()),
      ('a', 2, 'a3.', 'yes', ()), ('b', 0, '', '', ()), ('c', 0, 'c0.', 'maybe', (0.0, 0.0, 1.0))]
  assert len({row.request_key for row in rows}) == 5
  found = records.find_set(str(tmp_path), 'mine', 'test', verify=True)
  assert (found.num_records, found.num_inputs, found.max_samples) == (5, 3, 3)
  assert found.entry['parse_status'] == {'no_answer_phrase': 1, 'ok': 2}
  assert found.entry['schema_version'] == 2 and found.entry['keep_samples']
  assert '5 records of 3 inputs' in report.render(outcome)


def test_without_it_nothing_is_new(tmp_path):
  _, rows = run(tmp_path / 'one')
  _, several = run(tmp_path / 'all', keep_samples=True)
  assert rows == [records.from_bytes(records.to_bytes(
      records.RationaleRecord(**{name: getattr(row, name) for name in records.TEXT_FIELDS})))
      for row in several if not row.sample]
  entry = json.loads((tmp_path / 'one' / 'manifest.json').read_text())['sets']['mine-test']
  assert entry['schema_version'] == 1
  assert not {'num_inputs', 'max_samples', 'keep_samples'} & set(entry)
  shard, = {p.name: p for p in (tmp_path / 'one').glob('*00000-of-00002')}.values()
  assert b'sample' not in shard.read_bytes() and b'label_votes' not in shard.read_bytes()


def test_of_agreeing_ones_those_that_agree(tmp_path):
  _, rows = run(tmp_path, keep_samples=True, keep='agree')
  assert [(row.id, row.sample, row.rationale, row.parse_status) for row in rows] == [
      ('a', 0, 'a1.', 'ok'), ('a', 1, 'a3.', 'ok'), ('b', 0, '', 'no_answer_phrase'),
      ('c', 0, '', 'disagrees')]


@pytest.mark.parametrize('runner', ['local', pytest.param('beam', marks=pytest.mark.slow)])
def test_recorded_answers_of_an_id_are_samples(tmp_path, monkeypatch, capsys, runner):
  if runner == 'beam':
    pytest.importorskip('apache_beam', reason="needs Apache Beam: pip install -e '.[beam]'")
  monkeypatch.chdir(tmp_path)
  pathlib.Path('in.jsonl').write_text(''.join(json.dumps(
      {'id': one, 'input': f'x {one}', 'label': 'left'}) + '\n' for one in 'abc'))
  pathlib.Path('said.jsonl').write_text(''.join(json.dumps(
      {'id': one, 'rationale': f'{one}{i}', 'label': label}) + '\n'
      for one in 'ab' for i, label in enumerate(('left', 'right', 'left'))))
  arguments = ['--dataset=toy', '--split=test', '--inputs=in.jsonl', '--completions=said.jsonl',
               '--keep_samples', f'--runner={runner}', '--num_shards=2']
  assert teacher.main([*arguments, '--records_dir=r']) == 0
  assert '7 records of 3 inputs' in capsys.readouterr().out
  rows = list(records.read_records('r', 'toy', 'test', samples=True))
  assert [(row.id, row.rationale) for row in rows] == [
      ('a', 'a0'), ('a', 'a1'), ('a', 'a2'), ('b', 'b0'), ('b', 'b1'), ('b', 'b2'), ('c', '')]


def test_the_commands_of_the_page(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('cqa_train.json').write_text(''.join(json.dumps(
      {'id': one, 'question': f'Where is {one}?', 'choices': ['nest', 'sea'], 'answer': 'nest'})
      + '\n' for one in '123'))
  for said, rationales in (('a', 'uvw'), ('b', 'xy')):
    pathlib.Path(f'answers_{said}.jsonl').write_text(''.join(json.dumps(
        {'id': one, 'rationale': f'{why}{one}', 'label': 'nest'}) + '\n'
        for one in '123' for why in rationales))
  page = (pathlib.Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
  block = page.partition('## Several answers of an input')[2].split('```sh\n')[1].split('```')[0]
  for line in block.replace('\\\n', ' ').splitlines():
    _, verb, *words = shlex.split(line)
    assert {'teacher': teacher, 'merge': merge}[verb].main([*words, *(
        ['--holdout=none'] if verb == 'teacher' else [])]) == 0
  found = list(records.read_records('records', 'cqa', 'train', samples=True))
  assert [row.rationale for row in found if row.id == '2'] == ['u2', 'v2', 'w2', 'x2', 'y2']


@pytest.mark.parametrize('client', ['openai', 'none'])
def test_one_sample_is_nothing_to_keep(tmp_path, monkeypatch, client):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('in.jsonl').write_text('{"id": "1", "input": "x"}\n')
  with pytest.raises(errors.UserError, match='--keep_samples: .*--samples=N'):
    teacher.main(['--dataset=toy', '--split=test', '--inputs=in.jsonl', f'--client={client}',
                  '--model=m', '--records_dir=r', '--keep_samples'])
