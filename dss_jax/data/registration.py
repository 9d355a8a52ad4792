"""From one description of a dataset to all of its SeqIO tasks and mixtures."""

import functools
from dataclasses import replace
from typing import Any

import seqio

from dss_jax import datasets, errors, metrics, objective, records
from dss_jax.data import control, record_task, settings, span_corruption, vocabularies
from dss_jax.data import preprocessors as prep
from dss_jax.data import source as source_lib
from dss_jax.data.mixture import DssMixture


def add_all(chosen: settings.DataSettings) -> None:
  """`add_tasks` of every dataset that is registered."""
  for name in datasets.names():
    add_tasks(datasets.get(name), chosen)


def add_tasks(dataset: datasets.Dataset, chosen: settings.DataSettings) -> None:
  """Adds the tasks and mixtures that `data.register` lists, in place of earlier ones.

  Args:
    dataset: what they are of.
    chosen: what they read; each of its further objectives is a task of the mixtures, too.

  Raises:
    ValueError: SeqIO refuses the name.
    UserError: an objective has the name of another task, or its target is no field of a record.
  """
  name = dataset.name
  label, rationale, *further = chosen.table()
  _check(chosen.table())
  plain = replace(label, prefix='')
  add = functools.partial(_add_task, dataset, chosen)
  made = {
      add(f'dss_{name}_label', label),
      add(f'dss_{name}_teacher_label', replace(label, target='teacher_label')),
      add(f'dss_{name}_rationale', rationale),
      add(f'dss_{name}_shuffled_rationale', rationale, source=control.ShuffledRationales),
      add(f'{name}_finetune', plain),
      add(f'{name}_distill', replace(plain, target='teacher_label')),
      add(f'{name}_rationale_then_label', plain, phrase=dataset.completion.answer_phrase),
      _add_pretraining(dataset, chosen, plain),
      *(add(f'dss_{name}_{row.name}', row) for row in further)}
  for kind, *pair in (('', 'label', 'rationale'), ('_teacher', 'teacher_label', 'rationale'),
                      ('_shuffled', 'label', 'shuffled_rationale')):
    parts = [*pair, *(row.name for row in further)]
    _register(seqio.MixtureRegistry, DssMixture(
        f'dss_{name}{kind}', [f'dss_{name}_{part}' for part in parts], default_rate=1.0))
  for task in map(seqio.TaskRegistry.get, list(seqio.TaskRegistry.names())):
    if (isinstance(task, record_task.RecordTask) and task.source.dataset.name == name
        and task.name not in made):
      seqio.TaskRegistry.remove(task.name)  # Of an objective that is no more.


def _add_task(
    dataset: datasets.Dataset, chosen: settings.DataSettings, task_name: str,
    row: objective.Objective, phrase: str = '', source: Any = source_lib.RecordsSource) -> str:
  """The task that has an objective; with a phrase, of the rationale and then the label."""
  number = 1 + [one.name for one in chosen.table()].index(row.name)
  prompt = row.prefix if chosen.shared_encoder else ''
  if phrase:
    keep, example = prep.is_for_rationale_then_label, functools.partial(
        prep.rationale_then_label_example, answer_phrase=phrase)
  else:
    keep = functools.partial(prep.has_target, target=row.target, reads=row.reads)
    learnt = replace(row, prefix='') if prompt else row
    example = functools.partial(prep.example, learnt=learnt, task=number)
  feature = seqio.Feature(vocabulary=vocabularies.named(chosen.vocabulary), add_eos=True)
  scored = number == objective.LABEL
  read = prep.ReadAnswer(dataset.name, chosen.vocabulary, dataset.labels or (), phrase)
  records_read = source(dataset, chosen)
  _register(seqio.TaskRegistry, record_task.RecordTask(
      task_name,
      objective=row,
      source=records_read,
      output_features={'inputs': feature, 'targets': feature},
      preprocessors=prep.pipeline(records_read, keep, example, prompt),
      postprocess_fn=read if scored else None,
      metric_fns=metrics.for_training(dataset) if scored else [],
      shuffle_buffer_size=None))  # The source shuffles.
  return task_name


def _add_pretraining(
    dataset: datasets.Dataset, chosen: settings.DataSettings, row: objective.Objective) -> str:
  """The task of T5's span corruption on the inputs: its loss is all that is measured."""
  name = f'{dataset.name}_pretrain'
  feature = seqio.Feature(vocabulary=vocabularies.with_sentinels(chosen.vocabulary), add_eos=True)
  _register(seqio.TaskRegistry, record_task.RecordTask(
      name,
      objective=row,
      source=span_corruption.TextSource(dataset, chosen),
      output_features={'inputs': feature, 'targets': feature},
      preprocessors=span_corruption.pipeline(chosen),
      metric_fns=[],
      shuffle_buffer_size=None))
  return name


def _register(registry: Any, made: seqio.Task | seqio.Mixture) -> None:
  """A name that is known keeps its object, since mixtures hold it, with the new one's contents."""
  known = registry.get(made.name) if made.name in registry.names() else None
  if type(known) is type(made):
    known.__dict__ = made.__dict__
  else:
    registry.remove(made.name)
    registry.add_provider(made.name, made)


def _check(table: objective.Objectives) -> None:
  known = (*records.TEXT_FIELDS, *(
      field for name in datasets.names() for field in datasets.get(name).extra_fields))
  for row in table:
    if row.name in ('label', 'rationale') and row.inputs != objective.INPUT:
      raise errors.UserError(
          f'DSS_OBJECTIVES[{row.name!r}].inputs={row.inputs!r}: a student in use has the input '
          'alone; give what reads more a row of its own, with another name')
    for what, field in (('target', row.target), *(('inputs', field) for field in row.reads)):
      if field not in known:
        raise errors.UserError(
            f'DSS_OBJECTIVES[{row.name!r}].{what}={field!r} is no field of a record: '
            f'{errors.did_you_mean(field, known)}; register(..., extra_fields=({field!r},)) keeps '
            'one of your rows')
    for name in datasets.names() if row.name not in ('label', 'rationale') else ():
      for other in datasets.names():
        if (task := f'dss_{name}_{row.name}') in datasets.seqio_names(other):
          raise errors.UserError(
              f'DSS_OBJECTIVES[{row.name!r}]: {task!r} is a name of dataset {other!r} already: '
              'rename the objective')
