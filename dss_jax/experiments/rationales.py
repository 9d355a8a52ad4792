"""Rationales that a trained student writes for test inputs, for the report to show."""

import itertools
import json
import os
from collections.abc import Callable

from dss_jax import datasets, files, records
from dss_jax.data import pipeline, settings
from dss_jax.predict import student as student_lib
from dss_jax.train import config as config_lib

FILE = 'rationales.jsonl'


def test_records(dataset: datasets.Dataset) -> list[records.RationaleRecord]:
  """The records of test, in order; [] where there are none."""
  present = records.set_names(settings.records_dir())
  return [record for name in dataset.record_sets('test') if f'{name}-test' in present
          for record in records.read_records(settings.records_dir(), name, 'test')]


def dataset_of(config: config_lib.TrainConfig) -> datasets.Dataset:
  """The run's, whose records it learns."""
  return pipeline.record_tasks(config.data.mixture_or_task)[0].source.dataset


def write(
    config: config_lib.TrainConfig, rows: int, student: Callable[[], student_lib.Student]) -> None:
  """MODEL_DIR/rationales.jsonl: {'id', 'rationale'} of the first rows of test, if not yet there.

  `student` loads the run's.
  """
  path = os.path.join(config.model_dir, FILE)
  if os.path.exists(path):
    return
  asked = list(itertools.islice(test_records(dataset_of(config)), rows))
  answers = student().predict([record.input for record in asked], rationale=True)
  files.write(path, ''.join(
      json.dumps({'id': record.id, 'rationale': answer.rationale}) + '\n'
      for record, answer in zip(asked, answers)))
