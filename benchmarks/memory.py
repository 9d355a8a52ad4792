"""What one train step needs of a device's memory, by REMAT and LOSS_CHUNK, and T5X's step.

  python benchmarks/memory.py                          T5 v1.1 base, 64 packed rows of 512 / 128
  python benchmarks/memory.py --peer=t5x               T5X's too; docs/t5x.md says how to get it
  python benchmarks/memory.py --size=large --remat=full --loss_chunk=0,16 --chip=v6e:1x1
  python benchmarks/memory.py --tiny --chip=cpu        in a minute, to try the flags

Nothing runs and nothing is timed: steps are compiled for one chip, which need not be there (`pip
install 'dss_jax[tpu-plan]'`), and the bytes are those of the compiler's plan. The default chip has
room for all of them. A step is that of DSS with AdamW: parameters and moments in float32,
activations in --dtype, dropout on. Needs jax, flax and optax; --peer=t5x also T5X.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flags
import jax

from dss_jax import cli, errors
from dss_jax.precompile import compiled, jobs, topologies
from dss_jax.train import config as config_lib

REMATS = ('none', 'scores', 'dots', 'full')
# Of T5X: example, remat_policy, whose loss. scalable_t5 has 'minimal' by default.
PEERS = {'t5x': (('t5', 'none', 'T5X'), ('t5', 'none', 'DSS'), ('scalable_t5', 'none', 'T5X'),
                 ('scalable_t5', 'minimal', 'T5X'), ('scalable_t5', 'full', 'T5X')), None: ()}
PARTS = ('arguments', 'temporaries', 'total')


def main() -> int:
  """Compiles one step after the other, and prints the table as it grows."""
  args = _arguments()
  print(_line([*PARTS, 'of the first']), 'GiB on one device', flush=True)
  rows: list[dict[str, Any]] = []
  for name, compile_step in _steps(args):
    found = compile_step()
    rows.append({'step': name, **found})
    print(_line(_cells(found, rows[0])), name, found.get('reason', ''), flush=True)
  flags.save_json(args, {'steps': rows})
  return 0 if all('total' in row for row in rows) else 1


def _steps(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
  for remat in args.remat:
    for chunk in args.loss_chunk:
      yield (f'dss_jax, REMAT={remat}, LOSS_CHUNK={chunk}',
             lambda remat=remat, chunk=chunk: _ours(args, remat, chunk))
  for example, remat, loss in PEERS[args.peer]:
    yield (f'T5X, {example}, remat_policy={remat}, loss of {loss}',
           lambda *step, one=(example, remat, loss): _t5x(args, *one))


def _ours(args: argparse.Namespace, remat: str, chunk: int) -> dict[str, Any]:
  """The trainer's step; `total` and its parts in bytes, or a `reason`."""
  config = config_lib.TrainConfig(
      model_dir='unused', loss_chunk=chunk, microbatches=args.microbatches,
      model=flags.model_config(args, remat=remat, dropout_rate=0.1),
      data=config_lib.DataConfig(
          mixture_or_task='dss_cqa', vocabulary='bytes', feature_lengths=args.lengths,
          batch_size=args.batch_size))
  if args.chip == 'cpu':
    return _totals(compiled.run(compiled.TRAIN, config, jax.devices('cpu')[:1], sys.maxsize))
  outcome = jobs.run(jobs.Job(compiled.TRAIN, args.chip, config), timeout=args.timeout)
  return _totals(outcome.facts) if outcome.status == jobs.COMPILED else {
      'reason': ' '.join([outcome.status, outcome.reason])}


def _t5x(args: argparse.Namespace, example: str, remat: str, loss: str) -> dict[str, Any]:
  """The same of T5X, in a process of its own."""
  shape = flags.model_config(args)
  asked = {
      'example': example, 'remat': remat, 'loss': loss, 'chip': args.chip,
      'lengths': args.lengths, 'rows': args.batch_size, 'microbatches': args.microbatches,
      'network': {name: getattr(shape, name) for name in (
          'vocab_size', 'emb_dim', 'num_heads', 'num_encoder_layers', 'num_decoder_layers',
          'head_dim', 'mlp_dim', 'mlp_activations', 'logits_via_embedding')},
      'dtype': args.dtype}
  with jobs.deep_stack():
    done = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).with_name('t5x_memory.py'))],
        input=json.dumps(asked), capture_output=True, text=True, timeout=args.timeout,
        env={**os.environ, **jobs.ENVIRONMENT})
  if done.returncode:
    return {'reason': (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}
  return _totals(json.loads(done.stdout.splitlines()[-1]))


def _totals(facts: dict[str, Any]) -> dict[str, Any]:
  return {**facts['memory'], 'total': sum(facts['memory'].values()), 'seconds': facts['seconds']}


def _cells(found: dict[str, Any], first: dict[str, Any]) -> list[str]:
  if 'total' not in found:
    return ['-'] * (len(PARTS) + 1)
  ratio = f'{found["total"] / first["total"]:.0%}' if 'total' in first else '-'
  return [*(compiled.gib(found[part]) for part in PARTS), ratio]


def _line(cells: list[str]) -> str:
  return ''.join(f'{cell:>{width}}' for cell, width in zip(cells, (10, 13, 8, 14))) + '  '


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_model(parser, size='base', dtype='bfloat16')
  parser.add_argument('--batch_size', type=int, default=64, help='packed rows (default: 64)')
  parser.add_argument('--inputs_length', type=int, default=512, help='tokens (default: 512)')
  parser.add_argument('--targets_length', type=int, default=128, help='tokens (default: 128)')
  parser.add_argument('--microbatches', type=int, default=1, help='parts of a step (default: 1)')
  parser.add_argument('--remat', default=','.join(REMATS), help='of REMAT (default: all)')
  parser.add_argument('--loss_chunk', default='0,16', help='of LOSS_CHUNK (default: 0,16)')
  parser.add_argument('--chip', default='v5p:1x1x1', metavar='CHIP',
                      help='one of v4, v5p:1x1x1, v5e, v6e:1x1, or cpu (default: v5p:1x1x1)')
  parser.add_argument('--timeout', type=float, default=1800, help='seconds a step (default: 1800)')
  parser.add_argument('--peer', choices=['t5x'], help='compile its step too')
  parser.add_argument('--json', metavar='FILE', help='save the figures')
  args = parser.parse_args()
  args.remat, args.loss_chunk = args.remat.split(','), [int(n) for n in args.loss_chunk.split(',')]
  args.lengths = {'inputs': args.inputs_length, 'targets': args.targets_length}
  for remat in args.remat:
    if remat not in REMATS:
      raise errors.UserError(f'--remat={remat}: {errors.did_you_mean(remat, REMATS)}')
  if args.chip != 'cpu' and topologies.parse(args.chip).num_devices != 1:
    raise errors.UserError(f'--chip={args.chip}: give a single chip, such as v5p:1x1x1 or v6e:1x1')
  if args.chip != 'cpu' and (missing := topologies.missing(topologies.parse(args.chip))):
    raise errors.UserError(f'--chip={args.chip}: {missing}; or --chip=cpu')
  return args


if __name__ == '__main__':
  cli.run(lambda _: main())
