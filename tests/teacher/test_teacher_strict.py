"""Strict parsing: what it repairs, and the reason for what it does not."""

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import datasets, equations
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing

CHOICES = ('perfume', 'soap', 'a ledge', 'Washington D.C.', 'tree house', 'tree')
CQA = datasets.Dataset('c', datasets.read_plain_row,
                       completion=datasets.CompletionFormat(label_kind='choice'))
NLI = datasets.Dataset(
    'n', datasets.read_plain_row, labels=('entailment', 'neutral', 'contradiction'),
    completion=datasets.CompletionFormat(end_marker='Premise:', label_kind='class'))
ESNLI = datasets.Dataset(
    'e', datasets.read_plain_row, labels=NLI.labels,
    completion=datasets.CompletionFormat('Premise:', 'Answer:', 'class'))
MATH = datasets.Dataset('m', datasets.read_plain_row, metric='equation',
                        completion=datasets.CompletionFormat('Q:', 'The answer is', 'equation'))
TEXT = datasets.Dataset('t', datasets.read_plain_row)
EXAMPLE = datasets.Example('1', 'What?', choices=CHOICES)


def _parse(dataset, completion):
  parsed = parsing.parse_strict(completion, EXAMPLE, dataset)
  assert parsed.status == 'ok' or (parsed.rationale, parsed.label) == ('', '')
  assert parsed.status == 'ok' or parsed.status in parsing.REASONS
  return parsed


def _label(dataset, answer):
  """The label, or the reason in angle brackets, of a completion with this answer."""
  parsed = _parse(dataset, f'It is. {dataset.completion.answer_phrase} {answer}')
  assert parsed.status != 'ok' or parsed.rationale == 'It is.'
  return parsed.label if parsed.status == 'ok' else f'<{parsed.status}>'


@pytest.mark.parametrize('answer, label', [
    ('(b) soap.', 'soap'),
    ('(b) Soap', 'soap'),
    ('(B) soap', 'soap'),
    ('(a) perfume or (b) soap.', 'perfume'),
    ('either (b) soap or (a) perfume.', 'soap'),
    ('(a) perfume and (b) soap.', 'perfume'),
    ('(b) sope.', 'soap'),  # The letter repairs a misspelling,
    ('(b)', 'soap'),  # stands alone,
    ('(b) so', 'soap'),  # and survives a cut,
    ('(b', 'soap'),  # and another.
    ('(d) Washington D.C.', 'Washington D.C.'),
    ('b) soap', 'soap'),
    ('b.', 'soap'),
    ('\n(b) soap\nsince it is', 'soap'),
    ('soap', 'soap'),
    ('Soap!', 'soap'),
    ('a ledge.', 'a ledge'),  # an article, not choice (a)
    ('the soap on the sink', 'soap'),
    ('tree house', 'tree house'),  # "tree" is in it, but it names one
    ('perfume or soap', '<ambiguous_label>'),
    ('(a) soap.', '<ambiguous_label>'),
    ('(g) ink.', '<unknown_choice>'),
    ('one of these.', '<unknown_choice>'),
    ('soapbox', '<unknown_choice>'),
    ('(2) soap', 'soap'),
    ('(a) parfume', 'perfume'),
    ('(d) Washington', 'Washington D.C.'),
    ('(d) washington dc', 'Washington D.C.'),
    ('(e) the house in a tree', 'tree house'),
    ('(b) soap, since it cleans', 'soap'),
    ('(b), because it cleans', 'soap'),
    ('soap (b)', 'soap'),
    ('The best answer is (b).', 'soap'),
    ('either (a) or (b).', 'perfume'),
    ('(b) engine.', '<ambiguous_label>'),  # A letter does not outweigh another text.
    ('b) engine', '<ambiguous_label>'),
    ('b: perfume', '<ambiguous_label>'),
    ('engine (b)', '<ambiguous_label>'),
    ('perfume (b)', '<ambiguous_label>'),
    ('not (b)', '<ambiguous_label>'),
    ('(b) not soap', '<ambiguous_label>'),
    ('not soap', '<ambiguous_label>'),
    ('(f) tree house', '<ambiguous_label>'),
    ('(', '<truncated>'),
    ('', '<empty_label>'),
    (' \n\nQ: Who? So the answer is (a) perfume.', '<empty_label>'),
])
def test_choice(answer, label):
  assert _label(CQA, answer) == label


