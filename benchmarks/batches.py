"""From token arrays to model batches, packed or padded, of the same examples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import token_arrays

from dss_jax import errors, models, objective
from dss_jax.data import packing
from dss_jax.models import flops

WIDTHS = 32  # padded batches are as wide as a multiple of this: few shapes for XLA to compile
_PACKED = ('encoder_input_tokens', 'encoder_segment_ids', 'encoder_positions',
           'decoder_target_tokens', 'decoder_segment_ids', 'decoder_positions',
           'decoder_objective')
Batch = dict[str, np.ndarray]  # model features of dss_jax.train.step, int32 [B, length]


class Rows(NamedTuple):
  """The rows of one step: label and rationale rows in turns, or label rows alone.

  `inputs`, `targets`: lists of int32 [length]. `tasks`: objective.LABEL or RATIONALE of each.
  """

  inputs: list[np.ndarray]
  targets: list[np.ndarray]
  tasks: list[int]

  def of_task(self, task: int) -> 'Rows':
    """The rows of one task."""
    kept = [i for i, one in enumerate(self.tasks) if one == task]
    return Rows([self.inputs[i] for i in kept], [self.targets[i] for i in kept], [task] * len(kept))

  def lengths(self) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each input and of each target, int [n] both."""
    return (np.array([len(row) for row in self.inputs]),
            np.array([len(row) for row in self.targets]))


def draw(
    arrays: token_arrays.TokenArrays, kind: str, batch_size: int, steps: int, seed: int
) -> list[Rows]:
  """The examples of each step, shuffled; from the start again where they run out.

  Args:
    arrays: the data.
    kind: 'dss' (a label row and a rationale row per example) or 'standard' (label rows).
    batch_size: examples of each task in a step.
    steps: how many steps.
    seed: for the order.
  """
  tasks = {'label': objective.LABEL, 'rationale': objective.RATIONALE}
  if kind == 'standard':
    del tasks['rationale']
  sides = {}
  for name in tasks:
    inputs, targets = getattr(arrays, f'{name}_inputs'), getattr(arrays, f'{name}_targets')
    order = np.random.default_rng(seed).permutation(len(inputs))
    sides[name] = [(inputs[order[i % len(order)]], targets[order[i % len(order)]])
                   for i in range(batch_size * steps)]
  drawn = []
  for step in range(steps):
    mine = [(*sides[name][i], task) for i in range(step * batch_size, (step + 1) * batch_size)
            for name, task in tasks.items()]
    drawn.append(Rows(*(list(column) for column in zip(*mine, strict=True))))
  return drawn


def join(steps: Sequence[Rows]) -> Rows:
  """The rows of several steps as one."""
  return Rows(*(sum(columns, []) for columns in zip(*steps, strict=True)))


