"""`dss sweep`: a grid of runs, resumable, one line of results each."""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from dss_jax import arguments, cli, errors, files
from dss_jax.experiments import grid, results, workers

_DESCRIPTION = """\
Train every run of a grid: methods x datasets x training fractions x model sizes x labels x seeds.
Each is an ordinary run in OUT/runs/. The same command again skips what is finished and continues
what is not.
"""
_EPILOG = """\
examples:
  # The paper's claim in miniature, no data needed: the first command makes it
  dss quickstart --data_only
  dss sweep --gin_file=gin/sweeps/toy.gin --out=toy --slots=2
  dss report toy

  # Less data: DSS and fine-tuning at five fractions of CommonsenseQA, three seeds
  dss sweep --gin_file=gin/sweeps/fractions.gin --out=fractions \\
      --gin.RECORDS_DIR=records --gin.INITIAL_CHECKPOINT_PATH=google/t5-v1_1-base

  # The second of four machines that share OUT
  dss sweep ... --shard=1/4

--gin.NAME=VALUE sets a macro of the grid (gin/sweeps/grid.gin: DATASETS, METHODS, LABELS,
FRACTIONS, MODELS, ALPHAS, SEEDS, ...) or, if it is none of those, a setting of every run, as in
`dss train`. OUT holds results.jsonl, failed.json, and in runs/ and logs/ a folder
and a log per run.

exit codes: 0 all runs are finished; 1 some failed, they are listed; 2 an error of the user's;
75 and 130 told to stop: the runs are saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Plans, trains what is missing, says what became of it."""
  args, sweep = _read_command(argv)
  cli.import_quietly('dss_jax.experiments.plan')
  from dss_jax import data
  from dss_jax.experiments import plan
  data.configure()  # What is described so far, is registered.
  runs = plan.make(sweep, args.out, args.modules)
  shard, shards = args.shard
  if args.dry_run:
    print('\n'.join(run.command for run in runs[shard::shards]))
    return 0
  with files.lock(args.out, f'sweep-{shard}-of-{shards}'):
    mine = _Sweep(args.out, runs[shard::shards], args)
    mine.finished()  # Refuses results of other settings, before anything is written.
    plan.describe(runs, sweep, args.out)
    return mine.work()


