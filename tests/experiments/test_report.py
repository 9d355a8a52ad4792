"""The report on known results, and on damaged ones. In a browser: test_page.py."""

import html
import json
import re
import xml.etree.ElementTree

import made_up
import numpy as np
import pytest

from dss_jax.experiments import curves, figures, grid, report, results, statistics

ACCURACY = {'dss': 0.9, 'finetune': 0.6, 'dss_shuffled': 0.6}


def accuracy(cell):
  return ACCURACY[cell.method] + 0.05 * (cell.fraction - 1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  cells = made_up.toy(models=('small', 'base'), alphas=(0.2, 0.5), seeds=(0, 1))
  made_up.sweep(folder, cells, examples=300, accuracy=accuracy)
  assert report.main([str(folder), '--title', 'A <b>title</b> & more']) == 0
  return folder


def data_of(page):
  return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page,
                              re.DOTALL)[1])


def test_the_page_needs_nothing_from_elsewhere(folder):
  page = (folder / 'report.html').read_text()
  outside = set(re.findall(r'(?:https?:)?//[\w.]+[\w/.#-]*', re.sub(r'//.*?\n', '\n', page)))
  assert all('w3.org' in one or 'purl.org' in one or 'creativecommons' in one
             or 'matplotlib.org' in one for one in outside), outside
  assert not re.search(r'<(?:link|script|img|iframe)[^>]+(?:src|href)="(?!data:)', page)
  assert "default-src 'none'" in page
  assert '<title>A &lt;b&gt;title&lt;/b&gt; &amp; more</title>' in page


def test_every_figure_is_drawn_in_three_forms(folder):
  names = {'toy-small-data', 'toy-base-data', 'toy-small-cost', 'toy-base-cost', 'toy-size',
           'toy-small-curves', 'toy-base-curves',
           *(f'toy-{model}-{fraction}-alpha' for model in ('small', 'base')
             for fraction in ('0.25', '0.5', '1'))}
  assert {path.stem for path in (folder / 'figures').iterdir()} == names
  assert all((folder / 'figures' / f'{name}.png').read_bytes()[1:4] == b'PNG' for name in names)
  inline = re.findall(r'<svg.*?</svg>', (folder / 'report.html').read_text(), re.DOTALL)
  assert len(inline) == len(names)
  for svg in inline:
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.findall('.//{http://www.w3.org/2000/svg}text') and 'currentColor' in svg


def test_accuracy_against_the_teachers_tokens(folder):
  """Of 1,254,321 tokens 25, 50 and 100 %; who asks no teacher is a line across."""
  svg = (folder / 'figures' / 'toy-base-cost.svg').read_text()
  texts = xml.etree.ElementTree.fromstring(svg).findall('.//{http://www.w3.org/2000/svg}text')
  said = [one.text for one in texts]
  assert {'0.314', '0.627', '1.25', "the teacher's tokens (millions)"} <= set(said)
  assert {'Distilling Step-by-Step', "DSS with other inputs' rationales"} <= set(said)
  assert 'standard fine-tuning' not in said
  found = results.read(str(folder))
  full = statistics.summarize(list(found.rows.values()))[
      statistics.Group('toy', 'base', 'finetune', 'gold', 1.0, None)].mean
  assert f'fine-tuning, 100 % of the data: {full:.1f}' in said
  assert any(one.startswith('teacher (few-shot): ') for one in said)


def test_the_findings_are_those_of_the_results(folder):
  found = results.read(str(folder))
  text = (folder / 'report.md').read_text()
  def mean(method, fraction, alpha):
    some = [row.accuracy for row in found.rows.values() if (
        row.method, row.model, row.fraction, row.alpha) == (method, 'base', fraction, alpha)]
    return sum(some) / len(some)
  difference = mean('dss', 0.25, 0.5) - mean('finetune', 1.0, None)
  line, = (line for line in text.splitlines() if line.startswith(
      'toy, base: Distilling Step-by-Step, alpha 0.5 with 25 % of the data minus fine-tuning with '
      f'100 % of the data: {difference:+.1f} points (95 % interval '))
  assert 'corrected for 24 comparisons; 2 seeds, 300 test rows)' in line
  assert line.endswith('seed by seed: 25 %, 25 %.')
  teacher = json.loads((folder / 'datasets' / 'toy.json').read_text())['teacher']['accuracy']
  assert f'the teacher has {teacher:.1f} % on test' in text
  assert 'toy-train by palm-540b; 1,200,000 prompt tokens, 54,321 completion tokens.' in text


