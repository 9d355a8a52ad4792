"""What a run leaves beside its parameters, so that they can be used: student.json, vocabulary."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from dss_jax import files, objective, student_info
from dss_jax.convert import model_card
from dss_jax.data import pipeline
from dss_jax.train import config as config_lib


def write(config: config_lib.TrainConfig) -> None:
  """Writes student.json and a copy of the vocabulary into MODEL_DIR."""
  vocabulary = config.data.vocabulary
  if vocabulary != student_info.BYTES:
    with tf.io.gfile.GFile(vocabulary, 'rb') as f:
      files.write(os.path.join(config.model_dir, student_info.VOCABULARY_FILE), f.read())
  _write_info(config.model_dir, describe(config))


def renew(model_dir: str) -> None:
  """Writes what run.json says by now, of a run that goes on, into its student.json."""
  if info := student_info.find(model_dir):
    _write_info(model_dir, info)


def _write_info(model_dir: str, info: student_info.StudentInfo) -> None:
  info = dataclasses.replace(info, training=model_card.describe_run(model_dir))
  files.write(os.path.join(model_dir, student_info.FILE), info.as_json())


def describe(config: config_lib.TrainConfig) -> student_info.StudentInfo:
  """How to ask the student that this run trains, from the tasks of its mixture."""
  data = config.data
  uses_bytes = data.vocabulary == student_info.BYTES
  return student_info.StudentInfo(
      model=config.model,
      vocabulary=student_info.BYTES if uses_bytes else student_info.VOCABULARY_FILE,
      input_length=data.limits['inputs'], target_length=data.limits['targets'],
      shared_encoder=data.shared_encoder,
      **_asked(data))


def _asked(data: config_lib.DataConfig) -> dict[str, Any]:
  """The fields of `student_info.ASKED`, `prefixes`, and `datasets` if there are several."""
  found: dict[str, dict[str, Any]] = {}
  prefixes: dict[str, str] = {}
  for task in pipeline.record_tasks(data.mixture_or_task):
    dataset, row = task.source.dataset, task.objective
    info = found.setdefault(dataset.name, {
        'label_prefix': '', 'rationale_prefix': None, 'answer_phrase': '',
        'labels': dataset.labels or (), 'metric': dataset.metric})
    if (prefix := f'{row.name}_prefix') in info:
      info[prefix] = info[prefix] or row.prefix
    elif row.inputs == objective.INPUT:  # What else it reads, nobody has at prediction.
      prefixes[row.name] = row.prefix
    if task.postprocessor and task.postprocessor.phrase:
      info['answer_phrase'] = task.postprocessor.phrase
  if len(found) < 2:
    return {**next(iter(found.values()), {}), 'prefixes': prefixes}
  common = {name: values.pop() if len(values := {one[name] for one in found.values()}) == 1
            else () if name == 'labels' else '' for name in student_info.ASKED}
  return common | {'datasets': found, 'prefixes': prefixes}
