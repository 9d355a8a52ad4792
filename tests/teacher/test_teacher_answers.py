"""Answers as chat models write them, `answers.toml`: the label, a clean rationale, or a failure."""

import pathlib
import tomllib

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import datasets, equations, errors
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing, table

ANSWERS = tomllib.loads(pathlib.Path(__file__).with_name('answers.toml').read_text('utf-8'))
R = {'choice': 'Banks handle money and need tight security.', 'nested': 'It has leaves and a door.',
     'nli': 'It has been closed since 1973, and 1990 is later.', 'tone': 'The room was loud.',
     'equation': 'Dan pays 3 times 4 dollars and had 30.', 'text': 'It lies on the Tiber.'}


def _dataset(kind, labels=None, end='Q:', phrase='So the answer is'):
  return datasets.Dataset('d', datasets.read_plain_row, labels=labels,
                          completion=datasets.CompletionFormat(end, phrase, kind))


DATASETS = {
    'choice': _dataset('choice'), 'nested': _dataset('choice'),
    'nli': _dataset('class', ('entailment', 'neutral', 'contradiction'), 'Premise:'),
    'tone': _dataset('class', ('negative', 'very negative', 'positive', 'mixed')),
    'equation': _dataset('equation', phrase='The answer is'), 'text': _dataset('text')}
EXAMPLES = {
    'choice': datasets.Example(
        '1', 'A revolving door is convenient for two direction travel, but it also serves as a '
        'security measure at a what?\nAnswer Choices:\n(a) bank\n(b) library\n(c) department store'
        '\n(d) mall\n(e) new york', 'bank',
        ('bank', 'library', 'department store', 'mall', 'new york')),
    'nested': datasets.Example('1', 'What is it?', '', (
        'tree', 'tree house', 'house', 'not a house', 'A')),
    'nli': datasets.Example('1', 'The Alder Bridge has been closed to cars since 1973.</s>Cars '
                            'crossed the Alder Bridge in 1990.'),
    'tone': datasets.Example('1', 'Loud.'), 'equation': datasets.Example('1', 'Dan had $ 30.'),
    'text': datasets.Example('1', 'Which city?')}
CASES = [(kind, name) for kind, cases in ANSWERS.items() for name in cases]


def read(kind, name):
  """What is read of a case, what is wanted: (label, rationale)."""
  case, said = ANSWERS[kind][name], R[kind]
  if '"{R}"' in case['text']:
    assert '"' not in said
  found = parsing.read(protocol.Completion(case['text'].replace('{R}', said), 'stop'),
                       EXAMPLES[kind], DATASETS[kind], 'strict')
  label = found.label
  if kind == 'equation' and label and equations.equal(label, case['label'] or '0'):
    label = case['label']
  wanted = case.get('rationale', '{R}').replace('{R}', said) if case['label'] else ''
  return found, (label, found.rationale), (case['label'], wanted)


@pytest.mark.parametrize('kind, name', CASES)
def test_an_answer_is_read_as_it_is_meant(kind, name):
  found, got, wanted = read(kind, name)
  assert got == wanted, found.status
  assert found.status == ANSWERS[kind][name].get('reason', found.status)


LEFTOVERS = ('**', '####', '<think', '</', 'Rationale:', 'Sure', 'Here is', 'Therefore,', 'Final')
PIECES = ['So the answer is ', 'The answer is ', 'Therefore, the best answer is ', '**Answer:** ',
          '<think>', '</think>', 'Wait, ', 'not ', ' but ', ' or ', '(a) ', '(d)', 'bank', 'mall',
          'neutral', 'contradiction', '18', '( 30 - 12 )', ' = ', 'dollars', '.', '\n\n', '**',
          '{"label": "', '"rationale": "', '"}', '\\boxed{', '}', '$', '?', '```json\n', 'It is. ',
          'Q: ', 'Premise: ', 'İ', '{', '[', '\\frac{', '#### ', '> ', 'Sure! ', '<answer>']


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.sampled_from(list(DATASETS)), st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=16).map(''.join), st.text(max_size=60)),
    st.sampled_from(['', 'stop', 'length']))
def test_any_answer_has_a_label_of_the_set_or_a_reason(kind, text, reason):
  example, dataset = EXAMPLES[kind], DATASETS[kind]
  found = parsing.read(protocol.Completion(text, reason), example, dataset)
  if not found.ok:
    assert found.status in parsing.REASONS and found.label == found.rationale == ''
    return
  assert found.rationale.strip() and found.label.strip() and '</think>' not in found.rationale
  if dataset.completion.label_kind in ('choice', 'class'):
    assert found.label in (example.choices or dataset.labels)
  if kind == 'equation':
    equations.evaluate(found.label)


@pytest.mark.parametrize('kind, name', CASES)
def test_no_rationale_has_leftovers(kind, name):
  found, _, _ = read(kind, name)
  assert not any(left in found.rationale for left in LEFTOVERS[:7])
  assert not found.rationale.endswith(('So', 'Therefore', 'Therefore,', 'Final', ':', ','))


