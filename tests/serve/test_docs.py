"""docs/serving.md: its commands run, and what it names is there."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from dss_jax.serve import __main__ as serve_main
from dss_jax.serve import app, metrics

PAGE = (pathlib.Path(__file__).parents[2] / 'docs' / 'serving.md').read_text()


def commands(program):
  text = '\n'.join(re.findall(r'```sh\n(.*?)```', PAGE, re.DOTALL))
  return [line for line in text.splitlines() if line.startswith(f'{program} ')]


@pytest.mark.slow
def test_the_commands_run(folder, program, tmp_path):
  if not shutil.which('curl'):
    pytest.skip('the page asks with curl, which is not here')
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'tickets').symlink_to(folder)
  serve, = commands('dss serve')
  model, port = shlex.split(serve)[2:]
  assert (model, port) == ('--model_dir=runs/tickets', '--port=8080')
  _, address = program()

  def run(words):
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
  one, several = (json.loads(run(shlex.split(command.replace('localhost:8080', address))))
                  for command in commands('curl'))
  assert set(one) == {'predicted_label', 'probability', 'truncated'}
  assert [set(row) - set(one) for row in several['predictions']] == 2 * [{'rationale'}]
  text, = commands('dss predict')
  answers = run([sys.executable, '-m', 'dss_jax.cli', *shlex.split(text)[1:]]).splitlines()
  assert [set(json.loads(line)) for line in answers] == 2 * [{'id', *one} - {'truncated'}]
  assert len(commands('pip')) == 1


def test_what_the_page_names_is_there():
  flags = serve_main.parser().format_help()
  prose = re.sub(r'```sh\n.*?```|`benchmarks/[^`]*`', '', PAGE, flags=re.DOTALL)
  named = set(re.findall(r'(?<![\w-])--[a-z_]+', prose))
  assert len(named) > 8
  for flag in named:
    assert flag in flags, flag
  for name in (*app.Ask.model_fields, *app.Prediction.model_fields):
    assert f'`{name}`' in PAGE, name
  shown = metrics.Metrics(4, lambda: 0).text().decode()
  for name in re.findall(r'`(dss_\w+)`', PAGE):
    assert name in shown, name


def test_every_refusal_is_on_the_page():
  for status in app._REFUSALS:
    assert re.search(rf'\b{status}\b', PAGE), status
