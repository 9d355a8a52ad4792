"""`python -m dss_jax.quickstart`: the whole method on a toy task, in minutes on a CPU.

Makes the toy set, runs the teacher job on it with a scripted teacher, trains standard
fine-tuning and Distilling Step-by-Step on the same inputs for the same steps, and prints test
accuracy by method and training-set size over three seeds. Run it again to continue.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence

import tqdm

from dss_jax import cli, valid

METHODS = {'standard': 'gin/native/finetune.gin', 'DSS': 'gin/native/dss.gin'}
NUM_FACTS = 20
TRAIN_INPUTS = 800
FRACTIONS = (0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
SPLITS = {'train': (TRAIN_INPUTS, 1), 'validation': (200, 2), 'test': (500, 3)}  # rows, data seed


@dataclasses.dataclass(frozen=True)
class Cell:
  """One training run of the table."""

  method: str
  fraction: float
  seed: int

  @property
  def inputs(self) -> int:
    return round(TRAIN_INPUTS * self.fraction)

  def model_dir(self, out: str) -> str:
    return os.path.join(out, 'runs', f'{self.method}-{self.inputs}-seed{self.seed}')


def cells() -> list[Cell]:
  return [Cell(method, fraction, seed)
          for fraction in FRACTIONS for seed in SEEDS for method in METHODS]


def main(argv: Sequence[str] | None = None) -> int:
  """Data, teacher job, training runs, table and picture."""
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  valid.whole(1, **{'--steps': args.steps, '--processes': args.processes})
  began = time.monotonic()
  cli.import_quietly('dss_jax.tasks')
  records_dir, vocabulary = make_records(args.out)
  if args.data_only:
    print(f'--gin.RECORDS_DIR={records_dir} --gin.VOCABULARY={vocabulary}')
    return 0
  accuracy = run_cells(args.out, records_dir, vocabulary, args.steps, args.processes)
  from dss_jax import quickstart_report
  print(quickstart_report.table(accuracy, args.steps))
  picture = os.path.join(args.out, 'quickstart.png')
  quickstart_report.plot(accuracy, args.steps, picture)
  print(f'\npicture: {picture}\nruns, metrics and checkpoints: {os.path.join(args.out, "runs")}\n'
        f'took {time.monotonic() - began:.0f} s')
  return 0


def make_records(out: str) -> tuple[str, str]:
  """Runs the teacher job on the three splits and trains a word vocabulary on the records."""
  from dss_jax import vocab
  from dss_jax.tasks import toy
  from dss_jax.teacher import job
  from dss_jax.teacher.ask import clients
  records_dir = os.path.join(out, 'records')
  client = clients.ScriptedClient(toy.teacher)
  for split, (rows, seed) in SPLITS.items():
    examples = list(toy.make_examples(rows, seed, NUM_FACTS))
    job.run(toy.DATASET, split, examples, client, 'strict', records_dir, num_shards=4,
            holdout='none')
  vocabulary = os.path.join(out, 'words.model')
  vocab.train(records_dir, vocabulary, vocab_size=128, model_type='word')
  return records_dir, vocabulary


def run_cells(
    out: str, records_dir: str, vocabulary: str, steps: int, processes: int
) -> dict[Cell, float]:
  """Test accuracy (percent) of every cell, `processes` runs at a time, one thread each."""
  os.makedirs(os.path.join(out, 'runs'), exist_ok=True)
  accuracy = {}
  context = multiprocessing.get_context('spawn')
  with _environment(XLA_FLAGS='--xla_cpu_multi_thread_eigen=false '
                              'intra_op_parallelism_threads=1',
                    JAX_PLATFORMS='cpu', TQDM_DISABLE='1', TF_ENABLE_ONEDNN_OPTS='0',
                    JAX_COMPILATION_CACHE_DIR=os.path.join(out, 'compiled'),
                    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0'), \
       concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    futures = {pool.submit(train_cell, cell, out, records_dir, vocabulary, steps): cell
               for cell in cells()}
    done = concurrent.futures.as_completed(futures)
    for future in (bar := tqdm.tqdm(done, total=len(futures), unit='run', desc='training')):
      cell = futures[future]
      accuracy[cell] = future.result()
      bar.set_postfix_str(f'{cell.method}, {cell.inputs} inputs: {accuracy[cell]:.1f} %')
  return accuracy


def train_cell(
    cell: Cell, out: str, records_dir: str, vocabulary: str, steps: int
) -> float:
  """Trains one cell (or continues it); its output goes to `<model_dir>.log`."""
  model_dir = cell.model_dir(out)
  with open(f'{model_dir}.log', 'a') as log:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
  import dss_jax.tasks  # noqa: F401, registers the toy tasks
  from dss_jax.train import gin_config, loop
  config = gin_config.parse([METHODS[cell.method]], [
      'DATASET=toy', f'MODEL_DIR={model_dir}', f'RECORDS_DIR={records_dir}',
      f'VOCABULARY={vocabulary}', f'TRAIN_STEPS={steps}', f'WARMUP_STEPS={min(50, steps)}',
      f'TRAIN_FRACTION={cell.fraction}', f'TRAIN_FRACTION_SEED={cell.seed}', f'SEED={cell.seed}'])
  return loop.train(config, gin_config.resolved()).test['accuracy']


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
  """Sets variables for the worker processes that are started inside."""
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog=cli.program('quickstart'), description=__doc__.partition(': ')[2],
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', default='quickstart', metavar='DIR',
                      help='where everything is written (default: ./quickstart)')
  parser.add_argument('--data_only', action='store_true',
                      help='make the records and the vocabulary, as for gin/sweeps/toy.gin')
  parser.add_argument('--steps', type=int, default=300, help='steps of each run (default: 300)')
  parser.add_argument('--processes', type=int, default=min(4, os.cpu_count() or 1), metavar='N',
                      help='runs at a time (default: the number of cores, at most 4)')
  return parser


if __name__ == '__main__':
  cli.run(main)
