"""Accuracies against counts done by hand."""

import pytest

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


@pytest.mark.parametrize('fn', [metrics.text_accuracy, metrics.equation_accuracy])
def test_no_rows_and_uneven_lists_are_errors(fn):
  with pytest.raises(errors.UserError, match='the split is empty'):
    fn([], [])
  with pytest.raises(ValueError, match='2 targets but 1 predictions'):
    fn(['a', 'b'], ['a'])
