"""`dss new NAME`: a folder to begin a task of your own with, and what to do there.

It holds everything that the commands printed need: a module that registers the dataset, inputs with
gold labels, a teacher's answers, and a prompt to ask a teacher yourself. Try it as it is, then put
your own rows, labels and prompt in the place of its example.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from importlib import resources

from dss_jax import arguments, cli, errors, files
from dss_jax.teacher.ask import prompts

_FILES = {  # in the package -> in the new folder
    'my_tasks.py.txt': 'my_tasks.py', 'prompt.toml': 'prompt.toml', 'train.csv': 'train.csv',
    'test.csv': 'test.csv', 'answers.jsonl': 'answers.jsonl'}
_NEXT = """\
{folder}/ holds an example with three labels: my_tasks.py (what a row is), train.csv and test.csv,
answers.jsonl (what a teacher said), prompt.toml (to ask one). Next, in that folder:

cd {folder}
dss teacher --import=my_tasks --dataset={name} --split=train --inputs=train.csv \\
    --completions=answers.jsonl --records_dir=records
dss teacher --client=none --import=my_tasks --dataset={name} --split=test --inputs=test.csv \\
    --records_dir=records
dss train --import=my_tasks --method=dss --dataset={name} --gin_file=gin/native/tiny.gin \\
    --gin.RECORDS_DIR=records --gin.VOCABULARY=bytes --gin.TRAIN_STEPS=200 \\
    --gin.EVAL_PERIOD=50 --gin.EVAL_METRIC=loss --gin.MODEL_DIR=run
dss predict --model_dir=run --input=test.csv --output=predictions.jsonl --rationale

To ask a live teacher: --client=openai --base_url=URL --model=NAME --prompt=prompt.toml in place of
--completions; --show_prompt prints what it is sent, --dry_run what that costs.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the folder and prints the commands.

  Raises:
    UserError: a name that is none, or another dataset's; the folder exists or cannot be made.
  """
  args = arguments.parse(parser(), argv)
  folder = args.out or args.name
  if not (args.name.isidentifier() and args.name.isascii()):  # Of SeqIO tasks, gin macros, files.
    raise errors.UserError(f'{args.name!r}: use letters, digits and underscores, such as my_task')
  if args.name == 'toy' or os.path.exists(prompts.path_of(args.name)):
    raise errors.UserError(f'{args.name!r} is a dataset of the package: take another name')
  if os.path.exists(folder):
    raise errors.UserError(f'{folder} exists already: give another name, or --out=DIR')
  with files.whole_folder(folder) as made:
    for source, target in _FILES.items():
      text = resources.files('dss_jax').joinpath('starter', source).read_text(encoding='utf-8')
      (made / target).write_text(text.replace('NAME', args.name), encoding='utf-8')
  print(_NEXT.format(folder=shlex.quote(folder), name=args.name), end='')
  return 0


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('new'), description=__doc__.partition(': ')[2],
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('name', metavar='NAME', help='of the dataset: --dataset=NAME, dss_NAME')
  parser.add_argument('--out', metavar='DIR', help='the folder (default: ./NAME)')
  return parser


if __name__ == '__main__':
  cli.run(main)
