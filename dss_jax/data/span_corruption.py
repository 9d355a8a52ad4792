"""T5's pretraining task: spans of a text are left out, and are to be written.

Raffel et al. 2020, section 3.1.4: 15 % of the tokens are noise, in spans of 3 on average. Each span
becomes a sentinel in the input; the target is every span behind its sentinel:

  inputs   Thank you <0> me to your party <1> .
  targets  <0> for inviting <1> last week

Sentinels are the last ids of the vocabulary, counted down. A text begins clean, and all lengths of
its noisy and clean spans that sum up are as likely. Pure functions of a seed, which give what T5's
own preprocessors give for it.
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from dss_jax import datasets, errors, objective
from dss_jax.data import preprocessors as prep
from dss_jax.data import settings
from dss_jax.data import source as source_lib

DENSITY, SPAN = 0.15, 3.0  # share of noise, mean tokens of a span
LENGTHS = {'inputs': 512, 'targets': 114}  # T5's, where nothing else is said
_JOINED = 128  # texts that become one stream of tokens, as many as T5's
_SEED = 'noise_seed'


class TextSource(source_lib.RecordsSource):
  """Records, each with the seed of its epoch's noise; unshuffled ones have the same every time."""

  def get_dataset(self, split='train', shuffle=True, seed=None, shard_info=None, **arguments
                  ) -> tf.data.Dataset:
    if shuffle and seed is None:
      seed = tf.random.uniform([], maxval=2**62, dtype=tf.int64)
    noise_seed = tf.cast(seed if shuffle else 0, tf.int64)
    rows = super().get_dataset(split, shuffle, seed, shard_info, **arguments)
    return rows.map(lambda row: {**row, _SEED: noise_seed})


def noise_counts(tokens: int) -> tuple[int, int]:
  """Noisy tokens and spans of so many tokens, at least one of each."""
  noise = max(round(tokens * DENSITY), 1)
  return noise, max(round(noise / SPAN), 1)


def lengths_of(tokens: int) -> dict[str, int]:
  """How long the two sides of so many tokens are, EOS included.

  >>> lengths_of(568)
  {'inputs': 512, 'targets': 114}
  """
  noise, spans = noise_counts(tokens)
  return {'inputs': tokens - noise + spans + 1, 'targets': noise + spans + 1}


def chunk_length(lengths: Mapping[str, int]) -> int:
  """The most tokens of text whose input fits.

  >>> chunk_length({'inputs': 512, 'targets': 114})
  568

  Raises:
    UserError: their target would not fit, or they have more spans than there are sentinels.
  """
  tokens = lengths['inputs'] - 1
  while lengths_of(tokens + 1)['inputs'] <= lengths['inputs']:
    tokens += 1
  given, needed = f"TASK_FEATURE_LENGTHS={dict(lengths)}", lengths_of(tokens)['targets']
  if noise_counts(tokens)[1] > datasets.SENTINELS:
    raise errors.UserError(f'{given}: inputs of more than 1809 tokens have more spans than the '
                           f'{datasets.SENTINELS} sentinels')
  if needed > lengths['targets']:
    raise errors.UserError(f'{given}: the targets of such inputs have {needed} tokens: write '
                           f"{ {**lengths, 'targets': needed} }")
  return tokens


def noise_mask(length: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
  """bool [length]: which tokens are noise; `seeds` is int [2, 2], a pair for either kind of span.

  Clean and noisy spans take turns, as many of each.
  """
  tokens = tf.maximum(length, 2)  # One token is clean; the mask is cut below.
  noise = _rounded(tf.cast(tokens, tf.float32) * DENSITY, tokens - 1)
  spans = _rounded(tf.cast(noise, tf.float32) / SPAN, noise)
  noisy = _random_parts(noise, spans, seeds[0])
  clean = _random_parts(tokens - noise, spans, seeds[1])
  lengths = tf.reshape(tf.stack([clean, noisy], axis=1), [-1])
  return tf.repeat(tf.tile([False, True], [spans]), lengths)[:length]


def _rounded(value: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
  return tf.clip_by_value(tf.cast(tf.round(value), tf.int32), 1, most)


def _random_parts(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """int32 [parts] of at least 1 that sum to `total`: a random choice of the places between them."""
  order = tf.argsort(tf.random.stateless_uniform([total - 1], seed))
  ends = tf.concat([1 + tf.where(order < parts - 1)[:, 0], [tf.cast(total, tf.int64)]], axis=0)
  return tf.cast(ends - tf.concat([[0], ends[:-1]], axis=0), tf.int32)


def corrupt(tokens: tf.Tensor, noise: tf.Tensor, last_id: int) -> dict[str, tf.Tensor]:
  """Input and target of a text, without EOS.

  {tokens: [5, 6, 7, 8, 9], noise: [False, True, True, False, True], last_id: 99}
  -> {'inputs': [5, 99, 8, 98], 'targets': [99, 6, 7, 98, 9]}

  Args:
    tokens: int32 [n].
    noise: bool [n], which of them are left out.
    last_id: of the vocabulary: the first sentinel.
  """
  return {'inputs': _with_sentinels(tokens, noise, last_id),
          'targets': _with_sentinels(tokens, tf.logical_not(noise), last_id)}


def _with_sentinels(tokens: tf.Tensor, replaced: tf.Tensor, last_id: int) -> tf.Tensor:
  """The tokens with one sentinel in place of each span of those that are replaced."""
  before = tf.concat([tf.zeros_like(replaced[:1]), replaced[:-1]], axis=0)
  first = tf.logical_and(replaced, tf.logical_not(before))
  sentinels = last_id + 1 - tf.cumsum(tf.cast(first, tokens.dtype))
  return tf.boolean_mask(tf.where(first, sentinels, tokens),
                         tf.logical_or(first, tf.logical_not(replaced)))


def chunks(rows: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType,
           sequence_length: Mapping[str, int] | None = None, *,
           limits: Mapping[str, int] | None = None) -> tf.data.Dataset:
  """Texts become tokens, one stream of 128 texts each, cut where an input is full."""
  asked = sequence_length or limits or LENGTHS
  size = chunk_length({side: min(length, (limits or asked)[side])
                       for side, length in asked.items() if side in LENGTHS})

  def split(batch):
    ids = prep.encode_inputs(batch['input'], output_features['inputs'].vocabulary).flat_values
    number = -(-tf.size(ids) // size)
    ends = tf.minimum(tf.range(number + 1) * size, tf.size(ids))
    return {'tokens': tf.RaggedTensor.from_row_splits(ids, ends),
            _SEED: tf.fill([number], batch[_SEED][0])}
  return rows.batch(_JOINED).map(split, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def denoise(rows: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType
            ) -> tf.data.Dataset:
  """Chunks become examples; the noise is a function of the epoch's seed and the chunk's number."""
  last_id = output_features['inputs'].vocabulary.vocab_size - 1

  def example(number, row):
    seeds = tf.stack([[row[_SEED], 2 * number], [row[_SEED], 2 * number + 1]])
    noise = noise_mask(tf.size(row['tokens']), seeds)
    return {**corrupt(row['tokens'], noise, last_id), prep.KEEP: True,
            prep.RECORD: tf.constant(-1, tf.int64), objective.FEATURE: objective.LABEL}
  return rows.enumerate().map(example, num_parallel_calls=tf.data.AUTOTUNE)


def pipeline(chosen: settings.DataSettings) -> tuple:
  """The preprocessors of a dataset's `D_pretrain`."""
  return (functools.partial(chunks, limits=chosen.example_lengths), denoise,
          functools.partial(prep.cut, limits=chosen.example_lengths), prep.spread_objective)
