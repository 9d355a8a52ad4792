"""From several samples to one record: voting, --keep, quarantine, further attempts, locks."""

import asyncio
import dataclasses
import json
import subprocess
import sys

import pytest

from dss_jax import datasets, errors, records
from dss_jax.teacher import job, protocol, report
from dss_jax.teacher.read import parsed, parsing, voting

LABELS = ('yes', 'no')
DATASET = datasets.Dataset('mine', datasets.read_plain_row, labels=LABELS, holdout=None,
                           completion=datasets.CompletionFormat(label_kind='class'))
SUMS = datasets.Dataset('sums', datasets.read_plain_row, metric='equation', holdout=None,
                        completion=datasets.CompletionFormat(label_kind='equation'))


class Client(protocol.Client):
  """Says for each id and attempt what `answers` has."""

  name, model = 'scripted', 'me'

  def __init__(self, *answers):
    self.answers = answers  # one dict an attempt: id -> [(text, finish reason), ...]
    self.asked = []

  async def complete(self, examples, attempt=0):
    self.asked.append([example.id for example in examples])
    return [tuple(protocol.Completion(text, reason, 'p', f'{e.id}-{attempt}-{i}', 10, 2)
                  for i, (text, reason) in enumerate(self.answers[attempt][e.id]))
            for e in examples]


def say(label, why='Since.'):
  return (f'{why} So the answer is {label}.', 'stop')


def run(tmp_path, client, dataset=DATASET, label='yes', **options):
  rows = [datasets.Example(one, f'input {one}', label) for one in client.answers[0]]
  outcome = job.run(dataset, 'test', rows, client, 'strict', str(tmp_path), **options)
  return {r.id: r for r in records.read_records(str(tmp_path), dataset.name, 'test')}, outcome


def quarantine(tmp_path, name='mine-test'):
  path = tmp_path / 'quarantine' / f'{name}.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


# --- Voting --------------------------------------------------------------------------------------


@pytest.mark.parametrize('labels, chosen', [
    (['yes'], (0, 1)), (['no', 'yes', 'yes'], (1, 2)), (['no', 'yes'], (0, 1)),
    ([None, 'yes'], (1, 1)), ([None, None], (0, 0)), ([None, 'no', 'yes', 'yes', 'no'], (1, 2))])
def test_the_most_frequent_label_wins_and_the_first_of_equals(labels, chosen):
  samples = [parsed.Parsed('r', one) if one else parsed.failed('empty_label') for one in labels]
  assert voting.choose(samples, DATASET) == chosen


def test_equations_vote_by_value():
  samples = [parsed.Parsed('r', one) for one in ('9 - 2', '( 84.0 / 2.0 )', '(40 + 2)', '6 * 7')]
  assert voting.choose(samples, SUMS) == (1, 3)


def test_normalized_texts_vote_together():
  short = dataclasses.replace(DATASET, metric='normalized_text', labels=None)
  samples = [parsed.Parsed('r', label) for label in ('a tower', 'The Tower.', 'bridge', 'bridges')]
  assert voting.choose(samples, short) == (0, 2)


def test_a_record_is_of_the_winning_sample(tmp_path):
  rows, outcome = run(tmp_path, Client({
      'a': [say('no', 'First.'), say('yes', 'Second.'), say('yes', 'Third.')],
      'b': [('Nothing', 'stop'), say('no', 'Fine.'), ('', 'stop')]}))
  assert (rows['a'].rationale, rows['a'].teacher_label, rows['a'].request_key) == (
      'Second.', 'yes', 'a-0-1')
  assert (rows['b'].rationale, rows['b'].parse_status) == ('Fine.', 'ok')
  assert '3.00 completions a row, 1.50 of them' in report.render(outcome)
  entry = records.find_set(str(tmp_path), 'mine', 'test').entry
  assert entry['teacher']['usage'] == {
      'completions': 6, 'prompt_tokens': 60, 'completion_tokens': 12}


def test_half_an_emoji_in_a_finish_reason(tmp_path):
  rows, _ = run(tmp_path, Client({'a': [('Since. So the answer is yes.', 'st\ud83dop')]}))
  assert rows['a'].finish_reason == 'st\ufffdop'


# --- Why a completion ended ----------------------------------------------------------------------


@pytest.mark.parametrize('text, reason, status', [
    ('Since. So the answer is yes', 'stop', 'ok'),
    ('Since. So the answer is yes', 'length', 'truncated'),  # '... yes and no'?
    ('Since. So the answer is yes.', 'length', 'ok'),
    ('Since. So the answer is yes\nAnd so', 'length', 'ok'),
    ('Since. So the answer is yes\n\nQ: wh', 'length', 'ok'),
    ('Since this and', 'length', 'truncated'),
    ('Since this and', 'stop', 'no_answer_phrase'),  # It stopped by itself.
    ('Since this and', '', 'truncated'),
    ('', 'content_filter', 'refused'), ('I cannot.', 'refusal', 'refused'),
    ('', 'rejected', 'rejected'), ('', 'stop', 'empty_completion')])
def test_the_finish_reason_decides_what_a_text_means(text, reason, status):
  example = datasets.Example('q', 'x', 'yes')
  found = parsing.read(protocol.Completion(text, reason), example, DATASET, 'strict')
  assert found.status == status and bool(found.rationale) == (status == 'ok')


def test_a_letter_is_enough_of_a_choice():
  dataset = datasets.Dataset('pick', datasets.read_plain_row,
                             completion=datasets.CompletionFormat(label_kind='choice'))
  example = datasets.Example('q', 'x', 'ink', ('pen', 'ink'))
  found = parsing.read(protocol.Completion('It is. So the answer is (b) i', 'length'), example,
                       dataset, 'strict')
  assert found.label == 'ink'


