"""The runs of a sweep with their configs, all parsed before the first one trains."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import data as data_lib
from dss_jax import datasets, errors, files, gin_files, metrics
from dss_jax.data import pipeline, vocabularies
from dss_jax.experiments import grid, rationales, results, worker
from dss_jax.train import config as config_lib
from dss_jax.train import gin_config, identity


@dataclasses.dataclass(frozen=True)
class Run:
  """A cell as the trainer takes it.

  Attributes:
    files, bindings, modules: of its command line.
    config: what they come to.
    rationales: see `grid.Sweep`; 0 for all but the first seed.
    confidences: see `grid.Sweep`; False for all but the largest fraction.
  """

  cell: grid.Cell
  files: Sequence[str]
  bindings: Sequence[str]
  modules: Sequence[str]
  config: config_lib.TrainConfig
  rationales: int
  confidences: bool

  @property
  def settings(self) -> dict[str, Any]:
    """What defines the run; a finished one must have had the same."""
    return json.loads(json.dumps(identity.of(self.config) | {
        identity.CONTENTS['data.vocabulary']: vocabularies.fingerprint(
            self.config.data.vocabulary)}))

  def request(self, out: str) -> dict[str, Any]:
    """For `worker`."""
    log = os.path.join(out, 'logs', f'{self.cell.key.replace("/", "_")}.log')
    os.makedirs(os.path.dirname(log), exist_ok=True)
    return {'files': list(self.files), 'bindings': list(self.bindings), 'log': log,
            'imports': list(self.modules), 'rationales': self.rationales,
            'confidences': self.confidences}

  @property
  def command(self) -> str:
    """As a shell takes it."""
    return worker.shell_command(self.files, self.bindings, self.modules)

  def row(self, result: Mapping[str, Any]) -> dict[str, Any]:
    """The line of `results.jsonl`."""
    cell = dataclasses.asdict(self.cell)
    return {
        'key': self.cell.key, **cell,
        'inputs': round(self.cell.fraction * _train_rows(self.config)),
        'steps': result['step'],
        **{name: result[name] for name in (
            'parameters', 'best_step', 'seconds', 'compiling', 'test', 'validation')},
        'model_dir': os.path.join(results.RUNS, self.cell.key), 'settings': self.settings}


def make(sweep: grid.Sweep, out: str, modules: Sequence[str]) -> list[Run]:
  """All runs.

  Raises:
    UserError: of the first cell whose files or settings are wrong, or whose task is another's.
  """
  runs = []
  for cell in grid.cells(sweep):
    files, bindings = grid.files(sweep, cell), grid.bindings(sweep, cell, out)
    config = gin_config.parse(files, bindings)
    _check_task(cell, config.data.mixture_or_task)
    first = cell.seed == sweep.seeds[0]
    runs.append(Run(cell, files, bindings, modules, config, sweep.rationales if first else 0,
                    sweep.confidences and cell.fraction == max(sweep.fractions)))
  return runs


def _check_task(cell: grid.Cell, task: str) -> None:
  """That a run's results stand under the names of its data and of its method."""
  says = (f'RUN_FILE: the run of {cell.method!r} on {cell.dataset!r} has '
          f'MIXTURE_OR_TASK_NAME={task!r}')
  found = sorted({source.dataset.name for source in pipeline.sources(task)})
  if found and cell.dataset not in found:
    raise errors.UserError(
        f'{says}, which is of {" and ".join(found)}, and its results would stand under a wrong '
        f'name: leave RUN_FILE out, or let the file name its task by {{DATASET}}, as '
        f'{grid.Sweep.run_file.format(method=grid.base(cell.method))} does')
  names = {kind: name.format(DATASET=cell.dataset) for kind, name in gin_files.methods().items()}
  own = names[grid.METHODS[grid.base(cell.method)][cell.labels]]
  if task in names.values() and task != own:
    raise errors.UserError(f"{says}, which is another method's; its own is {own!r}")


def describe(runs: Sequence[Run], sweep: grid.Sweep, out: str) -> None:
  """Writes sweep.json (the grid and its cells) and, of every dataset, what the report needs."""
  text = json.dumps({'sweep': dataclasses.asdict(sweep), 'cells': [run.cell.key for run in runs]},
                    indent=2)
  files.write(os.path.join(out, results.SWEEP_FILE), text + '\n')
  seen: dict[str, config_lib.TrainConfig] = {}
  for run in runs:
    seen.setdefault(run.cell.dataset, run.config)
  os.makedirs(os.path.join(out, results.DATASETS), exist_ok=True)
  for name, config in seen.items():
    _describe_dataset(name, config, os.path.join(out, results.DATASETS, name))


def _describe_dataset(name: str, config: config_lib.TrainConfig, path: str) -> None:
  """`path`.json: counts and the teacher's accuracy; `path`.jsonl: the rows of test."""
  data_lib.configure(records_dir=config.data.records_dir, vocabulary=config.data.vocabulary)
  dataset = datasets.get(name)
  rows = rationales.test_records(dataset)
  sets = pipeline.record_sets(config.data.mixture_or_task, 'train')
  files.write(f'{path}.jsonl', ''.join(
      json.dumps({'id': row.id, 'input': row.input, 'label': row.label,
                  'teacher_label': row.teacher_label, 'rationale': row.rationale}) + '\n'
      for row in rows))
  files.write(f'{path}.json', json.dumps({
      'train': sum(one.num_inputs for one in sets), 'test': len(rows),
      'metric': dataset.metric, 'labels': list(dataset.labels or ()),
      'teacher': teacher_scores(dataset, rows),
      'teachers': {one.name: one.entry.get('teacher', {}) for one in sets},
  }, indent=2) + '\n')


def teacher_scores(dataset: datasets.Dataset, rows: Sequence[Any]) -> dict[str, float]:
  """The student's metrics on the teacher's labels of test; {} without teacher or gold labels.

  An answer that could not be read is wrong.
  """
  scored = [row for row in rows if row.label]
  if not any(row.teacher_label for row in scored):
    return {}
  found: dict[str, float] = {}
  for score in metrics.for_dataset(dataset):
    found |= score([row.label for row in scored], [row.teacher_label for row in scored])
  return found


def _train_rows(config: config_lib.TrainConfig) -> int:
  data_lib.configure(records_dir=config.data.records_dir, vocabulary=config.data.vocabulary)
  return sum(one.num_inputs
             for one in pipeline.record_sets(config.data.mixture_or_task, 'train'))
