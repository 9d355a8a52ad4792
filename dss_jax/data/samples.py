"""Which of an input's rationales are learnt, and when: a row of its sample 0 with each of them.

The records of an input are neighbours in their shard. They are taken together before anything is
shuffled, so the order of inputs is that of a set with one record each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dss_jax import datasets, equations, metrics, objective, records
from dss_jax.data import settings

FIRST = 'first'  # bool: whether it is the first row of its input, of which other targets are
EXPLAINED = 'explained'  # bool: whether its rationale is one to learn
LABELLED = 'labelled'  # bool: whether its teacher's label is one to learn, of which
PARTS = 'parts'  # int32, of `objective.WHOLE`, are its share

FEATURES = {  # of a record, for tf.io.parse_example
    **{name: tf.io.FixedLenFeature([], tf.string) for name in records.TEXT_FIELDS},
    'schema_version': tf.io.FixedLenFeature([], tf.int64),
}
_VOTES = 'label_votes'
_EQUAL = {  # labels that are the same though they are written otherwise, by metric
    'equation': equations.equal,
    'normalized_text': lambda one, other: metrics.normalized(one) == metrics.normalized(other)}
SAMPLE = tf.io.FixedLenFeature([], tf.int64, default_value=0)
_EXTRA = tf.io.FixedLenFeature([], tf.string, default_value='')
WITH_SAMPLES = {
    **FEATURES, 'sample': SAMPLE,
    _VOTES: tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)}


def features(chosen: settings.DataSettings, has_samples: bool = True, split: str = 'train'
             ) -> dict[str, Any]:
  """Of a record, for tf.io.parse_example: with the extra fields that the objectives name.

  And, for training with token distributions, with those.
  """
  named = {field for row in chosen.table() for field in (row.target, *row.reads)}
  return {**(WITH_SAMPLES if has_samples else FEATURES),
          **dict.fromkeys(named - {*FEATURES}, _EXTRA),
          **dict.fromkeys(map(records.distribution_of, records.TARGETS)
                          if chosen.token_distributions and split == 'train' else (), _EXTRA)}


def firsts(serialized: tf.data.Dataset) -> tf.data.Dataset:
  """Of serialized records the samples 0."""
  return _marked(serialized).filter(lambda one, begins: begins).map(lambda one, begins: one)


def _marked(serialized: tf.data.Dataset) -> tf.data.Dataset:
  """Each with whether it is its input's sample 0; by the hundred, as one by one takes longer."""
  def mark(batch):
    return batch, tf.io.parse_example(batch, {'sample': SAMPLE})['sample'] == 0
  return serialized.batch(128).map(mark, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def grouped(serialized: tf.data.Dataset) -> tf.data.Dataset:
  """Serialized records -> string [samples], all of an input.

  'a, sample 0', 'a, sample 1', 'b, sample 0' -> ['a, sample 0', 'a, sample 1'], ['b, sample 0']
  """
  end = tf.data.Dataset.from_tensors((tf.constant(''), True))

  def step(waiting, element):
    one, begins = element
    return (tf.cond(begins, lambda: one[None], lambda: tf.concat([waiting, one[None]], 0)),
            tf.cond(begins, lambda: waiting, lambda: waiting[:0]))
  groups = _marked(serialized).concatenate(end).scan(tf.zeros([0], tf.string), step)
  return groups.filter(lambda group: tf.size(group) > 0)


def rows(groups: tf.data.Dataset, dataset: datasets.Dataset, chosen: settings.DataSettings,
         epoch: tf.Tensor | int) -> tf.data.Dataset:
  """Groups of samples -> the rows that their inputs have in an epoch, see `_choose`, `_soften`."""
  def rows_of(group):
    found = _choose(group, chosen, dataset.metric, epoch)
    if not chosen.soft_labels:
      return found
    votes = tf.io.parse_example(group[:1], {_VOTES: WITH_SAMPLES[_VOTES]})[_VOTES]
    return _soften(found, votes.values, dataset.labels, chosen.soft_labels)

  def parse(batch):
    return {**tf.io.parse_example(batch['record'], features(chosen)),
            **{name: column for name, column in batch.items() if name != 'record'}}
  found = groups.map(rows_of, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
  return found.batch(128).map(parse, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def _choose(group: tf.Tensor, chosen: settings.DataSettings, metric: str,
            epoch: tf.Tensor | int) -> dict[str, tf.Tensor]:
  """The rows, [m] each column, of an input: its sample 0 serialized, and what is not of that one.

  A sample is learnt if it parsed and agrees; of those 'all' takes each, 'first' the first, and
  'cycle' in epoch e the sample e mod n of n. The label and all else are those of sample 0, which
  has a row of its own where nothing is learnt.

  Args:
    group: string [samples], serialized records of one input, see `grouped`.
    chosen: see `DataSettings.rationales` and `agreeing`: any sample, those whose label is the gold
      one (any, where there is none), or that of sample 0.
    metric: of the dataset: how labels are compared.
    epoch: int scalar, from 0.
  """
  of_sample = {name: one for name, one in features(chosen).items()
               if name in ('rationale', records.distribution_of('rationale'))}
  columns = tf.io.parse_example(group, {**of_sample, **{name: FEATURES[name] for name in (
      'parse_status', 'label', 'teacher_label')}})
  usable = columns['parse_status'] == records.PARSED
  if chosen.agreeing != 'any':
    usable &= _same(columns['teacher_label'], columns[chosen.agreeing][0], metric)
  places = tf.cast(tf.where(usable)[:, 0], tf.int32)
  number = tf.size(places)
  if chosen.rationales == 'cycle':
    at = tf.cast(tf.cast(epoch, tf.int64) % tf.cast(tf.maximum(number, 1), tf.int64), tf.int32)
    places = places[at:at + 1]
  elif chosen.rationales == 'first':
    places = places[:1]
  places = tf.cond(number > 0, lambda: places, lambda: tf.zeros([1], tf.int32))
  return {'record': tf.gather(group, tf.zeros_like(places)),
          **{name: tf.gather(columns[name], places) for name in of_sample},
          FIRST: tf.range(tf.size(places)) == 0, EXPLAINED: tf.fill(tf.shape(places), number > 0)}


def _soften(row: Mapping[str, tf.Tensor], votes: tf.Tensor, labels: Sequence[str],
            temperature: float) -> dict[str, tf.Tensor]:
  """An input's rows with a label each that the teacher voted for, and its share of the votes.

  {'rationale': ['r0'], ...} and votes [3., 1.] for the labels ('yes', 'no')
  -> {'rationale': ['r0', 'r0'], 'explained': [True, False], 'teacher_label': ['yes', 'no'],
      'labelled': [True, True], 'parts': [0.75, 0.25] of WHOLE, ...}

  Args:
    row: from `_choose`.
    votes: float [labels], or [0] where the teacher's answers failed.
    labels: the closed set, in the order of the votes.
    temperature: of the shares, votes ** (1 / temperature); 1 takes the votes as they are.
  """
  chosen = tf.cast(tf.where(votes > 0)[:, 0], tf.int32)
  share = tf.nn.softmax(tf.math.log(tf.gather(votes, chosen)) / temperature)
  parts = tf.maximum(tf.cast(tf.round(share * objective.WHOLE), tf.int32), 1)
  had, number = tf.size(row[FIRST]), tf.size(chosen)
  place = tf.range(tf.maximum(had, number))
  found = {name: tf.gather(column, tf.minimum(place, had - 1)) for name, column in row.items()}
  label = tf.gather(tf.constant(labels), tf.gather(
      tf.concat([chosen, [0]], 0), tf.minimum(place, number)))
  labelled = place < number
  return {**found, FIRST: place == 0, EXPLAINED: found[EXPLAINED] & (place < had),
          'teacher_label': tf.where(labelled, label, ''), LABELLED: labelled,
          PARTS: tf.gather(tf.concat([parts, [objective.WHOLE]], 0), tf.minimum(place, number))}


def _same(labels: tf.Tensor, label: tf.Tensor, metric: str) -> tf.Tensor:
  """bool [n]: which labels are that one, which '' leaves open."""
  if metric not in _EQUAL:
    return (labels == label) | (label == '')

  def equal(labels: np.ndarray, label: bytes) -> np.ndarray:
    return np.array([not label or _EQUAL[metric](one.decode(), label.decode())
                     for one in labels], bool)
  found = tf.numpy_function(equal, [labels, label], tf.bool, stateful=False)
  return tf.ensure_shape(found, labels.shape)


def explained(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """Rows with a rationale to learn: a failed one never becomes a target."""
  return row[EXPLAINED] if EXPLAINED in row else tf.equal(row['parse_status'], records.PARSED)


def first(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """The rows that are the first of their input."""
  return row.get(FIRST, tf.constant(True))


def labelled(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """The rows whose teacher's label is one to learn."""
  return row[LABELLED] if LABELLED in row else first(row)