def round_up(value: float, multiple: int) -> int:
  """round_up(45, 32) -> 64."""
  return int(-(-value // multiple) * multiple)


def pad(rows: Rows, multiple: int = WIDTHS) -> Batch:
  """One batch padded to its longest input and target, rounded up to a multiple."""
  tasks = [np.full(len(target), task, np.int32)
           for target, task in zip(rows.targets, rows.tasks, strict=True)]
  targets = pad_rows(rows.targets, multiple)
  return {'encoder_input_tokens': pad_rows(rows.inputs, multiple),
          'decoder_target_tokens': targets,
          'decoder_input_tokens': _shift_right(targets, np.ones_like(targets)),
          'decoder_objective': pad_rows(tasks, multiple)}


def pad_rows(rows: Sequence[np.ndarray], multiple: int = 1) -> np.ndarray:
  """Ragged rows -> int32 [n, longest, rounded up to `multiple`], 0-padded."""
  width = round_up(max(len(row) for row in rows), multiple)
  padded = np.zeros((len(rows), width), np.int32)
  for place, row in zip(padded, rows, strict=True):
    place[:len(row)] = row
  return padded


def row_lengths(
    config: models.T5Config, rows: Rows, inputs_length: int = 0, targets_length: int = 0
) -> tuple[int, int]:
  """Lengths of a packed row; 0 means: chosen to suit the data, as one would for a training run.

  The cheapest of a few, by the arithmetic of all rows that these examples take: inputs of 256
  to 512 (or of several times the longest), and targets in the ratio of the mean token counts,
  so that both sides of a row fill up together, or a little less or more.

  Raises:
    UserError: an example is longer than a given length.
  """
  sources, targets = rows.lengths()
  longest = round_up(sources.max(), 128)
  ratio = targets.sum() / sources.sum()
  candidates = []
  choices = [inputs_length] if inputs_length else [max(n, 2 * longest) for n in (256, 384, 512)]
  for inputs in choices:
    for slack in [1.0] if targets_length else [0.96, 1.0, 1.06, 1.12, 1.18]:
      wanted = max(inputs * ratio * slack, targets.max())
      lengths = inputs, targets_length or round_up(wanted, 8)
      _check_fit(lengths, sources, targets)
      candidates.append((_packed_cost(config, rows, lengths), lengths))
  return min(candidates)[1]


def _check_fit(lengths, sources, targets) -> None:
  for name, length, side in zip(('inputs', 'targets'), lengths, (sources, targets), strict=True):
    if side.max() > length:
      raise errors.UserError(f'--{name}_length={length}: the longest of the data is {side.max()}')


def _packed_cost(config, rows: Rows, lengths: tuple[int, int]) -> float:
  """Operations on the packed rows, padding included."""
  examples = *rows.lengths(), _same_input(rows)
  windows = ([column[first:first + packing.WINDOW] for column in examples]
             for first in range(0, len(rows.inputs), packing.WINDOW))
  count = sum(1 + int(packing.assign_rows(sources, targets, *lengths, same).max())
              for sources, targets, same in windows)
  return flops.training_flops(config, [lengths[0]] * count, [lengths[1]] * count)


def pack(
    rows: Rows, steps: int, lengths: tuple[int, int], microbatches: int = 1) -> list[Batch]:
  """All rows, packed as the trainer packs them, in `steps` batches of one shape.

  The last batch is filled up with rows of padding, all of them to a multiple of `microbatches`.
  """
  windows = []
  for first in range(0, len(rows.inputs), packing.WINDOW):
    window = slice(first, first + packing.WINDOW)
    part = Rows(rows.inputs[window], rows.targets[window], rows.tasks[window])
    spread = [np.full(len(target), task, np.int32)
              for target, task in zip(part.targets, part.tasks, strict=True)]
    sources, targets = part.lengths()
    windows.append(packing.pack_window(
        np.concatenate(part.inputs), sources, np.concatenate(part.targets), targets,
        np.concatenate(spread), *lengths, _same_input(part)))
  arrays = [np.concatenate(columns) for columns in zip(*windows, strict=True)]
  per_step = round_up(len(arrays[0]) / steps, microbatches)
  arrays = [np.pad(a, ((0, per_step * steps - len(a)), (0, 0))) for a in arrays]
  whole = dict(zip(_PACKED, arrays, strict=True))
  whole['decoder_input_tokens'] = _shift_right(
      whole['decoder_target_tokens'], whole['decoder_segment_ids'])
  return [{name: a[i * per_step:(i + 1) * per_step] for name, a in whole.items()}
          for i in range(steps)]


def _same_input(rows: Rows) -> np.ndarray:
  """bool [n]: rationale rows follow the label row of their input, as `draw` has them in turns."""
  tasks = np.array(rows.tasks)
  follows = np.concatenate([[False], tasks[:-1] == objective.LABEL])
  return follows & (tasks == objective.RATIONALE)


def _shift_right(targets: np.ndarray, segments: np.ndarray) -> np.ndarray:
  """Decoder inputs: a 0 in front of every example, whose segment id differs from the last's."""
  shifted = np.zeros_like(targets)
  shifted[:, 1:] = np.where(segments[:, 1:] == segments[:, :-1], targets[:, :-1], 0)
  return shifted


def shapes(batches: Sequence[Batch]) -> str:
  """'25 x 256 / 88', or several of them."""
  found = {(*batch['encoder_input_tokens'].shape, batch['decoder_target_tokens'].shape[1])
           for batch in batches}
  return ', '.join(f'{rows} x {inputs} / {targets}' for rows, inputs, targets in sorted(found))


def filled(batches: Sequence[Batch]) -> tuple[float, float]:
  """Share of input positions and of target positions that hold a token."""
  shares = []
  for name in ('encoder_input_tokens', 'decoder_target_tokens'):
    total = sum(batch[name].size for batch in batches)
    shares.append(sum(int((batch[name] > 0).sum()) for batch in batches) / total)
  return shares[0], shares[1]
