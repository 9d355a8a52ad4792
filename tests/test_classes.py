"""Precision, recall and F1 against values worked out by hand."""

import pytest

from dss_jax import classes

LABELS = ('a', 'b', 'c')
GOLD = ['a', 'a', 'a', 'b', 'b', 'a', 'z']
ANSWERS = ['a', 'a', 'b', 'b', 'what', 'c', 'a']


def test_by_hand():
  found = classes.report(GOLD, ANSWERS, LABELS)
  assert found.confusion.tolist() == [[2, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
  assert found.support.tolist() == [4, 2, 0]
  assert found.precision.tolist() == pytest.approx([100, 50, 0])
  assert found.recall.tolist() == pytest.approx([50, 50, 0])
  assert found.f1.tolist() == pytest.approx([100 * 2 / 3, 50, 0])
  assert found.macro_f1 == pytest.approx((200 / 3 + 50 + 0) / 3)
  assert found.weighted_f1 == pytest.approx((4 * 200 / 3 + 2 * 50) / 6)
  assert found.mistakes() == [(1, 'a', 'b'), (1, 'a', 'c'), (1, 'b', '')]
  assert found.as_json()['confusion'][1] == [0, 1, 0, 1]


def test_a_label_that_nobody_has_or_gives_does_not_count():
  found = classes.report(['a', 'b'], ['a', 'b'], LABELS)
  assert found.macro_f1 == found.weighted_f1 == 100


def test_lines_for_a_terminal():
  lines = classes.report(GOLD, ANSWERS, LABELS).lines()
  assert lines[1].split() == ['a', '4', '100.00', '%', '50.00', '%', '66.67', '%']
  assert lines[4] == 'macro F1 38.89 %, weighted F1 61.11 %'
  assert lines[5].split() == ['gold', 'a', 'b', 'c', 'no', 'label', '<-', 'answered']
  assert lines[6].split() == ['a', '2', '1', '1', '0']
  many = tuple('abcdefghij')
  assert classes.report(['a', 'b'], ['a', 'c'], many).lines()[-1] == "1 of 'b' answered as 'c'"


def test_no_rows_of_the_set_are_no_report():
  assert classes.report(['z'], ['a'], LABELS) is None
