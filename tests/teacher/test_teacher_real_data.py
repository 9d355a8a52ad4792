"""The completions that the paper's authors released, where they are at hand.

Counts measured once; those of the released parser were also compared, row for row, with the
released code itself (12,962 completions through each of its five parsers).
"""

import os
import pathlib

import pytest

from dss_jax import datasets
from dss_jax.tasks import anli, cqa, svamp
from dss_jax.teacher import inputs, job, recorded, summary

_DEFAULT = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data'
DATA = pathlib.Path(os.environ.get('DSS_TEST_DATA', _DEFAULT))

pytestmark = pytest.mark.skipif(
    not (DATA / 'cqa').is_dir(), reason=f'no released completions in {DATA}; set DSS_TEST_DATA')


def _run(tmp_path, dataset: datasets.Dataset, split, source, completions, parser):
  read = inputs.read_inputs(str(DATA / source), dataset)
  client = recorded.RecordedClient(str(DATA / completions))
  outcome = job.run(dataset, split, read, client, parser, str(tmp_path))
  whole = summary.total(list(outcome.splits.values()))
  sizes = {name: part.rows for name, part in outcome.splits.items()}
  return sizes, whole.status, round(whole.accuracy['accuracy'], 2)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 9737, 'unknown_choice': 3, 'ambiguous_label': 1}, 76.82),
    ('released', {'ok': 9738, 'released_blank': 3}, 74.26),
])
def test_cqa_train(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, cqa.DATASET, 'train', 'cqa/cqa_train.json', 'cqa/palm/train_CoT_*.json',
              parser) == ({'train': 8766, 'validation': 975}, counts, accuracy)


@pytest.mark.parametrize('parser, counts, accuracy', [
    ('strict', {'ok': 1220, 'ambiguous_label': 1}, 79.28),
    ('released', {'ok': 1221}, 77.23),
])
def test_cqa_test(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, cqa.DATASET, 'test', 'cqa/cqa_test.json', 'cqa/palm/test_CoT_*.json',
              parser) == ({'test': 1221}, counts, accuracy)


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
    ('strict', {'ok': 998, 'no_answer_phrase': 1, 'truncated': 1}, 67.4),
    ('released', {'ok': 991, 'released_blank': 9}, 66.8),
])
def test_anli_validation(tmp_path, parser, counts, accuracy):
  assert _run(tmp_path, anli.DATASET, 'validation', 'anli1/anli1_valid.json',
              'anli1/palm/valid_CoT_*.json', parser) == ({'validation': 1000}, counts, accuracy)