@pytest.mark.parametrize('choices, answer, label', [
    (('5', '-5', '+5'), '-5', '-5'),
    (('5', '-5', '+5'), '5.', '5'),
    (('5', '-5', '+5'), '(b) -5', '-5'),
    (('5', '-5', '+5'), '(b) 5', '<ambiguous_label>'),
    (('15', '16'), '(a) 16', '<ambiguous_label>'),
    (('15', '16'), '(a) 150', '<ambiguous_label>'),
    (('5 apples', '6 pears'), '(a) apples', '5 apples'),
    (('Java', 'C++', 'Rust'), 'C++', 'C++'),  # not letter (c)
    (('Java', 'C++', 'Rust'), 'C#', '<unknown_choice>'),
    (('C', 'C++'), '(a) C++', '<ambiguous_label>'),
    (('C', 'C++'), '(b) C++.', 'C++'),
    (('C', 'C++'), '(a) C#', '<ambiguous_label>'),
    (('O', 'B', 'A'), 'A', '<ambiguous_label>'),  # choice (a), or the text of (c)?
    (('O', 'B', 'A'), '(a)', 'O'),
    (('O', 'B', 'A'), '(c) A', 'A'),
    (('safe', 'unsafe'), '(b) safe', '<ambiguous_label>'),
    (('unsafe', 'soap'), '(a) safe', '<ambiguous_label>'),
    (('New York', 'New Jersey'), '(a) New Jersy', '<ambiguous_label>'),
    (('New York', 'New Jersey'), '(b) New Jersy', 'New Jersey'),
    (('bank', 'sea', 'bank'), '(c) bank', 'bank'),
    (('plan (b)', 'plan'), 'plan (b)', 'plan (b)'),
    (('🙂', '🙁'), '🙁', '🙁'),
    (('🙂', '🙁'), '(a) 🙁', '<ambiguous_label>'),
    (('🙂', '🙁'), '(a) 👌', '<ambiguous_label>'),
    (('🙂', '🙁'), '(a) -', '🙂'),
])
def test_choices_that_differ_by_little(choices, answer, label):
  completion = f'It is. So the answer is {answer}'
  parsed = parsing.parse_strict(completion, datasets.Example('1', 'x', choices=choices), CQA)
  assert (parsed.label or f'<{parsed.status}>') == label


@pytest.mark.parametrize('labels, answers', [
    (('-1', '0', '1'), {'1.': '1', '-1.': '-1', '−1': '-1', '0': '0', '+1': '', '10': ''}),
    (('0', '1'), {'-1': '', '1.0': '', '1,000': '', '<1': '', '1/0': '', '(1)': '1', '1)': '1'}),
    (('<=50K', '>50K'), {'>50K.': '>50K', '**<=50k**': '<=50K', '50K': ''}),
    (('C', 'C++', 'C#'), {'C': 'C', 'c.': 'C', 'C#': 'C#', '"C++", since': 'C++', 'C--': ''}),
    (('A', 'A-', 'A+', 'A*'), {'A-': 'A-', 'A+.': 'A+', 'a': 'A', '**A**': 'A', '**A***': 'A*',
                               '**A** since': 'A', 'A* since': 'A*', 'A -': ''}),
    (('👍', '👎'), {'👎': '👎', '👍.': '👍', '👍👎': '', '👍 not 👎': '', '👌': ''}),
    (('👍', '👍🏽', '❤️'), {'👍': '👍', '👍🏽': '👍🏽', '👍🏿': '', '❤': '❤️'}),
    ((':)', ':('), {':)': ':)', ': :(.': ':('}),
    (('*', '**'), {'*': '*', '**.': '**', '***': ''}),
    (('US', 'us'), {'US.': 'US', 'us, since': 'us', 'Us': ''}),
    (('go', 'go!'), {'Go.': 'go', 'go!.': 'go!'}),
    (('non-toxic', 'toxic'), {'Toxic': 'toxic', 'non‑toxic': 'non-toxic', 'non toxic': ''}),
    (('not_bug', 'bug'), {'_bug_': 'bug', 'not_bug.': 'not_bug', 'bug_not': ''}),
    (('billing', 'billing error'), {'Billing!': 'billing', 'billing errors': ''}),
    (('credit, debit', 'credit'), {'credit,  debit': 'credit, debit', 'credit': 'credit',
                                   'credit debit': '', 'credit-debit': ''}),
    ((' lead', 'other'), {'lead': ' lead', '"Lead".': ' lead'}),
    (('Yes.', 'No.'), {'yes': 'Yes.', 'no, since': 'No.'}),
    (('好评（强）', '好评'), {'好评(强)': '好评（强）', '好评。': '好评', '好评，强': ''}),
    (('①', '1'), {'①': '①', '1': '1', '１': ''}),
    (('Zu\u0308rich', 'Bern'), {'Z\xfcrich': 'Zu\u0308rich', 'Zurich': ''}),
    (('3', '3.5'), {'3': '3', '3.5': '3.5', '3.': '3', '3.55': '', '3.5 stars': '3.5', '3 %': ''}),
    (('yes', 'no'), {'- yes': 'yes', '> No': 'no', '`no`': 'no', '<yes>': 'yes', 'no—since': 'no',
                     'yes/no': '', 'no-one': '', 'yes\u200b': 'yes', '¡Yes!': 'yes'}),
])
def test_labels_that_differ_by_little(labels, answers):
  dataset = datasets.Dataset('l', datasets.read_plain_row, labels=labels,
                             completion=datasets.CompletionFormat(label_kind='class'))
  for answer, label in answers.items():
    parsed = _parse(dataset, f'It is. So the answer is {answer}')
    assert (parsed.label, parsed.ok) == (label, bool(label)), answer


