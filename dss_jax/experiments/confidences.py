"""How sure students of closed label sets are of their answers to test, each label ranked.

A sweep with CONFIDENCES=True writes it, and `dss report DIR --confidences` what such a sweep lacks.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tqdm

from dss_jax import errors, files
from dss_jax.experiments import results, statistics
from dss_jax.experiments.results import Row

FILE = 'confidences.jsonl'
Confidences = Sequence[tuple[float, bool]]  # of each row of test: how sure, in 0 to 1, and if right


def write(
    model_dir: str, student: Callable[[], Any], rows: Iterable[tuple[str, str, str]],
    labels: Sequence[str]) -> None:
  """MODEL_DIR/confidences.jsonl, if not yet there: the label that ranks first, and its share.

  {"id": "7", "target": "left", "prediction": "right", "confidence": 0.71}

  Args:
    model_dir: of the run.
    student: loads it.
    rows: (id, input, gold label) of test.
    labels: the closed set. A student that writes its rationale first ranks none: no file.
  """
  path = os.path.join(model_dir, FILE)
  asked = [row for row in rows if row[2]]
  if os.path.exists(path) or not asked or student().info.answer_phrase:
    return
  answers = student().predict([text for _, text, _ in asked], labels=labels, rank=True)
  files.write(path, ''.join(json.dumps({
      'id': name, 'target': gold, 'prediction': answer.label, 'confidence': answer.probability,
  }) + '\n' for (name, _, gold), answer in zip(asked, answers, strict=True)))


def write_missing(
    out: str, rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """`write` for the students that the report draws; what could not be ranked, in words."""
  from dss_jax.predict import student
  problems = []
  for row in tqdm.tqdm(drawn(rows, described), desc='ranking test', unit='student'):
    folder = os.path.join(out, row.model_dir)
    test = results.test_rows(out, row.dataset)
    load = functools.cache(functools.partial(student.load, folder))
    try:
      write(folder, load, [(one['id'], one['input'], one['label']) for one in test],
            described[row.dataset]['labels'])
    except errors.UserError as error:
      problems.append(f'no confidences of {row.key}: {error}')
  return problems


def read(out: str, row: Row) -> Confidences:
  """Of a run; () of one that has none."""
  path = os.path.join(out, row.model_dir, FILE)
  if not row.model_dir or not os.path.exists(path):
    return ()
  return [(one['confidence'], one['prediction'] == one['target'])
          for one in results.read_lines(path)
          if {'prediction', 'target'} <= set(one)
          and isinstance(one.get('confidence'), int | float)]


def drawn(rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]]) -> list[Row]:
  """The runs on the most of the data, with the usual alpha, of closed label sets."""
  full = set(statistics.at_most_data(map(statistics.group_of, rows)))
  closed = {name for name, facts in described.items()
            if facts.get('labels') and facts.get('metric') == 'text'}
  return sorted((row for row in rows
                 if row.dataset in closed and statistics.group_of(row) in full),
                key=lambda row: (statistics.order(statistics.group_of(row)), row.seed))
