"""Answers that name a label without giving it, and what other programs leave around one."""

import pytest

from dss_jax import datasets
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing

SAID = 'The meter was read. '


def read(text, labels=('late', 'lost', 'not late'), kind='class', choices=(), phrase='answer'):
  dataset = datasets.Dataset(
      'mine', datasets.read_plain_row, labels=labels if kind == 'class' else None,
      completion=datasets.CompletionFormat(
          end_marker='', answer_phrase=f'So the {phrase} is', label_kind=kind))
  example = datasets.Example('1', 'Where is the parcel of Mr. Stone?', choices=choices)
  found = parsing.parse_strict(text, example, dataset)
  assert found.ok == bool(found.label) == bool(found.rationale)
  return found


@pytest.mark.parametrize('text', [
    '{"late": 0.2, "lost": 0.8}', '```json\n{"late": 0.2, "lost": 0.8}\n```', '{"late": false}',
    "{'late': 0, 'lost': 1}", '{"late": "hardly", "lost": "surely"}', 'late: false', 'Late: no',
    'late = 0.2, lost = 0.8', 'late - no, it came', 'late - would be after noon',
    'late\n\nif it had not come', f'{SAID}So the answer is late: no.',
    f'{SAID}So the answer is late (false).', f'{SAID}So the answer is ~~late~~.',
    f'{SAID}So the answer is <s>late</s>.', f'{SAID}So the answer is !late',
    f'{SAID}So the answer is late \u274c', f'{SAID}So the answer is late in part.',
    f'{SAID}So the answer is late, or not.', f'{SAID}So the answer is:\n- late\n- lost',
    f'{SAID}So the answer is\n\nlate\nlost', f'{SAID}The answer is:\n\n* lost\n* late',
    '{"label": "late", "rationale": "It is noon."}\n\nOn reflection, the answer is lost.',
    '{"label": "late", "rationale": "It is noon."} Wait, it is lost.',
    '{"label": "late", "rationale": "It is noon."}\n{"label": "lost", "rationale": "It is gone."}',
    '[{"label": "late", "rationale": "Noon."}, {"label": "lost", "rationale": "Gone."}]',
    '{"label": "late", "rationale": "It is noon.", "label": "lost"}'])
def test_a_label_that_is_not_given_is_not_read(text):
  assert not read(text).ok


@pytest.mark.parametrize('text', [
    f'{SAID}So the answer is late: no parcel came.', f'{SAID}So the answer is late, no doubt.',
    f'{SAID}So the answer is late \u2705', 'late - no parcel came before noon', 'late: it is noon',
    f'{SAID}So the answer is:\n- late', f'{SAID}So the answer is <b>late</b>.',
    f'{SAID}So the answer is <strong class="x">late</strong>', f'{SAID}So the answer is late</s>',
    f'{SAID}So the answer is late <end_of_turn>\n', f'{SAID}So the answer is late.<eos>',
    f'{SAID}So the answer is late<\uff5cend\u2581of\u2581sentence\uff5c>',
    f'{SAID}So the answer is late[/INST]', f'{SAID}So the answer is <del>lost</del> late.',
    f'{SAID}So the answer is late, partly because of the rain.',
    '{"label": "late", "rationale": "It is noon."}\n\nI hope this helps!',
    '{"label": "late", "rationale": "It is noon."}\n{"label": "late", "rationale": "And gone."}'])
def test_one_that_is_given_is(text):
  assert read(text).label == 'late'


@pytest.mark.parametrize('text', [
    '(a) bank: no.', '(a) bank \u274c', '(a) bank\n(b) soap', '- (a) bank\n- (b) soap',
    'bank\nsoap', '~~(a) bank~~', '!bank'])
def test_choices(text):
  assert not read(f'{SAID}So the answer is\n{text}', kind='choice', choices=('bank', 'soap')).ok
  assert read(f'{SAID}So the answer is\n(a) bank', kind='choice', choices=('bank', 'soap')).ok


@pytest.mark.parametrize('text, label', [
    ('> 3', ''), ('>3', ''), ('< 3', ''), ('3', '3'), ('3 of 5.', ''), ('3.', '3')])
def test_numbers(text, label):
  assert read(f'{SAID}So the answer is {text}', ('1', '3', '5')).label == label