class _Sweep:
  """The runs of this machine."""

  def __init__(self, out: str, runs: Sequence[Any], args: argparse.Namespace):
    self._args = args
    self._out = out
    self._path = os.path.join(out, results.file_name(*args.shard))
    self._runs = {run.cell.key: run for run in runs}
    self._stopped = 0
    self._failed: dict[str, str] = {}

  def work(self) -> int:
    finished = self.finished()
    to_do = {key: run.request(self._out) for key, run in self._runs.items()
             if key not in finished}
    print(f'{len(self._runs)} runs, {len(finished)} finished before, results in {self._path}',
          flush=True)
    if to_do:
      self._train(to_do, len(finished))
    files.write(os.path.join(self._out, 'failed.json'), json.dumps(self._failed, indent=2) + '\n')
    for key, reason in self._failed.items():
      print(f'failed: {key}: {reason}')
    done = len(self.finished())
    print(f'{done} of {len(self._runs)} runs are finished')
    if done == len(self._runs):
      print(f'next: dss report {self._out}')
    return self._stopped or int(bool(self._failed))

  def finished(self) -> set[str]:
    """Keys of the runs that have a result; UserError if one had other settings."""
    if not os.path.exists(self._path):
      return set()
    rows = results.read_lines(self._path)
    for row in rows:
      run = self._runs.get(row.get('key', ''))
      changed = _difference(row.get('settings') or {}, run.settings) if run else ''
      if run and changed:
        raise errors.UserError(
            f'{self._path}: {run.cell.key} was trained with other settings '
            f'({changed}): give another --out')
    return {row['key'] for row in rows if row.get('key') in self._runs}

  def _train(self, to_do: Mapping[str, dict[str, Any]], done: int) -> None:
    pool = workers.Workers(self._args.slots, _environments(self._args))
    handlers = {number: signal.signal(number, lambda number, _: self._stop(pool, number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      bar = tqdm.tqdm(total=len(self._runs), initial=done, unit='run', desc='sweep')
      for key, answer in pool.run(to_do):
        self._take(key, answer, bar)
      bar.close()
    finally:
      pool.close()
      for number, handler in handlers.items():
        signal.signal(number, handler)

  def _take(self, key: str, answer: Mapping[str, Any], bar: tqdm.tqdm) -> None:
    if 'result' in answer:
      row = self._runs[key].row(answer['result'])
      results.append(self._path, row)
      accuracy = row['test'].get('accuracy')
      bar.set_postfix_str(key if accuracy is None else f'{key}: {accuracy:.1f} %')
      bar.update()
    elif 'error' in answer:
      self._failed[key] = answer['error']
      bar.write(f'failed: {key}: {answer["error"]}', file=sys.stderr)

  def _stop(self, pool: workers.Workers, number: int) -> None:
    from dss_jax.train import preemption
    self._stopped = preemption.INTERRUPTED if number == signal.SIGINT else preemption.RESTART_ME
    print('\nstopping: the runs save', file=sys.stderr, flush=True)
    pool.stop(number)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """'steps: 300, now 400'; '' for the same run."""
  from dss_jax.train import identity
  changed = [f'{name}: {was}, now {then}'
             for name, (was, then) in identity.differences(before, now).items()]
  return '; '.join(changed[:3])


def _environments(args: argparse.Namespace) -> list[dict[str, str]]:
  """Of each slot. Side by side on a CPU, every run has one thread."""
  shared = {'TQDM_DISABLE': '1', 'TF_ENABLE_ONEDNN_OPTS': '0',
            'JAX_COMPILATION_CACHE_DIR': os.path.abspath(os.path.join(args.out, 'compiled')),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  if args.slots > 1 and not args.env:
    shared |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false '
                                                    'intra_op_parallelism_threads=1'}
  own = [dict(one.replace('{slot}', str(slot)).split('=', 1) for one in args.env)
         for slot in range(args.slots)]
  return [{**os.environ, **shared, **one} for one in own]


def _read_command(argv: Sequence[str] | None) -> tuple[argparse.Namespace, grid.Sweep]:
  args, bindings = arguments.parse_with_gin(parser(), argv)
  if files.is_remote(args.out):
    raise errors.UserError(f'--out={args.out}: give a local (or mounted) folder')
  for one in args.env:
    if '=' not in one:
      raise errors.UserError(f'--env={one}: write NAME=VALUE')
  cli.import_tasks(args.modules)
  from dss_jax.experiments import sweep_config
  sweep = sweep_config.parse(args.gin_file, bindings)
  sweep_config.check(sweep, args.out)
  if not args.dry_run:
    files.check_writable('--out', args.out)
  return args, sweep


def _shard(text: str) -> tuple[int, int]:
  """'1/4' -> (1, 4)."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise argparse.ArgumentTypeError(f'{text!r}: write I/N, I from 0 to N-1')
  return int(match[1]), int(match[2])


def _slots(text: str) -> int:
  if not text.isdigit() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r}: at least 1')
  return int(text)


def parser() -> argparse.ArgumentParser:
  """All flags but those of gin."""
  parser = argparse.ArgumentParser(
      prog=cli.program('sweep'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--gin_file', action='append', required=True, metavar='FILE', help='of the sweep')
  add('--out', required=True, metavar='DIR', help='where everything is written')
  add('--gin.NAME', dest='_shown_only', metavar='VALUE', help='see below')
  add('--slots', type=_slots, default=1, metavar='K',
      help='runs at a time. 1 (default) has all devices; more share the CPU, a thread each')
  add('--env', action='append', default=[], metavar='NAME=VALUE',
      help="of the runs; {slot} counts from 0: --env='CUDA_VISIBLE_DEVICES={slot}' gives each of "
           '--slots=8 a GPU')
  add('--shard', type=_shard, default=(0, 1), metavar='I/N',
      help='only every N-th run, for N machines that share OUT')
  add('--import', dest='modules', action='append', default=[], metavar='MODULE',
      help='import a module that registers tasks of your own; may be repeated')
  add('--dry_run', action='store_true', help='print the command of every run, and stop')
  return parser


if __name__ == '__main__':
  cli.run(main)
