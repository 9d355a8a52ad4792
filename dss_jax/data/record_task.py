"""The class of our SeqIO tasks: epochs that can be resumed to the example, and offline caches."""

import functools
import random
from typing import Any

import seqio
import tensorflow as tf

from dss_jax.data import source as source_lib


class RecordTask(seqio.Task):
  """A task whose order of examples is a function of seed and epoch alone.

  tf.data can reshuffle a dataset that it repeats, but a saved position then forgets how often it
  has done so, if it is saved where the last examples of an epoch are still on their way. So each
  epoch is a dataset of its own here, with a seed of its own.
  """

  def get_dataset(
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
    """See `seqio.Task`; num_epochs=None repeats for ever."""
    one = functools.partial(
        super().get_dataset, sequence_length=sequence_length, split=split, use_cached=use_cached,
        shuffle=shuffle, shuffle_buffer_size=shuffle_buffer_size, shard_info=shard_info,
        **{**arguments, 'try_in_mem_cache': False})  # It would freeze the order.
    if not shuffle or num_epochs == 1:
      return one(seed=seed, num_epochs=num_epochs)
    first = random.getrandbits(31) if seed is None else seed
    epochs = tf.data.Dataset.counter()
    if num_epochs is not None:
      epochs = epochs.take(num_epochs)

    @tf.autograph.experimental.do_not_convert  # AutoGraph would rewrite SeqIO, for seconds.
    def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
      return one(seed=_seed_of(first, epoch), num_epochs=1)
    return epochs.flat_map(epoch_rows).prefetch(tf.data.AUTOTUNE)

  def _get_cached_source(self, split, file_shuffle_buffer_size=None):
    return _Shuffled(super()._get_cached_source(split, file_shuffle_buffer_size))


def _seed_of(seed: int, epoch: tf.Tensor) -> tf.Tensor:
  """int64 scalar: the epoch's own seed."""
  both = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
  return tf.random.stateless_uniform([], both, maxval=2**62, dtype=tf.int64)


class _Shuffled(seqio.DataSource):
  """SeqIO's source of cached rows with our shuffle behind it; SeqIO's shuffles files alone.

  Our tasks have no shuffle buffer of SeqIO's, since their own source shuffles.
  """

  def __init__(self, cached: seqio.DataSource):
    super().__init__(splits=cached.splits, num_input_examples={
        split: cached.num_input_examples(split) for split in cached.splits})
    self._cached = cached

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return self._cached.supports_arbitrary_sharding

  def list_shards(self, split: str) -> list[str]:
    return list(self._cached.list_shards(split))

  def get_dataset(self, split='train', shuffle=True, seed=None, shard_info=None, **arguments
                  ) -> tf.data.Dataset:
    rows = self._cached.get_dataset(
        split=split, shuffle=False, shard_info=shard_info, **arguments)
    return source_lib.shuffle_rows(rows, seed) if shuffle else rows
