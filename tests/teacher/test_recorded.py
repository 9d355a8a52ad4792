"""Answers that other programs have saved: their layouts, gaps, samples, and their order."""

import asyncio
import json
import random

import pytest

from dss_jax import datasets, records
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher import job, report
from dss_jax.teacher.ask import order, recorded
from dss_jax.teacher.read import parsing

TEAMS = ('billing', 'bug', 'other')
TICKETS = datasets.Dataset('tickets', datasets.read_plain_row, labels=TEAMS, holdout=None,
                           completion=datasets.CompletionFormat('Ticket:', label_kind='class'))
SAYS = 'The app closes. So the answer is bug.'


def lines(rows):
  return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def examples(n):
  return [datasets.Example(f't{i}', f'Ticket number {i}', TEAMS[i % 3]) for i in range(n)]


def complete(path, n=3, **kwargs):
  client = recorded.RecordedClient(str(path), **kwargs)
  shown = examples(n)
  client.prepare([example.id for example in shown])
  return asyncio.run(client.complete(shown))


def statuses(path, n=3):
  return [parsing.read(samples[0], example, TICKETS, 'strict').status
          for samples, example in zip(complete(path, n), examples(n), strict=True)]


def batch_line(i, content, **more):
  body = {'choices': [{'index': 0, 'finish_reason': 'stop', 'message': {
      'role': 'assistant', 'content': content, **more}}],
          'usage': {'prompt_tokens': 7, 'completion_tokens': 5, 'total_tokens': 12}}
  return {'id': f'batch_req_{i}', 'custom_id': f't{i}', 'error': None,
          'response': {'status_code': 200, 'request_id': '', 'body': body}}


@pytest.mark.parametrize('name, text', [
    ('c.jsonl', lines({'id': f't{i}', 'completion': SAYS} for i in (2, 0, 1))),
    ('c.jsonl', lines({'id': f't{i}', 'generation': SAYS, 'model_name': 'm', 'label': 'bug',
                       'input': 'x'} for i in range(3))),
    ('c.jsonl', lines({'id': f't{i}', 'response': SAYS} for i in range(3))),
    ('c.jsonl', lines({'id': f't{i}', 'output': [SAYS]} for i in range(3))),
    ('c.jsonl', lines({'id': f't{i}', 'completion': SAYS, 'output': 'x'} for i in range(3))),
    ('c.jsonl', lines({'id': f't{i}', 'rationale': 'The app closes.', 'label': 'bug'}
                      for i in range(3))),
    ('c.jsonl', lines(batch_line(i, SAYS) for i in (1, 0, 2))),
    ('c.jsonl', lines({'custom_id': f't{i}', 'response': {'body': {'choices': [
        {'text': SAYS, 'finish_reason': 'stop'}]}}} for i in range(3))),
    ('c.json', json.dumps([{'id': f't{i}', 'completion': SAYS} for i in range(3)])),
    ('c.json', json.dumps([[SAYS, SAYS]] * 3)),
    ('c.csv', f'id,generation\nt2,{SAYS}\nt0,{SAYS}\nt1,{SAYS}\n'),
    ('c.CSV', '\ufeffid,rationale,label\r\n' + ''.join(
        f't{i},"The app\r\ncloses.",bug\r\n' for i in range(3))),
    ('c.tsv', 'label\trationale\tid\n' + ''.join(f'bug\tThe app closes.\tt{i}\n'
                                                 for i in range(3))),
])
def test_layouts(tmp_path, name, text):
  (tmp_path / name).write_bytes(text.encode())
  for samples, example in zip(complete(tmp_path / name), examples(3), strict=True):
    for parser in ('strict',) + ('released',) * bool(samples[0].apart):
      read = parsing.read(samples[0], example, TICKETS, parser)
      assert (' '.join(read.rationale.split()), read.label) == ('The app closes.', 'bug'), read


def test_parquet(tmp_path):
  pyarrow, parquet = map(pytest.importorskip, ('pyarrow', 'pyarrow.parquet'))
  parquet.write_table(
      pyarrow.table({'id': [2, 0, 1], 'generation': [SAYS, None, SAYS]}), tmp_path / 'c.parquet')
  shown = [datasets.Example(str(i), 'x') for i in range(3)]
  client = recorded.RecordedClient(str(tmp_path / 'c.parquet'))
  client.prepare([one.id for one in shown])
  assert [one.text for (one,) in asyncio.run(client.complete(shown))] == ['', SAYS, SAYS]