@pytest.mark.parametrize('answer', ['C', 'C+', '3.', '👍'])
def test_a_label_that_the_token_limit_may_have_cut_is_truncated(answer):
  dataset = datasets.Dataset('l', datasets.read_plain_row, labels=('C', 'C+', 'C++', '3', '👍'),
                             completion=datasets.CompletionFormat(label_kind='class'))
  said = protocol.Completion(f'It is. So the answer is {answer}', 'length')
  assert parsing.read(said, EXAMPLE, dataset, 'strict').status == 'truncated'


@pytest.mark.parametrize('text', ['The FAQ: no help.', 'An IQ: 90.', 'No FAQ:\nQ2 is late.'])
def test_an_end_marker_inside_a_word_ends_nothing(text):
  for ending in ('', '\n\nQ: Who? So the answer is (a) perfume.'):
    parsed = _parse(CQA, f'{text} So the answer is (b) soap.{ending}')
    assert (parsed.rationale, parsed.label) == (text, 'soap')


def test_an_answer_phrase_inside_a_word_is_none():
  assert _parse(CQA, "So the answer isn't (a). So the answer is (b).").label == 'soap'
  assert _parse(ESNLI, 'It is. MyAnswer: neutral').status == 'truncated'
  chinese = datasets.CompletionFormat('问题：', '所以答案是', 'class')
  dataset = datasets.Dataset('z', datasets.read_plain_row, labels=('正面', '负面'),
                             completion=chinese)
  assert _parse(dataset, '他很高兴所以答案是正面。下一个问题：谁').label == '正面'


@pytest.mark.parametrize('answer, label', [
    ('neutral.', 'neutral'),
    ('neutral', 'neutral'),  # The released code reads 'neutra'.
    ('Neutral', 'neutral'),
    ('"neutral".', 'neutral'),
    ('**Neutral**', 'neutral'),
    ('neutral\n\nPremise: A man', 'neutral'),
    ('neutral, since it may rain', 'neutral'),
    ('neutral or entailment', '<ambiguous_label>'),
    ('not neutral', '<unknown_label>'),
    ('neutrality', '<unknown_label>'),
    ('maybe', '<unknown_label>'),
    ('contradic', '<truncated>'),
    ('...', '<unknown_label>'),
])
def test_class(answer, label):
  assert _label(NLI, answer) == label


def test_class_prefers_the_longest_label():
  sentiment = datasets.Dataset('s', datasets.read_plain_row, labels=('not', 'not good', 'good'),
                               completion=datasets.CompletionFormat(label_kind='class'))
  assert _label(sentiment, 'Not good.') == 'not good'


