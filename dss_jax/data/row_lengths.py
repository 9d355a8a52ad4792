"""How long a packed row is and how many are a batch, measured on the examples: 'auto'.

A row in which inputs and targets fill up together is as long on each side as the data has tokens
there. Longer rows fill better, but their attention costs more where it looks at the whole row, and
fewer devices can share them: so the shortest that is full, among those of which a multiple of eight
(the usual numbers of devices) holds about the inputs that a step is to see.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax.data import checks, packed_dataset, packing, pipeline, settings

AUTO = 'auto'
SAMPLE = 4 * packing.WINDOW  # examples, in a shuffled order; the longest is one of them
_PACKED = 2 * packing.WINDOW  # of these, to try a row
FULL = 0.93  # share of the positions of either side
_NEAR = 0.06  # of the inputs of a batch: what multiples of eight rows can keep to
_STEPS = {'inputs': 128, 'targets': 32}  # of a row's lengths
_LONGEST = 1536  # inputs of a row, unless one example has more
_ROWS = 8  # a multiple of these, or of half as many where a batch is smaller than the paper's
_PAPERS = 64  # inputs of a batch


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a run.

  Attributes:
    lengths: {'inputs': ..., 'targets': ...}, tokens of a row.
    batch_size: rows of a batch.
    filled: share of the positions that hold a token, by side.
    inputs: of a batch, on average; each with all of its examples.
    saved: share of the inputs' tokens that need not be encoded again, where they are shared.
  """

  lengths: Mapping[str, int]
  batch_size: int
  filled: Mapping[str, float]
  inputs: float
  saved: float = 0.0

  def __str__(self) -> str:
    """'a batch is 16 rows of 384 / 128 tokens, ...', with its inputs, and how full it is."""
    full = ' and '.join(f'{share:.0%} of the {side}' for side, share in self.filled.items())
    shared = f', whose encoder saves {self.saved:.0%} of its tokens' if self.saved else ''
    return (f"a batch is {self.batch_size} rows of {self.lengths['inputs']:,} / "
            f"{self.lengths['targets']:,} tokens, {full} full: about {self.inputs:.0f} "
            f'inputs{shared}')


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is given, and what is to be found.

  Attributes:
    lengths: of a row, or AUTO.
    batch_size: rows of a batch, or AUTO.
    batch_inputs: that a batch should hold, where its size is to be found.
    pack: several examples per row.
  """

  lengths: Mapping[str, int] | Any
  batch_size: int | Any
  batch_inputs: int = _PAPERS
  pack: bool = True

  @property
  def least_rows(self) -> int:
    """That a batch has."""
    if self.batch_size != AUTO:
      return int(self.batch_size)
    return _ROWS if self.batch_inputs >= _PAPERS else _ROWS // 2


def measure(name: str, limits: Mapping[str, int], asked: Asked) -> Rows:
  """The rows for the training examples of a task or mixture that is configured.

  Args:
    name: registered.
    limits: {'inputs': ..., 'targets': ...}, where an example is cut.
    asked: see there.

  Raises:
    UserError: there are no examples.
  """
  provider = pipeline.get_mixture_or_task(name)
  given = {} if asked.lengths == AUTO else asked.lengths
  cut = {side: min(limits[side], given.get(side, limits[side])) for side in limits}
  examples = provider.get_dataset(cut, split='train', shuffle=True, seed=0,
                                  num_epochs=pipeline.epochs_of_all(name))
  batches = examples.take(SAMPLE).map(lambda ex: (
      ex['inputs'], tf.size(ex['targets']), ex.get(packed_dataset.SAME_INPUT, False))).ragged_batch(
          packing.WINDOW)
  rows = list(batches.map(lambda inputs, *rest: (
      inputs.flat_values, inputs.row_lengths(), *rest)).as_numpy_iterator())
  if not rows:
    raise checks.no_rows(seqio.get_subtasks(provider)[0], 'train')
  tokens, inputs, targets, same_input = map(np.concatenate, zip(*rows, strict=True))
  if not (settings.current().shared_encoder and asked.pack):
    return choose(inputs, targets, same_input, asked)
  repeats = packing.sources(tokens, inputs, same_input) < np.arange(len(inputs))
  return choose(inputs, targets, same_input, asked, repeats)


def choose(
    inputs: np.ndarray, targets: np.ndarray, same_input: np.ndarray, asked: Asked,
    repeats: np.ndarray | None = None) -> Rows:
  """The rows for examples of so many tokens, int [n].

  `same_input`, `repeats`: see `packing.assign_rows`.

  The longest example fits, both sides are FULL, and a batch holds about the inputs that are asked
  for. Where no row does all of that, positions that hold no token count as much as inputs that are
  too many or too few.
  """
  found: list[tuple[float, Rows]] = []
  repeats = np.zeros(len(inputs), bool) if repeats is None else repeats
  encoded = np.where(repeats, 0, inputs).sum()
  for lengths in _candidates(inputs, targets, asked, targets.sum() / encoded):
    rows = _simulate(inputs, targets, same_input, repeats, lengths, asked)
    off = rows.inputs / asked.batch_inputs - 1
    if min(rows.filled.values()) >= FULL and abs(off) < _NEAR:
      return rows  # They come from short to long.
    tokens = sum(rows.filled[side] * length for side, length in lengths.items())
    found.append((abs(off) - tokens / sum(lengths.values()), rows))
    if off > 3 * _NEAR and rows.batch_size == asked.least_rows:
      break
  return min(found, key=lambda one: one[0])[1]


def _candidates(
    inputs: np.ndarray, targets: np.ndarray, asked: Asked, ratio: float
) -> Iterator[dict[str, int]]:
  """Lengths of a row, from short to long, in about the ratio of the data's targets to inputs."""
  if asked.lengths != AUTO:
    yield dict(asked.lengths)
    return
  least = {side: _round_up(int(lengths.max()), _STEPS[side])
           for side, lengths in (('inputs', inputs), ('targets', targets))}
  if not asked.pack:
    yield least
    return
  step = _STEPS['targets']
  for length in range(least['inputs'], max(least['inputs'], _LONGEST) + 1, _STEPS['inputs']):
    below = int(length * ratio) // step * step
    for other in sorted({max(below, least['targets']), max(below + step, least['targets'])}):
      yield {'inputs': length, 'targets': other}


def _simulate(
    inputs: np.ndarray, targets: np.ndarray, same_input: np.ndarray, repeats: np.ndarray,
    lengths: Mapping[str, int], asked: Asked) -> Rows:
  """What rows of these lengths come to. A set of less than a window is taken several times over."""
  n = min(len(inputs), _PACKED)
  places = np.resize(np.arange(n), max(n, packing.WINDOW))
  first = ~same_input[places].astype(bool)
  first[::n] = True
  count = len(places)
  if asked.pack:
    windows = [slice(start, start + packing.WINDOW) for start in range(0, count, packing.WINDOW)]
    count = sum(1 + int(packing.assign_rows(
        inputs[places[one]], targets[places[one]], lengths['inputs'], lengths['targets'],
        ~first[one], repeats[places][one]).max()) for one in windows)
  per_row = first.sum() / count
  rows = least = asked.least_rows
  if asked.batch_size == AUTO:
    rows *= max(1, round(asked.batch_inputs / per_row / least))
  encoded = np.where(repeats, 0, inputs)
  filled = {side: float(tokens[places].sum() / count / lengths[side])
            for side, tokens in (('inputs', encoded), ('targets', targets))}
  return Rows(dict(lengths), rows, filled, float(rows * per_row),
              1 - float(encoded[places].sum() / inputs[places].sum()))


def _round_up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple
