"""How full packed rows are, and what packing costs: ours beside SeqIO's packer.

    python benchmarks/packing.py --task=dss_cqa --records_dir=records --vocabulary=cqa.model \\
        --inputs_length=1024 --targets_length=256

Prints, for each packer over one epoch, the share of input and target positions that hold a
token, the examples in eight rows, and rows per second.
"""

import argparse
import os
import time

from dss_jax import cli


def main() -> int:
  """Packs the same epoch with both packers, one after the other."""
  args = _arguments()
  cli.import_quietly('dss_jax.tasks')
  import seqio

  from dss_jax import data
  from dss_jax.data import pipeline
  chosen = {'vocabulary': args.vocabulary} if args.vocabulary else {}
  data.configure(records_dir=args.records_dir, **chosen)
  lengths = {'inputs': args.inputs_length, 'targets': args.targets_length}
  task = pipeline.get_mixture_or_task(args.task)
  print(f'{args.task}, rows of {args.inputs_length} / {args.targets_length} tokens')
  print(f"{'packer':<8}{'rows':>8}{'inputs':>9}{'targets':>9}"
        f"{'examples in 8 rows':>20}{'rows/s':>9}")
  for name, converter in (('ours', data.DssFeatureConverter(pack=True)),
                          ('seqio', seqio.EncDecFeatureConverter(pack=True))):
    examples = task.get_dataset(lengths, split='train', shuffle=True, seed=0, num_epochs=1)
    began, rows, packed, filled = time.perf_counter(), 0, 0, [0, 0]
    for row in converter(examples, lengths).as_numpy_iterator():
      rows += 1
      packed += int(row['decoder_segment_ids'].max())
      filled[0] += int((row['encoder_segment_ids'] > 0).sum())
      filled[1] += int((row['decoder_segment_ids'] > 0).sum())
    took = time.perf_counter() - began
    shares = [filled[i] / (rows * length) for i, length in enumerate(lengths.values())]
    print(f'{name:<8}{rows:>8,}{shares[0]:>9.1%}{shares[1]:>9.1%}{8 * packed / rows:>20.1f}'
          f'{rows / took:>9.0f}')
  return 0


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--task', default='dss_cqa', help='task or mixture (default: dss_cqa)')
  parser.add_argument('--records_dir', default=os.environ.get('DSS_DATA_DIR', ''), metavar='DIR')
  parser.add_argument('--vocabulary', metavar='PATH', help="a SentencePiece model or 'bytes'")
  parser.add_argument('--inputs_length', type=int, default=1024)
  parser.add_argument('--targets_length', type=int, default=256)
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
