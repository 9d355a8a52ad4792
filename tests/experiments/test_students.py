"""Students of a sweep asked again by its report: how fast they answer, and how sure they are."""

import dataclasses
import json
import re
import shutil

import made_up
import numpy as np
import pytest

import dss_jax
from dss_jax import models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.experiments import confidences, latency, report, results, statistics

CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=1, num_decoder_layers=1)
INFO = student_info.StudentInfo(
    model=CONFIG, vocabulary='bytes', label_prefix='[label] ', labels=('left', 'right'),
    input_length=64, target_length=6)
THEN = 'rationale_then_label'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, random_weights):
  """Students of three methods with all of the data, at two seeds; one of them has lost its own."""
  folder = tmp_path_factory.mktemp('sweep')
  for seed in (0, 1):
    path = folder / 'runs' / key('dss', seed)
    convert_main.convert(random_weights(CONFIG, seed=seed), str(path), 'native', info=INFO)
    for method in (THEN, 'finetune')[:2 - seed]:
      other = folder / 'runs' / key(method, seed)
      shutil.copytree(path, other)
      if method == THEN:
        (other / student_info.FILE).write_text(
            dataclasses.replace(INFO, answer_phrase=' so ').as_json())
  return made_up.sweep(folder, made_up.toy(
      methods=('dss', 'finetune', THEN), fractions=(0.5, 1.0), seeds=(1, 0)))


def key(method, seed):
  alpha = '/alpha-0.5' if method == 'dss' else ''
  return f'toy/{method}-gold/recipe/fraction-1{alpha}/seed-{seed}'


@pytest.mark.slow
def test_a_student_of_each_method_is_timed(folder, monkeypatch):
  monkeypatch.setattr(latency, '_ROUNDS', 2)
  assert report.main([str(folder), '--latency']) == 0
  found = json.loads((folder / latency.FILE).read_text())
  assert set(found['students']) == {key(method, 0) for method in ('dss', 'finetune', THEN)}
  for one, many in found['students'].values():
    assert (one['count'], many['count']) == (2 * 32, 2 * 4)
    assert 0 < one['low'] <= one['median'] <= one['high']
    assert many['low'] <= many['median'] <= many['high']
  assert re.fullmatch(r'\d+ x cpu; .*, \d+ CPUs, load [\d.]+ before; jax .*', found['machine'])
  text = (folder / 'report.md').read_text()
  assert f'| {" | ".join(latency.HEADER)} |' in text
  lines = re.findall(
      r'\| toy \| recipe \|.*\| 100 % \| [\d.]+ \([\d.]+ to .*\(.*\) \| ([\d.]+) \|', text)
  assert len(lines) == 3
  student = dss_jax.load(str(folder / 'runs' / key('dss', 0)))
  answers = student.predict(latency._inputs(str(folder), 'toy'))
  written = np.mean([len(student.encode(one.label)) for one in answers])
  assert found['tokens'][key('dss', 0)] == written and lines[0] == f'{written:.1f}'
  assert f'measured on {found["date"]}' in text and found['machine'] in text
  assert latency.UNKNOWN not in text
  before = (folder / latency.FILE).read_bytes()
  page = dss_jax.show(folder)._repr_html_()  # As do later reports.
  assert 'accuracy and latency' in page and (folder / latency.FILE).read_bytes() == before


def test_students_rank_the_labels_of_test(folder, capsys):
  assert report.main([str(folder), '--confidences']) == 0
  assert f'no confidences of {key("finetune", 1)}' in capsys.readouterr().err
  written = {path.parent.relative_to(folder / 'runs').as_posix()
             for path in folder.rglob(confidences.FILE)}
  assert written == {key('dss', 0), key('dss', 1), key('finetune', 0)}  # Not who reasons first.
  rows = made_up.rows('toy', 60)
  answers = dss_jax.load(str(folder / 'runs' / key('dss', 1))).predict(
      [row['input'] for row in rows], rank=True)
  lines = results.read_lines(str(folder / 'runs' / key('dss', 1) / confidences.FILE))
  assert [(line['id'], line['target']) for line in lines] == [
      (row['id'], row['label']) for row in rows]
  assert [line['prediction'] for line in lines] == [one.label for one in answers]
  np.testing.assert_allclose([line['confidence'] for line in lines],
                             [one.probability for one in answers], rtol=1e-4)
  assert all(0.5 <= line['confidence'] <= 1 for line in lines)
  svg = (folder / 'figures' / 'toy-recipe-reliability.svg').read_text()
  assert '2 seeds, 60 rows each' in svg and 'one seed, 60 rows' in svg
  assert f'ECE {error(folder, key("finetune", 0)):.1f} %' in svg
  of_dss = [error(folder, key('dss', seed)) for seed in (0, 1)]
  assert f'ECE {np.mean(of_dss):.1f} ± {np.std(of_dss, ddof=1):.1f} %' in svg
  path = folder / 'runs' / key('dss', 0) / confidences.FILE  # Who has ranked is not asked again.
  path.write_text('{"id": "x", "target": "left", "prediction": "left", "confidence": 0.75}\n')
  found = results.read(str(folder)).rows
  described = {'toy': json.loads((folder / 'datasets' / 'toy.json').read_text())}
  confidences.write_missing(str(folder), list(found.values()), described)
  assert confidences.read(str(folder), found[key('dss', 0)]) == [(0.75, True)]


