"""What is looked at before the first step: are there rows, do they fit, can they be written."""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np
import seqio

from dss_jax import errors, records
from dss_jax.data import (
  coverage,
  pipeline,
  preprocessors,
  record_task,
  samples,
  settings,
  vocabularies,
)
from dss_jax.data import source as source_lib

SAMPLE = 2_000  # examples per task


@dataclasses.dataclass(frozen=True)
class TaskLengths:
  """Token counts (EOS included) of a sample of one task's examples."""

  task: str
  inputs: np.ndarray  # int [n]
  targets: np.ndarray  # int [n]

  def cut(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """How many sampled examples each limit cuts."""
    return {side: int(np.sum(getattr(self, side) > lengths[side])) for side in lengths}


def measure(name: str, split: str, sample: int = SAMPLE) -> list[TaskLengths]:
  """Token counts of the first `sample` examples of every task of a mixture.

  Raises:
    UserError: a task has no rows in the split.
  """
  measured = []
  for task in seqio.get_subtasks(pipeline.get_mixture_or_task(name)):
    examples = task.get_dataset(None, split=split, shuffle=False, num_epochs=1).take(sample)
    rows = [(len(ex['inputs']), len(ex['targets'])) for ex in examples.as_numpy_iterator()]
    if not rows:
      raise no_rows(task, split)
    measured.append(TaskLengths(task.name, *np.array(rows).T))
  return measured


def no_rows(task: seqio.Task, split: str) -> errors.UserError:
  """The error to raise for a task without rows; says what its records hold instead."""
  said = []
  for found in task.source.record_sets(split):
    status = ', '.join(f'{count:,} {key}' for key, count in found.entry['parse_status'].items())
    said.append(f'{found.name} holds {found.num_inputs:,} inputs ({status})')
  fraction = settings.current().train_fraction
  suffix = f'; TRAIN_FRACTION is {fraction}' if split == 'train' and fraction < 1 else ''
  if split == 'train' and settings.current().agreeing != 'any':
    suffix += f'; AGREEING is {settings.current().agreeing!r}'
  suffix += _other_labels(task, split)
  return errors.UserError(
      f'task {task.name!r} has no rows in split {split!r} of {settings.records_dir()}: '
      f"{'; '.join(said)}, none of which this task can use{suffix}")


def _other_labels(task: seqio.Task, split: str) -> str:
  """What to train on where records have only the teacher's labels; else ''."""
  parsed = sum(found.entry['parse_status'].get(records.PARSED, 0)
               for found in task.source.record_sets(split))
  rows = task.source.get_dataset(split, shuffle=False).as_numpy_iterator()
  if split != 'train' or not parsed or any(row['label'] for row in rows):
    return ''
  name = task.source.dataset.name
  return (f". They have no gold labels: learn the teacher's with gin/native/dss_teacher.gin "
          f'(dss_{name}_teacher), or without rationales with gin/native/distill.gin '
          f'({name}_distill)')


def check_lengths(measured: list[TaskLengths], lengths: Mapping[str, int]) -> list[str]:
  """Warnings for what TASK_FEATURE_LENGTHS cuts.

  Raises:
    UserError: every target of a task would be cut.
  """
  warnings = []
  for task in measured:
    for side, count in task.cut(lengths).items():
      values = getattr(task, side)
      said = (f'{task.task}: {count:,} of {len(values):,} {side} are longer than '
              f"TASK_FEATURE_LENGTHS['{side}'] = {lengths[side]} tokens (mean "
              f'{values.mean():.0f}, longest {values.max()})')
      if count == len(values) and side == 'targets':
        raise errors.UserError(f'{said}: all would be cut; raise it')
      if count:
        warnings.append(f'{said} and are cut')
  return warnings


def check_distributions(name: str) -> None:
  """UserError where token distributions are asked for, and a task has other targets than theirs."""
  chosen = settings.current()
  if not chosen.token_distributions:
    return
  said = f'DataSettings.token_distributions={chosen.token_distributions!r}'
  for task in pipeline.record_tasks(name):
    if type(task.source) is not source_lib.RecordsSource or (
        task.postprocessor and task.postprocessor.phrase):
      raise errors.UserError(
          f"{said}: the teacher's distributions are of label and rationale, each alone, and the "
          f"targets of {task.name} are others: leave it at ''")
  if len({source.top_k for source in pipeline.sources(name)}) > 1:
    raise errors.UserError(f'{said}: the records of {name} have different --top_k: write them with '
                           'one')


def check_effect(name: str) -> list[str]:
  """Warnings about settings that change nothing, as no task reads what they are about."""
  chosen, tasks = settings.current(), pipeline.record_tasks(name)
  written = {task.objective.target for task in tasks}
  if any(task.postprocessor and task.postprocessor.phrase for task in tasks):
    written.add('rationale')  # Before the label, in one target.
  read = written.union(*(task.objective.reads for task in tasks))
  said = []
  if chosen.soft_labels and 'teacher_label' not in written:
    said.append(f"SOFT_LABELS={chosen.soft_labels:g} changes nothing: no task of {name} learns the "
                "teacher's labels, as those of --method=dss_teacher and distill do")
  for setting, value, default in (('RATIONALE_SAMPLES', chosen.rationales, 'first'),
                                  ('AGREEING', chosen.agreeing, 'any')):
    if value != default and 'rationale' not in read:
      said.append(f'{setting}={value} changes nothing: no task of {name} has to do with rationales')
  if chosen.shared_encoder and not any(task.given for task in tasks):
    said.append(f'SHARED_ENCODER changes nothing: no task of {name} has a prefix')
  return said


def check_vocabulary(name: str, vocab_size: int, eos_id: int = 1) -> None:
  """UserError if the task's vocabulary has an id without a row in the embedding, or another EOS."""
  vocabularies.load(settings.current().vocabulary, eos_id)  # Or says what is wrong with it.
  for feature in pipeline.get_mixture_or_task(name).output_features.values():
    needed = feature.vocabulary.vocab_size
    if needed > vocab_size:
      raise errors.UserError(
          f'the vocabulary {settings.current().vocabulary} has {needed:,} ids, the model only '
          f'{vocab_size:,} (VOCAB_SIZE): set --gin.VOCAB_SIZE={-(-needed // 128) * 128} or use '
          "the model's own vocabulary")


def check_answers(name: str, targets_length: int = 0) -> None:
  """UserError if an answer could not be read back, see `answers.reader`; or two tasks are the same.

  Reads no records.

  Args:
    name: of a task or mixture.
    targets_length: TASK_FEATURE_LENGTHS['targets'], EOS and prompt included; 0 for any length.
  """
  coverage.check_prefixes(
      [task.objective for task in pipeline.record_tasks(name)], vocabularies.current())
  for task in seqio.get_subtasks(pipeline.get_mixture_or_task(name)):
    if isinstance(task.postprocessor, preprocessors.ReadAnswer):
      given = len(task.given) if isinstance(task, record_task.RecordTask) else 0
      task.postprocessor.reader(targets_length and max(1, targets_length - given))


def check_coverage(name: str, split: str, sample: int = SAMPLE) -> list[str]:
  """Warnings for texts that the vocabulary cannot tell from others, of each dataset of a mixture.

  Raises:
    UserError: no answer could be right, see `coverage.check_open_labels`.
  """
  vocabulary = vocabularies.current()
  warnings = []
  for source in {s.dataset.name: s for s in pipeline.sources(name)}.values():
    texts = _texts(source, split, sample)
    for field, found in texts.items():
      counted = coverage.coverage(found, vocabulary)
      if counted.unknown:
        warnings.append(f'{source.dataset.name}: of the {field}s, {counted}')
    if not source.dataset.labels:
      labels = collections.Counter(texts['label'])
      warnings += filter(None, [coverage.check_open_labels(labels, source.dataset, vocabulary)])
  return warnings


def _texts(source: source_lib.RecordsSource, split: str, sample: int) -> dict[str, list[str]]:
  """The texts of up to `sample` rows, by field; of rationales those that are to be learnt."""
  found: dict[str, list[str]] = {'input': [], 'label': [], 'rationale': []}
  rows = source.with_all().get_dataset(split, shuffle=True, seed=0).take(sample)
  for row in rows.as_numpy_iterator():
    if samples.first(row):
      found['input'].append(row['input'].decode())
      if label := row['label'] or row['teacher_label']:
        found['label'].append(label.decode())
    if samples.explained(row) and row['rationale']:
      found['rationale'].append(row['rationale'].decode())
  return found