# --- Quarantine and further attempts -------------------------------------------------------------

FIRST = {'a': [say('yes')], 'b': [('I cannot say', 'length')], 'c': [('', 'content_filter')],
         'd': [say('maybe')]}


def test_failed_rows_are_listed_with_reason_and_completion(tmp_path):
  rows, outcome = run(tmp_path, Client(FIRST), num_shards=2)
  assert [(q['id'], q['reason'], q['completion'], q['finish_reason'])
          for q in quarantine(tmp_path)] == [
      ('b', 'truncated', 'I cannot say', 'length'), ('c', 'refused', '', 'content_filter'),
      ('d', 'unknown_label', 'Since. So the answer is maybe.', 'stop')]
  assert all(q['why'] and q['input'] and q['request_key'] for q in quarantine(tmp_path))
  assert f'read them: {tmp_path}/quarantine/mine-test.jsonl' in report.render(outcome)
  assert rows['b'].parse_status == 'truncated' and rows['b'].label == 'yes'
  run(tmp_path, Client({'a': [say('yes')]}))
  assert quarantine(tmp_path) is None  # The next run has none.


def test_only_failed_rows_are_asked_again(tmp_path):
  client = Client(FIRST, {'b': [say('no')], 'c': [('', 'content_filter')], 'd': [say('yes')]},
                  {'c': [say('yes', 'At last.')]}, {})
  rows, _ = run(tmp_path, client, retry_failed=3, num_shards=1)
  assert client.asked == [['a', 'b', 'c', 'd'], ['b', 'c', 'd'], ['c']]
  assert {one: (r.teacher_label, r.request_key) for one, r in rows.items()} == {
      'a': ('yes', 'a-0-0'), 'b': ('no', 'b-1-0'), 'c': ('yes', 'c-2-0'), 'd': ('yes', 'd-1-0')}
  assert quarantine(tmp_path) is None
  assert records.find_set(str(tmp_path), 'mine', 'test').entry['retry_failed'] == 3


def test_inside_a_notebook_whose_event_loop_is_running(tmp_path):
  async def cell():
    return run(tmp_path, Client({'a': [say('yes')]}))
  rows, _ = asyncio.run(cell())
  assert rows['a'].parse_status == 'ok'


# --- --keep --------------------------------------------------------------------------------------


def test_keep_agree_drops_rationales_of_other_labels(tmp_path):
  answers = {'a': [say('yes')], 'b': [say('no')]}
  rows, outcome = run(tmp_path / 'agree', Client(answers), keep='agree')
  assert (rows['b'].rationale, rows['b'].teacher_label, rows['b'].parse_status) == (
      '', '', 'disagrees')
  assert rows['a'].parse_status == 'ok' and quarantine(tmp_path / 'agree') is None
  kept, everything = run(tmp_path / 'all', Client(answers))
  assert kept['b'].teacher_label == 'no'
  # The teacher's accuracy is the same either way.
  assert outcome.splits['test'].accuracy == everything.splits['test'].accuracy == {'accuracy': 50}
  for name in ('agree', 'all'):
    assert records.find_set(str(tmp_path / name), 'mine', 'test').entry['keep'] == name


def test_keep_agree_compares_equations_by_value_and_keeps_rows_without_gold(tmp_path):
  answers = {'a': [say('(40 + 2)')], 'b': [say('(40 + 3)')]}
  rows, _ = run(tmp_path / '1', Client(answers), SUMS, '( 84.0 / 2.0 )', keep='agree')
  assert [r.parse_status for r in rows.values()] == ['ok', 'disagrees']
  rows, _ = run(tmp_path / '2', Client(answers), SUMS, '', keep='agree')
  assert [r.parse_status for r in rows.values()] == ['ok', 'ok']


def test_unknown_keep_writes_nothing(tmp_path):
  with pytest.raises(errors.UserError, match="unknown --keep=agrees: did you mean 'agree'"):
    run(tmp_path / 'r', Client(FIRST), keep='agrees')
  assert not (tmp_path / 'r').exists()


# --- Unfinished jobs and locks -------------------------------------------------------------------


class Stopping(Client):
  """Stops at one id."""

  async def complete(self, examples, attempt=0):
    if any(example.id == 'c' for example in examples):
      raise protocol.Unfinished('no more')
    return await super().complete(examples, attempt)


def test_an_unfinished_job_leaves_the_earlier_set(tmp_path):
  run(tmp_path, Client({one: [say('no')] for one in 'abcd'}), num_shards=4)
  with pytest.raises(protocol.Unfinished, match='no more'):
    run(tmp_path, Stopping({one: [say('yes')] for one in 'abcd'}), num_shards=4)
  assert {r.teacher_label for r in records.read_records(str(tmp_path), 'mine', 'test')} == {'no'}
  rows, _ = run(tmp_path, Client({one: [say('yes')] for one in 'abcd'}), num_shards=4)
  assert {r.teacher_label for r in rows.values()} == {'yes'}
  assert not list(tmp_path.glob('.*.pending'))


def test_the_second_job_on_a_set_refuses_and_a_killed_ones_lock_is_free(tmp_path):
  script = f'''if True:
      import time
      from dss_jax import files
      with files.lock({str(tmp_path)!r}, 'mine-test'):
        print('held', flush=True)
        time.sleep(60)
  '''
  first = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
  try:
    assert first.stdout.readline() == 'held\n'
    with pytest.raises(errors.UserError, match=f'at work on mine-test .process {first.pid}, host'):
      run(tmp_path, Client(FIRST))
    run(tmp_path, Client({'a': [say('(1 + 1)')]}), dataset=SUMS, label='')  # Another set is free.
  finally:
    first.kill()
    first.wait()
  assert run(tmp_path, Client(FIRST))[0]
