"""`dss quickstart`: the whole method on a toy task, in minutes on a CPU.

Makes the toy set, runs the teacher job on it with a scripted teacher, and then is a sweep and its
report like any other: standard fine-tuning and Distilling Step-by-Step on the same inputs for the
same steps, at three training-set sizes, three seeds each. Run it again to continue.
"""

import argparse
import functools
import os
import shutil
import time
from collections.abc import Sequence

from dss_jax import arguments, cli, files, valid

NUM_FACTS = 20
SPLITS = {'train': (800, 1), 'validation': (200, 2), 'test': (500, 3)}  # rows, data seed
NOTE = """
The task was chosen to show the mechanism: the rationale names the three facts that matter among
20. Label-only training either finds the rule or stays at chance (50 %), hence every seed is
printed. It says nothing about real data."""


def main(argv: Sequence[str] | None = None) -> int:
  """Data, teacher job, sweep, report."""
  args = arguments.parse(parser(), argv)
  valid.whole(1, **{
      '--steps': args.steps, '--processes': args.processes, '--samples': args.samples})
  files.check_writable('--out', args.out)
  began = time.monotonic()
  cli.import_quietly('dss_jax.tasks')
  records_dir, vocabulary = make_records(args.out, args.samples)
  if args.data_only:
    print(f'--gin.RECORDS_DIR={records_dir} --gin.VOCABULARY={vocabulary}')
    return 0
  from dss_jax.experiments import report, sweep
  settings = {'toy': {'RECORDS_DIR': records_dir, 'VOCABULARY': vocabulary,
                      'TRAIN_STEPS': args.steps, 'WARMUP_STEPS': min(50, args.steps)}}
  code = sweep.main([
      '--gin_file=gin/sweeps/toy.gin', f'--out={args.out}', f'--slots={args.processes}',
      f'--gin.SETTINGS_FOR={settings!r}', "--gin.METHODS=('finetune', 'dss')"])
  if code:
    return code
  report.main([args.out, f'--title=Distilling Step-by-Step on the toy task, {args.steps} steps'])
  picture = os.path.join(args.out, 'quickstart.png')
  shutil.copyfile(os.path.join(args.out, 'figures', 'toy-recipe-data.png'), picture)
  print(f'picture: {picture}\n{NOTE}\n\ntook {time.monotonic() - began:.0f} s')
  return 0


def make_records(out: str, samples: int = 1) -> tuple[str, str]:
  """Runs the teacher job on the three splits and trains a word vocabulary on the records.

  Args:
    out: folder of both.
    samples: completions of an input that are kept; of several some are wrong.
  """
  from dss_jax import vocab
  from dss_jax.tasks import toy
  from dss_jax.teacher import job
  from dss_jax.teacher.ask import clients
  records_dir = os.path.join(out, 'records')
  client = clients.ScriptedClient(
      toy.teacher if samples == 1 else functools.partial(toy.unsure_teacher, samples=samples))
  for split, (rows, seed) in SPLITS.items():
    examples = list(toy.make_examples(rows, seed, NUM_FACTS))
    job.run(toy.DATASET, split, examples, client, 'strict', records_dir, num_shards=4,
            holdout='none', keep_samples=samples > 1)
  vocabulary = os.path.join(out, 'words.model')
  vocab.train(records_dir, vocabulary, vocab_size=128, model_type='word')
  return records_dir, vocabulary


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('quickstart'), description=__doc__.partition(': ')[2],
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', default='quickstart', metavar='DIR',
                      help='where everything is written (default: ./quickstart)')
  parser.add_argument('--data_only', action='store_true',
                      help='make the records and the vocabulary, as for gin/sweeps/toy.gin')
  parser.add_argument('--samples', type=int, default=1, metavar='N',
                      help='rationales of an input, of an unsure teacher where there are several: '
                           'a fifth is wrong (default: 1, which is right)')
  parser.add_argument('--steps', type=int, default=300, help='steps of each run (default: 300)')
  parser.add_argument('--processes', type=int, default=min(4, os.cpu_count() or 1), metavar='N',
                      help='runs at a time (default: the number of cores, at most 4)')
  return parser


if __name__ == '__main__':
  cli.run(main)
