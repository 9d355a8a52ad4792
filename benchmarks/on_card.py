"""What an accelerator computes, against the CPU beside it, and what each way to attend costs.

  python benchmarks/on_card.py correct                 a network of 2 + 2 layers
  python benchmarks/on_card.py attention --dtype=bfloat16
"""

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from typing import Any

import batches as batches_lib
import flags
import jax
import jax.numpy as jnp
import machine
import numpy as np
import timing
from flax import linen as nn

from dss_jax import cli, decode, families, models, objective
from dss_jax.models import attend, masks
from dss_jax.train import step as step_lib

LAYERS = {'num_encoder_layers': 2, 'num_decoder_layers': 2}
_TABLE = objective.table()


def main() -> int:
  """Prints the rows and saves them."""
  args = _arguments()
  threads = machine.limit_threads(None)
  rows = list((_correct if args.what == 'correct' else _attention)(args))
  print(timing.table([{name: str(value) for name, value in row.items()} for row in rows]))
  flags.save_json(args, {'machine': machine.describe(threads), 'rows': rows})
  return 0


def _correct(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """Relative differences from float32 on the CPU, of one packed batch."""
  config = flags.model_config(args, dtype='float32', dropout_rate=0.0, **LAYERS)
  arrays = flags.read_tokens(args, config.vocab_size)
  rows = batches_lib.join(batches_lib.draw(arrays, 'dss', args.batch_size, 1, args.seed))
  batch, = batches_lib.pack(rows, 1, batches_lib.row_lengths(config, rows))
  inputs = batches_lib.pad_rows(rows.inputs, batches_lib.WIDTHS)
  cpu, card = jax.devices('cpu')[0], jax.devices()[0]
  with jax.default_device(cpu):
    params = nn.unbox(models.init_params(families.network(config), jax.random.key(0)))
  compute = functools.partial(_loss_gradient_tokens, params=params, batch=batch, inputs=inputs)
  base = compute(config, cpu, 'highest')
  for what, dtype, precision in (
      ('float32, highest precision', 'float32', 'highest'), ('float32', 'float32', None),
      ('bfloat16', 'bfloat16', None)):
    loss, gradient, tokens = compute(
        flags.model_config(args, dtype=dtype, dropout_rate=0.0, **LAYERS), card, precision)
    difference = jax.tree.map(np.subtract, gradient, base[1])
    yield {'what': what, 'loss': abs(loss - base[0]) / base[0],
           'gradient': _norm(difference) / _norm(base[1]),
           'tokens': float(np.mean(tokens == base[2]))}


def _loss_gradient_tokens(
    config: models.Config, device: jax.Device, precision: str | None, *, params: Any, batch: Any,
    inputs: np.ndarray) -> tuple[float, Any, np.ndarray]:
  model = families.network(config)

  @jax.jit
  def compute(params, batch, inputs):
    counts = objective.count_tokens(batch['decoder_objective'], _TABLE)
    (loss, _), gradient = jax.value_and_grad(
        lambda p: step_lib.batch_loss(model, p, batch, counts, _TABLE), has_aux=True)(params)
    return loss, gradient, decode.greedy_decode(model, params, inputs, 16)
  with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
    loss, gradient, tokens = jax.device_get(compute(*jax.device_put(
        (params, step_lib.features(batch), inputs), device)))
  return float(loss), gradient, tokens


SHAPES = (  # rows, length, examples that a row holds
    (8, 1024, 15), (64, 512, 8), (64, 128, 1))


def _attention(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """Encoder self-attention over packed rows: seconds and bytes, forward, and backward with it."""
  for rows, length, examples in ((2, 32, 3),) if args.tiny else SHAPES:
    segments = np.tile(np.arange(length) * examples // length + 1, (rows, 1)).astype(np.int32)
    for attention in ('xla', 'pallas', 'cudnn'):
      config = flags.model_config(args, attention=attention)
      try:
        forward, both, memory = _time_attention(config, jnp.asarray(segments))
      except Exception as error:  # What the card or its libraries lack is its row's.
        print(f'{attention}: {" ".join(str(error).split())[:200]}', file=sys.stderr)
        continue
      yield {'attention': attention, 'shape': f'{rows} x {length}, {examples} examples a row',
             'forward': forward, 'both': both, 'memory': memory}


def _time_attention(config: models.T5Config, segments: jax.Array) -> tuple[float, float, int]:
  shape = (*segments.shape, config.num_heads, config.head_dim)
  length = shape[1]
  q, k, v = (jax.random.normal(jax.random.key(i), shape, config.dtype) for i in range(3))
  values = jax.random.normal(jax.random.key(3), (config.num_heads, 257))
  mask = masks.encoder_mask(segments, segments)

  def forward(q, k, v, values):
    seen = attend.seen_by(config, mask, len(segments), length, length)
    bias = attend.bias_for(seen, values, length, length)
    return attend.attend(q, k, v, bias, seen)

  def both(q, k, v, values):
    return jax.grad(lambda *args: jnp.sum(forward(*args).astype(jnp.float32) ** 2),
                    argnums=(0, 1, 2, 3))(q, k, v, values)
  compiled = [jax.jit(function).lower(q, k, v, values).compile() for function in (forward, both)]
  seconds = []
  for function in compiled:
    for _ in range(2):
      jax.block_until_ready(function(q, k, v, values))
    began = time.perf_counter()
    jax.block_until_ready([function(q, k, v, values) for _ in range(_TIMES)])
    seconds.append((time.perf_counter() - began) / _TIMES)
  return seconds[0], seconds[1], machine.step_memory(compiled[1]) or 0


_TIMES = 10


def _norm(tree: Any) -> float:
  return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64))
                           for leaf in jax.tree.leaves(tree))))


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('what', choices=['correct', 'attention'])
  flags.add_model(parser, size='base', dtype='float32')
  parser.add_argument('--tokens', metavar='FILE.npz', help='from make_tokens.py')
  parser.add_argument('--batch_size', type=int, default=16, help='examples (default: 16)')
  parser.add_argument('--seed', type=int, default=0, help='of the data')
  parser.add_argument('--json', metavar='FILE', help='save the rows')
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
