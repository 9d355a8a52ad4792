"""Time decoding, greedy or with a beam, beside PyTorch's generate.

  python benchmarks/decode.py                                T5 v1.1 small, 64 tokens, greedy
  python benchmarks/decode.py --peer=transformers --threads=2
                                                             against PyTorch, two threads each
  python benchmarks/decode.py --peer=transformers --ctranslate2 --threads=2
                                                             and CTranslate2
  python benchmarks/decode.py --beams=4 --max_decode_length=128
  python benchmarks/decode.py --tiny                         in seconds, to try the flags

The weights are random, so nothing would end in a natural place: EOS is made impossible on both
sides, and every row gets --max_decode_length tokens. Inputs are the label rows of the data,
sorted by length into batches of one width, a multiple of 32, for both sides. Needs jax, flax,
optax and numpy; --peer also torch and transformers, --ctranslate2 ctranslate2.
"""

import argparse

import flags
import machine

from dss_jax import cli


def main() -> int:
  """Measures and prints the table."""
  args = _arguments()
  threads = machine.limit_threads(args.threads)
  import generation  # It imports JAX, which counts the CPUs.
  generation.run(args, threads)
  return 0


def _arguments() -> argparse.Namespace:
  parser = flags.parser(__doc__, steps=2, what_steps='batches')
  parser.add_argument('--max_decode_length', type=int, default=64, metavar='N',
                      help='tokens per row (default: 64)')
  parser.add_argument('--beams', type=int, default=1, metavar='N', help='1 is greedy (default)')
  parser.add_argument('--ctranslate2', action='store_true',
                      help='with --peer, CTranslate2 too, in float32 and int8, on the CPU')
  parser.set_defaults(scan_layers=False)  # As `dss_jax.load` has them.
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
