"""The figure of how sure students are and how often right, on confidences that nobody computed."""

import json
import random

import made_up
import numpy as np
import pytest

from dss_jax.experiments import confidences, figures, reliability, report, results

DESCRIBED = {'toy': {'labels': ['left', 'right'], 'metric': 'text'}}


def sweep(folder, seeds, sure, **cells):
  """DSS's and fine-tuning's students at `seeds`, as sure and right as `sure` says of each seed."""
  made = made_up.toy(methods=('dss', 'finetune'), fractions=(0.5, 1.0), seeds=seeds, **cells)
  made_up.sweep(folder, made)
  for cell in made:
    write(folder, cell, sure(cell.seed))
  return list(results.read(str(folder)).rows.values())


def write(folder, cell, rows):
  (folder / 'runs' / cell.key / confidences.FILE).write_text(''.join(json.dumps(
      {'id': str(i), 'target': 'left', 'prediction': 'left' if right else 'right',
       'confidence': confidence}) + '\n' for i, (confidence, right) in enumerate(rows)))


def drawn(seed):
  chosen = random.Random(seed)
  return [(0.5 + chosen.random() / 2, chosen.random() < 0.8) for _ in range(200)]


def draw(folder, rows, monkeypatch, described=DESCRIBED):
  monkeypatch.setattr(figures, 'save', lambda figure, *rest, **kwargs: figure)
  return reliability.draw_all(str(folder), rows, described, '')


def markers(axes):
  return {(line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() != 'none'
          for line in axes.lines if line.get_marker() != 'None'}


def lines(axes):
  return [line for line in axes.lines if line.get_marker() == 'None']


def test_points_are_the_means_of_bins_over_all_seeds(tmp_path, monkeypatch):
  figure, = draw(tmp_path, sweep(tmp_path, (0, 1, 2), drawn), monkeypatch)
  above, other, below, _ = figure.axes
  sure, right = np.transpose([row for seed in range(3) for row in drawn(seed)])
  places = np.ceil(10 * sure)
  expected = [(100 * sure[places == one].mean(), 100 * right[places == one].mean())
              for one in np.unique(places)]
  np.testing.assert_allclose(sorted(markers(above)), expected)
  diagonal, *single, all_of_them = lines(above)
  assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 100]
  np.testing.assert_allclose(all_of_them.get_xydata(), expected)
  assert len(single) == 3 and all(one.get_alpha() < 1 for one in single)
  assert [one.get_height() for one in below.patches] == [
      np.sum(places == one) for one in np.unique(places)]
  assert above.get_xlim() == (50, 100) and above.get_title() == 'Distilling Step-by-Step'
  assert other.get_title() == 'standard fine-tuning'


def test_bins_of_few_rows_are_hollow_and_not_joined(tmp_path, monkeypatch):
  rows = [(0.95, True)] * 30 + [(0.75, False)] * 9 + [(0.65, True)] * 10
  figure, = draw(tmp_path, sweep(tmp_path, (0,), lambda seed: rows), monkeypatch)
  above = figure.axes[0]
  assert {(round(x), y): filled for (x, y), filled in markers(above).items()} == {
      (95, 100): True, (75, 0): False, (65, 100): True}
  _, joined = lines(above)  # One seed has no pale line beside that of all.
  np.testing.assert_allclose(joined.get_xydata(), [(65, 100), (95, 100)])
  said, = (text.get_text() for text in above.texts)
  ece = (30 * 5 + 9 * 75 + 10 * 35) / 49
  assert said == f'ECE {ece:.1f} %\none seed, 49 rows'


def test_seeds_of_unequal_counts_are_told(tmp_path, monkeypatch):
  rows = sweep(tmp_path, (0, 1), lambda seed: drawn(seed)[:100 * (seed + 1)])
  figure, = draw(tmp_path, rows, monkeypatch)
  assert '2 seeds, 100 to 200 rows each' in figure.axes[0].texts[0].get_text()


@pytest.mark.parametrize('labels, least', [(3, 30), (4, 20), (11, 0)])
def test_nobody_is_less_sure_than_of_all_labels_alike(tmp_path, monkeypatch, labels, least):
  described = {'toy': {**DESCRIBED['toy'], 'labels': [str(i) for i in range(labels)]}}
  figure, = draw(tmp_path, sweep(tmp_path, (0,), drawn), monkeypatch, described)
  assert figure.axes[0].get_xlim() == (least, 100)


@pytest.mark.parametrize('facts', [{}, {'labels': [], 'metric': 'text'},
                                   {'labels': ['left', 'right'], 'metric': 'equation'}])
def test_there_is_none_without_a_closed_set(tmp_path, monkeypatch, facts):
  assert draw(tmp_path, sweep(tmp_path, (0,), drawn), monkeypatch, {'toy': facts}) == []


def test_a_figure_for_each_size_at_the_usual_alpha(tmp_path, monkeypatch):
  rows = sweep(tmp_path, (0,), drawn, models=('small', 'base'), alphas=(0.2, 0.4))
  made = draw(tmp_path, rows, monkeypatch)
  assert [len(figure.axes) for figure in made] == [4, 4]  # Not six: one DSS each.


def test_damaged_lines_are_passed_over(tmp_path):
  cell, = made_up.toy(methods=('dss',), fractions=(1.0,), seeds=(0,))
  made_up.sweep(tmp_path, [cell])
  (tmp_path / 'runs' / cell.key / confidences.FILE).write_text(
      '{"confidence": 0.8, "prediction": "left", "target": "left"}\n'
      '{"confidence": "x", "prediction": "left", "target": "left"}\n{"confidence": 0.9}\n{"conf')
  row, = results.read(str(tmp_path)).rows.values()
  assert confidences.read(str(tmp_path), row) == [(0.8, True)]
  assert report.main([str(tmp_path)]) == 0
  assert 'one seed, 1 rows' in (tmp_path / 'figures' / 'toy-recipe-reliability.svg').read_text()
