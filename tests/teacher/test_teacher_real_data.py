"""The completions that the paper's authors released, where they are at hand.

Counts measured once; those of the released parser were also compared, row for row, with the
released code itself (12,962 completions through each of its five parsers).
"""

import collections
import json
import os
import pathlib
import re

import pytest

from dss_jax import datasets
from dss_jax.tasks import anli, cqa, svamp
from dss_jax.teacher import job, summary
from dss_jax.teacher.ask import recorded
from dss_jax.teacher.inputs import reading
from dss_jax.teacher.read import parsing

_DEFAULT = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data'
DATA = pathlib.Path(os.environ.get('DSS_TEST_DATA', _DEFAULT))

pytestmark = pytest.mark.skipif(
    not (DATA / 'cqa').is_dir(), reason=f'no released completions in {DATA}; set DSS_TEST_DATA')


def _run(tmp_path, dataset: datasets.Dataset, split, source, completions, parser):
  read = reading.read_inputs(str(DATA / source), dataset)
  client = recorded.RecordedClient(str(DATA / completions))
  outcome = job.run(dataset, split, read, client, parser, str(tmp_path))
  whole = summary.total(list(outcome.splits.values()))
  sizes = {name: part.rows for name, part in outcome.splits.items()}
  return sizes, whole.status, round(whole.accuracy['accuracy'], 2)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 9728, 'unknown_choice': 3, 'ambiguous_label': 10}, 76.81),
    ('released', {'ok': 9738, 'released_blank': 3}, 74.26),
])
def test_cqa_train(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, cqa.DATASET, 'train', 'cqa/cqa_train.json', 'cqa/palm/train_CoT_*.json',
              parser) == ({'train': 8766, 'validation': 975}, counts, accuracy)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 1217, 'ambiguous_label': 4}, 79.2),
    ('released', {'ok': 1221}, 77.23),
])
def test_cqa_test(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, cqa.DATASET, 'test', 'cqa/cqa_test.json', 'cqa/palm/test_CoT_*.json',
              parser) == ({'test': 1221}, counts, accuracy)


# The teacher's rationale argues for the text, which none of the five choices is; the letter beside
# it is a guess (twice the right one: "only Farsi is a language type ... (b) Farsi", dard).
INVENTED = {
    'train': {'ice', 'driving', 'bookshop', 'thrift store', 'flash', "new year's eve", 'body',
              'rug', 'barn'},
    'test': {'clinic', 'smile', 'farsi'},
}
OTHER_LETTERS = {'train': {'unimportant'}, 'test': {'wait for orders'}}  # Always refused.


@pytest.mark.parametrize('split', [pytest.param('train', marks=pytest.mark.slow), 'test'])
def test_a_letter_with_an_invented_choice_is_not_read(tmp_path, split):
  _run(tmp_path, cqa.DATASET, split, f'cqa/cqa_{split}.json', f'cqa/palm/{split}_CoT_*.json',
       'strict')
  found = set()
  for path in (tmp_path / 'quarantine').iterdir():
    for line in path.read_text().splitlines():
      row = json.loads(line)
      said = re.search(r'So the answer is \(.\) (.*?)\.?\n', row['completion'] + '\n')
      if row['reason'] == 'ambiguous_label' and said:
        found.add(said[1].lower())
  assert found == INVENTED[split] | OTHER_LETTERS[split]


def test_a_letter_does_not_outweigh_an_unrelated_text():
  read = reading.read_inputs(str(DATA / 'cqa/cqa_train.json'), cqa.DATASET)
  status = collections.Counter(
      parsing.parse_strict(f'It is. So the answer is ({"abcde"[i % 5]}) engine.', example,
                           cqa.DATASET).status
      for i, example in enumerate(read) if 'engine' not in ' '.join(example.choices))
  assert list(status) == ['ambiguous_label'] and status.total() > 9700


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 769, 'not_an_equation': 17, 'truncated': 12, 'no_answer_phrase': 2}, 74.25),
    ('released', {'ok': 787, 'released_blank': 13}, 73.25),
])
def test_svamp_train(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, svamp.DATASET, 'train', 'svamp/svamp_train.json',
              'svamp/palm/train_CoT_*.json', parser) == (
                  {'train': 720, 'validation': 80}, counts, accuracy)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 194, 'not_an_equation': 4, 'no_answer_phrase': 2}, 78.0),
    ('released', {'ok': 198, 'released_blank': 2}, 74.0),
])
def test_svamp_test(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, svamp.DATASET, 'test', 'svamp/svamp_test.json',
              'svamp/palm/test_CoT_*.json', parser) == ({'test': 200}, counts, accuracy)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 999, 'truncated': 1}, 67.5),  # One says 'The answer is', without 'So'.
    ('released', {'ok': 991, 'released_blank': 9}, 66.8),
])
def test_anli_validation(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, anli.DATASET, 'validation', 'anli1/anli1_valid.json',
              'anli1/palm/valid_CoT_*.json', parser) == ({'validation': 1000}, counts, accuracy)