def test_what_a_no_is_of():
  labels = ('yes', 'no', 'none')
  assert not read(f'{SAID}So the answer is no label fits.', labels).ok
  assert not read(f'{SAID}So the answer is none, no category applies: wrong.', labels).ok
  for text in ('no', 'no, because it came', 'no: it came', 'No it does not', '**no**'):
    assert read(f'{SAID}So the answer is {text}', labels).label == 'no'
  # A word that is itself a label, or another one's name, denies nothing.
  nli = ('entailment', 'neutral', 'contradiction')
  assert read(f'{SAID}So the answer is contradiction (false).', nli).label == 'contradiction'


@pytest.mark.parametrize('text, label', [
    ('aspirin</s>', 'aspirin'), ('\\boxed{42}.', '42'), ('$\\boxed{\\text{42 mg}}$', '42 mg'),
    ('\\boxed{\\frac{1}{2}}', '\\frac{1}{2}'), ('\\frac{1}{2}', '\\frac{1}{2}'),
    ('{a} \\cup {b}', '{a} \\cup {b}'), ('__init__', '__init__'), ('__Aspirin__.', 'Aspirin'),
    ('<b>aspirin</b>', 'aspirin'), ('<b>', '<b>'), ('C:\\temp', 'C:\\temp'), ('a~b~c', 'a~b~c')])
def test_open_labels_keep_what_is_theirs(text, label):
  assert read(f'{SAID}So the answer is {text}', kind='text').label == label


def test_json_whose_keys_are_not_known():
  text = '{"explanation": "It is noon.", "level": "late"}'
  assert read(text, phrase='level').label == 'late'
  assert read(text, phrase='stock level').status == 'no_label_key'
  assert read(f'```json\n{text}\n```').status == 'no_label_key'
  assert read(text[:-3]).status == read('{"level": "la', phrase='level').status == 'truncated'
  assert 'json_label' in parsing.REASONS['no_label_key']
  assert read('{"explanation": "It is noon. So the answer is late."}').label == 'late'


def test_rationales_have_no_heading_of_the_label_and_nothing_that_was_struck():
  assert read('It is noon.\n\n## Level\n\n`late`').rationale == 'It is noon.'
  assert read('It is noon.\n\n**Status**\nlate').rationale == 'It is noon.'
  assert read('It is <i>noon</i>, ~~not ten~~ and dry.\nSo the answer is late.').rationale == (
      'It is noon,  and dry.')


@pytest.mark.parametrize('text', [
    "I'm sorry, but I can\u2019t help with that.", 'I cannot provide medical advice. See a doctor.',
    "As an AI, I'm not able to judge whether a parcel is late.",
    "Unfortunately, I can't answer this question: it is private.",
    'I must decline to label this.'])
def test_a_written_refusal_is_one(text):
  assert read(text).status == 'refused'
  assert read(f'{text}\n\nIt is noon. So the answer is late.').label == 'late'


@pytest.mark.parametrize('text', [
    'I cannot see any parcel here.', 'The clerk cannot help. The parcel is here.',
    'It is noon.\nI cannot help thinking that it is', 'Sorry, the parcel'])
def test_other_answers_without_a_label_are_none(text):
  assert read(text).status in ('no_answer_phrase', 'truncated')


@pytest.mark.parametrize('unit', [
    '(no) ', '(7) ', '7 (', '= 7 ', '</s> ', '<b>', '~~a', '\n**A**:\n', 'late: no. ',
    '{"label": "late"} ', '\\boxed{', 'So the answer is '])
@pytest.mark.parametrize('kind', ['class', 'choice', 'equation', 'text'])
def test_a_teacher_that_loops_stops_nothing(unit, kind):
  read(unit * (20_000 // len(unit)), kind=kind, choices=('late', 'lost'))


def test_fields_of_their_own_have_no_end_tokens_either():
  dataset = datasets.Dataset('mine', datasets.read_plain_row, labels=('late', 'lost'))
  found = parsing.read(protocol.Completion('', apart=('It is noon.</s>', 'late <eos>')),
                       datasets.Example('1', 'x'), dataset)
  assert (found.rationale, found.label) == ('It is noon.', 'late')
