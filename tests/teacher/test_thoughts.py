"""What a thinking model wrote before its answer: taken off, kept, and, if asked for, trained on."""

import json

import hypothesis
import live
import pytest
import server
from hypothesis import strategies as st

from dss_jax import datasets
from dss_jax.records import manifest
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing, table, thoughts

NLI = datasets.Dataset(
    'anli', datasets.read_plain_row, labels=('entailment', 'neutral', 'contradiction'),
    completion=datasets.CompletionFormat('Premise:', label_kind='class', lead_in='Answer:'))
EXAMPLE = datasets.Example('1', 'A man sleeps.</s>A man is awake.')
ANSWER = 'He sleeps. So the answer is contradiction.'
WRONG = 'Premise: he sleeps. So the answer is neutral.'  # A phrase, and an end marker.
TABLE = table.of(NLI.completion)


@pytest.mark.parametrize('text', [
    f'<think>{WRONG}</think>{ANSWER}',
    f'<think>\n{WRONG}\n</think>\n\nAnswer: {ANSWER}',
    f'{WRONG}</think>{ANSWER}',  # The prompt opened it.
    f'<THINKING>{WRONG}</THINKING> {ANSWER}',
    f'<reasoning>{WRONG}</reasoning><answer>{ANSWER}</answer>',
    f'<thought>{WRONG}</thought>{ANSWER}',
    f'<seed:think>{WRONG}</seed:think>{ANSWER}',
    f'◁think▷{WRONG}◁/think▷{ANSWER}',
    f'[THINK]{WRONG}[/THINK]{ANSWER}',
    f'<|begin_of_thought|>{WRONG}<|end_of_thought|><|begin_of_solution|>{ANSWER}'
    '<|end_of_solution|>',
    f'<|START_THINKING|>{WRONG}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>',
    f'<|inner_prefix|>{WRONG}<|inner_suffix|>{ANSWER}',
    f'<|channel>thought\n{WRONG}<channel|>{ANSWER}',
    f'<|channel|>analysis<|message|>{WRONG}<|end|><|start|>assistant<|channel|>final<|message|>'
    f'{ANSWER}<|return|>',
    f'analysis{WRONG}assistantfinal{ANSWER}',  # Its special tokens were left out.
    f'Here is my thought process: {WRONG} Here is my response: {ANSWER}',
    f'<think>May I write <think>? {WRONG}</think>{ANSWER}',
])
@pytest.mark.parametrize('parser', parsing.PARSERS)
def test_thoughts_are_taken_off(text, parser):
  for reason in ('', 'stop'):
    found = parsing.read(protocol.Completion(text, reason), EXAMPLE, NLI, parser)
    if parser == 'released':
      assert found.label == 'contradiction'
    else:
      assert (found.label, found.rationale) == ('contradiction', 'He sleeps.')
  thought, _, unclosed = thoughts.part(text, TABLE)
  assert WRONG in thought and not unclosed and ANSWER not in thought
  assert not any(mark in thought for mark in ('</', '|>', '[/', 'assistantfinal'))


@pytest.mark.parametrize('text', [f'<think>{ANSWER}', f'<|channel|>analysis<|message|>{ANSWER}',
                                  f'<think>x</think>He sleeps. <think>{ANSWER}'])
def test_unclosed_thoughts_are_no_answer(text):
  for reason in ('', 'stop', 'length'):
    assert parsing.read(protocol.Completion(text, reason), EXAMPLE, NLI).status == 'truncated'


@pytest.mark.parametrize('text', ['Our analysis shows it. ' + ANSWER, 'analysis: ' + ANSWER,
                                  'I think so. ' + ANSWER, 'a < b > c. ' + ANSWER])
def test_words_are_no_marks(text):
  assert thoughts.part(text, TABLE) == ('', text, False)
  assert parsing.read(protocol.Completion(text), EXAMPLE, NLI).label == 'contradiction'


def test_a_table_of_ones_own_has_more_marks():
  form = datasets.CompletionFormat(
      'Premise:', label_kind='class', reading={'thoughts': [['((', '))']]})
  assert thoughts.part('((hm))yes', table.of(form)) == ('hm', 'yes', False)
  assert thoughts.part('<think>hm</think>yes', table.of(form))[1] == 'yes'
  only = datasets.CompletionFormat(reading={'thoughts': [['((', '))']], 'extend': False})
  assert thoughts.part('<think>hm</think>yes', table.of(only))[1] == '<think>hm</think>yes'


THINKING = parsing.Reading('strict', 'thinking', 6)


