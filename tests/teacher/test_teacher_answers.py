"""Answers as chat models write them, `answers.toml`: the label, a clean rationale, or a failure."""

import pathlib
import tomllib

import pytest

from dss_jax import datasets, equations
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing

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
