"""Ragged token lists -> padded batches of similar length. Pure numpy."""

from collections.abc import Iterator, Sequence

import numpy as np


def batches_by_length(
    sequences: Sequence[Sequence[int] | np.ndarray], rows: int, max_length: int,
    multiple: int = 32, widths: Sequence[int] = ()) -> Iterator[tuple[list[int], np.ndarray]]:
  """Sorts by length, so that short sequences are not padded to the longest.

  list(batches_by_length([[5, 6, 1], [7, 1]], 2, 8, multiple=4))
    == [([1, 0], [[7, 1, 0, 0], [5, 6, 1, 0]])]

  Args:
    sequences: token ids without padding. The order of equally long ones is kept.
    rows: of every batch; those missing in the last are zeros.
    max_length: of a sequence; cutting is the caller's, who knows what stands at the end.
    multiple: a batch is as wide as its longest sequence, rounded up to a multiple of this, so
      that few shapes are compiled; never wider than max_length.
    widths: ascending, in place of the multiples: as wide as the first that is wide enough.

  Returns:
    an iterator of (indices of the batch's sequences, int32 tokens [rows, width]).

  Raises:
    ValueError: if rows, max_length or multiple is below 1, or a sequence is too long.
  """
  for name, value in (('rows', rows), ('max_length', max_length), ('multiple', multiple)):
    if value < 1:
      raise ValueError(f'{name} is {value}: use at least 1.')
  longest = max(map(len, sequences), default=0)
  if longest > max_length:
    raise ValueError(f'a sequence has {longest} tokens, max_length is {max_length}: cut it first.')
  order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
  return (_pad(sequences, order[first:first + rows], rows, max_length, multiple, widths)
          for first in range(0, len(order), rows))


def _pad(sequences, indices: list[int], rows: int, max_length: int, multiple: int, widths):
  longest = max(1, len(sequences[indices[-1]]))
  width = next((one for one in widths if one >= longest), -(-longest // multiple) * multiple)
  width = min(width, max_length)
  tokens = np.zeros((rows, width), np.int32)
  for row, index in enumerate(indices):
    tokens[row, :len(sequences[index])] = sequences[index]
  return indices, tokens
