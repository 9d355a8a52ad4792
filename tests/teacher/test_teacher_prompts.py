"""Prompt files: those of the package teach what the parser reads, others are checked."""

import dataclasses
import json
import re

import live
import pytest
import server

import dss_jax.tasks  # noqa: F401
from dss_jax import datasets, errors
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import prompts, tokens
from dss_jax.teacher.read import parsing

NAMES = ('anli', 'asdiv', 'cqa', 'esnli', 'svamp')
LETTERED = re.compile(r'^\([a-z]\) (.*)$', re.MULTILINE)


def load(name):
  return prompts.load(prompts.path_of(name))


@pytest.mark.parametrize('name', NAMES)
def test_demonstrations_are_answers_that_the_parser_reads(name):
  prompt, dataset = load(name), datasets.get(name)
  assert prompt.dataset == name and 16 <= len(prompt.demonstrations) <= 22
  assert prompt.completion == dataset.completion
  for shown in prompt.demonstrations:
    written = prompt.reply(shown).removeprefix(prompt.lead_in)
    example = datasets.Example('x', shown.input, choices=tuple(LETTERED.findall(shown.input)))
    found = parsing.parse_strict(f'{written}\n\n{prompt.stop[0]} next', example, dataset)
    assert found.status == 'ok' and found.rationale == shown.rationale
    assert found.label == re.sub(r'^\([a-z]\) ', '', shown.label)


