"""Time training steps: DSS and standard fine-tuning, packed and padded, beside PyTorch.

  python benchmarks/train_step.py                            all four settings, T5 v1.1 small
  python benchmarks/train_step.py --settings=dss-packed --peer=transformers --threads=2
                                                             against PyTorch, two threads each
  python benchmarks/train_step.py --size=base --dtype=bfloat16 --steps=20 --repeats=5
                                                             on an accelerator
  python benchmarks/train_step.py --tokens=cqa.npz --json=figures.json
                                                             real lengths (make_tokens.py)
  python benchmarks/train_step.py --tiny                     in a minute, to try the flags

The examples of a repeat are packed together: sixteen steps of 64 fill the trainer's window.
Examples are counted once, in DSS too, where each is a label row and a rationale row. Tokens are
those of inputs and targets that are not padding; operations are those that these tokens need
(dss_jax/models/flops.py). Needs jax, flax, optax and numpy; --peer also torch and transformers.
"""

import argparse

import flags
import machine

from dss_jax import cli, errors

SETTINGS = ('dss-packed', 'dss-padded', 'standard-packed', 'standard-padded')


def main() -> int:
  """Measures and prints the table."""
  args = _arguments()
  threads = machine.limit_threads(args.threads)
  import training  # It imports JAX, which counts the CPUs.
  training.run(args, threads)
  return 0


def _arguments() -> argparse.Namespace:
  parser = flags.parser(__doc__, steps=4, what_steps='optimizer steps')
  parser.add_argument('--settings', default=','.join(SETTINGS), metavar='A,B',
                      help=f'of {", ".join(SETTINGS)} (default: all)')
  parser.add_argument('--inputs_length', type=int, default=0, metavar='N',
                      help='of packed rows (default: to suit the data)')
  parser.add_argument('--targets_length', type=int, default=0, metavar='N',
                      help='of packed rows (default: in the ratio of the mean token counts)')
  parser.add_argument('--microbatches', type=int, default=1, metavar='K',
                      help='parts that a step of ours is computed in: less memory, and on a CPU '
                           'faster, since less is zeroed and moved (default: 1)')
  parser.add_argument('--remat', default='auto',
                      choices=['auto', 'none', 'scores', 'dots', 'full'],
                      help="what the backward pass computes again (default: the trainer's)")
  parser.add_argument('--torch_compile', action='store_true',
                      help='with --peer: also what torch.compile makes of it; the faster counts')
  args = parser.parse_args()
  args.settings = args.settings.split(',')
  for setting in args.settings:
    if setting not in SETTINGS:
      raise errors.UserError(f'--settings={setting}: {errors.did_you_mean(setting, SETTINGS)}')
  return args


if __name__ == '__main__':
  cli.run(lambda _: main())
