"""Means, savings, and what is compared; whether the p-values are true: test_significance.py."""

import made_up
import pytest

from dss_jax.experiments import results, statistics


def row(method, fraction, seed, accuracy, alpha=None):
  return results.Row(f'{method}-{fraction}-{seed}', 'toy', method, 'gold', 'm', fraction, alpha,
                     seed, accuracy)


def test_means_and_spreads_are_over_seeds():
  rows = [row('dss', 1.0, seed, value, 0.5) for seed, value in ((2, 80.0), (0, 70.0), (1, 90.0))]
  rows += [row('dss', 1.0, 3, None, 0.5), row('finetune', 1.0, 0, 60.0)]
  found = statistics.summarize(rows)
  dss, finetune = found.values()
  assert (dss.mean, dss.spread, list(dss.accuracies)) == (80.0, 10.0, [0, 1, 2])
  assert (finetune.mean, finetune.spread) == (60.0, None)
  assert (str(dss), str(finetune)) == ('80.0 ± 10.0 (3)', '60.0 (1)')


def test_the_saving_is_the_smallest_fraction_that_reaches_full_fine_tuning():
  rows = [row('finetune', 1.0, 0, 80.0), row('finetune', 1.0, 1, 70.0),
          row('finetune', 0.5, 0, 99.0), row('finetune', 0.5, 1, 99.0)]
  rows += [row('dss', fraction, seed, value, 0.5) for fraction, values in (
      (0.25, (81.0, 60.0)), (0.5, (70.0, 80.0)), (1.0, (90.0, 90.0)))
      for seed, value in enumerate(values)]
  rows += [row('dss_shuffled', 1.0, seed, 50.0, 0.5) for seed in range(2)]
  dss, control = statistics.savings(statistics.summarize(rows))
  assert (dss.target, dss.of, dss.fraction) == (75.0, 1.0, 0.5)
  assert dss.seeds == {0: 0.25, 1: 0.5}
  assert control.fraction is None and control.seeds == {0: None, 1: None}


def test_a_saving_compares_the_seeds_that_both_have():
  rows = [row('finetune', 1.0, seed, value) for seed, value in enumerate((80.0, 70.0, 60.0))]
  rows += [row('dss', 0.25, 0, 79.0, 0.5), row('dss', 0.5, 2, 65.0, 0.5),
           row('dss', 1.0, 0, 81.0, 0.5), row('distill', 1.0, 7, 99.0)]
  only, = statistics.savings(statistics.summarize(rows))
  # 79 is above the mean of fine-tuning, 70, and below that of the same seed.
  assert (only.fraction, only.shared, only.target) == (0.5, 1, 70.0)
  assert only.seeds == {0: 1.0, 2: 0.5}


def test_only_shared_seeds_and_examples_are_compared():
  first = {0: {'a': True, 'b': True, 'c': False}, 1: {'a': False, 'b': True}}
  second = {1: {'a': True, 'b': False, 'd': True}, 2: {'a': True}}
  found = statistics.compare(first, second)
  assert (found.seeds, found.examples, found.difference) == (1, 2, 0.0)
  assert statistics.compare({0: {}}, {0: {}}) is None
  assert statistics.compare({0: {'a': True}}, {1: {'a': True}}) is None


def test_correctness_is_by_the_datasets_metric(tmp_path):
  cell = made_up.toy()[0]
  made_up.sweep(tmp_path, [cell])
  found = results.read(str(tmp_path)).rows[cell.key]
  right = statistics.correctness(str(tmp_path), found, 'text')
  assert 100 * sum(right.values()) / len(right) == pytest.approx(found.accuracy)
  line = {'target': '( 84.0 / 2.0 )', 'prediction': '( 6 * 7 )'}
  assert statistics.is_right('equation', line) and not statistics.is_right('text', line)
