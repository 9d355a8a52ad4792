"""At the end of training: by which way the student's closed label sets are ranked."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax import datasets, decode, files, models, ranking, records, student_info, tokenizer
from dss_jax import sharding as sharding_lib
from dss_jax.convert import formats
from dss_jax.data import pipeline, settings
from dss_jax.train import config as config_lib
from dss_jax.train import processes

_MOST_ROWS = 2000


def choose(
    config: config_lib.TrainConfig, model: models.Network, params: Any,
    sharding: sharding_lib.Sharding, say: Callable[[str], None]) -> None:
  """Writes `ranking` into student.json, by the loss on validation, see `dss_jax.ranking`.

  Only of datasets with a closed label set, of which validation has gold labels. `say` gets a
  table for each.
  """
  path = config.model_dir
  info = student_info.find(path)
  if info is None or info.answer_phrase:
    return
  names = {task.source.dataset.name: task.source.dataset
           for task in pipeline.record_tasks(config.data.mixture_or_task)
           if task.metric_fns and task.source.dataset.labels}
  text = tokenizer.make(info, formats.find_vocabulary(path, info, None), path)
  decoder, chosen = decode.BatchDecoder(model, sharding), {}
  for name, dataset in names.items():
    rows = _rows(dataset, config.evaluation.num_examples or _MOST_ROWS)
    if rows:
      labels = dataset.labels or ()
      scores = _scores(info.of(name), text, labels, [row.input for row in rows], functools.partial(
          decoder.score, params, batch_size=config.evaluation.batch_size,
          input_length=info.input_length))
      found = ranking.calibrate(scores, [labels.index(row.label) for row in rows])
      chosen[name] = ranking.best(found)
      say(f'ranking labels of {name} by {chosen[name]}, which has the least loss of {len(rows):,} '
          'rows of validation:')
      for line in ranking.table(found):
        say(f'  {line}')
  if not chosen or not processes.is_main():
    return
  if info.datasets:
    info = dataclasses.replace(info, datasets={
        name: {**one, **({'ranking': chosen[name]} if name in chosen else {})}
        for name, one in info.datasets.items()})
  else:
    info = dataclasses.replace(info, ranking=next(iter(chosen.values())))
  files.write(os.path.join(path, student_info.FILE), info.as_json())


def _scores(
    info: student_info.StudentInfo, text: tokenizer.Tokenizer, labels: Sequence[str],
    inputs: Sequence[str], score: Callable[..., list[list[float]]]) -> list[ranking.Scores]:
  """As prediction asks; the last prompt is the empty input."""
  targets = [(*text.encode_target(label), text.eos_id) for label in labels]
  before, given = ('', text.encode_target(info.label_prefix)) if info.shared_encoder else (
      info.label_prefix, [])
  prompts = [[*text.encode(before + one)[:info.input_length - 1], text.eos_id]
             for one in (*inputs, '')]
  *found, alone = score(prompts, [targets] * len(prompts), given=tuple(given))
  return [ranking.Scores(one, alone, [len(ids) for ids in targets]) for one in found]


def _rows(dataset: datasets.Dataset, most: int) -> list[records.RationaleRecord]:
  """The first rows of validation with a gold label of the set; [] where there are none."""
  present = records.set_names(settings.records_dir())
  rows = itertools.chain.from_iterable(
      records.read_records(settings.records_dir(), name, 'validation')
      for name in dataset.record_sets('validation') if f'{name}-validation' in present)
  return list(itertools.islice((row for row in rows if row.label in (dataset.labels or ())), most))