def test_every_group_is_in_the_table_and_every_difference_has_its_p(folder):
  lines = (folder / 'report.md').read_text().splitlines()
  table = [line for line in lines if line.startswith('| toy | base |')]
  groups = [line for line in table if '±' in line]
  assert len(groups) == 3 * (2 + 1 + 2)
  differences = [line for line in table if ' to ' in line]
  # At each fraction: dss at two alphas against fine-tuning and two controls, these against it.
  assert len(differences) == 3 * (2 * 3 + 2)
  far = [line for line in differences if '| Distilling Step-by-Step, alpha 0.5 | standard' in line]
  assert len(far) == 3
  for line in far:
    p, corrected = (float(cell) for cell in line.split(' | ')[7:9])
    # Two seeds are few for a correction by all 48 differences of both models.
    assert p < 0.05 and p < corrected <= min(1, 48 * p + 0.005)


def cells_of(folder, heading):
  """The lines of a table in report.md, without its header."""
  text = (folder / 'report.md').read_text().split(f'## {heading}\n')[1].split('\n## ')[0]
  return [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')][2:]


def test_beside_every_table_and_figure_stands_what_it_covers(folder):
  for name in ('report.html', 'report.md'):
    text = html.unescape((folder / name).read_text())
    assert '± is one standard deviation over seeds (n - 1)' in text
    assert 'p (two-sided) cover the choice of seeds and of test rows together' in text
    assert 'They do not cover the choice of training set, hyper-parameters or datasets' in text
    assert 'corrected for the 48 comparisons of this table' in text
    assert text.count('Bars are one standard deviation over seeds') == 11
  assert len(cells_of(folder, 'Differences')) == 48


def test_every_label_of_a_closed_set_has_its_line(tmp_path):
  cells = made_up.toy(methods=('dss', 'finetune'), fractions=(0.5, 1.0), seeds=(0, 1))
  made_up.sweep(tmp_path, cells, accuracy=accuracy)
  assert report.main([str(tmp_path)]) == 0
  lines = cells_of(tmp_path, 'Labels')
  assert len(lines) == 2 * (2 + 2)
  gold = [row['label'] for row in made_up.rows('toy', 60)]
  left, right, macro, weighted = lines[:4]
  assert left[4] == 'left' and left[6] == str(2 * gold.count('left'))
  assert macro[4] == 'macro' and float(macro[-1]) == pytest.approx(
      (float(left[-1]) + float(right[-1])) / 2, abs=0.1)
  assert weighted[4] == 'weighted' and 80 < float(weighted[-1]) < 100


def test_a_difference_is_found_by_its_corrected_p(tmp_path):
  cells = made_up.toy(methods=('dss', 'finetune'), fractions=(0.5, 1.0), seeds=range(5))
  made_up.sweep(tmp_path, cells, examples=300,
                accuracy=lambda cell: 0.6 + 0.35 * (cell.method == 'dss' and cell.fraction == 1))
  assert report.main([str(tmp_path)]) == 0
  text = (tmp_path / 'report.md').read_text()
  assert ('toy, recipe: Distilling Step-by-Step, alpha 0.5 is better than standard fine-tuning '
          'with 100 % of the data (p < 0.05 after the correction for 2 comparisons).') in text
  assert text.count('after the correction for') == 1
  assert 'The largest difference at one share of the data: toy, recipe: Distilling' in text


def test_a_variant_is_compared_with_what_it_varies(tmp_path):
  cells = made_up.toy(methods=('dss', 'dss+smooth', 'finetune'), fractions=(1.0,), seeds=range(5),
                      settings_for={'dss+smooth': {'LABEL_SMOOTHING': 0.1}})
  made_up.sweep(tmp_path, cells, examples=300, accuracy=lambda cell: {
      'dss': 0.7, 'dss+smooth': 0.95, 'finetune': 0.7}[cell.method])
  assert report.main([str(tmp_path)]) == 0
  lines = (tmp_path / 'report.md').read_text().splitlines()
  pairs = [line.split(' | ')[2:5] for line in lines if ' to ' in line and '| toy |' in line]
  assert len(pairs) == 2
  variant, = (pair for pair in pairs if 'smooth' in str(pair))
  assert variant[:2] == [f'Distilling Step-by-Step{name}, alpha 0.5' for name in (' + smooth', '')]
  assert float(variant[2].split()[0]) > 15


def test_no_saving_is_claimed_where_fine_tuning_itself_needs_no_more(tmp_path):
  cells = made_up.toy(methods=('dss', 'finetune'), seeds=range(3))
  made_up.sweep(tmp_path, cells, examples=300, accuracy=lambda cell: {
      ('finetune', 0.25): 0.9, ('dss', 0.25): 0.8}.get((cell.method, cell.fraction), 0.6))
  assert report.main([str(tmp_path)]) == 0
  text = (tmp_path / 'report.md').read_text()
  assert ('No data are saved by it: fine-tuning itself has no less with 25 % than with 100 %.'
          ) in text
  assert 'matches' not in text and 'with less data' not in text


def test_the_largest_difference_is_told_where_the_other_method_is_better(tmp_path):
  cells = made_up.toy(methods=('dss', 'finetune'), fractions=(0.5, 1.0), seeds=range(3))
  made_up.sweep(tmp_path, cells, examples=300, accuracy=lambda cell: {
      ('finetune', 0.5): 0.9, ('finetune', 1.0): 0.7}.get((cell.method, cell.fraction), 0.6))
  assert report.main([str(tmp_path)]) == 0
  text = (tmp_path / 'report.md').read_text()
  line, = (line for line in text.splitlines() if line.startswith('The largest difference'))
  assert re.search(r'minus standard fine-tuning, both with 50 % of the data: -\d+\.\d points '
                   r'\(95 % interval -\d+\.\d to -\d+\.\d, corrected for 2 comparisons; 3 '
                   'seeds', line)
  assert 'In the mean it has less at every share of the data.' in text


def test_seconds_are_without_compilation_where_it_was_measured(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(methods=('dss',), fractions=(1.0,), seeds=(0,)))
  assert report.main([str(tmp_path)]) == 0
  assert 'compilation is in them, for the results do not tell' in (
      tmp_path / 'report.md').read_text()
  path = tmp_path / 'results.jsonl'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'compiling': 4.5}) + '\n')
  assert report.main([str(tmp_path)]) == 0
  assert 'training and validation, without compilation.' in (tmp_path / 'report.md').read_text()
  assert cells_of(tmp_path, 'Cost')[0][-1] == '8'


