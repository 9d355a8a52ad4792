"""Accuracies against counts done by hand."""

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import datasets, errors, metrics


def test_text_accuracy_is_exact_match_in_percent():
  targets = ['entailment', 'neutral', 'contradiction', 'pet store']
  predictions = ['entailment', 'Neutral', 'contradiction.', 'pet store']
  assert metrics.text_accuracy(targets, predictions) == {'accuracy': 50.0}


def test_equation_accuracy_compares_values():
  targets = ['( 84.0 / 2.0 )', '( 7.0 * 30.0 )', '( 8.0 - 4.0 )', '( 1.0 + 1.0 )', '( 2.0 )']
  predictions = ['(21 * 2)', '( 7.0 * 30.0 )', '(some - 4)', '( 1.0 + 1.0', '3']
  assert metrics.equation_accuracy(targets, predictions) == {
      'accuracy': 40.0, 'text_accuracy': 20.0}


def test_a_target_that_cannot_be_evaluated_is_wrong_even_if_copied():
  assert metrics.equation_accuracy(['(2 * x)'], ['(2 * x)']) == {
      'accuracy': 0.0, 'text_accuracy': 100.0}


@pytest.mark.parametrize('metric, values', [
    ('text', {'accuracy': 0.0}), ('equation', {'accuracy': 100.0, 'text_accuracy': 0.0})])
def test_for_dataset_follows_the_description(metric, values):
  dataset = datasets.Dataset('mine', datasets.read_plain_row, metric=metric)
  (fn,) = metrics.for_dataset(dataset)
  assert fn(['1 + 1'], ['2']) == values


def any_of(*strategies):
  return lambda test: hypothesis.settings(deadline=None)(hypothesis.given(*strategies)(test))


WORDS = st.text(alphabet='aAnNtThHeE .,-\'Bb1\u00e9', max_size=16)


@any_of(WORDS)
def test_normalizing_twice_is_once_and_nothing_becomes_empty(text):
  once = metrics.normalized(text)
  assert bool(once) == bool(text.split())
  assert metrics.normalized_text_accuracy([text], [once])['token_f1'] == 100.0
  assert once == ' '.join(once.split()) == once.lower()


@any_of(WORDS, st.sampled_from(['the ', 'A ', ' an ', '"', '  ', '. ']))
def test_case_articles_and_punctuation_do_not_count(text, more):
  body = f'bird {text}'
  assert metrics.normalized(f'{more}{body}'.upper()) == metrics.normalized(body)


@any_of(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_token_f1_is_symmetric_and_at_least_exact_match(pairs):
  targets, predictions = map(list, zip(*pairs))
  found = metrics.normalized_text_accuracy(targets, predictions)
  assert found['token_f1'] == pytest.approx(
      metrics.normalized_text_accuracy(predictions, targets)['token_f1'])
  assert -1e-9 <= found['accuracy'] <= found['token_f1'] + 1e-9 <= 100 + 2e-9


@pytest.mark.parametrize('target, prediction, f1', [
    ('x y z', 'x y', 80.0), ('x x y', 'x y y', 200 / 3), ('x', 'y', 0.0), ('', '', 100.0),
    ('x', '', 0.0), ('the', 'a', 0.0)])
def test_token_f1_counted_by_hand(target, prediction, f1):
  found = metrics.normalized_text_accuracy([target], [prediction])
  assert found['token_f1'] == pytest.approx(f1)


def test_a_closed_set_has_f1():
  dataset = datasets.Dataset('mine', datasets.read_plain_row, labels=('x', 'y'))
  accuracy, f1 = metrics.for_training(dataset)
  assert accuracy(['x', 'x', 'y'], ['x', 'y', '?']) == {'accuracy': pytest.approx(100 / 3)}
  # x: 1 right of 1 answered and 2 there; y: none.
  assert f1(['x', 'x', 'y'], ['x', 'y', '?']) == {
      'macro_f1': pytest.approx(100 / 3), 'weighted_f1': pytest.approx(400 / 9)}
  assert f1([''], ['x']) == {'macro_f1': 0.0, 'weighted_f1': 0.0}


@pytest.mark.parametrize('fn', list(metrics.BY_NAME.values()))
def test_no_rows_and_uneven_lists_are_errors(fn):
  with pytest.raises(errors.UserError, match='the split is empty'):
    fn([], [])
  with pytest.raises(ValueError, match='2 targets but 1 predictions'):
    fn(['a', 'b'], ['a'])
