"""From a record to tokens: pure functions over tf.data, in the order the tasks apply them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax import answers, divergence, errors, objective, records
from dss_jax.data import samples, settings, vocabularies
from dss_jax.data import source as source_lib

KEEP = 'keep'  # bool: whether the task uses the row
RECORD = 'record'  # int64: which record the row is made of, the same in every task

EOS_MARKER = '</s>'  # NLI inputs are `premise</s>hypothesis`


def has_gold_label(row: dict[str, tf.Tensor]) -> tf.Tensor:
  """Rows with a gold label; a failed rationale does not matter to them."""
  return tf.strings.length(row['label']) > 0


def parsed(row: dict[str, tf.Tensor]) -> tf.Tensor:
  """Rows whose completion gave a rationale and a label: a failure never becomes a target."""
  return row['parse_status'] == records.PARSED


def has_target(
    row: dict[str, tf.Tensor], *, target: str, reads: Sequence[str] = ('input',)) -> tf.Tensor:
  """Rows in which that field can be written; see `teacher_target` for the teacher's label.

  And in which the fields that the input is made of can be read. Of an input with several rows, one
  for each rationale, what neither writes nor reads a rationale has the first.
  """
  found = (samples.explained if 'rationale' in (target, *reads) else
           samples.labelled if target == 'teacher_label' else samples.first)(row)
  if target != 'rationale':
    found = tf.logical_and(found, tf.strings.length(_target(row, target)) > 0)
  for field in set(reads) - {'input', 'rationale'}:
    found = tf.logical_and(found, tf.strings.length(_read(row, field)) > 0)
  return found


def is_for_rationale_then_label(row: dict[str, tf.Tensor]) -> tf.Tensor:
  """Rows with a gold label; on train also a rationale, since the target needs both."""
  trainable = tf.logical_or(row['split'] != 'train', samples.explained(row))
  return tf.logical_and(trainable, has_gold_label(row))


def kept(rows: tf.data.Dataset) -> tf.data.Dataset:
  """The rows that their task uses, without the marks.

  The last step of a task, so that the tasks of a mixture stay in step until then.
  """
  marks = (KEEP, RECORD)
  return rows.filter(lambda row: row[KEEP]).map(
      lambda row: {name: value for name, value in row.items() if name not in marks})


def teacher_target(row: dict[str, tf.Tensor]) -> tf.Tensor:
  """The teacher's label on train, the gold one (where there is one) on validation and test.

  As the released code's `--label_type llm`: only training labels are replaced, so scores
  stay comparable.
  """
  teacher_label = tf.where(parsed(row), row['teacher_label'], '')
  use_gold = tf.logical_and(row['split'] != 'train', has_gold_label(row))
  return tf.where(use_gold, row['label'], teacher_label)


def _target(row: dict[str, tf.Tensor], target: str) -> tf.Tensor:
  return teacher_target(row) if target == 'teacher_label' else row[target]


def _read(row: dict[str, tf.Tensor], field: str) -> tf.Tensor:
  """What a field gives to an input: of a failed completion nothing."""
  if field not in ('rationale', 'teacher_label'):
    return row[field]
  return tf.where((samples.explained if field == 'rationale' else parsed)(row), row[field], '')


LABEL_FEATURE = 'label'  # as the record spells it, which its tokens may not tell; for scoring


def _example(row, inputs, targets, task, label='') -> dict[str, tf.Tensor]:
  return {'id': row['id'], 'inputs': inputs, 'targets': targets,
          LABEL_FEATURE: tf.convert_to_tensor(label),
          objective.FEATURE: tf.convert_to_tensor(task, tf.int32)}


def example(row: dict[str, tf.Tensor], *, learnt: objective.Objective, task: int
            ) -> dict[str, tf.Tensor]:
  """`[label] x -> label`, `[rationale] x -> rationale`; the baselines have no prefix.

  {'input': 'Where do birds live?', 'label': 'nest', ...}
    with Objective(prefix='[label] ', target='label', ...)
  -> {'inputs': '[label] Where do birds live?', 'targets': 'nest', 'label': 'nest',
      'objective': LABEL, 'id': ...}

  Args:
    row: a record.
    learnt: what stands before its input, what that is made of, and what is to be written.
    task: LABEL, RATIONALE, ...: which objective it is of.
  """
  written = _target(row, learnt.target)
  inputs = tf.strings.join([learnt.prefix, *(
      part for words, field in learnt.parts
      for part in (words, _read(row, field) if field else ''))])
  soft = learnt.target == 'teacher_label' and samples.PARTS in row
  made = _example(
      row, inputs, written, objective.with_share(task, row[samples.PARTS]) if soft else task,
      written if task == objective.LABEL else '')
  stored = row.get(records.distribution_of(learnt.target))
  if stored is None:
    return made
  return {**made, divergence.FEATURE: stored if learnt.inputs == objective.INPUT else ''}


def rationale_then_label_example(
    row: dict[str, tf.Tensor], *, answer_phrase: str
) -> dict[str, tf.Tensor]:
  """The single-task ablation: `x -> rationale + label` in one target.

  {'rationale': 'Birds build nests.', 'label': 'nest', ...}
  -> {'targets': 'Birds build nests. So the answer is nest', ...}
  """
  target = tf.strings.join([row['rationale'], answer_phrase, row['label']], separator=' ')
  return _example(row, row['input'], target, objective.LABEL, row['label'])


def map_rows(rows: tf.data.Dataset, make_example, keep) -> tf.data.Dataset:
  """Makes an example of every row and marks those that `keep` is true of."""
  def example(row):
    return {**make_example(row), KEEP: keep(row), RECORD: source_lib.record_hash(row)}
  return rows.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def tokenize(
    rows: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType,
    chosen: settings.DataSettings,
) -> tf.data.Dataset:
  """Text to int32 ids; `</s>` inside an input becomes the EOS id.

  {'inputs': 'a premise</s>a hypothesis', 'targets': 'neutral'}
  -> {'inputs': [12, 5, 1, 12, 9], 'targets': [7]}   (EOS at the end comes after trimming)

  Rows are encoded by the hundred: one by one, this step would be most of the pipeline's cost.
  They say by which settings, for `check_settings`.
  """
  vocabularies.load(chosen.vocabulary, None)  # Or says what is wrong with it.
  made_with = vocabularies.describe(chosen)

  def tokenize_rows(batch):
    return {
        **batch,
        _MADE_WITH: tf.fill(tf.shape(batch['inputs']), made_with),
        'inputs': encode_inputs(batch['inputs'], output_features['inputs'].vocabulary),
        'targets': _encode(batch['targets'], output_features['targets'].vocabulary),
    }
  batches = rows.batch(_TOKENIZE_BATCH)
  return batches.map(tokenize_rows, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


_TOKENIZE_BATCH = 128
_MADE_WITH = 'made_with'


@seqio.utils.map_over_dataset
def check_settings(
    row: dict[str, tf.Tensor], chosen: settings.DataSettings) -> dict[str, tf.Tensor]:
  """Refuses rows of an offline cache (`seqio_cache_tasks`) that other settings have made."""
  now = vocabularies.describe(chosen)
  made_with = row[_MADE_WITH]
  same = tf.debugging.Assert(tf.equal(made_with, now), [
      'the cached task was made with other settings; cache it again into another folder. It has',
      made_with, 'and the settings are', now])
  with tf.control_dependencies([same]):
    return {name: tf.identity(value) for name, value in row.items() if name != _MADE_WITH}


def _encode(texts: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
  """string [n] -> int32 [n, (ids)]."""
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return tf.cast(vocabulary.encode_tf(texts), tf.int32)
  return tf.map_fn(  # Other vocabularies may encode scalars only.
      lambda text: tf.cast(vocabulary.encode_tf(text), tf.int32), texts,
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32, row_splits_dtype=tf.int64))


def encode_inputs(texts: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
  """string [n] -> int32 [n, (ids)]: parts between markers encoded one by one, EOS between them.

  SentencePiece knows `</s>` as a control symbol and never produces it from text; Hugging
  Face's T5 tokenizer, which the released code uses, splits the text there.
  """
  parts = tf.strings.split(texts, EOS_MARKER)  # [n, (parts)]
  ids = _encode(parts.flat_values, vocabulary)  # [all parts, (ids)]
  eos = tf.fill([ids.nrows(), 1], tf.constant(vocabulary.eos_id, tf.int32))
  ended = tf.concat([ids, tf.RaggedTensor.from_tensor(eos)], axis=1)
  rows = parts.with_values(ended).merge_dims(1, 2)  # [n, (ids with EOS after every part)]
  return rows[:, :-1]


def cut(rows: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType,
        sequence_length: Mapping[str, int] | None = None, *, limits: Mapping[str, int] | None,
        prompt: str = '') -> tf.data.Dataset:
  """EOS behind every sequence; one that is for a row is cut there, or at the limit before.

  What `prepend` is to put before a target belongs to its length.
  """
  if sequence_length and limits:
    sequence_length = {side: min(length, limits.get(side, length))
                       for side, length in sequence_length.items()}
  if sequence_length and prompt:
    room = sequence_length['targets'] - len(output_features['targets'].vocabulary.encode(prompt))
    sequence_length = {**sequence_length, 'targets': max(1, room)}
  return seqio.preprocessors.append_eos_after_trim(rows, output_features, sequence_length)


@seqio.utils.map_over_dataset
def spread_objective(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Every target token carries its task, so that packed rows can hold both.

  {'targets': [7, 4, 1], 'objective': 2} -> {'targets': [7, 4, 1], 'objective': [2, 2, 2]}
  """
  task = example[objective.FEATURE]
  return {**example, objective.FEATURE: tf.fill(tf.shape(example['targets']), task)}


