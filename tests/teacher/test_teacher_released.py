"""The released code's parsing, quirk by quirk; the values are what its code gives."""

import pytest

from dss_jax import datasets, errors
from dss_jax.teacher.read import parsing, released


def _parse(name, completion):
  parsed = released.parse_released(completion, datasets.Dataset(name, datasets.read_plain_row))
  return parsed.rationale, parsed.label, parsed.status


@pytest.mark.parametrize('completion, rationale, label', [
    ('Birds fly. So the answer is (b) sky.\n\nQ: Who? So the answer is (a) me.',
     'Birds fly.', 'sky'),
    (' Birds fly.\nSo the answer is (b) sky', ' Birds fly.', 'sky'),  # only the right is stripped
    ('Both. So the answer is (a) pen or (b) ink.', 'Both.', 'pen or'),
    ('Both. So the answer is either (a) pen, (b) ink, or (c) nib.', 'Both.', 'pen,'),
    ('It is. So the answer is (b) Washington D.C.', 'It is.', 'Washington D.C'),
    ('It is. So the answer is (b) pen..', 'It is.', 'pen.'),
    ('It is. So the answer is (2) pen.', 'It is.', 'pen'),  # any character in the brackets
    ('So the answer is (a) pen.So the', '', 'pen.So the'),
])
def test_cqa(completion, rationale, label):
  status = 'ok' if rationale else 'released_blank'
  assert _parse('cqa', completion) == (rationale, label, status)


@pytest.mark.parametrize('completion, label', [
    ('It is. So the answer is one of these.', ' '),
    ('It is. So the answer is (bc) pen.', ' '),
    ('It is. So the answer is (b)', ' '),
    ('It is. So the answer is (b) .', ''),
])
def test_cqa_blank_labels(completion, label):
  assert _parse('cqa', completion) == ('It is.', label, 'released_blank')


@pytest.mark.parametrize('completion', [
    'It is a pen.',
    'So the answer is (a) x. So the answer is (b) y.',
    'Q: What? So the answer is (a) pen.',
    '',
])
def test_cqa_stops_without_exactly_one_answer(completion):
  assert _parse('cqa', completion) == ('', '', 'released_raises')


@pytest.mark.parametrize('name', ['svamp', 'asdiv'])
@pytest.mark.parametrize('completion, want', [
    ('84 / 2 = 42. The answer is (84 / 2).\n\nQ: ...', ('84 / 2 = 42.', '(84 / 2)', 'ok')),
    ('So. The answer is (16 * 17) * 4.', ('So.', '(16 * 17)', 'ok')),
    ('So. The answer is (1 + 2) and (3 - 4).', ('So.', '(1 + 2) and (3 - 4)', 'ok')),
    ('So. The answer is (7 + x).', ('So.', '(7 + x)', 'ok')),
    ('So. The answer is 42.', ('So.', ' ', 'released_blank')),
    ('So. The answer is (1 +\n2).', ('So.', ' ', 'released_blank')),
    ('So it is 42.', (' ', ' ', 'released_blank')),
    ('The answer is (1). The answer is (2).', (' ', ' ', 'released_blank')),
])
def test_equations(name, completion, want):
  assert _parse(name, completion) == want


@pytest.mark.parametrize('completion, want', [
    ('It rains. So the answer is neutral.\n\nPremise: A', ('It rains.', 'neutral', 'ok')),
    ('It rains. So the answer is neutral', ('It rains.', 'neutra', 'ok')),
    ('It rains, so the answer is neutral.', ('', '', 'released_blank')),
    ('It. So the answer is a. So the answer is b.', ('', '', 'released_blank')),
    ('It rains. So the answer is', ('It rains.', '', 'released_blank')),
])
def test_anli(completion, want):
  assert _parse('anli', completion) == want


@pytest.mark.parametrize('completion, want', [
    ('It rains.\nAnswer: neutral\n\nPremise: A man', ('It rains.', 'neutral', 'ok')),
    ('Premise says so. Answer: neutral.', ('Premise says so.', 'neutral.', 'ok')),
    ('It. Answer: a\nAnswer: b', ('It.', 'a', 'ok')),
    ('It rains.\nAnswer:neutral', ('It rains.', ' ', 'released_blank')),
    ('It rains.', ('It rains.', ' ', 'released_blank')),
    ('Answer: neutral', ('', 'neutral', 'released_blank')),
])
def test_esnli(completion, want):
  assert _parse('esnli', completion) == want


def test_other_datasets_are_refused():
  with pytest.raises(errors.UserError, match="no rules for dataset 'mine'.*--parser=strict"):
    _parse('mine', 'It is. So the answer is (a) pen.')


def test_every_status_is_explained():
  assert {released.BLANK, released.RAISES} <= set(parsing.REASONS)
