"""What the teacher cost, in the report: tokens as its records have them, USD at given prices."""

import xml.etree.ElementTree

import made_up
import pytest

from dss_jax import errors
from dss_jax.experiments import report, teacher_cost
from dss_jax.experiments.teacher_cost import Cost, Prices

COUNTED = {'usage': {'prompt_tokens': 3_000_000, 'completion_tokens': 500_000}}


def texts(folder, name):
  root = xml.etree.ElementTree.fromstring((folder / 'figures' / f'{name}.svg').read_text())
  return [one.text for one in root.findall('.//{http://www.w3.org/2000/svg}text')]


def test_all_sets_of_a_dataset_are_paid_for():
  found = teacher_cost.of_datasets(
      {'a': {'teachers': {'a-train': COUNTED, 'b-train': COUNTED}}}, Prices(2.0, 10.0))
  assert found == {'a': Cost(7_000_000, 2 * (3 * 2 + 0.5 * 10))}


@pytest.mark.parametrize('usage', [None, {'prompt_tokens': 0, 'completion_tokens': 0}])
def test_tokens_that_nobody_counted_have_no_cost(usage):
  described = {'a': {'teachers': {'a-train': COUNTED}},
               'b': {'teachers': {'b-train': COUNTED, 'c-train': {'usage': usage}}}, 'c': {}}
  assert teacher_cost.of_datasets(described, Prices()) == {'a': Cost(3_500_000)}
  notes = teacher_cost.notes(described, Prices(1, 1))
  assert len(notes) == 3 and notes[0].endswith(
      '3.50 USD at 1 and 1 USD for a million tokens read and written.')
  assert notes[2] == 'b: c-train by ?; ' + (
      '0 prompt tokens, 0 completion tokens.' if usage else
      'its records do not tell how many tokens it took.')


def test_accuracy_is_drawn_against_usd_at_the_prices_that_were_given_last(tmp_path):
  """1,200,000 tokens read and 54,321 written for all inputs: 3 + 0.54321 USD; 25 and 50 % of it."""
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  assert report.main([str(tmp_path), '--prompt_price=2.5', '--completion_price=10']) == 0
  for _ in range(2):  # A later report knows them.
    said = texts(tmp_path, 'toy-recipe-cost')
    assert {'0.886', '1.77', '3.54', 'what the teacher cost (USD)'} <= set(said)
    assert 'standard fine-tuning' not in said
    assert any(one.startswith('fine-tuning, 100 % of the data: ') for one in said)
    assert ('54,321 completion tokens, 3.54 USD at 2.5 and 10 USD for a million tokens read and '
            'written.') in (tmp_path / 'report.md').read_text()
    assert report.main([str(tmp_path)]) == 0
  assert report.main([str(tmp_path), '--prompt_price=0']) == 0
  assert "the teacher's tokens (millions)" in texts(tmp_path, 'toy-recipe-cost')
  assert 'USD' not in (tmp_path / 'report.md').read_text()


def test_prices_of_tokens_that_nobody_counted_are_told(tmp_path, capsys):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  (tmp_path / 'datasets' / 'toy.json').write_text(
      '{"metric": "text", "teachers": {"toy-train": {}}}')
  assert report.main([str(tmp_path), '--prompt_price=2.5']) == 0
  assert 'toy: what its teacher cost is not known' in capsys.readouterr().err
  assert not (tmp_path / 'figures' / 'toy-recipe-cost.svg').exists()


@pytest.mark.parametrize('price', ['-1', 'nan'])
def test_a_price_that_cannot_be_is_refused_and_not_kept(tmp_path, price):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  with pytest.raises(errors.UserError, match=f'^--completion_price={float(price)}: use a number'):
    report.main([str(tmp_path), f'--completion_price={price}'])
  assert not (tmp_path / teacher_cost.FILE).exists()


@pytest.mark.parametrize('text', ['{', '[1]', '{"prompt": 1, "other": 2}'])
def test_damaged_prices_are_told_and_can_be_given_anew(tmp_path, text):
  made_up.sweep(tmp_path, made_up.toy(seeds=(0,)))
  (tmp_path / teacher_cost.FILE).write_text(text)
  with pytest.raises(errors.UserError, match='prices.json cannot be read'):
    report.main([str(tmp_path)])
  assert report.main([str(tmp_path), '--prompt_price=1']) == 0