def prepend(rows: tf.data.Dataset, output_features: seqio.preprocessors.OutputFeaturesType, *,
            prompt: str) -> tf.data.Dataset:
  """The tokens of a prompt, which are given and not learnt, before those of every target.

  {'targets': [7, 4, 1], 'objective': [2, 2, 2]}, a prompt of the tokens [5, 6]
  -> {'targets': [5, 6, 7, 4, 1], 'objective': [0, 0, 2, 2, 2]}
  """
  given = tf.constant(output_features['targets'].vocabulary.encode(prompt), tf.int32)

  def example(row):
    found = {**row, 'targets': tf.concat([given, row['targets']], axis=0)}
    for name in (objective.FEATURE, divergence.FEATURE):
      if name in row:
        before = [[given.shape[0], 0]] + [[0, 0]] * (row[name].shape.rank - 1)
        found[name] = tf.pad(row[name], before)  # With PADDING, and with nothing.
    return found
  return rows.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def spread_distribution(
    rows: tf.data.Dataset, *, source: source_lib.RecordsSource) -> tf.data.Dataset:
  """A record's bytes -> int32 [tokens, 2 k], see `divergence.pack`; zeros where there is nothing.

  Of a target that was cut, the end that it has now is none that the teacher was asked about:
  {'targets': [7, 1], 'distribution': what was stored at 7, 4 and 1}
  -> {'targets': [7, 1], 'distribution': [what was stored at 7, zeros]}
  """
  if divergence.FEATURE not in rows.element_spec:
    return rows
  width = 2 * source.top_k

  def example(row):
    length = tf.size(row['targets'])
    stored = tf.reshape(tf.io.decode_raw(row[divergence.FEATURE], tf.int32), [-1, width])
    number = tf.shape(stored)[0]
    fits = tf.debugging.Assert((number == 0) | (number >= length), [
        'the token distributions of a record are not of its tokens; write them again. Its id is',
        row['id']])
    with tf.control_dependencies([fits]):
      stored = stored[:tf.where(number == length, length, length - 1)]
    stored = tf.pad(stored, [[0, length - tf.shape(stored)[0]], [0, 0]])
    return {**row, divergence.FEATURE: tf.ensure_shape(stored, [None, width])}
  return rows.map(example, num_parallel_calls=tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class ReadAnswer:
  """Postprocessor of every task with a label: from decoded text to what is scored.

  A target is the record's own label. A prediction is read as `dss predict` reads it, see
  `answers.Reader`: 'Birds build nests. So the answer is nest' -> 'nest'.

  Attributes:
    dataset: its name, for errors.
    vocabulary: of the student, see `vocabularies.load`.
    labels: of a closed set; () if open.
    phrase: between rationale and label, for `D_rationale_then_label`; else ''.
  """

  dataset: str
  vocabulary: str
  labels: tuple[str, ...] = ()
  phrase: str = ''

  def __call__(self, text: str, example: Any = None, is_target: bool = False) -> str:
    if not is_target:
      return self.reader().read(text)
    if LABEL_FEATURE not in example:
      raise errors.UserError(
          f'the cached task of {self.dataset!r} has no {LABEL_FEATURE!r}: an earlier version made '
          'it; cache it again into another folder')
    return tf.compat.as_str(example[LABEL_FEATURE])

  def reader(self, max_tokens: int = 0) -> answers.Reader:
    """UserError if the vocabulary cannot write what must be read."""
    return _reader(self, max_tokens)


@functools.lru_cache(maxsize=64)
def _reader(task: ReadAnswer, max_tokens: int) -> answers.Reader:
  loaded = vocabularies.load(task.vocabulary, None)
  return answers.reader(task.labels, loaded.encode, loaded.decode, task.phrase,
                        dataset=task.dataset, max_tokens=max_tokens)


def pipeline(source: source_lib.RecordsSource, keep: Any, make_example: Any, prompt: str = ''
             ) -> tuple:
  """The preprocessors of one task: which rows, what text, then tokens; `kept` comes after.

  `source`: of the task; `prompt`: what the decoder is given before a target.
  """
  chosen = source.chosen
  given = (functools.partial(prepend, prompt=prompt),) if prompt else ()
  return (functools.partial(map_rows, make_example=make_example, keep=keep),
          functools.partial(tokenize, chosen=chosen), seqio.CacheDatasetPlaceholder(),
          functools.partial(check_settings, chosen=chosen),
          functools.partial(cut, limits=chosen.example_lengths, prompt=prompt), spread_objective,
          functools.partial(spread_distribution, source=source), *given)