@pytest.mark.parametrize('name', NAMES)
def test_every_label_is_shown_and_none_prevails(name):
  labels = [shown.label.split()[0] if name == 'cqa' else shown.label
            for shown in load(name).demonstrations]
  kinds = {'anli': 3, 'esnli': 3, 'cqa': 5}.get(name)
  if kinds:
    assert len(set(labels)) == kinds
    assert max(map(labels.count, labels)) <= -(-len(labels) // kinds) + 1


@pytest.mark.parametrize('name', ['anli', 'cqa', 'esnli'])
def test_labels_follow_no_pattern(name):
  labels = [shown.label.split()[0] for shown in load(name).demonstrations]
  for period in range(1, 7):
    repeated = sum(a == b for a, b in zip(labels, labels[period:], strict=False))
    assert repeated <= 0.67 * (len(labels) - period), period
  follows = {(a, b) for a, b in zip(labels, labels[1:], strict=False)}
  assert all(len({b for a, b in follows if a == label}) > 1 for label in set(labels))


@pytest.mark.parametrize('name', NAMES)
def test_the_instruction_alone_says_how_to_answer(name):
  prompt = load(name)
  form = prompt.instruction.partition('form')[2]
  assert prompt.completion.answer_phrase in form and f'\n{prompt.lead_in} <explanation>' in form
  labels = datasets.get(name).labels or ()
  assert all(label in form for label in labels)
  assert not any(stop in prompt.instruction for stop in prompt.stop)


@pytest.mark.parametrize('name', NAMES)
def test_what_all_requests_share_is_long_enough_for_a_cache(name):
  shared = load(name).as_messages('a</s>b' if load(name).parts else 'a')[:-1]
  assert sum(tokens.estimate(one['content']) for one in shared) > tokens.CACHED


def test_line_breaks_of_the_instruction_stay(tmp_path):
  file = tmp_path / 'tickets.toml'
  for quoted, instruction in (
      ("'''\nName the team:\n- bug\n- other\n\nBe short.\n'''",
       'Name the team:\n- bug\n- other\n\nBe short.'),
      ('"""\nName the \\\n  team.\n\nBe short."""', 'Name the team.\n\nBe short.')):
    file.write_text(GOOD.replace("'Name the team.'", quoted))
    prompt = prompts.load(str(file))
    assert prompt.instruction == instruction
    assert prompt.as_text('x').startswith(f'{instruction}\n\nQ: It crashes.')
    assert prompt.as_messages('x')[0]['content'] == instruction


@pytest.mark.parametrize('name', ['svamp', 'cqa'])
def test_no_demonstration_is_a_row_of_the_data(name, real_data):
  texts = [path.read_text() for path in (real_data / name).glob('*.json')]
  assert texts
  for shown in load(name).demonstrations:
    first = json.dumps(shown.input.split('\n')[0])[1:-1]
    assert not any(first in text for text in texts)


def test_the_whole_request():
  prompt = load('cqa')
  text = prompt.as_text('Where do birds live?\nAnswer Choices:\n(a) nest')
  assert text.startswith('Choose the best answer.')
  assert text.endswith('Q: Where do birds live?\nAnswer Choices:\n(a) nest\nA:')
  assert text.count('\n\nQ: ') == len(prompt.demonstrations) + 1
  messages = prompt.as_messages('Where?')
  assert [m['role'] for m in messages] == [
      'system', *['user', 'assistant'] * len(prompt.demonstrations), 'user']
  assert messages[-1]['content'] == 'Q: Where?'


def test_an_input_in_parts():
  prompt = load('anli')
  assert prompt.ask('It rains.</s>It is {wet}.') == 'Premise: It rains.\nHypothesis: It is {wet}.'
  with pytest.raises(errors.UserError, match=r'2 parts \(premise, hypothesis\)'):
    prompt.ask('It rains.')


def test_the_hash_is_of_everything_that_counts():
  hashes = {load(name).sha256() for name in NAMES}
  assert len(hashes) == len(NAMES)
  prompt = load('cqa')
  assert prompt.sha256() == load('cqa').sha256()
  for change in ({'instruction': 'x'}, {'stop': ()}, {'version': 7}, {'question': 'R: {input}'},
                 {'demonstrations': prompt.demonstrations[1:]}):
    assert dataclasses.replace(prompt, **change).sha256() != prompt.sha256()


GOOD = """
version = 1
dataset = 'tickets'
instruction = 'Name the team.'
[completion]
question = 'Q: {input}'
answer = 'A: {rationale} So the answer is {label}.'
answer_phrase = 'So the answer is'
label_kind = 'class'
stop = ['Q:']
[[demonstrations]]
input = 'It crashes.'
rationale = 'A crash is a fault.'
label = 'bug'
"""


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ("version = 1", '', "no 'version'"),
    ('stop =', 'stopp =', r"\[completion\]: unknown key 'stopp': did you mean 'stop'"),
    ("label = 'bug'", '', "demonstration 1: no 'label'"),
    ('{input}', '{text}', r'question: .*must hold exactly \{input\}'),
    ('{rationale} So', 'So', r'answer: .*\{rationale\}, \{label\}'),
    ("'So the answer is'", "'Thus'", "does not hold the answer_phrase 'Thus'"),
    ("'class'", "'klass'", "label_kind='klass'"),
    ('[completion]', '[completion', 'not TOML'),
    ("stop = ['Q:']", "stop = 'Q:'", r"stop = 'Q:': give a list of texts, stop = \['...'\]"),
    ("stop = ['Q:']", "stop = ['']", 'stop = .*: give a list'),
    ("stop = ['Q:']", 'stop = [1]', 'stop = .*: give a list'),
    ("stop = ['Q:']", "stop = ['Q:']\nparts = 'ab'", 'parts = .*: give a list'),
    ('version = 1', "version = '1'", "version is one text '1': give a whole number"),
    ('version = 1', 'version = true', 'version is true'),
    ("'tickets'", '[1]', r'dataset is a list \[1\]: give one text'),
    ("'Name the team.'", "['Name the team.']", 'instruction is a list'),
    ("'Q: {input}'", '7', 'question is the number 7'),
    ("'So the answer is'", '3', 'answer_phrase is the number 3'),
    ("'So the answer is'", "''", 'answer_phrase is blank'),
    ("'class'", '1', 'label_kind is the number 1'),
    ("'bug'", 'true', 'demonstration 1: label is true'),
    ("'bug'", "['bug']", 'demonstration 1: label is a list'),
    ("'bug'", "' '", 'demonstration 1: label is blank'),
    ("'bug'", '1979-05-27', 'demonstration 1: label is date'),
])
def test_what_is_wrong_is_named(tmp_path, old, new, message):
  file = tmp_path / 'tickets.toml'
  file.write_text(GOOD)
  assert prompts.load(str(file)).ask('x') == 'Q: x'
  assert old in GOOD
  file.write_text(GOOD.replace(old, new))
  with pytest.raises(errors.UserError, match=message):
    prompts.load(str(file))