NOT_MEANT = ['There is no way the answer is {}.', 'It is false that the answer is {}.',
             'The least likely answer is {}.', 'The second best answer is {}.', 'Is the answer {}?',
             'The answer is {} is false.', 'The answer is hardly {}.', 'The wrong answer is {}.',
             'The answer is the opposite of {}.', 'The answer is anything but {}.',
             'The answer is not {}.', 'Nobody would say the answer is {}.',
             'If it were, the answer would be {}.', 'The answer is {}? No.']


@pytest.mark.parametrize('sentence', NOT_MEANT)
def test_a_label_that_is_not_meant_is_none(sentence):
  for kind, label in (('choice', '(d) mall'), ('choice', 'mall'), ('nli', 'neutral'),
                      ('equation', '(30 + 12)')):
    text = f'{R[kind]} {sentence.format(label)}'
    found = parsing.read(protocol.Completion(text, 'stop'), EXAMPLES[kind], DATASETS[kind])
    assert not found.ok, (kind, label)


@pytest.mark.parametrize('kind, names', [(kind, list(cases)) for kind, cases in ANSWERS.items()])
def test_a_token_limit_cuts_no_label(kind, names):
  for name in names:
    case = ANSWERS[kind][name]
    text = case['text'].replace('{R}', R[kind])
    if not case['label'] or 'orrection' in name or 'wait' in name or 'note' in case:
      continue  # Before it is mended another label stands there.
    for end in range(0, len(text), 3):
      found = parsing.read(protocol.Completion(text[:end], 'length'), EXAMPLES[kind],
                           DATASETS[kind])
      right = found.label == case['label'] or (
          kind == 'equation' and found.ok and equations.equal(found.label, case['label']))
      assert not found.ok or right, (name, text[:end])


def test_words_of_ones_own():
  words = {'nouns': ['Antwort'], 'articles': ['die'], 'verbs': ['ist'], 'connectives': ['also'],
           'synonyms': {'bug': ['Fehler']}}
  form = datasets.CompletionFormat('Q:', 'So lautet sie', 'class', reading=words)
  dataset = datasets.Dataset('d', datasets.read_plain_row, labels=('bug', 'other'),
                             completion=form)
  found = parsing.parse_strict('Es klemmt. Also, die Antwort ist Fehler.', EXAMPLES['text'],
                               dataset)
  assert (found.label, found.rationale) == ('bug', 'Es klemmt.')


@pytest.mark.parametrize('words, says', [
    ({'noun': ['x']}, "unknown key 'noun'"), ({'nouns': 'x'}, 'nouns is'),
    ({'synonyms': ['x']}, 'synonyms is'), ({'extend': 1}, 'extend is'),
    ({'thoughts': [['<a>']]}, 'thoughts is')])
def test_words_that_are_none_are_refused(words, says):
  with pytest.raises(errors.UserError, match=says):
    table.of(datasets.CompletionFormat(reading=words))

@pytest.mark.parametrize('answer, label', [
    ('So the answer is bug free.', ''), ('So the answer is bug.\n\nEdit: billing.', ''),
    ('So the answer is bug. But if they want a refund, the answer is billing.', ''),
    ('So the answer is bug. That is wrong, though.', ''),
    ('So the answer is bug here.', 'bug'), ('So the answer is bug, unless I misread it.', 'bug'),
    ('So the answer is bug because it closes.', 'bug')])
def test_a_label_that_goes_on_or_is_taken_back(answer, label):
  tickets = datasets.Dataset('tickets', datasets.read_plain_row,
                             labels=('billing', 'bug', 'other'),
                             completion=datasets.CompletionFormat(label_kind='class'))
  found = parsing.parse_strict(f'The page is blank. {answer}', datasets.Example('1', 'x'), tickets)
  assert found.label == label, found
  assert found.rationale == ('The page is blank.' if label else '')


@pytest.mark.parametrize('said', ['No further explanation is needed.', 'Confidence: high',
                                  'If you want, I can also draft a reply.'])
def test_talk_behind_a_label_is_no_rationale(said):
  tickets = datasets.Dataset('tickets', datasets.read_plain_row,
                             labels=('billing', 'bug', 'other'),
                             completion=datasets.CompletionFormat(label_kind='class'))
  for gap in (' ', '\n\n'):
    found = parsing.parse_strict(f'So the answer is bug.{gap}{said}', datasets.Example('1', 'x'),
                                 tickets)
    assert found.status == 'empty_rationale'


def test_a_negation_on_a_line_of_its_own():
  labels = ('toxic', 'not toxic', 'very toxic')
  dataset = datasets.Dataset('comments', datasets.read_plain_row, labels=labels,
                             completion=datasets.CompletionFormat(label_kind='class'))
  for said in ('Label: not\ntoxic', 'It is rude.\n\nLabel: not\n\ntoxic'):
    assert parsing.parse_strict(said, datasets.Example('1', 'x'), dataset).label != 'toxic'
