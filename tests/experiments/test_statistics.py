"""Means, savings and the bootstrap."""

import random

import made_up
import numpy as np
import pytest
import scipy.stats

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


def verdicts(accuracy, seed, examples=400):
  drawn = random.Random(seed)
  return {str(i): drawn.random() < accuracy for i in range(examples)}


def test_the_bootstrap_tells_a_difference_from_chance():
  better = {seed: verdicts(0.8, seed) for seed in range(3)}
  worse = {seed: verdicts(0.6, 10 + seed) for seed in range(3)}
  found = statistics.compare(better, worse)
  assert found.difference == pytest.approx(20, abs=5) and found.low < found.difference < found.high
  assert found.p == 1 / (statistics.RESAMPLES + 1) and (found.seeds, found.examples) == (3, 400)
  back = statistics.compare(worse, better)
  assert back.difference == pytest.approx(-found.difference) and back.p == found.p
  same = statistics.compare({0: verdicts(0.7, 1)}, {0: verdicts(0.7, 2)})
  assert same.p > 0.05 and same.low < 0 < same.high
  assert statistics.compare(better, better).p == 1.0


def test_the_interval_is_that_of_the_t_distribution_for_many_examples():
  first, second = {0: verdicts(0.7, 5, 3000)}, {0: verdicts(0.65, 6, 3000)}
  found = statistics.compare(first, second)
  differences = [100.0 * (first[0][i] - second[0][i]) for i in first[0]]
  low, high = scipy.stats.t.interval(
      0.95, 2999, np.mean(differences), scipy.stats.sem(differences))
  assert (found.low, found.high) == pytest.approx((low, high), abs=0.15)


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