def test_what_a_batch_says_besides_the_text(tmp_path):
  two = batch_line(0, SAYS, reasoning_content='It closes.')
  two['response']['body']['choices'].append({'message': {'content': 'Hm.'},
                                             'finish_reason': 'length'})
  (tmp_path / 'c.jsonl').write_text(lines([
      two, batch_line(1, None, refusal='I cannot.'),
      {**batch_line(2, SAYS), 'response': None, 'error': {'code': 'batch_expired'}},
      {**batch_line(3, ''), 'response': {'status_code': 400, 'body': {'error': {'code': 'x'}}}}]))
  (first, second), (refused,), (expired,), (failed,) = complete(tmp_path / 'c.jsonl', 4)
  assert (first.text, first.thoughts, first.finish_reason) == (SAYS, 'It closes.', 'stop')
  assert (first.prompt_tokens, first.completion_tokens) == (7, 5)
  assert (second.text, second.finish_reason, second.completion_tokens) == ('Hm.', 'length', 0)
  assert (refused.text, refused.finish_reason) == ('', 'refusal')
  assert expired.finish_reason == failed.finish_reason == 'missing'
  assert statuses(tmp_path / 'c.jsonl', 4) == ['ok', 'refused', 'missing', 'missing']


@pytest.mark.parametrize('name, text', [
    ('c.jsonl', lines([{'id': 't0', 'completion': SAYS}, {'id': 't2', 'completion': SAYS}])),
    ('c.jsonl', lines([{'id': 't0', 'completion': SAYS}, {'id': 't1', 'completion': None},
                       {'id': 't2', 'completion': [None, SAYS]}])),
    ('c.jsonl', lines([{'id': 't0', 'rationale': 'It is.', 'label': 'bug'},
                       {'id': 't1', 'rationale': None, 'label': None},
                       {'id': 't2', 'rationale': 'It is.', 'label': 'bug'}])),
    ('c.json', json.dumps([SAYS, None, SAYS])),
    ('c.csv', f'id,completion\nt0,{SAYS}\nt1,\nt2,{SAYS}\n'),
])
def test_a_row_without_an_answer_is_missing(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  assert statuses(tmp_path / name) == ['ok', 'missing', 'ok']


def test_half_an_answer_has_its_own_reason(tmp_path):
  (tmp_path / 'c.csv').write_text('id,rationale,label\nt0,,bug\nt1,It is.,\nt2,It is.,fruit\n')
  assert statuses(tmp_path / 'c.csv') == ['empty_rationale', 'empty_label', 'unknown_label']


def test_missing_rows_are_counted_and_named(tmp_path):
  (tmp_path / 'c.jsonl').write_text(lines({'id': f't{i}', 'completion': SAYS} for i in range(19)))
  outcome = job.run(TICKETS, 'train', examples(20), recorded.RecordedClient(
      str(tmp_path / 'c.jsonl')), 'strict', str(tmp_path / 'r'), num_shards=2)
  text = report.render(outcome)
  assert '1  missing: there is no completion for the row, or it is null' in text
  (row,) = map(json.loads, (tmp_path / 'r/quarantine/tickets-train.jsonl').read_text().splitlines())
  assert (row['id'], row['reason'], row['completion']) == ('t19', 'missing', '')


def test_several_of_an_id_vote(tmp_path):
  (tmp_path / 'c_1.jsonl').write_text(lines(
      {'id': f't{i}', 'completion': SAYS, 'finish_reason': 'stop'} for i in range(3)))
  (tmp_path / 'c_2.jsonl').write_text(lines([
      *({'id': f't{i}', 'completion': ['A bill. So the answer is billing.'] * 2} for i in (0, 2)),
      {'id': 't1', 'completion': None}]))
  assert [len(samples) for samples in complete(tmp_path / 'c_*')] == [3, 1, 3]
  outcome = job.run(TICKETS, 'train', examples(3),
                    recorded.RecordedClient(str(tmp_path / 'c_*')), 'strict', str(tmp_path / 'r'))
  found = [row.teacher_label for row in records.read_records(
      str(tmp_path / 'r'), 'tickets', 'train')]
  assert found == ['billing', 'bug', 'billing']
  assert '2.33 completions a row' in report.render(outcome)


def test_a_lead_in_is_taken_off(tmp_path, monkeypatch):
  (tmp_path / 'in.jsonl').write_text(lines(
      {'id': str(i), 'question': f'Where {i}?', 'choices': ['nest', 'sea'], 'answer': 'nest'}
      for i in range(5)))
  leads = ('', 'A: ', ' A:\n', 'Answer: ', 'Well, A: ')
  (tmp_path / 'c.jsonl').write_text(lines(
      {'id': str(i), 'completion': f'{lead}Birds nest. So the answer is (a) nest.'}
      for i, lead in enumerate(leads)))
  found = {}
  for parser in ('strict', 'released'):
    teacher_main.main(['--dataset=cqa', '--split=test', f'--inputs={tmp_path}/in.jsonl',
                       f'--completions={tmp_path}/c.jsonl', f'--records_dir={tmp_path}/r',
                       f'--parser={parser}'])
    found[parser] = [row.rationale for row in records.read_records(f'{tmp_path}/r', 'cqa', 'test')]
  assert found['strict'] == ['Birds nest.'] * 4 + ['Well, A: Birds nest.']
  assert found['released'][1].startswith('A: ')


# --- Order ---------------------------------------------------------------------------------------


_SYLLABLES = ('ka', 'lo', 'mi', 'nu', 'pe', 'ri', 'sa', 'to')
WORDS = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]


