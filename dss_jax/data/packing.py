"""Several examples in one row, so that inputs and targets fill up together. NumPy only.

A window of examples at a time: a row takes them as they came, then the pair of those that wait
which fills its rest best. So rows stay in the order of the examples, nobody waits for long,
and no row is closed while one of the window would fit; of a window's hundreds of rows the
last is half empty. The examples of one input are placed together where a row holds them all, so
that label and rationale are in one batch.

With `share_inputs` an input that several of its examples have is there once, and each says which
it reads; otherwise each has its own.

A row holds whole examples, one after the other; segment ids (1, 2, ...) keep them apart in
the attention masks and positions restart, so without dropout a packed batch gives the loss and
gradients of the same examples unpacked (tested); with it, the examples of a row share a mask,
since T5 drops a feature at all positions of a row. `packed_dataset.py` runs it inside a
tf.data pipeline; the benchmarks run it without TensorFlow.
"""

import numpy as np

WINDOW = 2048  # examples that are packed together; more fill rows better and take more memory
_NEAR = 64  # how many of the waiting are tried in pairs: more fill better, in square time
_SPARE = 1.5  # mean inputs' room that is left to a pair; measured: 1 and 2 leave more of it empty


def assign_rows(
    inputs_lengths: np.ndarray, targets_lengths: np.ndarray, max_inputs: int, max_targets: int,
    same_input: np.ndarray | None = None, repeats: np.ndarray | None = None,
) -> np.ndarray:
  """The row of each example.

  assign_rows([5, 4, 3], [2, 2, 2], max_inputs=8, max_targets=4) -> [0, 1, 0]
  assign_rows([5, 4, 3], [2, 2, 2], 8, 4, same_input=[False, False, True]) -> [0, 1, 1]
  assign_rows([5, 5], [2, 2], 8, 4, [False, True], repeats=[False, True]) -> [0, 0]

  Args:
    inputs_lengths: int [n], each at most `max_inputs`.
    targets_lengths: int [n], each at most `max_targets`.
    max_inputs: tokens in a row's inputs.
    max_targets: tokens in a row's targets.
    same_input: bool [n], whether an example is of the same input as the one before it; None: none
      is. They share a row, unless all examples of an input do not fit into one.
    repeats: bool [n], whether its inputs are those of an earlier example of the same input, and
      take no room where both are in one row; None: none are.

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
  counted = np.where(~first & (False if repeats is None else repeats), 0, inputs_lengths)
  unit, inputs, targets = _add_up(first, counted, targets_lengths)
  apart = ((inputs > max_inputs) | (targets > max_targets))[unit]  # Then each for itself.
  unit, inputs, targets = _add_up(
      first | apart, np.where(apart, inputs_lengths, counted), targets_lengths)
  return _fill(np.stack([inputs, targets]), np.array([max_inputs, max_targets]))[unit]


def sources(
    inputs: np.ndarray, inputs_lengths: np.ndarray, same_input: np.ndarray | None) -> np.ndarray:
  """The first example of the same input that has the same tokens, int [n]; it may be itself.

  sources([7, 1, 7, 1, 9, 1], [2, 2, 2], [False, True, True]) -> [0, 0, 2]

  Args:
    inputs: int [sum of inputs_lengths], end to end.
    inputs_lengths: int [n].
    same_input: see `assign_rows`.
  """
  found = np.arange(len(inputs_lengths))
  seen: dict[bytes, int] = {}
  if same_input is None:
    return found
  parts = np.split(np.asarray(inputs), np.cumsum(inputs_lengths)[:-1])
  for i, (tokens, same) in enumerate(zip(parts, same_input, strict=True)):
    seen = seen if same else {}
    found[i] = seen.setdefault(tokens.tobytes(), i)
  return found


def _fill(sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
  """The row, int64 [n], of units of int [2, n] tokens; `room`, int [2], holds each of them."""
  rows = np.zeros(sizes.shape[1], np.int64)
  waiting, row = np.arange(len(rows)), 0
  # What a token is worth: more on the side that there is more of, beside its room.
  worth = sizes.sum(1) / room**2
  spare = _SPARE * sizes.sum(1) / max(1, len(rows))
  while len(waiting):
    sums = np.cumsum(sizes[:, :_NEAR], axis=1)
    fit = (sums[0] <= room[0] - spare[0]) & (sums[1] <= room[1] - spare[1])
    count = max(1, int(fit.sum()))
    rows[waiting[:count]] = row
    free, waiting, sizes = room - sums[:, count - 1], waiting[count:], sizes[:, count:]
    while len(pair := _best_pair(sizes, free, worth)):
      rows[waiting[pair]] = row
      free = free - sizes[:, pair].sum(1)
      left = np.ones(len(waiting), bool)
      left[pair] = False
      waiting, sizes = waiting[left], sizes[:, left]
    row += 1
  return rows


def _best_pair(sizes: np.ndarray, free: np.ndarray, worth: np.ndarray) -> np.ndarray:
  """Which two (or one, or none) of int [2, n] fill what is free, int [2], best; places in n."""
  fit = np.flatnonzero((sizes[0] <= free[0]) & (sizes[1] <= free[1]))[:_NEAR]
  if len(fit) < 2:
    return fit
  inputs, targets = padded = np.zeros((2, len(fit) + 1), np.int64)  # The first is nobody.
  padded[:, 1:] = sizes[:, fit]
  each = worth[0] * inputs + worth[1] * targets
  both_fit = inputs[:, None] <= free[0] - inputs
  both_fit &= targets[:, None] <= free[1] - targets
  value = np.where(both_fit, each[:, None] + each, 0)
  np.fill_diagonal(value, 0)
  found = np.array(np.unravel_index(np.argmax(value), value.shape))
  return fit[found[found > 0] - 1]


def _add_up(first: np.ndarray, *lengths: np.ndarray) -> tuple[np.ndarray, ...]:
  """The unit of each example, int [n], and sums of lengths, int [units]; `first`: where one begins.

  _add_up([True, False, True], [3, 4, 5]) -> [0, 0, 1], [7, 5]
  """
  starts = np.flatnonzero(first)
  return np.cumsum(first) - 1, *(np.add.reduceat(values, starts) for values in lengths)


def _places(lengths: np.ndarray, rows: np.ndarray, max_length: int) -> tuple[np.ndarray, ...]:
  """Where the tokens of examples go, one after the other in their rows.

  Returns: of each token, int [sum of lengths]: its place in the rows end to end, the number of
    its example in the row, from 1, and its position in the example.
  """
  order = np.argsort(rows, kind='stable')
  ends = np.cumsum(lengths[order])
  first = np.searchsorted(rows[order], rows[order])  # of the example's row
  starts = ends - lengths[order]
  place, number = np.empty((2, len(rows)), np.int64)
  place[order] = rows[order] * max_length + starts - starts[first]
  number[order] = np.arange(len(rows)) - first + 1
  position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  return np.repeat(place, lengths) + position, np.repeat(number, lengths), position


def _lay_out(values, places: np.ndarray, num_rows: int, max_length: int) -> list[np.ndarray]:
  """Each of `values`, [sum of lengths], at its places: int32 [num_rows, max_length], 0-padded."""
  laid = np.zeros((len(values), num_rows * max_length), np.int32)
  for row, column in zip(laid, values, strict=True):
    row[places] = column
  return list(laid.reshape(len(values), num_rows, max_length))


def pack_window(inputs, inputs_lengths, targets, targets_lengths, objective,
                max_inputs: int, max_targets: int, same_input: np.ndarray | None = None,
                share_inputs: bool = False, distribution: np.ndarray | None = None,
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
    share_inputs: examples of one input that have the same tokens have them once in their row.
    distribution: int32 [sum of targets_lengths, 2 k], see `divergence`; None: there are none.

  Returns: int32 [rows, max_inputs] x 3 (tokens, segment ids, positions), then
    int32 [rows, max_targets] x 4 (tokens, segment ids, positions, objective); with `share_inputs`
    one more: the segment of the inputs that each target token reads; with `distribution` one of
    int32 [rows, max_targets, 2 k].
  """
  n = len(inputs_lengths)
  source = sources(inputs, inputs_lengths, same_input) if share_inputs else np.arange(n)
  rows = assign_rows(inputs_lengths, targets_lengths, max_inputs, max_targets, same_input,
                     source < np.arange(n))
  _, firsts, place = np.unique(source + n * rows, return_index=True, return_inverse=True)
  source = firsts[place]  # In its own row.
  kept = source == np.arange(n)
  inputs, inputs_lengths = inputs[np.repeat(kept, inputs_lengths)], inputs_lengths * kept
  number = int(rows.max()) + 1 if len(rows) else 0
  in_places, *in_rows = _places(inputs_lengths, rows, max_inputs)
  places, segments, positions = _places(targets_lengths, rows, max_targets)
  columns = [targets, segments, positions, objective]
  if share_inputs:
    of_example = segments[np.cumsum(targets_lengths) - targets_lengths]
    columns.append(np.repeat(of_example[source], targets_lengths))
  laid = (*_lay_out([inputs, *in_rows], in_places, number, max_inputs),
          *_lay_out(columns, places, number, max_targets))
  if distribution is None:
    return laid
  of_tokens = np.zeros((number * max_targets, distribution.shape[1]), np.int32)
  of_tokens[places] = distribution
  return (*laid, of_tokens.reshape(number, max_targets, -1))