def error(folder, run):
  """Expected calibration error by its definition."""
  lines = results.read_lines(str(folder / 'runs' / run / confidences.FILE))
  sure = np.array([line['confidence'] for line in lines])
  right = np.array([line['prediction'] == line['target'] for line in lines])
  bins = np.ceil(10 * sure)
  return 100 * sum(abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean()
                   for b in np.unique(bins))


def test_students_that_are_gone_are_told(tmp_path, capsys):
  made_up.sweep(tmp_path, made_up.toy(methods=('dss',), fractions=(1.0,), seeds=(0,)))
  assert report.main([str(tmp_path), '--latency', '--confidences']) == 0
  said = capsys.readouterr().err
  assert f'no latency of {key("dss", 0)}: ' in said and f'no confidences of {key("dss", 0)}' in said
  text = (tmp_path / 'report.md').read_text()
  assert latency.UNKNOWN in text and 'dss report DIR --confidences' in text
  timed(tmp_path, {key('dss', 0): 3.0})  # When they were there.
  before = (tmp_path / latency.FILE).read_bytes()
  assert report.main([str(tmp_path), '--latency']) == 0
  assert (tmp_path / latency.FILE).read_bytes() == before


def test_a_short_test_is_asked_several_times(tmp_path):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)), examples=3)
  asked = latency._inputs(str(tmp_path), 'toy')
  assert len(asked) == 32 and len(set(asked)) == 3
  (tmp_path / 'datasets' / 'toy.jsonl').unlink()
  assert latency._inputs(str(tmp_path), 'toy') == []


def timed(folder, milliseconds):
  """latency.json of runs with such medians."""
  def times(median):
    return {'low': 0.9 * median, 'median': median, 'high': 1.2 * median, 'count': 5}
  (folder / latency.FILE).write_text(json.dumps({
      'machine': 'a machine', 'date': '2026-01-02', 'batch': 32,
      'students': {run: [times(ms), times(9 * ms)] for run, ms in milliseconds.items()},
      'tokens': dict.fromkeys(milliseconds, 2.0)}))


@pytest.mark.parametrize('factor, scale', [(4, 'linear'), (40, 'log')])
def test_sizes_are_joined_and_named(tmp_path, monkeypatch, factor, scale):
  cells = made_up.toy(methods=('dss', 'finetune'), fractions=(1.0,), models=('small', 'base'))
  made_up.sweep(tmp_path, cells)
  timed(tmp_path, {cell.key: {'small': 1, 'base': factor}[cell.model]
                   for cell in cells if cell.seed == 0})
  rows = list(results.read(str(tmp_path)).rows.values())
  monkeypatch.setattr(latency.figures, 'save', lambda figure, *rest, **kwargs: figure)
  measured = latency.read(str(tmp_path), rows, problems := [])
  summaries = statistics.summarize(rows)
  figure, = latency.draw_all(measured, rows, summaries, {'toy': 50.0}, '')
  assert problems == []
  for axes, first in zip(figure.axes, (1, 9), strict=True):
    assert axes.get_xscale() == scale and (scale == 'log' or axes.get_xlim()[0] == 0)
    assert {text.get_text() for text in axes.texts} == {'small', 'base'}
    curve = next(one for one in axes.containers if one.get_label() == 'Distilling Step-by-Step')
    assert list(curve[0].get_xdata()) == [first, first * factor]
    assert list(curve[0].get_ydata()) == [
        summaries[statistics.Group('toy', model, 'dss', 'gold', 1.0, 0.5)].mean
        for model in ('small', 'base')]
    levels = [one.get_label() for one in axes.lines if ': ' in str(one.get_label())]
    best = max(summaries[statistics.Group('toy', model, 'finetune', 'gold', 1.0, None)].mean
               for model in ('small', 'base'))
    assert levels[0] == 'teacher (few-shot): 50.0'
    assert re.fullmatch(rf'fine-tuning, 100 % of the data, \w+: {best:.1f}', levels[1])


@pytest.mark.parametrize('text', ['{', '[]', '{"machine": 1, "date": 2, "students": {"x": [1]}}'])
def test_damaged_times_are_told(tmp_path, capsys, text):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  (tmp_path / latency.FILE).write_text(text)
  assert report.main([str(tmp_path)]) == 0
  assert 'latency.json cannot be read' in capsys.readouterr().err
  assert latency.UNKNOWN in (tmp_path / 'report.md').read_text()


def test_times_of_runs_that_are_no_more_are_not_shown(tmp_path, capsys):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  timed(tmp_path, {'toy/another': 3.0})
  assert report.main([str(tmp_path)]) == 0
  assert 'latency.json has runs that this sweep has not: toy/another' in capsys.readouterr().err
  assert not (tmp_path / 'figures' / 'toy-latency.png').exists()


@pytest.mark.parametrize('milliseconds, said', [
    (0.05123, '0.0512'), (0.5, '0.500'), (7.125, '7.12'), (71.25, '71.2'), (7125, '7,125')])
def test_three_digits(milliseconds, said):
  times = latency.Times(milliseconds, milliseconds, milliseconds, 1)
  assert str(times) == f'{said} ({said} to {said})'
