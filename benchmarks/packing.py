"""How full packed rows are, what packing costs, and how many processes feed which accelerators.

    python benchmarks/packing.py --task=dss_cqa --records_dir=records --vocabulary=cqa.model \\
        --chips=v5e:4x4,v5p:2x4x4

Prints the rows that TASK_FEATURE_LENGTHS = 'auto' comes to, or those that are given; for our packer
and SeqIO's, one after the other over `--epochs`, the share of input and target positions that hold
a token, the inputs in a batch, and the examples per second that this process reads, tokenizes and
packs. `--chips`: the examples per second that slices eat at `--use` of their peak, by
`models/flops.py`, in the T5 v1.1 of `--model`.
"""

import argparse
import os
import time

import numpy as np

from dss_jax import cli


def main() -> int:
  """Packs the same epochs with both packers, one after the other."""
  args = _arguments()
  cli.import_quietly('dss_jax.tasks')
  import seqio

  from dss_jax import data
  from dss_jax.data import packed_dataset, pipeline, row_lengths
  chosen = {'vocabulary': args.vocabulary} if args.vocabulary else {}
  data.configure(records_dir=args.records_dir, **chosen)
  limits = {'inputs': 1024, 'targets': 256}
  given = {'inputs': args.inputs_length, 'targets': args.targets_length}
  asked = row_lengths.Asked(given if all(given.values()) else 'auto', args.batch_size or 'auto')
  began = time.perf_counter()
  rows = row_lengths.measure(args.task, limits, asked)
  print(f'{args.task}: {rows} (measured in {time.perf_counter() - began:.1f} s)')
  print(f"{'packer':<8}{'rows':>8}{'inputs':>9}{'targets':>9}{'inputs a batch':>16}"
        f"{'examples/s':>12}")
  task, cut = pipeline.get_mixture_or_task(args.task), {
      side: min(limit, rows.lengths[side]) for side, limit in limits.items()}
  per_input = _examples_of_an_input(task, cut, packed_dataset.SAME_INPUT)
  for name, converter in (('ours', data.DssFeatureConverter(pack=True)),
                          ('seqio', seqio.EncDecFeatureConverter(pack=True))):
    examples = task.get_dataset(cut, split='train', shuffle=True, seed=0, num_epochs=args.epochs)
    began, count, packed, filled = time.perf_counter(), 0, 0, np.zeros(2, np.int64)
    batches = converter(examples, rows.lengths).batch(64).prefetch(2)
    for batch in batches.as_numpy_iterator():
      count += len(batch['decoder_segment_ids'])
      packed += int(batch['decoder_segment_ids'].max(axis=1).sum())
      filled += [(batch[f'{side}_segment_ids'] > 0).sum() for side in ('encoder', 'decoder')]
    took = time.perf_counter() - began
    shares = filled / count / list(rows.lengths.values())
    print(f'{name:<8}{count:>8,}{shares[0]:>9.1%}{shares[1]:>9.1%}'
          f'{rows.batch_size * packed / count / per_input:>16.1f}{packed / took:>12,.0f}')
    if name == 'ours' and args.chips:
      _print_chips(args, rows, packed / count, packed / took)
  return 0


def _examples_of_an_input(task, lengths, same_input: str) -> float:
  examples = task.get_dataset(lengths, split='train', shuffle=False, num_epochs=1)
  same = [bool(ex.get(same_input, False)) for ex in examples.as_numpy_iterator()]
  return len(same) / (len(same) - sum(same))


def _print_chips(args, rows, per_row: float, read: float) -> None:
  """What slices eat, beside what this process reads."""
  from dss_jax import models
  from dss_jax.models import flops
  from dss_jax.precompile import topologies
  config = models.t5_config('1.1', args.model)
  needed = flops.training_flops(
      config, [rows.lengths['inputs']], [rows.lengths['targets']]) / per_row
  for name in args.chips.split(','):
    topology = topologies.parse(name)
    eaten = args.use * topology.chip.peak * topology.num_devices / needed
    print(f'  {name} at {args.use:.0%} of its peak, {args.model}: {eaten:,.0f} examples/s, '
          f'{eaten / read:.2f} of what this process reads on {os.cpu_count()} cores')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--task', default='dss_cqa', help='task or mixture (default: dss_cqa)')
  add('--records_dir', default=os.environ.get('DSS_DATA_DIR', ''), metavar='DIR')
  add('--vocabulary', metavar='PATH', help="a SentencePiece model or 'bytes'")
  add('--inputs_length', type=int, default=0, help='of a row (default: measured)')
  add('--targets_length', type=int, default=0)
  add('--batch_size', type=int, default=0, help='rows (default: so many that hold 64 inputs)')
  add('--epochs', type=int, default=1)
  add('--chips', default='', metavar='SLICES', help='such as v5e:4x4,v5p:2x4x4')
  add('--use', type=float, default=0.45, help='share of their peak (default: 0.45)')
  add('--model', default='base', help='size of T5 v1.1 (default: base)')
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