def told(n, seed=0, shared=3):
  """Inputs, and rationales that repeat some of their words."""
  draw = random.Random(seed)
  inputs = [draw.sample(WORDS, 9) for _ in range(n)]
  return [' '.join(one) for one in inputs], [
      f'The text has {" and ".join(draw.sample(one, shared))}.' for one in inputs]


@pytest.mark.parametrize('n', [25, 60, 400])
def test_shuffled_answers_are_noticed(n):
  inputs, rationales = told(n, shared=6)
  assert not order.compare(rationales, inputs).elsewhere
  for other in (rationales[1:] + rationales[:1], rationales[::-1],
                random.Random(1).sample(rationales, n)):
    assert order.compare(other, inputs).elsewhere


@pytest.mark.parametrize('n', [1, 5, 19])
def test_too_few_to_tell(n):
  inputs, rationales = told(n, shared=6)
  assert not order.compare(rationales[::-1], inputs).elsewhere


@pytest.mark.parametrize('rationales', [
    [''] * 200,
    ['The customer is not content with it.'] * 200,
    [f'This is about {WORDS[i % 7]}.' for i in range(200)],
    [f'Es geht um Nummer {i} und sonst nichts.' for i in range(200)],
    [' '.join(random.Random(i).sample(WORDS, 3)) for i in range(200)],
    ['Positive.', 'Negative.'] * 100,
])
def test_rationales_of_no_input_in_particular_raise_no_alarm(rationales):
  assert not order.compare(rationales, told(200)[0]).elsewhere


def test_a_script_without_spaces():
  draw = random.Random(0)
  inputs = [''.join(chr(draw.randrange(0x4e00, 0x5200)) for _ in range(20)) for _ in range(60)]
  rationales = [f'因为{one[3:12]}所以' for one in inputs]
  assert not order.compare(rationales, inputs).elsewhere
  assert order.compare(rationales[1:] + rationales[:1], inputs).elsewhere


@pytest.mark.parametrize('accuracy, labels, doubted', [
    (60.0, ['bug'] * 90 + ['other'] * 10, True), (88.0, ['bug'] * 90 + ['other'] * 10, False),
    (30.0, ['bug', 'other', 'billing'] * 40, False), (0.0, ['bug'] * 19, False),
    (2.5, [str(i) for i in range(100)], False), (100.0, [''] * 30, False)])
def test_an_accuracy_below_that_of_one_label_for_all(accuracy, labels, doubted):
  found = order.doubts([''] * len(labels), [
      datasets.Example(str(i), 'x', label) for i, label in enumerate(labels)], accuracy)
  assert bool(found) == doubted
  if doubted:
    assert "an accuracy of 60.00 is below 90.00, that of 'bug' for every row" in found[0]


def test_the_report_asks(tmp_path):
  inputs, rationales = told(40, shared=6)
  shown = [datasets.Example(f't{i}', text, 'bug') for i, text in enumerate(inputs)]
  for answers, count in ((rationales, 0), (rationales[::-1], 1)):
    (tmp_path / 'c.json').write_text(json.dumps([
        f'{text} So the answer is bug.\n\nTicket: {text}' for text in answers]))
    outcome = job.run(TICKETS, 'train', shown, recorded.RecordedClient(
        str(tmp_path / 'c.json')), 'strict', str(tmp_path / 'r'))
    assert report.render(outcome).count('are these in the order of the inputs?') == count
