"""Ways to compare labels by their log probabilities, against values worked out by hand."""

import numpy as np
import pytest

from dss_jax import errors, ranking

ROW = ranking.Scores(log_probs=(-2.0, -6.0), alone=(-1.0, -8.0), tokens=(2, 6))


@pytest.mark.parametrize(('way', 'margin'), [('sum', 4.0), ('mean', 0.0), ('pmi', -3.0)])
def test_shares_by_hand(way, margin):
  first = 1 / (1 + np.exp(-margin))
  assert np.exp(ROW.log_shares(way)) == pytest.approx([first, 1 - first])


def test_the_least_loss_is_chosen_and_a_sure_mistake_costs_most():
  found = ranking.calibrate([ROW, ROW], [1, 0])
  assert found['sum'].loss == pytest.approx((np.log1p(np.exp(4)) + np.log1p(np.exp(-4))) / 2)
  assert found['mean'].loss == pytest.approx(np.log(2))
  assert found['sum'].accuracy == found['pmi'].accuracy == 50
  assert found['sum'].error == pytest.approx(100 * (1 / (1 + np.exp(-4)) - 0.5))
  assert ranking.best(found) == 'mean'
  assert ranking.best(ranking.calibrate([ROW, ROW], [1, 1])) == 'pmi'
  assert 'mean' in ranking.table(found)[2] and '50.00 %' in ranking.table(found)[2]


def test_a_gold_label_of_no_share_at_all_has_a_finite_loss():
  row = ranking.Scores((-1.0, -5000.0), (0.0, 0.0), (1, 1))
  assert ranking.calibrate([row], [1])['sum'].loss == pytest.approx(4999.0)


def test_calibration_error_by_hand():
  # (0.8, 0.9]: |1 - 1.75| ; (0.4, 0.5]: |1 - 0.5| ; of 3 rows.
  assert ranking.calibration_error([0.9, 0.85, 0.5], [True, False, True]) == pytest.approx(
      100 * (0.75 + 0.5) / 3)
  assert ranking.calibration_error([1.0, 0.0], [True, False]) == 0


def test_an_unknown_way_is_named():
  with pytest.raises(errors.UserError, match="rank_by=pmy: known: mean, pmi, sum"):
    ranking.check('pmy')


def test_reliability_has_every_row_and_the_gaps_of_the_calibration_error():
  drawn = np.random.default_rng(0)
  sure = drawn.uniform(size=200)
  right = drawn.uniform(size=200) < sure
  found = ranking.reliability(sure, right)
  assert sum(rows for _, _, rows, _, _ in found) == 200
  places = np.digitize(sure, np.linspace(0, 1, 11), right=True)
  gaps = np.bincount(places, right - sure)  # Each bin's sum, whoever counts it.
  assert ranking.calibration_error(sure, right) == pytest.approx(np.abs(gaps).sum() / 2, rel=1e-9)
  assert ranking.reliability_lines([0.85, 0.9], [True, False])[1].split() == [
      '0.8', 'to', '0.9', '2', '87.50', '%', '50.00', '%', '#' * 10]
