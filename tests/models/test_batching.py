"""Batches by length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dss_jax import decode

SEQUENCES = st.lists(st.lists(st.integers(1, 99), max_size=20), max_size=25)


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 15), st.integers(1, 9))
def test_every_sequence_once_and_no_wider_than_needed(sequences, rows, max_length, multiple):
  sequences = [ids[:max_length] for ids in sequences]
  batches = list(decode.batches_by_length(sequences, rows, max_length, multiple))
  order = [index for indices, _ in batches for index in indices]
  assert order == sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
  assert all(len(indices) == rows for indices, _ in batches[:-1])
  for indices, tokens in batches:
    assert tokens.dtype == np.int32 and len(tokens) == rows
    longest = max(len(sequences[i]) for i in indices)
    width = tokens.shape[1]
    assert width == max_length or (width % multiple == 0 and longest <= width)
    assert width - multiple < max(1, longest)
    for row, ids in enumerate([sequences[i] for i in indices] + [[]] * (rows - len(indices))):
      assert tokens[row].tolist() == ids + [0] * (width - len(ids))


def test_numpy_rows_and_defaults():
  sequences = [np.arange(1, 41), np.arange(1, 4)]
  (indices, tokens), = decode.batches_by_length(sequences, 3, 512)
  assert indices == [1, 0] and tokens.shape == (3, 64)
  assert tokens[1, :40].tolist() == list(range(1, 41))


@pytest.mark.parametrize('name', ['rows', 'max_length', 'multiple'])
def test_arguments_are_checked_at_the_call(name):
  numbers = {'rows': 2, 'max_length': 8, 'multiple': 4, name: 0}
  with pytest.raises(ValueError, match=f'{name} is 0: use at least 1'):
    decode.batches_by_length([[1]], **numbers)


def test_a_sequence_is_never_cut_without_its_eos():
  with pytest.raises(ValueError, match='a sequence has 3 tokens, max_length is 2'):
    decode.batches_by_length([[1], [5, 6, 1]], 2, 2)


def test_given_widths_are_the_only_ones():
  prompts = [[7] * n for n in (1, 31, 32, 33, 64, 65, 100)]
  widths = [tokens.shape[1] for _, tokens in decode.batches_by_length(
      prompts, 1, 100, widths=(32, 64, 100))]
  assert widths == [32, 32, 32, 64, 64, 100, 100]
