"""The class of our SeqIO tasks: epochs that can be resumed to the example, and offline caches."""

import copy
import functools
import random
from typing import Any

import seqio
import tensorflow as tf

from dss_jax import errors
from dss_jax import objective as objective_lib
from dss_jax.data import preprocessors as prep
from dss_jax.data import source as source_lib

_READ_AT_ONCE = 128  # cached rows


class RecordTask(seqio.Task):
  """A task whose order of examples is a function of seed and epoch alone.

  tf.data can reshuffle a dataset that it repeats, but a saved position then forgets how often it
  has done so, if it is saved where the last examples of an epoch are still on their way. So each
  epoch is a dataset of its own here, with a seed of its own.

  Attributes:
    objective: what the student learns by it.
    epoch: int64 scalar, in the copy of a task that makes an epoch; else None.
  """

  epoch: tf.Tensor | None = None

  def __init__(self, *args: Any, objective: objective_lib.Objective, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.objective = objective

  @property
  def source(self) -> Any:
    """Of the records; in an epoch of `get_marked`, of that one."""
    found = super().source
    return found if self.epoch is None else found.at(self.epoch)

  @property
  def given(self) -> list[int]:
    """The tokens that the decoder begins with, before a target's own, see `prep.prepend`."""
    if not self.source.chosen.shared_encoder:
      return []
    return self.output_features['targets'].vocabulary.encode(self.objective.prefix)

  @tf.autograph.experimental.do_not_convert
  def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
    """See `seqio.Task`; num_epochs=None repeats for ever."""
    return prep.kept(self.get_marked(*args, **kwargs))

  @tf.autograph.experimental.do_not_convert  # It would rewrite SeqIO and us, for seconds.
  def get_marked(
      self,
      sequence_length: Any = None,
      split: str = 'train',
      use_cached: bool = False,
      shuffle: bool = True,
      shuffle_buffer_size: int | None = None,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      num_epochs: int | None = 1,
      **arguments: Any,
  ) -> tf.data.Dataset:
    """As `get_dataset`, of all records: marked with KEEP and RECORD, in the order of any task."""
    one = functools.partial(
        seqio.Task.get_dataset, sequence_length=sequence_length, split=split,
        use_cached=use_cached, shuffle=shuffle, shuffle_buffer_size=shuffle_buffer_size,
        shard_info=shard_info,
        **{**arguments, 'try_in_mem_cache': False})  # It would freeze the order.
    changes = split == 'train' and self.source.chosen.rationales == 'cycle'
    if num_epochs == 1 or not (shuffle or changes):
      return one(self, seed=seed, num_epochs=num_epochs)
    first = random.getrandbits(31) if seed is None else seed
    epochs = tf.data.Dataset.counter()
    if num_epochs is not None:
      epochs = epochs.take(num_epochs)

    @tf.autograph.experimental.do_not_convert
    def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
      of_epoch = copy.copy(self)
      of_epoch.epoch = epoch
      return one(of_epoch, seed=_seed_of(first, epoch), num_epochs=1)
    return epochs.flat_map(epoch_rows).prefetch(tf.data.AUTOTUNE)

  def _get_cached_source(self, split, file_shuffle_buffer_size=None):
    if split == 'train' and self.source.chosen.rationales == 'cycle':
      raise errors.UserError(
          f"DataSettings.rationales='cycle': a cache of task {self.name!r} would hold one epoch's "
          'rationales: read the records, not a cache')
    return _Cached(self.name, super()._get_cached_source(split, file_shuffle_buffer_size))


def marked_rows(task: seqio.Task, **arguments: Any) -> tf.data.Dataset:
  """`RecordTask.get_marked` of any task: a foreign one's rows are all used, each by itself."""
  if isinstance(task, RecordTask):
    return task.get_marked(**arguments)
  marks = {prep.KEEP: True, prep.RECORD: tf.constant(-1, tf.int64)}
  return task.get_dataset(**arguments).map(lambda row: {**row, **marks})


def rows_of(task: seqio.Task) -> str:
  """The dataset whose records a task reads, in step with that dataset's other tasks."""
  return task.source.dataset.name if isinstance(task, RecordTask) else f'task {task.name}'


def _seed_of(seed: int, epoch: tf.Tensor) -> tf.Tensor:
  """int64 scalar: the epoch's own seed."""
  both = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
  return tf.random.stateless_uniform([], both, maxval=2**62, dtype=tf.int64)


class _Cached(seqio.DataSource):
  """SeqIO's source of cached rows in the order of their records, with our shuffle behind it.

  Beam writes the rows of every task in another order, so they are read into memory (a few hundred
  bytes each) and sorted: then the tasks of a mixture are in step, whatever the number of files
  and of hosts.
  """

  def __init__(self, task_name: str, cached: seqio.DataSource):
    super().__init__(splits=cached.splits, num_input_examples={
        split: cached.num_input_examples(split) for split in cached.splits})
    self._task_name = task_name
    self._cached = cached

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return list(self._cached.list_shards(split))

  def get_dataset(self, split='train', shuffle=True, seed=None, shard_info=None, **arguments
                  ) -> tf.data.Dataset:
    with tf.init_scope():  # Read now, even inside the function that makes an epoch.
      rows = self._cached.get_dataset(split=split, shuffle=False, **arguments)
      if prep.RECORD not in rows.element_spec:
        raise errors.UserError(
            f'the cache of task {self._task_name!r} was made by an earlier version: cache the '
            'task again into another folder')
      table = rows.ragged_batch(self.num_input_examples(split)).get_single_element()
      order = tf.argsort(table[prep.RECORD], stable=True)
      if shard_info:
        order = order[shard_info.index::shard_info.num_shards]
    def read(places):
      return {name: tf.gather(column, places) for name, column in table.items()}
    rows = tf.data.Dataset.from_tensor_slices(order).batch(_READ_AT_ONCE).map(read).unbatch()
    return source_lib.shuffle_rows(rows, seed) if shuffle else rows