def test_bars_stay_within_what_accuracy_can_be():
  assert figures.bar(statistics.Summary({0: 100.0, 1: 90.0})) == (pytest.approx(7.07, abs=0.01), 5)
  assert figures.bar(statistics.Summary({0: 0.0, 1: 8.0}))[0] == 4


def test_a_curve_of_one_point_has_a_marker(tmp_path, monkeypatch):
  cell, = made_up.toy(methods=('dss',), fractions=(1.0,), seeds=(0,))
  made_up.sweep(tmp_path, [cell])
  (tmp_path / 'runs' / cell.key / 'metrics.jsonl').write_text(
      '{"step": 1, "train/label_loss": 2}\n{"step": 2, "train/label_loss": 1, '
      '"validation/accuracy": 5}\n')
  monkeypatch.setattr(figures, 'save', lambda figure, *rest, **kwargs: figure)
  figure, = curves.draw_all(list(results.read(str(tmp_path)).rows.values()), str(tmp_path), '')
  losses, accuracies = (axes.lines[0].get_marker() for axes in figure.axes)
  assert (losses, accuracies) == ('None', 'o')


def test_of_equal_methods_nothing_is_found(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0, 1, 2)), accuracy=lambda cell: 0.9)
  assert report.main([str(tmp_path)]) == 0
  assert ('No difference between two methods at one share of the data has p < 0.05 after the '
          'correction for 9 comparisons.') in (tmp_path / 'report.md').read_text()


