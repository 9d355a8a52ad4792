"""What the page's browser of examples shows: test rows with the answers of teacher and students."""

import collections
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import metrics
from dss_jax.experiments import figures, grid, rationales, results, statistics
from dss_jax.experiments.results import Row


def read_dataset(out: str, name: str, problems: list[str]) -> dict[str, Any]:
  """What the sweep noted of a dataset (see `plan`); {} with a problem if it is not there."""
  path = os.path.join(out, results.DATASETS, f'{name}.json')
  try:
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  except (OSError, ValueError) as error:
    problems.append(f'{path} cannot be read ({error}): no teacher of {name}, no examples')
    return {}


def collect(out: str, rows: Sequence[Row], described: Mapping[str, Mapping[str, Any]]
            ) -> dict[str, Any]:
  """For report.js: of every dataset its examples and, of each run of the first seed, the answers.

  {'datasets': {'svamp': {'examples': [{'id', 'input', 'gold', 'teacher', 'teacher_right',
  'rationale'}], 'answers': ['a', 'b'], 'runs': [{'name', 'labels': [0, 1, -1], 'right': [1, 0,
  None], 'rationales': {'0': '...'}}]}}}; labels count in `answers`, -1 is none.
  """
  found = {}
  for name, facts in described.items():
    examples = _examples(out, name, facts.get('metric', 'text'))
    places = {one['id']: i for i, one in enumerate(examples)}
    answers: dict[str, int] = {}
    here = [row for row in rows if row.dataset == name]
    first = min((row.seed for row in here), default=0)
    runs = [_run(out, row, places, answers, facts.get('metric', 'text'))
            for row in here if row.seed == first]
    runs = [run for run in runs if run]
    if runs:
      found[name] = {'examples': examples, 'answers': list(answers), 'runs': runs}
  return {'datasets': found}


def commonest_answer(out: str, name: str, metric: str) -> tuple[str, float] | None:
  """Test's commonest gold label, and the accuracy of always giving it, in percent."""
  gold = [row['label'] for row in results.test_rows(out, name) if row['label']]
  if not gold:
    return None
  answer = collections.Counter(gold).most_common(1)[0][0]
  return answer, metrics.BY_NAME[metric](gold, [answer] * len(gold))['accuracy']


def _examples(out: str, name: str, metric: str) -> list[dict[str, Any]]:
  score = metrics.BY_NAME[metric]
  return [{'id': row['id'], 'input': row['input'], 'gold': row['label'],
           'teacher': row['teacher_label'], 'rationale': row['rationale'],
           'teacher_right': int(score([row['label']], [row['teacher_label']])['accuracy'] == 100.0)
           if row['label'] and row['teacher_label'] else None}
          for row in results.test_rows(out, name)]


def _run(out: str, row: Row, places: Mapping[str, int], answers: dict[str, int], metric: str
         ) -> dict[str, Any] | None:
  lines = statistics.all_predictions(out, row)
  if not lines or not places:
    return None
  labels = [-1] * len(places)
  right: list[int | None] = [None] * len(places)
  for line in lines:
    place = places.get(line['input'].get('id'))
    if place is not None:
      labels[place] = answers.setdefault(line['prediction'], len(answers))
      right[place] = int(statistics.is_right(metric, line))
  return {'name': _name(row), 'labels': labels, 'right': right,
          'rationales': _rationales(os.path.join(out, row.model_dir), places)}


def _rationales(model_dir: str, places: Mapping[str, int]) -> dict[str, str]:
  path = os.path.join(model_dir, rationales.FILE)
  if not os.path.exists(path):
    return {}
  with open(path, encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  return {str(places[row['id']]): row['rationale'] for row in rows if row['id'] in places}


def _name(row: Row) -> str:
  """'Distilling Step-by-Step, 25 % of the data, alpha 0.5, t5_1_1_base (71.2 %)'."""
  parts = [figures.name_of(row.method, row.labels), f'{100 * row.fraction:g} % of the data']
  if row.alpha is not None:
    parts.append(f'alpha {row.alpha:g}')
  parts.append(f'{grid.short(row.model)}, seed {row.seed}')
  accuracy = '' if row.accuracy is None else f' ({row.accuracy:.1f} %)'
  return ', '.join(parts) + accuracy
