"""From one description of a dataset to all of its SeqIO tasks and mixtures."""

import dataclasses
import functools

import seqio

from dss_jax import datasets, metrics
from dss_jax.data import control, record_task, vocabularies
from dss_jax.data import preprocessors as prep
from dss_jax.data import source as source_lib
from dss_jax.data.mixture import DssMixture


def add_tasks(dataset: datasets.Dataset) -> None:
  """Adds the tasks and mixtures that `data.register` lists, in place of earlier ones.

  Raises:
    ValueError: SeqIO refuses the name.
  """
  name = dataset.name
  scored = metrics.for_dataset(dataset)
  phrase = dataset.completion.answer_phrase
  gold, teacher = prep.has_gold_label, prep.has_teacher_label
  read = prep.ReadAnswer(name, dataset.labels or ())
  add = functools.partial(_add_task, dataset)

  add(f'dss_{name}_label', prep.pipeline(gold, prep.label_example), scored, read)
  add(f'dss_{name}_teacher_label',
      prep.pipeline(teacher, prep.label_example, teacher=True), scored, read)
  add(f'dss_{name}_rationale', prep.pipeline(prep.parsed, prep.rationale_example))
  add(f'{name}_finetune', prep.pipeline(gold, prep.plain_example), scored, read)
  add(f'{name}_distill', prep.pipeline(teacher, prep.plain_example, teacher=True), scored, read)
  add(f'{name}_rationale_then_label',
      prep.pipeline(prep.is_for_rationale_then_label, prep.rationale_then_label_example,
                    answer_phrase=phrase),
      scored, dataclasses.replace(read, phrase=phrase))

  add(f'dss_{name}_shuffled_rationale', prep.pipeline(prep.parsed, prep.rationale_example),
      source=control.ShuffledRationales(dataset))

  for mixture, label, rationale in (('', 'label', 'rationale'),
                                    ('_teacher', 'teacher_label', 'rationale'),
                                    ('_shuffled', 'label', 'shuffled_rationale')):
    seqio.MixtureRegistry.remove(f'dss_{name}{mixture}')
    seqio.MixtureRegistry.add(
        f'dss_{name}{mixture}', [f'dss_{name}_{label}', f'dss_{name}_{rationale}'],
        default_rate=1.0, mixture_cls=DssMixture)


def _add_task(
    dataset, task_name, preprocessors, metric_fns=(), postprocess_fn=None, source=None) -> None:
  feature = seqio.Feature(vocabulary=vocabularies.VOCABULARY, add_eos=True)
  seqio.TaskRegistry.remove(task_name)  # Registering a name again replaces it.
  seqio.TaskRegistry.add(
      task_name,
      task_cls=record_task.RecordTask,
      source=source or source_lib.RecordsSource(dataset),
      output_features={'inputs': feature, 'targets': feature},
      preprocessors=preprocessors,
      postprocess_fn=postprocess_fn,
      metric_fns=list(metric_fns),
      shuffle_buffer_size=None)  # The source shuffles.
