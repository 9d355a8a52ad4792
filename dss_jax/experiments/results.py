"""`results.jsonl`: one line per finished run, appended; readers survive what a crash leaves."""

import dataclasses
import glob
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from dss_jax import errors

RUNS, DATASETS = 'runs', 'datasets'
SWEEP_FILE = 'sweep.json'


def file_name(shard: int, shards: int) -> str:
  """'results.jsonl', or 'results-1-of-4.jsonl' of one machine of several."""
  return 'results.jsonl' if shards == 1 else f'results-{shard}-of-{shards}.jsonl'


def append(path: str, row: Mapping[str, Any]) -> None:
  """One line, on disk when this returns; a torn line of a killed program is ended first."""
  with open(path, 'ab+') as f:
    torn = f.tell() > 0 and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b'\n'
    f.write(b'\n' * torn + json.dumps(row).encode() + b'\n')
    f.flush()
    os.fsync(f.fileno())


def read_lines(path: str) -> list[dict[str, Any]]:
  """The JSON objects of one file; a line that is none, as of a killed program, is passed over."""
  rows = []
  with open(path, encoding='utf-8', errors='replace') as f:
    for line in f:
      try:
        row = json.loads(line)
      except ValueError:
        continue
      if isinstance(row, dict):
        rows.append(row)
  return rows


def test_rows(out: str, dataset: str) -> list[dict[str, Any]]:
  """What the sweep noted of a dataset's test (see `plan`), in order; [] where it did not."""
  path = os.path.join(out, DATASETS, f'{dataset}.jsonl')
  return read_lines(path) if os.path.exists(path) else []


@dataclasses.dataclass(frozen=True)
class Row:
  """One finished run.

  Attributes:
    key: see `grid.Cell.key`.
    dataset, method, labels, model, fraction, alpha, seed: the cell.
    accuracy: percent on test, None if it was not measured.
    parameters: numbers in the network.
    inputs: training rows that the fraction left.
    steps, best_step: trained, and chosen by validation.
    seconds: of training, over all starts.
    compiling: of them compilation; None in results of before it was measured.
    test, validation: all metrics.
    model_dir: of the run, relative to the sweep's folder.
    settings: what defined the run, by dotted name: 'initial_checkpoint_path' and more.
  """

  key: str
  dataset: str
  method: str
  labels: str
  model: str
  fraction: float
  alpha: float | None
  seed: int
  accuracy: float | None
  parameters: int | None = None
  inputs: int | None = None
  steps: int | None = None
  best_step: int | None = None
  seconds: float | None = None
  compiling: float | None = None
  test: Mapping[str, float] = dataclasses.field(default_factory=dict)
  validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
  model_dir: str = ''
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def seconds_of_steps(self) -> float | None:
    """Without compilation, as far as that is known."""
    return None if self.seconds is None else max(0.0, self.seconds - (self.compiling or 0.0))

  @property
  def pretrained(self) -> bool | None:
    """Whether it began with given weights, not random ones; None if that is not told."""
    path = self.settings.get('initial_checkpoint_path')
    return None if path is None else bool(path)


@dataclasses.dataclass(frozen=True)
class Found:
  """What a sweep's folder holds: `rows` by key, what is `missing`, and `problems` in words."""

  rows: dict[str, Row]
  missing: list[str]
  problems: list[str]


def read(out: str) -> Found:
  """All result files of a sweep. What cannot be used is told in `problems`, never guessed at.

  Of two lines of one key the first counts.

  Raises:
    UserError: there is no results file.
  """
  paths = sorted(glob.glob(os.path.join(glob.escape(out), 'results*.jsonl')))
  if not paths:
    raise errors.UserError(
        f'{out} has no results*.jsonl: give the --out of `dss sweep`')
  rows: dict[str, Row] = {}
  problems: list[str] = []
  for path in paths:
    with open(path, encoding='utf-8', errors='replace') as f:
      for number, line in enumerate(f, 1):
        where = f'{os.path.basename(path)} line {number}'
        try:
          row = _row(json.loads(line), where, problems)
        except (ValueError, KeyError, TypeError) as error:
          problems.append(f'{where}: not a result ({type(error).__name__}: {error}); left out')
          continue
        if row.key in rows:
          problems.append(f'{where}: a second result of {row.key}; the first one counts')
        else:
          rows[row.key] = row
  missing = [key for key in _planned(out, problems) if key not in rows]
  return Found(rows, missing, problems)


def _row(values: Any, where: str, problems: list[str]) -> Row:
  if not isinstance(values, dict):
    raise ValueError('no JSON object')
  _check_types(values)
  known = {field.name for field in dataclasses.fields(Row)}
  test = dict(values.get('test') or {})
  accuracy = test.get('accuracy')
  row = Row(**{**{name: value for name, value in values.items() if name in known},
               'fraction': float(values['fraction']),
               'seed': int(values['seed']), 'accuracy': _finite(accuracy), 'test': test})
  unknown = sorted(set(values) - known)
  if unknown:
    problems.append(f'{where}: unknown fields {", ".join(unknown)}; not used')
  if accuracy is None:
    problems.append(f'{where}: {row.key} has no test accuracy')
  elif row.accuracy is None:
    problems.append(f'{where}: {row.key} has test accuracy {accuracy}; left out of figures')
  return row


def _check_types(values: Mapping[str, Any]) -> None:
  for name in ('key', 'dataset', 'method', 'labels', 'model'):
    if not isinstance(values[name], str):
      raise ValueError(f'{name} is {values[name]!r}')
  if not isinstance(values.get('model_dir', ''), str):
    raise ValueError(f'model_dir is {values["model_dir"]!r}')
  if not isinstance(values.get('settings', {}), dict):
    raise ValueError(f'settings is {values["settings"]!r}')
  if not 0 < float(values['fraction']) <= 1:
    raise ValueError(f'fraction is {values["fraction"]}')
  if values.get('alpha') is not None and not 0 <= values['alpha'] <= 1:
    raise ValueError(f'alpha is {values["alpha"]}')


def _finite(value: Any) -> float | None:
  return value if isinstance(value, int | float) and math.isfinite(value) else None


def _planned(out: str, problems: list[str]) -> list[str]:
  """Keys of the grid, from sweep.json; [] (and a problem) without it."""
  try:
    with open(os.path.join(out, SWEEP_FILE), encoding='utf-8') as f:
      return list(json.load(f)['cells'])
  except (OSError, ValueError, KeyError, TypeError) as error:
    problems.append(f'{SWEEP_FILE} cannot be read ({error}): unknown which runs are missing')
    return []
