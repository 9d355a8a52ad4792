"""The control of the method: rationales that belong to other inputs.

A student that gains from them as well gains from a second task, not from what rationales say.
"""

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import errors, records
from dss_jax.data import source as source_lib


class ShuffledRationales(source_lib.RecordsSource):
  """Records whose training rationales are exchanged; inputs and labels stay.

  In the order of their hashes, every row of the training fraction that has a rationale gets the
  next one's, the last the first's: nobody keeps their own, and none is lost or used twice.
  """

  def get_dataset(
      self, split: str = 'train', shuffle: bool = True, seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None, **arguments) -> tf.data.Dataset:
    if split != 'train':
      return super().get_dataset(split, shuffle, seed, shard_info, **arguments)
    if not self.chosen.of_sample_0:
      raise errors.UserError(
          f'DataSettings.rationales={self.chosen.rationales!r}, '
          f'DataSettings.agreeing={self.chosen.agreeing!r}, '
          f'DataSettings.soft_labels={self.chosen.soft_labels}: dss_{self.dataset.name}_shuffled '
          "exchanges the first rationale of each input: leave them at 'first', 'any' and 0")
    if self.chosen.token_distributions:
      raise errors.UserError(
          f'DataSettings.token_distributions={self.chosen.token_distributions!r}: those of '
          f"dss_{self.dataset.name}_shuffled would be of other inputs: leave it at ''")
    rows = super().get_dataset(split, shuffle, seed, shard_info, **arguments)
    with tf.init_scope():  # Read now, even inside the function that makes an epoch.
      hashes, rationales = self._in_order_of_hashes()
    following = tf.constant(np.roll(rationales, -1))
    places = tf.constant(hashes)

    def exchange(row):
      place = tf.searchsorted(places, source_lib.record_hash(row)[None])[0] % len(hashes)
      return {**row, 'rationale': following[place]}
    return rows.map(exchange, num_parallel_calls=tf.data.AUTOTUNE)

  def _in_order_of_hashes(self) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] and bytes [n]: hash and rationale of every training row that has one."""
    rows = super().get_dataset('train', shuffle=False).filter(
        lambda row: row['parse_status'] == records.PARSED)
    pairs = list(rows.map(
        lambda row: (source_lib.record_hash(row), row['rationale'])).as_numpy_iterator())
    if len(pairs) < 2:
      raise errors.UserError(
          f'dss_{self.dataset.name}_shuffled exchanges rationales, and {len(pairs)} of the '
          'training rows have one: take a larger TRAIN_FRACTION')
    hashes, rationales = (np.array(column) for column in zip(*sorted(pairs), strict=True))
    return hashes, rationales.astype(object)
