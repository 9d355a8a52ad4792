"""From a registered name to batches of token arrays."""

from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import datasets, records
from dss_jax.data import feature_converter, record_task, settings
from dss_jax.data import source as source_lib

Batch = dict[str, np.ndarray]


def get_mixture_or_task(name: str) -> seqio.Mixture | seqio.Task:
  """The registered task or mixture; UserError with the nearest name if there is none."""
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    raise datasets.unknown_task(name, known)
  return seqio.get_mixture_or_task(name)


def sources(name: str) -> list[source_lib.RecordsSource]:
  """Of our tasks in a task or mixture."""
  tasks = seqio.get_subtasks(get_mixture_or_task(name))
  return [t.source for t in tasks if isinstance(t.source, source_lib.RecordsSource)]


def record_tasks(name: str) -> list[record_task.RecordTask]:
  """The tasks of ours in a task or mixture."""
  tasks = seqio.get_subtasks(get_mixture_or_task(name))
  return [task for task in tasks if isinstance(task, record_task.RecordTask)]


def record_sets(name: str, split: str, *, verify: bool = False) -> list[records.RecordSet]:
  """The record sets that a task or mixture reads, each once; see `records.find_set`."""
  found: dict[str, records.RecordSet] = {}
  for source in sources(name):
    if not set(source.set_names(split)) <= set(found):
      found |= {one.name: one for one in source.record_sets(split, verify=verify)}
  return list(found.values())


def epochs_of_all(name: str) -> int:
  """After how many epochs of a task or mixture every rationale was there, see `samples.rows`."""
  return max((source.epochs for source in sources(name)), default=1)


def has_split(name: str, split: str) -> bool:
  """Whether all record sets of the split are there."""
  present = records.set_names(settings.records_dir())
  return all(one in present for source in sources(name) for one in source.set_names(split))


def make_dataset(
    name: str,
    split: str,
    lengths: Mapping[str, int],
    *,
    pack: bool,
    shuffle: bool,
    seed: int,
    num_epochs: int | None,
) -> tf.data.Dataset:
  """Rows of model features (see DssFeatureConverter), not batched.

  Args:
    name: a registered task or mixture.
    split: 'train', 'validation' or 'test'.
    lengths: {'inputs': ..., 'targets': ...}.
    pack: several examples per row.
    shuffle: whether to shuffle; the order is a function of `seed`.
    seed: for shuffling.
    num_epochs: None repeats for ever.
  """
  get_mixture_or_task(name)
  return seqio.get_dataset(
      name, lengths, _converter(pack), dataset_split=split,
      shuffle=shuffle, seed=seed, num_epochs=num_epochs, verbose=False)


def train_iterator(
    name: str, lengths: Mapping[str, int], *, batch_size: int, pack: bool, seed: int
) -> tf.data.Iterator:
  """Endless training batches: int32 [batch_size, length], the same ones in every process.

  So the order of the examples depends on the seed alone, not on how many processes there are,
  and a run continues on another number of them. A batch is a few hundred kilobytes of tokens:
  reading all of it everywhere costs less than one step.

  A tf.data iterator, so that its position can be saved with `tf.train.Checkpoint`; `to_numpy`
  turns its elements into arrays.
  """
  rows = make_dataset(name, 'train', lengths, pack=pack, shuffle=True, seed=seed,
                      num_epochs=None)
  batches = rows.batch(batch_size, drop_remainder=True)
  options = tf.data.Options()
  options.deterministic = True
  return iter(batches.with_options(options).prefetch(2))


def eval_batches(
    name: str, split: str, lengths: Mapping[str, int], *, batch_size: int, pack: bool,
    num_examples: int = 0,
) -> Iterator[Batch]:
  """One pass over a split, teacher-forced; the last batch is filled up with padding rows.

  `num_examples` limits the examples read (0: all). Every process sees the same rows.
  """
  provider = get_mixture_or_task(name)
  examples = provider.get_dataset(lengths, split=split, shuffle=False, seed=0, num_epochs=1)
  if num_examples:
    examples = examples.take(num_examples)
  rows = _converter(pack)(examples, lengths)
  for batch in rows.batch(batch_size).as_numpy_iterator():
    missing = batch_size - len(next(iter(batch.values())))
    yield {key: np.pad(value, ((0, missing), *[(0, 0)] * (value.ndim - 1)))
           for key, value in batch.items()}


def _converter(pack: bool) -> feature_converter.DssFeatureConverter:
  return feature_converter.DssFeatureConverter(
      pack=pack, share_inputs=settings.current().shared_encoder)


def to_numpy(element: Mapping[str, tf.Tensor]) -> Batch:
  """One element of `train_iterator` as arrays."""
  return {key: value.numpy() for key, value in element.items()}
