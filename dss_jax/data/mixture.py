"""The 1:1 mixture: all examples of an input are neighbours, in every epoch."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax import divergence, errors, objective
from dss_jax.data import packed_dataset, record_task
from dss_jax.data import preprocessors as prep

_INPUTS = 64  # that are interleaved at once


class DssMixture(seqio.Mixture):
  """The examples of an input side by side: its label and its rationale, as far as it has them.

  The tasks of one dataset go through their records together, and what a task does not use (a
  rationale that failed, a missing gold label) is left out only then. Datasets take turns, an
  input each. The features `objective`, which a plain Mixture drops, and `same_input` ride along.

  Inside somebody else's seqio.Mixture the tasks behave like any others: `inputs` and `targets`.
  """

  def __init__(self, name: str, tasks: Sequence, default_rate: Any = None,
               source_info: seqio.SourceInfo | None = None):
    """As SeqIO's; UserError if the tasks are given different rates, since the mixture is 1:1."""
    super().__init__(name, tasks, default_rate=default_rate, source_info=source_info)
    if len(set(self.rate_per_task_name.values())) > 1:
      raise errors.UserError(
          f'mixture {name!r} gives its tasks different rates; a DssMixture is 1:1: leave them out '
          'with default_rate=1.0, or weigh the losses by DSS_ALPHA')

  def get_dataset(
      self,
      sequence_length: Mapping[str, int] | None = None,
      split: str = 'train',
      use_cached: bool = False,
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      num_epochs: int | None = None,
      copy_pretokenized: bool = False,
      compute_stats_empirically: bool = False,
      log_mixing_proportions: bool = True,
      passthrough_features: Sequence[str] | None = None,
      trim_output_features: bool = True,
      try_in_mem_cache: bool = True,
  ) -> tf.data.Dataset:
    """See `seqio.Mixture`; there are no proportions to log."""
    del compute_stats_empirically, log_mixing_proportions
    if seed is None and shuffle:
      seed = random.getrandbits(31)  # One order for all tasks.
    features = [*self.output_features, objective.FEATURE, divergence.FEATURE,
                *(passthrough_features or ())]
    if copy_pretokenized:
      features += [f'{name}_pretokenized' for name in self.output_features]
    self._check_compatible_features()
    datasets: dict[str, list[tf.data.Dataset]] = {}
    for task in self.tasks:
      if split in task.splits:
        rows = record_task.marked_rows(
            task, sequence_length=sequence_length, split=split, use_cached=use_cached,
            shuffle=shuffle, seed=seed, shard_info=shard_info, num_epochs=num_epochs,
            trim_output_features=trim_output_features, try_in_mem_cache=try_in_mem_cache)
        datasets.setdefault(record_task.rows_of(task), []).append(rows)
    if not datasets:
      raise ValueError(f'no task of {self.name!r} has a split {split!r}')
    if len(datasets) == 1:
      (tasks,) = datasets.values()
      return _side_by_side(tasks, features, _INPUTS).unbatch()
    turns = tf.data.Dataset.range(len(datasets)).repeat()
    return tf.data.Dataset.choose_from_datasets(
        [_side_by_side(tasks, features, 1) for tasks in datasets.values()], turns,
        stop_on_empty_dataset=False).unbatch()


@tf.autograph.experimental.do_not_convert
def _side_by_side(
    tasks: Sequence[tf.data.Dataset], features: Sequence[str], inputs: int) -> tf.data.Dataset:
  """Marked rows of tasks that are in step -> the examples of `inputs` inputs at a time.

  Rows with the marks of `prep.map_rows`, here of two inputs, the first without a rationale:
  {'targets': [7, 1], 'keep': True, ...}, {'targets': [5, 1], 'keep': True, ...}    label
  {'targets': [1], 'keep': False, ...},   {'targets': [3, 4, 1], 'keep': True, ...} rationale
  -> {'targets': [[7, 1], [5, 1], [3, 4, 1]], 'same_input': [False, False, True], ...}
  """
  def interleave(*sides):
    number = tf.shape(sides[0][prep.KEEP])[0]
    order = tf.reshape(
        tf.transpose(tf.reshape(tf.range(number * len(sides)), [len(sides), number])), [-1])
    def column(name):
      return tf.concat([side[name] for side in sides], axis=0)
    order = tf.boolean_mask(order, tf.gather(column(prep.KEEP), order))
    record = tf.gather(column(prep.RECORD), order)
    same = tf.logical_and(record[1:] == record[:-1], record[1:] >= 0)
    with tf.control_dependencies([_check_in_step([side[prep.RECORD] for side in sides])]):
      examples = {name: tf.gather(column(name), order) for name in features if name in sides[0]}
    first = tf.zeros_like(order[:1], tf.bool)
    return {**examples, packed_dataset.SAME_INPUT: tf.concat([first, same], axis=0)}
  return tf.data.Dataset.zip(tuple(tasks)).ragged_batch(inputs).map(
      interleave, num_parallel_calls=tf.data.AUTOTUNE)


def _check_in_step(records: Sequence[tf.Tensor]) -> tf.Operation:
  """Only caches on disk can be of different records."""
  same = [tf.reduce_all(records[0] == other) for other in records[1:]]
  return tf.debugging.Assert(tf.reduce_all(same), [
      'the cached tasks of the mixture were made from different records; cache all of them again'])
