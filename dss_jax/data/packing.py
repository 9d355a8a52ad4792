"""Several examples in one row: first fit over a window, in arrival order. NumPy only.

The examples of one input are placed together where a row holds them all, so that label and
rationale are in one batch.

A row holds whole examples, one after the other; segment ids (1, 2, ...) keep them apart in
the attention masks and positions restart, so without dropout a packed batch gives the loss and
gradients of the same examples unpacked (tested); with it, the examples of a row share a mask,
since T5 drops a feature at all positions of a row. `packed_dataset.py` runs it inside a
tf.data pipeline; the benchmarks run it without TensorFlow.
"""

import numpy as np

WINDOW = 512  # examples that are packed together; more fill rows better and take more memory


def assign_rows(
    inputs_lengths: np.ndarray, targets_lengths: np.ndarray, max_inputs: int, max_targets: int,
    same_input: np.ndarray | None = None,
) -> np.ndarray:
  """The row of each example: the first one that has room for its inputs and its targets.

  assign_rows([5, 4, 3], [2, 2, 2], max_inputs=8, max_targets=4) -> [0, 1, 0]
  assign_rows([5, 4, 3], [2, 2, 2], 8, 4, same_input=[False, False, True]) -> [0, 1, 1]

  Args:
    inputs_lengths: int [n], each at most `max_inputs`.
    targets_lengths: int [n], each at most `max_targets`.
    max_inputs: tokens in a row's inputs.
    max_targets: tokens in a row's targets.
    same_input: bool [n], whether an example is of the same input as the one before it; None: none
      is. They share a row, unless all examples of an input do not fit into one.

  Returns: int64 [n], rows numbered from 0 without gaps.

  Raises:
    ValueError: an example is longer than a row.
  """
  n = len(inputs_lengths)
  if n and (inputs_lengths.max() > max_inputs or targets_lengths.max() > max_targets):
    raise ValueError(
        f'an example of {inputs_lengths.max()} / {targets_lengths.max()} tokens does not fit a '
        f'row of {max_inputs} / {max_targets}; trim first')
  first = np.ones(n, bool) if same_input is None else ~np.asarray(same_input, bool)
  first[:1] = True
  unit, inputs, targets = _add_up(first, inputs_lengths, targets_lengths)
  first |= ((inputs > max_inputs) | (targets > max_targets))[unit]  # Then each for itself.
  unit, inputs, targets = _add_up(first, inputs_lengths, targets_lengths)
  free_inputs = np.full(len(inputs), max_inputs)
  free_targets = np.full(len(inputs), max_targets)
  rows = np.zeros(len(inputs), np.int64)
  for i in range(len(inputs)):
    row = np.argmax((free_inputs >= inputs[i]) & (free_targets >= targets[i]))
    free_inputs[row] -= inputs[i]
    free_targets[row] -= targets[i]
    rows[i] = row
  return rows[unit]


def _add_up(first: np.ndarray, *lengths: np.ndarray) -> tuple[np.ndarray, ...]:
  """The unit of each example, int [n], and sums of lengths, int [units]; `first`: where one begins.

  _add_up([True, False, True], [3, 4, 5]) -> [0, 0, 1], [7, 5]
  """
  starts = np.flatnonzero(first)
  return np.cumsum(first) - 1, *(np.add.reduceat(values, starts) for values in lengths)


def _lay_out(values: np.ndarray, lengths: np.ndarray, rows: np.ndarray, max_length: int):
  """Concatenates ragged sequences into their rows.

  Returns: tokens, segment ids and positions, each int32 [num_rows, max_length], 0-padded.
  """
  num_rows = int(rows.max()) + 1 if len(rows) else 0
  tokens, segments, positions = np.zeros((3, num_rows, max_length), np.int32)
  ends = np.cumsum(lengths)
  filled = np.zeros(num_rows, np.int64)
  count = np.zeros(num_rows, np.int32)
  for row, end, length in zip(rows, ends, lengths, strict=True):
    place = slice(filled[row], filled[row] + length)
    tokens[row, place] = values[end - length:end]
    count[row] += 1
    segments[row, place] = count[row]
    positions[row, place] = np.arange(length)
    filled[row] += length
  return tokens, segments, positions


def pack_window(inputs, inputs_lengths, targets, targets_lengths, objective,
                max_inputs: int, max_targets: int, same_input: np.ndarray | None = None
                ) -> tuple[np.ndarray, ...]:
  """Packs the examples of one window.

  Args:
    inputs: int32 [sum of inputs_lengths], the examples' inputs end to end.
    inputs_lengths: int [n].
    targets: int32 [sum of targets_lengths].
    targets_lengths: int [n].
    objective: int32 [sum of targets_lengths], the task of each target token.
    max_inputs: length of a packed row's inputs.
    max_targets: length of a packed row's targets.
    same_input: see `assign_rows`.

  Returns: int32 [rows, max_inputs] x 3 (tokens, segment ids, positions), then
    int32 [rows, max_targets] x 4 (tokens, segment ids, positions, objective).
  """
  rows = assign_rows(inputs_lengths, targets_lengths, max_inputs, max_targets, same_input)
  packed_inputs = _lay_out(inputs, inputs_lengths, rows, max_inputs)
  packed_targets = _lay_out(targets, targets_lengths, rows, max_targets)
  packed_objective, _, _ = _lay_out(objective, targets_lengths, rows, max_targets)
  return (*packed_inputs, *packed_targets, packed_objective)
