"""Runs the teacher's command line as a user would, against the test server."""

import json
import os
import pathlib
import re
import subprocess
import sys

from dss_jax import records
from dss_jax.tasks import cqa
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import prompts

KEY = 'sk-test-0123456789abcdef'
PROMPT = prompts.load(prompts.path_of('cqa'))


def rows(n):
  return [{'id': f'q{i}', 'question': f'What is {i}?', 'choices': ['one', 'two', 'many'],
           'answer': 'many'} for i in range(n)]


def question(i):
  """What the server is asked for row i."""
  return PROMPT.ask(cqa.DATASET.read_row(rows(i + 1)[i], i).input)


def answer(asked):
  found = re.search(r'What is (\d+)\?', asked)
  number = found[1] if found else 'of a demonstration'  # A job may ask one to find a fault.
  return f'A: Number {number} is a number. So the answer is (c) many.\n\nQ: What next?'


def write_inputs(folder, n):
  path = pathlib.Path(folder) / 'in.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows(n)))
  return path


def command(teacher, folder, *flags):
  """The words of a job on `folder/in.jsonl` that writes `folder/records`."""
  return [sys.executable, '-m', 'dss_jax.teacher', '--client=openai', '--model=teacher',
          f'--base_url={teacher.base_url}', '--dataset=cqa', '--split=train',
          f'--inputs={folder}/in.jsonl', f'--records_dir={folder}/records', '--num_shards=4',
          *flags]


def environment(**more):
  return {**os.environ, 'OPENAI_API_KEY': KEY, **more}


def run(teacher, folder, *flags, timeout=600, **more):
  """The finished process; asserts that the key is nowhere."""
  done = subprocess.run(command(teacher, folder, *flags), capture_output=True, text=True,
                        check=False, timeout=timeout, env=environment(**more))
  assert KEY not in done.stdout + done.stderr
  assert not files_with(KEY, folder)
  assert 'Traceback' not in done.stderr, done.stderr
  return done


def here(folder, *flags):
  """The exit code of a job on `folder/in.jsonl`, all of it the test split, in this process."""
  return teacher_main.main([
      '--dataset=cqa', '--split=test', f'--inputs={folder}/in.jsonl',
      f'--records_dir={folder}/records', *flags])


def start(teacher, folder, *flags):
  return subprocess.Popen(command(teacher, folder, *flags), env=environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def files_with(text, folder):
  return [path for path in pathlib.Path(folder).rglob('*')
          if path.is_file() and text.encode() in path.read_bytes()]


def output(folder):
  """name -> bytes of everything a reader of the records sees."""
  folder = pathlib.Path(folder) / 'records'
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in sorted([*folder.glob('*.tfrecord-*'), folder / 'manifest.json',
                              *folder.glob('quarantine/*')])}


def read(folder, name='cqa', splits=('train', 'validation')):
  return {row.id: row for split in splits
          for row in records.read_records(f'{folder}/records', name, split, verify=True)}
