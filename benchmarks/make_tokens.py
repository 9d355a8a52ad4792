"""Token arrays for the other benchmarks from records; the only one here that needs TensorFlow.

  python benchmarks/make_tokens.py --task=dss_cqa --records_dir=records --vocabulary=cqa.model \\
      --output=cqa.npz

Takes the tasks <task>_label and <task>_rationale as the trainer reads them, prefixes included,
and cuts at 1,024 input and 256 target tokens, as the released code does.
"""

import argparse
import os

import numpy as np
import token_arrays

from dss_jax import cli

_LENGTHS = {'inputs': 1024, 'targets': 256}


def main() -> int:
  """Reads one split and writes the file."""
  args = _arguments()
  cli.import_quietly('dss_jax.tasks')
  from dss_jax import data
  from dss_jax.data import pipeline
  chosen = {'vocabulary': args.vocabulary} if args.vocabulary else {}
  data.configure(records_dir=args.records_dir, **chosen)
  fields = {}
  for task in ('label', 'rationale'):
    examples = pipeline.get_mixture_or_task(f'{args.task}_{task}').get_dataset(
        _LENGTHS, split=args.split, shuffle=False, num_epochs=1).take(args.num_examples)
    rows = list(examples.as_numpy_iterator())
    for side in ('inputs', 'targets'):
      fields[f'{task}_{side}'] = [np.asarray(row[side], np.int32) for row in rows]
  arrays = token_arrays.TokenArrays(**fields)
  token_arrays.save(args.output, arrays)
  print(f'{args.output}: {arrays.describe()}')
  return 0


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--task', default='dss_cqa', help='a DSS mixture (default: dss_cqa)')
  parser.add_argument('--split', default='train')
  parser.add_argument('--records_dir', default=os.environ.get('DSS_DATA_DIR', ''), metavar='DIR')
  parser.add_argument('--vocabulary', metavar='PATH', help="a SentencePiece model or 'bytes'")
  parser.add_argument('--num_examples', type=int, default=8192,
                      help='at most this many of each task (default: 8192)')
  parser.add_argument('--output', required=True, metavar='FILE.npz')
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