def test_tables_that_are_none(tmp_path):
  top = "version = 1\ndataset = 'd'\ninstruction = 'x'\n"
  for rest, message in (
      ("completion = 'Q:'\ndemonstrations = []", "[completion]: one text 'Q:' instead of a table"),
      (GOOD.partition('[completion]')[2].partition('[[')[0].join((
          "demonstrations = ['It crashes.']\n[completion]", '')),
       "demonstration 1: one text 'It crashes.' instead of a table")):
    (tmp_path / 'd.toml').write_text(top + rest)
    with pytest.raises(errors.UserError) as error:
      prompts.load(str(tmp_path / 'd.toml'))
    assert message in str(error.value)


def test_number_labels_a_byte_order_mark_and_line_ends_change_nothing(tmp_path):
  file = tmp_path / 'tickets.toml'
  hashes = set()
  for label in ("'1.0'", '1.0'):
    for start, end in (('', '\n'), ('\ufeff', '\r\n')):
      text = start + GOOD.replace("'bug'", label).replace('\n', end)
      file.write_bytes(text.encode())
      assert prompts.load(str(file)).demonstrations[0].label == '1.0'
      hashes.add(prompts.load(str(file)).sha256())
  assert len(hashes) == 1


def test_a_missing_file_says_what_is_needed(tmp_path):
  with pytest.raises(errors.UserError, match='needs a prompt file'):
    prompts.load(str(tmp_path / 'nowhere.toml'))


def test_show_prompt_prints_the_request_and_asks_nobody(tmp_path, capsys):
  (tmp_path / 'in.jsonl').write_text(json.dumps(
      {'id': '1', 'question': 'Where do birds live?', 'choices': ['nest', 'sea']}) + '\n')
  assert teacher_main.main(['--show_prompt', '--dataset=cqa', '--split=train',
                            f'--inputs={tmp_path / "in.jsonl"}']) == 0
  printed = capsys.readouterr().out
  assert load('cqa').as_text('Where do birds live?\nAnswer Choices:\n(a) nest\n(b) sea') in printed
  assert load('cqa').sha256() in printed


@pytest.mark.parametrize('flags', [[], ['--endpoint=completions'], ['--answer=json']])
def test_without_demonstrations_it_is_zero_shot(tmp_path, flags):
  with open(prompts.path_of('cqa'), encoding='utf-8') as f:
    text = f.read().partition('[[demonstrations]]')[0]
  (tmp_path / 'zero.toml').write_text(text)
  prompt = prompts.load(str(tmp_path / 'zero.toml'))
  assert prompt.as_text('Where?') == f'{prompt.instruction}\n\nQ: Where?\nA:'
  assert [one['role'] for one in prompt.as_messages('Where?')] == ['system', 'user']
  bare = dataclasses.replace(prompt, instruction='', question='[label] {input}', answer='{label}')
  assert bare.as_text('Where?') == '[label] Where?'
  assert bare.as_messages('Where?') == [{'role': 'user', 'content': '[label] Where?'}]
  live.write_inputs(tmp_path, 4)
  flags = [f'--prompt={tmp_path}/zero.toml', '--num_shards=1', *flags]
  with server.Server(live.answer) as teacher:
    said = live.run(teacher, tmp_path, *flags, '--dry_run', '--max_tokens=123')
    assert said.returncode == 0 and not teacher.requests
    assert 'answers as long as --max_tokens allows' in said.stdout, said.stdout
    assert '123 a request; at most 492' in said.stdout, said.stdout
    done = live.run(teacher, tmp_path, *flags)
    assert done.returncode == 0 and teacher.requests == 4, done.stderr
    asked = json.dumps(teacher.last[0])
  assert asked.count('Answer Choices') == 1
  if '--answer=json' in flags:  # No demonstration says that letters are wanted.
    schema = teacher.last[0]['response_format']['json_schema']['schema']
    assert schema['properties']['label']['enum'] == ['one', 'two', 'many']


def test_a_zero_shot_prompt_in_parts_can_be_tried(tmp_path):
  """Whether a teacher answers at all is asked by a question of no row."""
  with open(prompts.path_of('anli'), encoding='utf-8') as f:
    (tmp_path / 'zero.toml').write_text(f.read().partition('[[demonstrations]]')[0])
  prompt = prompts.load(str(tmp_path / 'zero.toml'))
  assert prompt.ask(prompt.any_input) == prompt.ask('Birds build nests.</s>Birds build nests.')