@pytest.mark.parametrize('said, parted, rationale, status', [
    (f'<think>A man\nsleeps.</think>{ANSWER}', '', 'A man\nsleeps.', 'ok'),
    (ANSWER, 'The server parted it.', 'The server parted it.', 'ok'),
    (f'<think>And this.</think>{ANSWER}', 'This.', 'This.\nAnd this.', 'ok'),
    ('<think>A man sleeps.</think>contradiction', '', 'A man sleeps.', 'ok'),  # A label alone.
    ('<think>A man sleeps.</think>So the answer is contradiction.', '', 'A man sleeps.', 'ok'),
    ('<think>It is.</think>{"label": "contradiction"}', '', 'It is.', 'ok'),
    (ANSWER, '', '', 'empty_rationale'),
    (f'<think> </think>{ANSWER}', '', '', 'empty_rationale'),
    (f'<think>one two three four five six seven</think>{ANSWER}', '', '', 'long_thinking'),
    ('<think>So the answer is neutral.</think>I cannot say.', '', '', 'no_answer_phrase'),
    (f'<think>{ANSWER}', 'x', '', 'truncated'),
])
def test_a_rationale_from_thinking(said, parted, rationale, status):
  found = parsing.read(protocol.Completion(said, 'stop', thoughts=parted), EXAMPLE, NLI, THINKING)
  assert (found.rationale, found.status) == (rationale, status)
  assert found.label == ('contradiction' if found.ok else '')


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(st.sampled_from(
    [*(mark for pair in TABLE.thoughts for mark in pair), 'SECRET ', 'He sleeps. ', ANSWER, '\n',
     'So the answer is neutral', 'Premise:', '{"label":"neutral","rationale":"x"}', '<|end|>']),
    max_size=12).map(''.join), st.sampled_from(['', 'stop', 'length']))
def test_any_marks_give_a_label_or_a_reason(text, reason):
  for how in (parsing.Reading(), THINKING):
    found = parsing.read(protocol.Completion(text, reason), EXAMPLE, NLI, how)
    assert found.status in ('ok', *parsing.REASONS)
    assert (found.label in NLI.labels and found.rationale.strip()) if found.ok else (
        found.label == found.rationale == '')
  closed = f'<think>SECRET{text}'.replace('</', '') + '</think>' + ANSWER
  if not any(two in text for _, two in TABLE.thoughts):
    assert 'SECRET' not in parsing.read(protocol.Completion(closed), EXAMPLE, NLI).rationale


def think(asked):
  said = live.answer(asked)
  number = int(asked.split('What is ')[-1].split('?')[0])
  thought = 'Which is it? ' * (40 if number == 3 else 1)
  return f'<think>{thought}So the answer is (a) one.' + ('' if number == 5 else f'</think>{said}')


def test_a_thinking_teacher_live(tmp_path):
  live.write_inputs(tmp_path, 10)
  with server.Server(think) as teacher:
    done = live.run(teacher, tmp_path, '--retry_failed=1')
    assert done.returncode == 0, done.stderr
    assert teacher.requests == 11  # The one that did not stop thinking is asked again.
    rows = live.read(tmp_path)
    assert {row.teacher_label for row in rows.values()} == {'many', ''}
    assert all('<' not in row.rationale and 'Which' not in row.rationale for row in rows.values())
    assert rows['q5'].parse_status == 'truncated'
    (failed,) = [json.loads(line) for file in (tmp_path / 'records/quarantine').iterdir()
                 for line in file.read_text().splitlines()]
    assert failed['thoughts'].startswith('Which') and failed['completion'] == ''

    done = live.run(teacher, tmp_path, '--dry_run', '--rationale_from=thinking',
                    '--max_thinking=50')
    assert '10 in the journal, of 9 words (median), 126 at most' in done.stdout, done.stdout
    assert '1 (10%) are over --max_thinking=50 and fail' in done.stdout
    done = live.run(teacher, tmp_path, '--rationale_from=thinking', '--max_thinking=50')
    assert done.returncode == 0 and teacher.requests == 11, done.stderr
  rows = live.read(tmp_path)
  assert rows['q1'].rationale == 'Which is it? So the answer is (a) one.'
  assert rows['q1'].teacher_label == 'many' and rows['q3'].parse_status == 'long_thinking'
  entry = manifest.entry_of(str(tmp_path / 'records'), 'cqa-train')
  assert (entry['rationale_from'], entry['max_thinking']) == ('thinking', 50)


def test_the_released_parser_has_no_thoughts_to_train_on(tmp_path):
  live.write_inputs(tmp_path, 2)
  with server.Server(think) as teacher:
    done = live.run(teacher, tmp_path, '--rationale_from=thinking', '--parser=released')
  assert done.returncode == 2 and 'use --parser=strict' in done.stderr