@pytest.mark.parametrize('answer, label', [
    ('(84 / 2).', '(84 / 2)'),
    ('( 84.0 / 2.0 )', '( 84.0 / 2.0 )'),
    ('(16 * 17) * 4.', '(16 * 17) * 4'),  # The released code drops the '* 4'.
    ('((170 - 78) + 31) - 78.\n\nQ: More', '((170 - 78) + 31) - 78'),
    ('-(3 - 5)', '-(3 - 5)'),
    ('84 / 2.', '84 / 2'),
    ('42', '42'),
    ('$42.', '42'),
    ('(95 * 118) + (11,210 / 84).', '(95 * 118) + (11210 / 84)'),
    ('($1,234,567 * 2)', '(1234567 * 2)'),
    ('(8 / 4) and (6 / 4).', '(8 / 4)'),
    ('(3 + 4) = 7 apples', '(3 + 4)'),
    ('therefore (3 + 4) apples', '(3 + 4)'),
    ('(5).', '(5)'),
    ('((8 / 4) and (6 / 4)).', '<not_an_equation>'),
    ('(25 + x).', '<not_an_equation>'),
    ('(some - 8) or (3 - 2)', '<not_an_equation>'),
    ('(7x = 14).', '<not_an_equation>'),
    ('7x - (3 + 4)', '<not_an_equation>'),
    ('(3 + 4)x', '<not_an_equation>'),
    ('7x(3 + 4)', '<not_an_equation>'),
    ('(14, 21).', '<not_an_equation>'),
    ('(175,210) apples (', '(175210)'),
    ('(4 / 0).', '<not_an_equation>'),
    ('(9**9**7).', '<not_an_equation>'),
    ('()', '<not_an_equation>'),
    ('42 apples', '42'),  # The unit is none of the number.
    ('42 dozen', '<not_an_equation>'),
    ('forty-two', '<not_an_equation>'),
    ('((491 - 21', '<truncated>'),
    ('(9 + ', '<truncated>'),
])
def test_equation(answer, label):
  assert _label(MATH, answer) == label


@pytest.mark.parametrize('answer, label', [
    ('Paris.', 'Paris'), ('St. Paul', 'St. Paul'), ('Paris\nand more', 'Paris'),
    (': Paris', 'Paris'), ('U.S.A.', 'U.S.A.'), ('.', '<empty_label>')])
def test_text(answer, label):
  assert _label(TEXT, answer) == label


@pytest.mark.parametrize('completion, status', [
    ('', 'empty_completion'),
    (' \n', 'empty_completion'),
    ('I cannot say.', 'no_answer_phrase'),
    ('I cannot say\n\nQ: Who', 'no_answer_phrase'),  # It went on to the next question.
    ('I cannot say, since the', 'truncated'),
    ('So the answer is (b) soap.', 'empty_rationale'),
    ('It is. So the answer is', 'empty_label'),
    ('It is. So the answer is (b) soap. So the answer is (a) perfume.', 'ambiguous_label'),
])
def test_failures_have_reasons(completion, status):
  assert _parse(CQA, completion).status == status


@pytest.mark.parametrize('completion', [
    ' It cleans. So the answer is (b) soap.',
    'It cleans, so the answer is (b) soap.',
    'It cleans.\n\nSO THE ANSWER IS: (b) soap.',
    'It cleans. So the answer is (b) soap. So the answer is soap.',
    'Q: Who? It cleans. So the answer is (b) soap.',  # It begins with the question.
    'It cleans. So the answer is (b) soap.\n\nQ: Who? Me. So the answer is (a) perfume.',
])
def test_the_first_answer_counts(completion):
  parsed = _parse(CQA, completion)
  assert (parsed.rationale.rstrip('.'), parsed.label) == ('It cleans', 'soap')


def test_the_phrase_as_written_comes_before_one_in_another_case():
  parsed = _parse(CQA, 'Hot, so the answer is not (a). So the answer is (b) soap.')
  assert (parsed.rationale, parsed.label) == ('Hot, so the answer is not (a).', 'soap')


def test_case_folding_does_not_shift_the_cut():
  parsed = _parse(CQA, 'İİİ is, so the answer is (b) soap.')  # 'İ'.lower() has two characters.
  assert (parsed.rationale, parsed.label) == ('İİİ is', 'soap')


def test_esnli_layout():
  parsed = _parse(ESNLI, 'The premise says so.\nAnswer: Entailment\n\nPremise: A dog\nAnswer: x')
  assert (parsed.rationale, parsed.label) == ('The premise says so.', 'entailment')


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    st.sampled_from([CQA, NLI, ESNLI, MATH, TEXT]),
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from(
        ['So the answer is', 'The answer is', 'Answer:', 'Q:', 'Premise:', '(a)', '(', ')',
         '(3 + 4)', ' ', '\n', '.', 'soap', 'neutral', 'x', '-', 'so the answer is ', 'İ', '9']),
        max_size=14).map(''.join)))
def test_any_text_gives_a_usable_target_or_a_reason(dataset, completion):
  parsed = _parse(dataset, completion)
  if parsed.status == 'ok':
    assert parsed.rationale.strip() and parsed.label.strip()
    if dataset is CQA:
      assert parsed.label in CHOICES
    if dataset.labels:
      assert parsed.label in dataset.labels
    if dataset is MATH:
      equations.evaluate(parsed.label)
