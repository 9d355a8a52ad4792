"""What tells of a run that goes on for nothing: a loss that is no number, data that do not come."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import seqio

from dss_jax import errors
from dss_jax.data import pipeline

Batch = Mapping[str, np.ndarray]
_SHOWN_IDS = 12


class FiniteLoss:
  """Stops a run at the first step whose loss or gradient is no number.

  Each step is looked at while the device computes the next one, so that nothing waits.
  """

  _WATCHED = ('loss', 'gradient_norm')

  def __init__(self, name: str, lengths: Mapping[str, int], model_dir: str,
               saved: Callable[[], list[int]]):
    """Of a run on the task or mixture `name`, sequences cut at `lengths`; `saved` steps."""
    self._name = name
    self._model_dir = model_dir
    self._lengths = lengths
    self._saved = saved
    self._last: tuple[int, Mapping[str, jax.Array], Batch] | None = None

  def after_step(self, step: int, metrics: Mapping[str, jax.Array], batch: Batch) -> None:
    """Looks at the step before; UserError says what was wrong with it."""
    self.check()
    self._last = step, {name: metrics[name] for name in self._WATCHED}, batch

  def check(self) -> None:
    """Looks at the last step, which must have been computed by now or is waited for."""
    if self._last is None:
      return
    (step, metrics, batch), self._last = self._last, None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if all(map(math.isfinite, values.values())):
      return
    ids = batch_ids(self._name, self._lengths, batch)
    shown = ', '.join(ids[:_SHOWN_IDS]) + (f' and {len(ids) - _SHOWN_IDS} more'
                                           if len(ids) > _SHOWN_IDS else '')
    wrong = ', '.join(f'{name} is {value}' for name, value in values.items())
    raise errors.UserError(
        f'step {step}: {wrong}. ' + (f'Its batch holds the records {shown}. ' if ids else '') +
        'Try a lower LEARNING_RATE, more WARMUP_STEPS, a CLIP_NORM, or DTYPE=float32, in another '
        'MODEL_DIR, since that is another run. '
        + (f'The last checkpoint, of step {(last := max(saved))}, is from before: '
           f'INITIAL_CHECKPOINT_PATH={self._model_dir}/checkpoints/{last} starts there'
           if (saved := self._saved()) else 'There is no checkpoint'))


def batch_ids(name: str, lengths: Mapping[str, int], batch: Batch) -> list[str]:
  """Ids of the records in a batch of the training split of the task or mixture `name`.

  Batches do not carry ids, so their token sequences are looked up in the records.
  """
  wanted, epochs = set(_sequences(batch)), pipeline.epochs_of_all(name)
  found: dict[str, None] = {}
  for task in seqio.get_subtasks(pipeline.get_mixture_or_task(name)):
    rows = task.get_dataset(lengths, split='train', shuffle=False, num_epochs=epochs)
    for row in rows.as_numpy_iterator():
      if (tuple(row['inputs'].tolist()), tuple(row['targets'].tolist())) in wanted:
        found[row['id'].decode()] = None
  return list(found)


def _sequences(batch: Batch) -> Iterator[tuple[tuple[int, ...], ...]]:
  """(input tokens, target tokens) of every example, packed or not."""
  sides = ('encoder_input_tokens', 'decoder_target_tokens')
  segments = [batch.get(f'{side}_segment_ids', batch[tokens] > 0)
              for side, tokens in zip(('encoder', 'decoder'), sides, strict=True)]
  read = batch.get('decoder_cross_segment_ids', segments[1])
  for row in range(len(batch[sides[0]])):
    for segment in range(1, int(segments[1][row].max(initial=0)) + 1):
      target = segments[1][row] == segment
      source = segments[0][row] == read[row][target].max()
      yield tuple(tuple(batch[tokens][row][inside].tolist())
                  for tokens, inside in zip(sides, (source, target), strict=True))


class SlowInput:
  """Tells when the next batch does not come, and from where it should."""

  def __init__(self, where: str, say: Callable[[str], None], after: float = 60.0):
    """`where` the data come from; `say` is called every `after` seconds of waiting."""
    self._where, self._say, self._after = where, say, after
    self._since: float | None = None
    self._closed = threading.Event()
    threading.Thread(target=self._watch, daemon=True).start()

  def next(self, iterator: Iterator[Any]) -> Any:
    """`next(iterator)`."""
    self._since = time.monotonic()
    try:
      return next(iterator)
    finally:
      self._since = None

  def close(self) -> None:
    self._closed.set()

  def _watch(self) -> None:
    told = 0
    while not self._closed.wait(self._after / 10):
      waited = time.monotonic() - since if (since := self._since) else 0.0
      if waited < self._after:
        told = 0
      elif waited >= (told + 1) * self._after:
        told += 1
        self._say(f'the next batch has not come for {waited:.0f} s: {self._where} is slow or hangs')
