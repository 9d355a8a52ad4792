"""p-values: as often below 0.05 as they say, one with their interval, never surer than the data."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
import scipy.stats

from dss_jax.experiments import significance, statistics

_PATH = pathlib.Path(__file__).parents[2] / 'benchmarks' / 'p_values.py'
_SPEC = importlib.util.spec_from_file_location('p_values', _PATH)
p_values = sys.modules['p_values'] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(p_values)


def allowed(pairs, margin=0.01):
  """How far from 5 % a share may be: the margin, and 3.3 standard errors of counting."""
  return margin + 3.3 * np.sqrt(0.05 * 0.95 / pairs)


def rows_alone(differences):
  """As the p-value that leaves out seeds."""
  return scipy.stats.ttest_1samp(differences.mean(0), 0).pvalue


@pytest.mark.parametrize('seeds', [3, 5])
@pytest.mark.parametrize('spread', [0.0, 1.1, 2.4])
def test_equal_methods_differ_in_five_of_a_hundred_cases(seeds, spread):
  found = p_values.World(200, seeds, spread).rejected(400)
  assert found == pytest.approx(0.05, abs=allowed(400))


def test_seeds_are_no_detail():
  world = p_values.World(1221, 3, 2.4, own=0.0)
  differences = list(world.differences(300, np.random.default_rng(0)))
  assert np.mean([rows_alone(one) < 0.05 for one in differences]) > 0.3
  assert world.rejected(300) == pytest.approx(0.05, abs=allowed(300))


@pytest.mark.slow
@pytest.mark.parametrize('rows', p_values.ROWS)
@pytest.mark.parametrize('seeds', p_values.SEEDS)
@pytest.mark.parametrize('spread', p_values.SPREADS)
def test_five_of_a_hundred_for_all_sizes(rows, seeds, spread):
  shares = [p_values.World(rows, seeds, spread, own, alike).rejected(500, seed=1)
            for own in p_values.OWN for alike in (0.0, 0.5)]
  assert np.mean(shares) == pytest.approx(0.05, abs=allowed(2000))


@pytest.mark.parametrize('seed_df, most', [(1, 0.071), (2, 0.057), (4, 0.055)])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9])
def test_the_error_by_integration(seed_df, most, share):
  """Normal means, of whose variance `share` is from rows: over all that the seeds may show."""
  levels = (np.arange(200) + 0.5) / 200
  seen = (1 - share) * scipy.stats.chi2.ppf(levels, seed_df) / seed_df
  widths = [significance.Variance(one, max(share, 1e-18), seed_df, 10**6).half_width()
            for one in seen]
  assert most - 0.036 < np.mean(2 * scipy.stats.norm.sf(widths)) < most


def test_it_is_students_test_where_only_seeds_or_only_rows_matter():
  for df in (1, 2, 4):
    for t in (0.5, 2.0, 12.0):
      expected = 2 * scipy.stats.t.sf(t, df)
      assert significance.Variance(1.0, 1e-18, df, 10**7).p(t) == pytest.approx(expected, 1e-5)
      assert significance.Variance(1e-18, 1.0, 2, df).p(t) == pytest.approx(expected, 1e-5)
  one_seed = np.random.default_rng(0).integers(-1, 2, (1, 300)).astype(float)
  assert significance.mean_test(one_seed)[0] == pytest.approx(rows_alone(one_seed), 1e-6)


def test_the_variance_is_that_of_the_mean():
  """Over many tables of known parts, of seeds, rows and the rest."""
  rng, of_seeds, of_rows, rest = np.random.default_rng(0), 0.3, 1.0, 2.0
  found = [significance.variance(
      of_seeds * rng.standard_normal((4, 1)) + of_rows * rng.standard_normal((1, 50))
      + rest * rng.standard_normal((4, 50))) for _ in range(4000)]
  assert np.mean([one.rows for one in found]) == pytest.approx(of_rows**2 / 50, rel=0.05)
  assert np.mean([one.seeds for one in found]) == pytest.approx(
      of_seeds**2 / 4 + rest**2 / 200, rel=0.05)


def test_zero_is_outside_the_interval_where_p_is_below_five_percent():
  rng, sides = np.random.default_rng(0), set()
  for _ in range(400):
    shape = rng.integers(1, 6), rng.integers(2, 40)
    differences = (rng.integers(0, 2, shape) - (rng.random(shape) < rng.random())) * (
        rng.random(shape) < rng.random())
    p, half_width = significance.mean_test(differences.astype(float))
    assert 0 <= p <= 1 + 1e-12 and half_width > 0
    assert (p < 0.05) == (abs(differences.mean()) > half_width)
    sides.add(bool(p < 0.05))
  assert sides == {True, False}


def answers(*seeds):
  """(seed) -> id -> right, of texts such as '1101'."""
  return {seed: {str(i): one == '1' for i, one in enumerate(text)}
          for seed, text in enumerate(seeds)}


@pytest.mark.parametrize('first, second, p, low', [
    (['11'] * 3, ['00'] * 3, 0.5, -100.0),  # Two rows: as two coins.
    (['1111'], ['0000'], 0.125, -50.6),
    (['1' * 5 + '0' * 995] * 3, ['0' * 1000] * 3, 0.0625, -0.03),
    (['1' * 6 + '0' * 994] * 3, ['0' * 1000] * 3, 0.03125, 0.05),
    (['1' * 500] * 3, ['0' * 500] * 3, 0.0, 99.27),
    (['1' * 200] * 3, ['1' * 200] * 3, 1.0, -1.83),  # Both perfect: 0 of 200 rows differ.
    (['110', '101', '011'], ['000'] * 3, 0.25, -100.0),  # No spread over seeds or over rows.
])
def test_few_rows_make_no_certainty(first, second, p, low):
  found = statistics.compare(answers(*first), answers(*second))
  assert found.p == pytest.approx(p, abs=1e-6) and found.low == pytest.approx(low, abs=0.05)
  back = statistics.compare(answers(*second), answers(*first))
  assert (back.p, back.difference, back.high) == (found.p, -found.difference, -found.low)
  assert -100 <= found.low <= found.difference <= found.high <= 100


def test_a_large_difference_is_found_and_one_seed_is_said_to_be_one():
  rng = np.random.default_rng(0)
  better, worse = ({seed: {str(i): bool(rng.random() < accuracy) for i in range(400)}
                    for seed in range(3)} for accuracy in (0.8, 0.6))
  found = statistics.compare(better, worse)
  assert found.p < 0.05 and found.low > 0 and (found.seeds, found.examples) == (3, 400)
  assert found.covers == 'seeds and test rows'
  one = statistics.compare({0: better[0]}, {0: worse[0]})
  assert one.covers == 'one seed: the choice of test rows only'


def test_a_true_difference_is_found_more_often_with_more_seeds():
  three, five = (p_values.World(1221, seeds, 1.1, gain=5.0).rejected(200) for seeds in (3, 5))
  assert five > 0.9 > three > 0.4


@pytest.mark.parametrize('ps, corrected', [
    ([], []), ([0.04], [0.04]), ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.9, 0.8], [1.0, 1.0])])
def test_holm(ps, corrected):
  assert significance.holm(ps) == pytest.approx(corrected)