def test_one_seed_tells_nothing_of_methods(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)), accuracy=accuracy)
  assert report.main([str(tmp_path)]) == 0
  text = (tmp_path / 'report.md').read_text()
  assert 'One seed each: the differences below tell of these students, not of the methods.' in text
  assert {cells[-1] for cells in cells_of(tmp_path, 'Differences')} == {
      'one seed: the choice of test rows only'}
  assert 'after the correction for' not in text


def test_differences_on_fewer_rows_or_other_predictions_are_told(tmp_path, capsys):
  cells = made_up.toy(methods=('dss', 'finetune'), fractions=(0.5, 1.0), seeds=(0, 1))
  made_up.sweep(tmp_path, cells)
  dss, finetune = (next(cell for cell in cells if cell.method == method and cell.fraction == 1)
                   for method in ('dss', 'finetune'))
  predictions = tmp_path / 'runs' / dss.key / 'predictions' / 'test' / 'label-000100.jsonl'
  lines = predictions.read_text().splitlines(keepends=True)
  wrong = [line for line in lines if json.loads(line)['target'] != json.loads(line)['prediction']]
  predictions.write_text(''.join(wrong))
  for cell in cells:
    if cell.fraction == 0.5 and cell.method == 'finetune':
      (tmp_path / 'runs' / cell.key / 'predictions' / 'test' / 'label-000100.jsonl').unlink()
  assert report.main([str(tmp_path)]) == 0
  said = capsys.readouterr().err
  assert f'{dss.key}: 0.0 % of its {len(wrong)} predictions are right, its result says' in said
  assert (f'toy, recipe: Distilling Step-by-Step, alpha 0.5 and standard fine-tuning are compared '
          f'on {len(wrong)} of 60 test rows') in said
  assert '1 of 2 differences are not in the table: no seed has predictions of both' in said
  assert finetune.key not in said


@pytest.mark.parametrize('accuracies, bars', [({0: 70.0}, 0), ({0: 70.0, 1: 80.0}, 2)])
def test_a_single_seed_has_no_bar(tmp_path, monkeypatch, accuracies, bars):
  monkeypatch.setattr(figures, 'save', lambda figure, *rest: figure)
  groups = [statistics.Group('toy', 'm', 'dss', 'gold', fraction, 0.5) for fraction in (0.5, 1.0)]
  summaries = dict.fromkeys(groups, statistics.Summary(accuracies))
  figure, = figures.draw_all(summaries, [], {}, str(tmp_path))
  _, _, (lines,) = figure.axes[0].containers[0]
  assert sum(np.isfinite(segment).all() for segment in lines.get_segments()
             if len(segment)) == bars


def test_the_examples_are_those_of_the_runs(folder):
  shown = data_of((folder / 'report.html').read_text())['datasets']['toy']
  found = results.read(str(folder))
  assert len(shown['examples']) == 300 and set(shown['answers']) == set(made_up.LABELS)
  assert len(shown['runs']) == sum(row.seed == 0 for row in found.rows.values())
  for run in shown['runs']:
    said = float(re.search(r'\(([\d.]+) %\)', run['name'])[1])
    assert 100 * sum(run['right']) / 300 == pytest.approx(said, abs=0.05)
    for i, one in enumerate(shown['examples']):
      assert run['right'][i] == (shown['answers'][run['labels'][i]] == one['gold'])
  with_rationales = [run for run in shown['runs'] if run['rationales']]
  assert with_rationales[0]['rationales']['3'] == 'I think 3.'


def test_the_same_results_make_the_same_page(folder):
  before = (folder / 'report.html').read_bytes()
  assert report.main([str(folder), '--title', 'A <b>title</b> & more']) == 0
  assert (folder / 'report.html').read_bytes() == before


