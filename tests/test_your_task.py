"""docs/your_task.md: its three files and its commands run as the page shows them."""

import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import dss_jax
from dss_jax import cli, datasets, records
from dss_jax.teacher.ask import prompts
from dss_jax.teacher.read import parsing

REPO = pathlib.Path(__file__).parents[1]
PAGE = (REPO / 'docs' / 'your_task.md').read_text()

# What a machine without network and time adds to a command of the page.
ADAPTED = {
    'dss teacher --client=none': [],
    'dss teacher': ['--base_url={base_url}'],
    'dss vocab': [],
    'dss train': ['--gin.TRAIN_STEPS=60', '--gin.EVAL_PERIOD=60', '--gin.CHECKPOINT_PERIOD=60',
                  '--gin.BATCH_SIZE=4'],
    'dss export': ['--platforms=cpu'],
    'python tickets_student/student.py': [],
}
# Flags of other programs: `vllm serve` and the servers named beside it.
OTHERS = {'--port', '--tensor-parallel-size', '--max-model-len', '--enable-prefix-caching',
          '--model-path'}
ROWS, TEST_ROWS = 2000, 100
TICKETS = {
    'billing': ('I was charged twice for order {}.', 'The invoice of order {} is too high.',
                'Please refund order {}.'),
    'bug': ('Page {} stays empty when I open it.', 'The app crashes on page {}.',
            'I cannot save page {}.'),
    'other': ('Who wrote lesson {}?', 'Do you plan to translate lesson {}?',
              'Where can I read about lesson {}?'),
}
WHY = {
    'billing': 'The customer asks about money that was taken.',
    'bug': 'A page of the app does not work as it should.',
    'other': 'The customer asks about a lesson, and nothing is broken.',
}


def blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)


def commands():
  """All shell commands of the page, one string each."""
  text = '\n'.join(blocks('sh')).replace('\\\n', ' ')
  return [' '.join(line.split()) for line in text.splitlines() if line.strip()]


def command(start):
  found, = (one for one in commands() if one.startswith(start))
  return found


