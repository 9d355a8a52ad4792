"""`dss new`: what it writes is a task, and what it prints runs to a student."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib

import pytest

from dss_jax import datasets, errors, new, records
from dss_jax.teacher.ask import prompts
from dss_jax.teacher.read import parsing

SMALL = ['--gin.TRAIN_STEPS=2', '--gin.WARMUP_STEPS=2', '--gin.EVAL_PERIOD=2',
         '--gin.CHECKPOINT_PERIOD=2']


def commands(printed):
  text = printed.replace('\\\n', ' ')
  return [' '.join(line.split()) for line in text.splitlines() if line.startswith('dss ')]


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
  def made(*words):
    monkeypatch.chdir(tmp_path)
    assert new.main(words) == 0
    return capsys.readouterr().out
  return made


def test_the_folder(made, tmp_path):
  printed = made('mail')
  assert sorted(path.name for path in (tmp_path / 'mail').iterdir()) == [
      'answers.jsonl', 'mail.toml', 'mail_task.py', 'test.jsonl', 'train.jsonl']
  assert {path.name for path in (tmp_path / 'mail').iterdir()} <= set(
      re.findall(r'[\w]+\.\w+', printed))
  seen = [json.loads(line)['input'] for split in ('train', 'test')
          for line in (tmp_path / 'mail' / f'{split}.jsonl').read_text().splitlines()]
  assert len(set(seen)) == len(seen) == 84


@pytest.mark.parametrize('labels', [
    'yes,no', 'C, C++, "a, b",1.0', "it's,a \\ b,x {y}", 'ja,één,日本'])
def test_the_prompt_shows_every_label_and_is_read_back(made, monkeypatch, labels):
  made('mail', f'--labels={labels}')
  prompt = prompts.load('mail/mail.toml')
  monkeypatch.setattr(datasets, '_describe_only', True)
  monkeypatch.setattr(datasets, '_REGISTRY', {})
  runpy.run_path('mail/mail_task.py')
  dataset = datasets.get('mail')
  assert dataset.completion.answer_phrase == prompt.completion.answer_phrase
  assert [shown.label for shown in prompt.demonstrations] == list(dataset.labels)
  for shown in prompt.demonstrations:
    written = prompt.reply(shown).removeprefix(prompt.lead_in)
    found = parsing.parse_strict(written, datasets.Example('x', shown.input), dataset)
    assert (found.rationale, found.label) == (shown.rationale, shown.label)


@pytest.mark.parametrize('words, message', [
    (['my-task'], "'my-task' is no name of a task"), (['1st'], 'is no name of a task'),
    (['cqa'], "'cqa' is a task of the package"), (['toy'], "'toy' is a task of the package"),
    (['mail', '--labels=yes'], '--labels=yes: give two or more'),
    (['mail', '--labels=a,,b'], '--labels, entry 2, is blank'),
    (['mail', '--labels=a,a'], "--labels: 'a' is there twice"),
    (['there'], 'there exists: give another --folder'),
])
def test_what_is_refused(tmp_path, monkeypatch, words, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'there').mkdir()
  with pytest.raises(errors.UserError, match=message):
    new.main(words)
  assert [path.name for path in tmp_path.iterdir()] == ['there']


@pytest.mark.slow
def test_the_printed_commands_make_a_student(made, tmp_path):
  printed = made('mail')
  assert 'cd mail\n' in printed
  *four, live = commands(printed)
  assert [one.split()[1] for one in four] == ['teacher', 'teacher', 'train', 'predict']
  for one in (*four, f'{live} --show_prompt'):
    words = [*shlex.split(one)[1:], *SMALL * (' train ' in one)]
    done = subprocess.run(
        [sys.executable, '-m', 'dss_jax.cli', *words], cwd=tmp_path / 'mail', text=True,
        capture_output=True, timeout=600,
        env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=1'})
    assert done.returncode == 0, f'{one}\n{done.stdout}\n{done.stderr}'
  assert 'Text 1002, which is about other.' in done.stdout
  for row in records.read_records(str(tmp_path / 'mail' / 'records'), 'mail', 'train'):
    assert row.parse_status == 'ok' and row.label == row.teacher_label and row.rationale
  assert len((tmp_path / 'mail' / 'predictions.jsonl').read_text().splitlines()) == 12
  assert tomllib.loads((tmp_path / 'mail' / 'mail.toml').read_text())['dataset'] == 'mail'
