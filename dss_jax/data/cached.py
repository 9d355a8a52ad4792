"""Tasks that SeqIO has cached offline (`seqio_cache_tasks`), shuffled like the records."""

import seqio
import tensorflow as tf

from dss_jax.data import source as source_lib


class CacheableTask(seqio.Task):
  """A task whose cached rows are shuffled one by one.

  Our tasks have no shuffle buffer of SeqIO's, since their source shuffles before rows repeat;
  SeqIO's own source of cached rows shuffles files alone.
  """

  def _get_cached_source(self, split, file_shuffle_buffer_size=None):
    return _Shuffled(super()._get_cached_source(split, file_shuffle_buffer_size))


class _Shuffled(seqio.DataSource):
  """SeqIO's source of cached rows, with a shuffle behind it."""

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
        split=split, shuffle=shuffle, seed=seed, shard_info=shard_info, **arguments)
    return rows.shuffle(source_lib.SHUFFLE_BUFFER, seed=seed) if shuffle else rows
