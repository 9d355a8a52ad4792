"""`python -m dss_jax.teacher`: a teacher's rationales and labels become records."""

import argparse
import os
from collections.abc import Sequence

from dss_jax import cli, datasets, errors
from dss_jax.teacher import clients

_DESCRIPTION = """\
Takes what a large language model (the teacher) wrote about each input, cuts it into a rationale
and a label, and writes both, with the input and its gold label, as TFRecords to train on.
Prints how many rows parsed, why the others did not, and how often the teacher was right."""

_EPILOG = """\
examples:
  # completions that were saved as JSON lists, one string per input row
  python -m dss_jax.teacher --dataset=cqa --split=train --inputs=cqa_train.json \\
      --completions='palm/train_CoT_*.json' --records_dir=records

  # standard fine-tuning needs no teacher
  python -m dss_jax.teacher --client=none --dataset=svamp --split=test \\
      --inputs=svamp_test.json --records_dir=records

  # what an LLM would be asked for the first input: instruction, demonstrations, question
  python -m dss_jax.teacher --show_prompt --dataset=cqa --split=train --inputs=cqa_train.json

  # a dataset of your own: my_tasks.py calls dss_jax.data.register('mine', ...)
  python -m dss_jax.teacher --import=my_tasks --dataset=mine --split=train \\
      --inputs=mine.jsonl --completions=mine_completions.jsonl --records_dir=records

--inputs holds JSON lines (or one JSON list); a dataset of your own needs id, input and, where
known, label. --completions are JSON lists of strings, in the order of the inputs (files in
natural order, x_10 after x_9), or JSON lines {"id": ..., "completion": ...}, joined by id.
Where a dataset has no validation split, 10 % of train is written as one."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the job; UserError for what the user can fix, with nothing written."""
  flags = _parser().parse_args(argv)
  if flags.show_prompt:
    print(_request(flags))
    return 0
  client = clients.from_flags(flags)
  records_dir = flags.records_dir or os.environ.get('DSS_DATA_DIR')
  if not records_dir:
    raise errors.UserError('where to? Set --records_dir=DIR, or DSS_DATA_DIR in the environment')
  # Late, because these load TensorFlow, for which `--help` should not wait.
  cli.import_quietly('dss_jax.tasks', *flags.imports)  # They register the datasets.
  from dss_jax.teacher import inputs, job, report
  dataset = datasets.get(flags.dataset)
  source = inputs.read_inputs(flags.inputs, dataset)
  outcome = job.run(
      dataset, flags.split, source.examples, client, flags.parser, records_dir,
      num_shards=flags.num_shards, holdout=flags.holdout,
      provenance={'inputs': {'name': os.path.basename(source.path), 'sha256': source.sha256,
                             'rows': len(source.examples)}})
  print(report.render(outcome))
  return 0


def _request(flags: argparse.Namespace) -> str:
  """What the teacher would be asked for the first input, and which prompt it is."""
  cli.import_quietly('dss_jax.tasks', *flags.imports)
  from dss_jax.teacher import inputs, prompts
  dataset = datasets.get(flags.dataset)
  path = flags.prompt or prompts.path_of(dataset.name)
  prompt = prompts.load(path)
  first = inputs.read_inputs(flags.inputs, dataset).examples[0]
  return '\n'.join([
      prompt.as_text(first.input), '',
      f'# {path}: version {prompt.version}, {len(prompt.demonstrations)} demonstrations, sha256 '
      f'{prompt.sha256()}; stops at {", ".join(map(repr, prompt.stop)) or "nothing"}'])


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog=cli.program('teacher'), description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--client', default='recorded', metavar='NAME',
      help=f'where completions come from: {", ".join(clients.CLIENTS)} (default: recorded)')
  add('--dataset', required=True, metavar='D',
      help='cqa, svamp, asdiv, anli, esnli, toy, or one of your own (--import)')
  add('--split', required=True, help='train, validation or test')
  add('--inputs', required=True, metavar='FILE', help='the inputs with their gold labels')
  add('--completions', metavar="'GLOB'", help='what the teacher wrote (quote the pattern)')
  add('--parser', default='strict', metavar='NAME',
      help='strict: repairs slips, gives each failure a reason (default); '
      "released: row for row what the paper's released code reads")
  add('--show_prompt', action='store_true',
      help='print the request for the first input, and stop')
  add('--prompt', metavar='FILE',
      help='the prompt (default: tasks/prompts/<dataset>.toml of the package)')
  add('--records_dir', metavar='DIR', help='where the records go (default: $DSS_DATA_DIR)')
  add('--num_shards', type=int, default=16, metavar='N', help='files per set (default: 16)')
  add('--holdout', default='auto', metavar='HOW',
      help='auto: 10 %% of train becomes validation where the dataset has none (default); '
      'none: keep all of train')
  add('--teacher_model', metavar='NAME',
      help='who wrote the completions, for the records (default: recorded)')
  add('--import', dest='imports', action='append', default=[], metavar='MODULE',
      help='a Python module that registers a dataset; may repeat')
  return parser


if __name__ == '__main__':
  cli.run(main)