def rows():
  """The page's tickets, and many like them."""
  made = [json.loads(line) for line in blocks('json')[0].splitlines()]
  for i in range(len(made), ROWS + TEST_ROWS):
    label = list(TICKETS)[i % 3]
    made.append({'id': f't{i + 1}', 'input': TICKETS[label][i // 3 % 3].format(i + 1),
                 'label': label})
  return made


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with the page's files."""
  folder = tmp_path_factory.mktemp('tickets')
  lines = [json.dumps(row) + '\n' for row in rows()]
  (folder / 'tickets.jsonl').write_text(''.join(lines[:ROWS]))
  (folder / 'tickets_test.jsonl').write_text(''.join(lines[ROWS:]))
  (folder / 'my_tasks.py').write_text(blocks('python')[0])
  (folder / 'tickets.toml').write_text(blocks('toml')[0])
  return folder


@pytest.fixture(scope='module')
def teacher(folder):
  """A server whose answers to the tickets are right."""
  sys.path.insert(0, str(REPO / 'tests' / 'teacher'))
  server = importlib.import_module('server')
  prompt = prompts.load(str(folder / 'tickets.toml'))
  answers = {prompt.ask(row['input']): prompt.reply(
      prompts.Demonstration(row['input'], WHY[row['label']], row['label'])) for row in rows()}
  with server.Server(answers) as running:
    yield running


def run(command, folder, base_url, *more):
  """What a command of the page prints, on stdout."""
  added = next((add for start, add in ADAPTED.items() if command.startswith(start)), None)
  assert added is not None, f'the page has a command that is not tested: {command}'
  program, *words = shlex.split(command)
  words += [*(one.format(base_url=base_url) for one in added), *more]
  done = subprocess.run(
      [sys.executable, *(['-m', 'dss_jax.cli'] if program == 'dss' else []), *words], cwd=folder,
      text=True, capture_output=True, timeout=600,
      env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=1'})
  assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
  return done.stdout


def test_the_prompt_shows_every_label_and_is_read_back(folder, monkeypatch):
  prompt = prompts.load(str(folder / 'tickets.toml'))
  monkeypatch.syspath_prepend(folder)
  monkeypatch.setattr(datasets, '_describe_only', True)
  monkeypatch.setattr(datasets, '_REGISTRY', {})
  importlib.import_module('my_tasks')
  monkeypatch.delitem(sys.modules, 'my_tasks')
  dataset = datasets.get(prompt.dataset)
  assert dataset.completion.answer_phrase == prompt.completion.answer_phrase
  assert dataset.completion.label_kind == prompt.completion.label_kind
  assert {shown.label for shown in prompt.demonstrations} == set(dataset.labels)
  for shown in prompt.demonstrations:
    written = prompt.reply(shown).removeprefix(prompt.lead_in)
    found = parsing.parse_strict(written, datasets.Example('x', shown.input), dataset)
    assert (found.rationale, found.label) == (shown.rationale, shown.label)


def parser(verb):
  return importlib.import_module(cli.VERBS[verb][0]).parser()


def test_every_flag_of_the_page_exists():
  known = set(OTHERS)
  for verb in ('teacher', 'vocab', 'train', 'predict', 'export'):
    known |= set(parser(verb)._option_string_actions)
  named = set(re.findall(r'(?<![\w-])--[a-z][\w-]*(?![\w.-])', PAGE))
  assert named - known == set()
  for one in commands():
    program, verb, *words = shlex.split(one)
    if program == 'dss':
      parser(verb).parse_args([word for word in words if not word.startswith('--gin.')])


def test_a_dry_run_prints_what_the_page_shows(folder, teacher):
  shown = run(command('dss teacher --dry_run'), folder, teacher.base_url)
  def without_room(text):
    return re.sub(r'[\d,]+(?:\.\d+)? [MGT]B are free', 'X are free', text)
  assert f'```\n{without_room(shown)}```' in without_room(PAGE), shown


def test_every_params_of_the_page_goes_into_the_request(folder, teacher):
  given = re.findall(r"--params='(.*?)'`", PAGE)
  assert len(given) == 1
  for params in given:
    shown = run(command('dss teacher --client=openai'), folder, teacher.base_url,
                '--show_prompt', f'--params={params}')
    request = json.loads(shown.rpartition('\n\n# ')[0])
    for name, value in json.loads(params).items():
      assert request.get(name) == value


def test_the_teacher_is_asked_once(folder, teacher):
  first = command('dss teacher --client=openai')
  printed = run(first, folder, teacher.base_url)
  assert printed == run(first, folder, teacher.base_url) and teacher.requests == ROWS
  written = [row for split in ('train', 'validation')
             for row in records.read_records(str(folder / 'records'), 'tickets', split)]
  assert len(written) == ROWS
  assert all(row.parse_status == 'ok' and row.label == row.teacher_label
             and row.rationale == WHY[row.label] for row in written)
  assert (folder / 'records' / 'journal').is_dir()


@pytest.mark.slow
def test_the_five_commands_make_a_student(folder, teacher):
  five = [one for one in commands() if one.startswith('dss') and '--dry_run' not in one]
  assert len(five) == 5 and '## Five commands' in PAGE
  for one in five:
    run(one, folder, teacher.base_url)
  metrics = json.loads((folder / 'runs' / 'tickets' / 'test_metrics.json').read_text())
  assert metrics['metrics']['accuracy'] > 90, metrics
  probability, label = run(command('python'), folder, teacher.base_url).split()
  assert label == 'billing' and 0.5 < float(probability) <= 1
  answer, = dss_jax.load(str(folder / 'runs' / 'tickets')).predict(['The app crashes on page 9.'])
  assert answer.label == 'bug'


def test_every_path_of_the_page_exists():
  named = re.findall(r'`((?:gin|dss_jax|tasks|docs|launch)/[\w./]+)`', PAGE)
  named += re.findall(r'\]\(([\w.]+\.md)\)', PAGE)
  assert len(named) >= 4
  for path in named:
    assert (REPO / path).exists() or (REPO / 'docs' / path).exists(), path
