"""`python -m dss_jax.new`: a folder to start a task of your own from, and the commands to go on."""

import argparse
import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence

from dss_jax import cli, errors, fields, files
from dss_jax.teacher.ask import prompts

_DESCRIPTION = """\
Writes a folder with what a task of your own needs, to be changed to yours: its labels, the prompt
of its teacher, and rows with answers of a teacher that is not asked. Prints the commands that make
a student of it; they run as they are.
"""
_ROWS = 24  # for each label; 10 % of all become the validation split
_TASK = '''\
"""The task {name}: what a label can be. Commands find it by --import={module}."""

from dss_jax import data

data.register('{name}', labels={labels!r})
'''
_PROMPT = '''\
# What the teacher is asked: docs/your_task.md explains it, --show_prompt shows it.
version = 1
dataset = '{name}'
instruction = \'\'\'
You sort texts into {all}.
Explain in one sentence what the text is about, then name the label.

Write one line in this form and nothing else:
Explanation: <explanation> So the answer is <label>.\'\'\'

[completion]
question = 'Text: {{input}}'
answer = 'Explanation: {{rationale}} So the answer is {{label}}.'
answer_phrase = 'So the answer is'
label_kind = 'class'
stop = ['Text:']
'''
_DEMONSTRATION = '''
[[demonstrations]]
input = {input}
rationale = {rationale}
label = {label}
'''
_COMMANDS = '''\
{folder} has {module}.py (the labels), {name}.toml (the prompt), train.jsonl, test.jsonl (rows)
and answers.jsonl (a teacher's, to train.jsonl). Change them to yours, or first see it run:

cd {folder}
dss teacher --import={module} --dataset={name} --split=train --inputs=train.jsonl \\
    --completions=answers.jsonl --records_dir=records
dss teacher --import={module} --dataset={name} --split=test --inputs=test.jsonl --client=none \\
    --records_dir=records
dss train --import={module} --gin_file=gin/native/dss.gin --gin.DATASET={name} \\
    --gin_file=gin/native/tiny.gin --gin.RECORDS_DIR=records --gin.VOCABULARY=bytes \\
    --gin.MODEL_DIR=runs/{name}
dss predict --model_dir=runs/{name} --input=test.jsonl --output=predictions.jsonl --rationale

A live teacher, in place of answers.jsonl; --show_prompt shows what it is sent, --dry_run the cost:

dss teacher --import={module} --dataset={name} --split=train --inputs=train.jsonl \\
    --prompt={name}.toml --client=openai --base_url=http://localhost:8000/v1 --model=NAME \\
    --records_dir=records
'''


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the folder, prints the commands.

  Raises:
    UserError: a name that is no name, or another task's; labels that are none; the folder exists.
  """
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  given = next(csv.reader([args.labels], skipinitialspace=True))
  labels = fields.label_set([label.strip() for label in given], '--labels')
  folder = args.folder or args.name
  _check(args.name, labels, folder)
  names = {'name': args.name, 'module': f'{args.name}_task'}
  with files.whole_folder(folder) as made:
    for file, text in _files(labels, **names).items():
      (made / file).write_text(text, encoding='utf-8')
  print(_COMMANDS.format(folder=shlex.quote(folder), **names), end='')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog=cli.program('new'), description=_DESCRIPTION,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('name', metavar='NAME', help='of the task: letters, digits, underscores')
  parser.add_argument('--labels', default='billing,bug,other', metavar='A,B,...',
                      help='what an answer can be (default: %(default)s)')
  parser.add_argument('--folder', metavar='DIR', help='to make (default: NAME)')
  return parser


def _check(name: str, labels: Sequence[str], folder: str) -> None:
  if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', name):
    raise errors.UserError(f'{name!r} is no name of a task: use letters, digits and underscores')
  if name == 'toy' or os.path.exists(prompts.path_of(name)):
    raise errors.UserError(f'{name!r} is a task of the package already: take another name')
  if len(labels) < 2:
    raise errors.UserError(f'--labels={labels[0]}: give two or more, --labels=yes,no')
  if os.path.exists(folder):
    raise errors.UserError(f'{folder} exists: give another --folder')


def _files(labels: Sequence[str], name: str, module: str) -> dict[str, str]:
  """File name -> contents."""
  train, test = _rows(labels, 0, _ROWS), _rows(labels, _ROWS, 4)
  shown = ({'input': _text(label, 1000 + i), 'rationale': _why(label), 'label': label}
           for i, label in enumerate(labels))
  quoted = ({key: json.dumps(value, ensure_ascii=False) for key, value in one.items()}
            for one in shown)
  return {
      f'{module}.py': _TASK.format(name=name, module=module, labels=tuple(labels)),
      f'{name}.toml': _PROMPT.format(name=name, all=', '.join(labels[:-1]) + f' or {labels[-1]}')
      + ''.join(_DEMONSTRATION.format(**one) for one in quoted),
      'train.jsonl': _lines(train), 'test.jsonl': _lines(test),
      'answers.jsonl': _lines([{'id': row['id'], 'rationale': _why(row['label']),
                                'label': row['label']} for row in train])}


def _rows(labels: Sequence[str], first: int, count: int) -> list[dict[str, str]]:
  return [{'id': f'{i}-{j}', 'input': _text(label, i), 'label': label}
          for i in range(first, first + count) for j, label in enumerate(labels)]


def _text(label: str, number: int) -> str:
  return f'Text {number}, which is about {label}.'


def _why(label: str) -> str:
  return f'It speaks of {label}.'


def _lines(rows: Sequence[dict[str, str]]) -> str:
  return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


if __name__ == '__main__':
  cli.run(main)
