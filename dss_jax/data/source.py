"""A SeqIO data source over the rationale records of one dataset."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import datasets, errors, records
from dss_jax.data import samples, settings, vocabularies

# Rows that are permuted at a time; most training sets fit. They travel in every checkpoint of
# the data position.
SHUFFLE_BUFFER = 16_384


class RecordsSource(seqio.DataSource):
  """Reads `<dataset>-<split>` record sets; elements are dicts of the record's fields.

  Nothing is opened until `list_shards` or `get_dataset` is called. On 'train' `chosen`'s
  `train_fraction` selects a nested subset of the inputs, and `rationales` and `agreeing` choose
  among the samples of each, see `samples.rows`; elsewhere an input is its sample 0.

  Attributes:
    dataset: whose records.
    chosen: where they are, and which are used.
    epoch: int scalar, from 0, which `rationales='cycle'` goes by.
  """

  epoch: tf.Tensor | int = 0

  def __init__(self, dataset: datasets.Dataset, chosen: settings.DataSettings):
    super().__init__(splits=datasets.SPLITS, performs_internal_shuffling=True)
    self.dataset = dataset
    self.chosen = chosen

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def set_names(self, split: str) -> list[str]:
    """['svamp-train', 'asdiv-train']: the record sets that make up `split`."""
    return [f'{name}-{split}' for name in self.dataset.record_sets(split)]

  def record_sets(self, split: str, *, verify: bool = False) -> list[records.RecordSet]:
    """The sets that make up `split`; UserError if one is absent, incomplete or (verify) damaged."""
    return [records.find_set(self.chosen.folder(), name, split, verify=verify)
            for name in self.dataset.record_sets(split)]

  def at(self, epoch: tf.Tensor | int) -> 'RecordsSource':
    """This source in another epoch."""
    made = copy.copy(self)
    made.epoch = epoch
    return made

  def with_all(self) -> 'RecordsSource':
    """This source with the rationales of all epochs in one."""
    made = copy.copy(self)
    if self.chosen.rationales == 'cycle':
      made.chosen = dataclasses.replace(self.chosen, rationales='all')
    return made

  @property
  def epochs(self) -> int:
    """After how many of them every rationale that is trained on was there."""
    if self.chosen.rationales != 'cycle':
      return 1
    return max(found.max_samples for found in self.record_sets('train'))

  @property
  def top_k(self) -> int:
    """Tokens of which the training records say how likely the teacher takes them.

    Raises:
      UserError: they say nothing, or of another vocabulary, or the sets differ.
    """
    said = f'DataSettings.token_distributions={self.chosen.token_distributions!r}'
    found = {one.name: one.entry.get('distributions', {}) for one in self.record_sets('train')}
    for name, entry in found.items():
      if not entry:
        folder = self.chosen.folder()
        raise errors.UserError(
            f'{said}: {name} of {folder} has none: write them with `dss distributions {folder} '
            '--model_dir=TEACHER --output=DIR`')
      if entry['vocabulary_sha256'] != vocabularies.fingerprint(self.chosen.vocabulary):
        raise errors.UserError(
            f"{said}: those of {name} are of another vocabulary, that of {entry['teacher']}, than "
            f"DataSettings.vocabulary={self.chosen.vocabulary}: use the teacher's")
    if len(numbers := {entry['top_k'] for entry in found.values()}) > 1:
      raise errors.UserError(f'{said}: {" and ".join(found)} have different --top_k: write them '
                             'with one')
    return numbers.pop()

  def list_shards(self, split: str) -> Sequence[str]:
    return [path for found in self.record_sets(split) for path in found.paths]

  def num_input_examples(self, split: str) -> int | None:
    return None  # Not before the records exist; SeqIO asks as early as registration.

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      *,
      sequence_length: Mapping[str, int] | None = None,
      use_cached: bool = False,
      num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    del sequence_length, use_cached, num_epochs
    all_paths = list(self.list_shards(split))
    paths = all_paths[shard_info.index::shard_info.num_shards] if shard_info else all_paths
    order = tf.constant(paths)
    if shuffle:
      order = tf.gather(order, permutation(len(paths), seed, 0))
    serialized = tf.data.TFRecordDataset(tf.data.Dataset.from_tensor_slices(order))
    has_samples = self._check_samples(split)
    chooses = split == 'train' and not self.chosen.of_sample_0
    if chooses:
      serialized = samples.grouped(serialized)
    elif has_samples:
      serialized = samples.firsts(serialized)
    if shuffle:
      serialized = shuffle_rows(serialized, seed)
    if chooses:
      rows = samples.rows(serialized, self.dataset, self.chosen, self.epoch)
    else:
      features = samples.features(self.chosen, has_samples, split)
      rows = serialized.batch(128).map(lambda batch: tf.io.parse_example(batch, features),
                                       num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    if split == 'train' and self.chosen.train_fraction < 1.0:
      rows = take_fraction(
          rows, all_paths, self.chosen.train_fraction, self.chosen.train_fraction_seed)
    return rows

  def _check_samples(self, split: str) -> bool:
    """Whether an input may have several records; UserError where there are none to choose from."""
    found = self.record_sets(split)
    several = any(one.has_samples for one in found)
    if split == 'train' and self.chosen.rationales != 'first' and not several:
      raise errors.UserError(
          f'DataSettings.rationales={self.chosen.rationales!r}: '
          f'{" and ".join(one.name for one in found)} of {self.chosen.folder()} have one rationale '
          'an input: write several with `dss teacher --samples=N --keep_samples`, or `dss merge` '
          "several teachers' records")
    if split == 'train' and self.chosen.soft_labels and not self.dataset.labels:
      raise errors.UserError(
          f'DataSettings.soft_labels={self.chosen.soft_labels}: the labels of '
          f'{self.dataset.name!r} are no closed set, so nothing is voted over')
    if split == 'train' and self.chosen.soft_labels and not several:
      raise errors.UserError(
          f'DataSettings.soft_labels={self.chosen.soft_labels}: the records of '
          f'{self.chosen.folder()} have no votes: write them with `dss teacher --samples=N '
          '--keep_samples` or `--label_logprobs`')
    return several


def shuffle_rows(rows: tf.data.Dataset, seed: int | tf.Tensor | None) -> tf.data.Dataset:
  """Permutes SHUFFLE_BUFFER rows at a time, by the seed alone; rows may be of any structure.

  tf.data's own `shuffle` keeps its seeds in a state that a saved position does not always hold.
  """
  def permuted(number, block):
    size = tf.shape(tf.nest.flatten(block)[0])[0]
    order = permutation(size, seed, number + 1)
    return tf.nest.map_structure(lambda column: tf.gather(column, order), block)
  return rows.ragged_batch(SHUFFLE_BUFFER).enumerate().map(permuted).unbatch()


def permutation(size: int | tf.Tensor, seed: int | tf.Tensor | None, number: int | tf.Tensor
                ) -> tf.Tensor:
  """int32 [size]: a function of `seed` (None: another one every time) and `number`."""
  chosen = tf.random.uniform([], maxval=2**62, dtype=tf.int64) if seed is None else seed
  both = tf.stack([tf.cast(chosen, tf.int64), tf.cast(number, tf.int64)])
  return tf.argsort(tf.random.stateless_uniform([size], both))


def take_fraction(
    rows: tf.data.Dataset, all_paths: Sequence[str], fraction: float, seed: int
) -> tf.data.Dataset:
  """The `round(fraction * n)` rows whose ids hash lowest: nested, and the same on every host.

  The cut-off comes from all files, even where `rows` holds one host's share of them.
  """
  hashes = id_hashes(all_paths, seed)
  keep = max(1, round(fraction * len(hashes)))
  cutoff = np.partition(hashes, keep - 1)[keep - 1]
  return rows.filter(lambda row: hash_of(row['id'], seed) <= cutoff)


def id_hashes(paths: Sequence[str], seed: int) -> np.ndarray:
  """int64 [n]: the hash of every input's id, in file order."""
  with tf.init_scope():  # The files are read now, even inside the function that makes an epoch.
    rows = tf.data.TFRecordDataset(list(paths)).batch(1024).map(lambda batch: tf.io.parse_example(
        batch, {'id': samples.FEATURES['id'], 'sample': samples.SAMPLE}))
    ids = rows.map(lambda row: hash_of(tf.boolean_mask(row['id'], row['sample'] == 0), seed))
    return np.concatenate(list(ids.as_numpy_iterator()))


def hash_of(ids: tf.Tensor, seed: int) -> tf.Tensor:
  """int64 of the strings' shape; another function for every seed."""
  return tf.strings.to_hash_bucket_strong(ids, 2**62, key=[0x6473735F6A6178, seed])


_RECORD_SEED = 1  # Not that of the fractions, so that neighbours do not enter one together.


def record_hash(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """int64 scalar, >= 0; of the input, too, since ids are unique within one record set only."""
  return hash_of(tf.strings.join([row['id'], row['input']], '\n'), _RECORD_SEED)
