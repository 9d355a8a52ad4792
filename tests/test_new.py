"""`dss new`: what it writes holds together; tests/test_readme.py trains on it."""

import csv
import json
import re
import sys

import pytest

from dss_jax import cli, datasets, errors, new
from dss_jax.teacher.ask import prompts
from dss_jax.teacher.read import parsing


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert new.main(['parcels', '--out=mine']) == 0
  return tmp_path / 'mine', capsys.readouterr().out


def test_it_registers_what_its_rows_prompt_and_answers_have(folder, monkeypatch):
  path, _ = folder
  monkeypatch.syspath_prepend(str(path))
  monkeypatch.delitem(sys.modules, 'my_tasks', raising=False)  # Of other tests.
  cli.import_quietly('my_tasks')
  del sys.modules['my_tasks']
  dataset = datasets.get('parcels')
  rows = {name: list(csv.DictReader((path / f'{name}.csv').open())) for name in ('train', 'test')}
  assert {row['label'] for row in rows['train']} == set(dataset.labels)
  assert not {row['input'] for row in rows['train']} & {row['input'] for row in rows['test']}
  prompt = prompts.load(str(path / 'prompt.toml'))
  assert prompt.dataset == 'parcels'
  assert {shown.label for shown in prompt.demonstrations} == set(dataset.labels)
  said = [json.loads(line) for line in (path / 'answers.jsonl').read_text().splitlines()]
  assert [row['id'] for row in rows['train']] == [one['id'] for one in said]
  found = [parsing.parse_strict(one['completion'], datasets.Example(row['id'], row['input']),
                                dataset)
           for one, row in zip(said, rows['train'])]
  right = [one.label == row['label'] for one, row in zip(found, rows['train'])]
  assert sum(not one.ok for one in found) == 2 and 0.9 < sum(right) / len(right) < 0.98


def test_it_prints_commands_that_there_are(folder):
  path, said = folder
  commands = re.findall(r'^dss (\w+)((?:.*\\\n)*.*)$', said, re.MULTILINE)
  assert [verb for verb, _ in commands] == ['teacher', 'teacher', 'train', 'predict']
  for name in re.findall(r'=(\w+\.(?:csv|jsonl))', said):
    assert (path / name).exists() or name == 'predictions.jsonl'
  assert 'cd mine' in said and '--dataset=parcels' in said and 'tickets' not in said


def test_what_it_refuses(folder):
  for name, what in (('mine', 'exists already'), ('my task', 'letters, digits'),
                     ('1st', 'letters, digits'), ('Übung', 'letters, digits'),
                     ('cqa', 'of the package')):
    with pytest.raises(errors.UserError, match=what):
      new.main([name])