def test_of_damaged_results_a_page_is_made_that_says_so(tmp_path, capsys):
  cells = made_up.toy(seeds=(0, 1, 2))
  made_up.sweep(tmp_path, cells, accuracy=accuracy)
  path = tmp_path / 'results.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  path.write_text('')
  rows[0]['test']['accuracy'] = float('nan')
  rows[1]['surprise'] = 1
  for row in [*rows[:-1], rows[2]]:  # One is missing, one is there twice.
    made_up.append(tmp_path, row)
  (tmp_path / 'runs' / rows[3]['key'] / 'predictions' / 'test' / 'label-000100.jsonl').write_text(
      '{"input": {"id": "toy-1"}, "target"')
  (tmp_path / 'runs' / rows[4]['key'] / 'metrics.jsonl').write_text('{"step": 1, "tra')
  assert report.main([str(tmp_path)]) == 0
  said = capsys.readouterr().err
  page = (tmp_path / 'report.html').read_text()
  for text in (f'1 of {len(rows)} runs have no result: {rows[-1]["key"]}',
               f'{rows[0]["key"]} has test accuracy nan', 'unknown fields surprise',
               f'a second result of {rows[2]["key"]}', 'lacks seed 2', 'lacks seed 0'):
    assert text in said and text in page
  assert '<h2>Not all is there</h2>' in page and 'nan ±' not in page


def test_texts_of_data_cannot_become_part_of_the_page(tmp_path):
  cell, = made_up.toy(methods=('dss',), fractions=(1.0,), seeds=(0,))
  made_up.sweep(tmp_path, [cell], examples=2)
  evil = '</script><script>alert(1)</script>'
  (tmp_path / 'datasets' / 'toy.jsonl').write_text(json.dumps(
      {'id': 'toy-0', 'input': evil, 'label': 'left', 'teacher_label': evil, 'rationale': evil}))
  assert report.main([str(tmp_path)]) == 0
  page = (tmp_path / 'report.html').read_text()
  assert 'alert(1)' in page and '<script>alert' not in page
  assert data_of(page)['datasets']['toy']['examples'][0]['input'] == evil


def test_without_what_the_sweep_noted_the_page_is_still_made(tmp_path, capsys):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  (tmp_path / 'datasets' / 'toy.json').unlink()
  (tmp_path / 'sweep.json').write_text('{')
  assert report.main([str(tmp_path)]) == 0
  said = capsys.readouterr().err
  assert 'toy.json cannot be read' in said and 'sweep.json cannot be read' in said
  page = (tmp_path / 'report.html').read_text()
  assert 'the teacher has' not in page and list(data_of(page)['datasets']) == ['toy']


def test_students_without_pretrained_weights_are_told(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(models=('small', 'base'), seeds=(0,)))
  path = tmp_path / 'results.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  path.write_text('')
  for row in rows:
    row['settings'] = {
        'initial_checkpoint_path': 'weights/small' if row['model'] == 'small' else ''}
    made_up.append(tmp_path, row)
  assert report.main([str(tmp_path)]) == 0
  for name in ('report.html', 'report.md'):
    text = (tmp_path / name).read_text()
    assert 'toy, base: these students began with random weights' in text
    assert 'toy, small: these students began' not in text


def test_nothing_is_claimed_against_a_baseline_that_learned_nothing(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)), accuracy=lambda cell: 0.3)
  assert report.main([str(tmp_path)]) == 0
  text = (tmp_path / 'report.md').read_text()
  labels = [row['label'] for row in made_up.rows('toy', 60)]
  commonest = max(made_up.LABELS, key=labels.count)
  assert text.count('there is nothing to match') == 1 and 'matches fine-tuning' not in text
  assert f"always answering '{commonest}' ({labels.count(commonest) / 0.6:.1f} %)" in text


def test_a_sweep_of_one_run_has_a_page(tmp_path):
  made_up.sweep(tmp_path, grid.cells(grid.Sweep(('toy',), methods=('finetune',), seeds=(0,))))
  assert report.main([str(tmp_path)]) == 0
  assert 'Nothing to compare yet' not in (tmp_path / 'report.md').read_text()  # The teacher is.


def test_a_panel_for_the_loss_of_every_objective():
  runs = [{'train/loss': [], 'train/label_loss': [], 'train/premise_loss': []},
          {'train/label_loss': [], 'validation/label_loss': []}]
  assert list(curves.panels_of(runs)) == [
      'train/label_loss', 'train/premise_loss', 'validation/accuracy']
