"""The process that trains one cell after another: a JSON line asks, a JSON line answers.

  {"files": [...], "bindings": [...], "log": "x.log", "rationales": 0, "confidences": false,
   "imports": []}
  -> {"result": {...}} or {"error": "one line"} or {"stopped": 75}
"""

import dataclasses
import functools
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from dss_jax import cli, errors

_LIBRARIES = ('dss_jax.tasks', 'dss_jax.train.loop')


def main() -> None:
  """Answers until stdin ends. All output of a run goes to its log."""
  cli.end_with_parent()
  cli.print_anything()
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  for line in sys.stdin:
    asked = json.loads(line)
    with open(asked['log'], 'a') as log:
      for fd in (1, 2):
        os.dup2(log.fileno(), fd)
    print(json.dumps(_answer(asked)), file=answers, flush=True)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
  command = shell_command(asked['files'], asked['bindings'], asked['imports'])
  print(f'$ {command}', file=sys.stderr, flush=True)
  try:
    return {'result': train(asked)}
  except errors.Stop as stop:
    return {'stopped': stop.exit_code}
  except KeyboardInterrupt:
    return {'stopped': 130}
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr, flush=True)
    return {'error': str(error)}
  except Exception as error:  # Whatever a run fails with is its cell's, not the sweep's.
    traceback.print_exc()
    sys.stderr.flush()
    return {'error': ' '.join(f'{type(error).__name__}: {error}'.split())[:500]}


def shell_command(files: Sequence[str], bindings: Sequence[str], modules: Sequence[str]) -> str:
  """The run as a command of its own."""
  flags = [*(f'--import={module}' for module in modules),
           *(f'--gin_file={file}' for file in files),
           *(f'--gin.{binding}' for binding in bindings)]
  return shlex.join(['python', '-m', 'dss_jax.train', *flags])


def train(asked: dict[str, Any]) -> dict[str, Any]:
  """Trains or continues the run; what it came to, for `results.jsonl`."""
  cli.import_quietly(*_LIBRARIES, *asked['imports'])
  import jax

  from dss_jax.precompile import compiled
  from dss_jax.train import gin_config, loop
  config = gin_config.parse(asked['files'], asked['bindings'])
  result = loop.train(config, gin_config.resolved())
  _ask_student(config, asked)
  jax.clear_caches()  # The next cell may be of another size.
  return {**dataclasses.asdict(result), 'parameters': compiled.num_parameters(config.model)}


def _ask_student(config: Any, asked: dict[str, Any]) -> None:
  """What the report shows of the trained student besides its answers on test."""
  from dss_jax.experiments import confidences, rationales
  from dss_jax.predict import student as student_lib
  student = functools.cache(functools.partial(student_lib.load, config.model_dir))
  if asked['rationales'] and config.data.mixture_or_task.startswith('dss_'):
    rationales.write(config, asked['rationales'], student)
  dataset = rationales.dataset_of(config)
  if asked['confidences'] and dataset.labels and dataset.metric == 'text':
    rows = ((one.id, one.input, one.label) for one in rationales.test_records(dataset))
    confidences.write(config.model_dir, student, rows, dataset.labels)


if __name__ == '__main__':
  main()
