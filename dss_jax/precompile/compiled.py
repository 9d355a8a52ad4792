"""The programs of a run, traced and compiled for devices that are elsewhere.

Both are built by what the trainer uses: `train.compute.build` makes the step, `models` the
decoding that `train.evaluation` runs. Only shapes go in; no record or weight is read.

Memory is everything that lies in HBM while the program runs, in bytes per device: `arguments` (the
train state and the batch, or the parameters and the tokens), `temporaries` (what XLA's plan needs
besides at its worst moment, gaps included), `results` that reuse no argument, and the `program`.
The train state is donated: its new value takes the place of the old one.
"""

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dss_jax import decode, divergence, families, models
from dss_jax import sharding as sharding_lib
from dss_jax.precompile import collectives
from dss_jax.train import compute as compute_lib
from dss_jax.train import config as config_lib
from dss_jax.train import step as step_lib

TRAIN, DECODE = 'train', 'decode'
_SIDES = {'encoder': 'inputs', 'decoder': 'targets'}
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_NEEDED = re.compile(r'(?:HLO temporaries \(|Used )([\d.]+)([KMGT]?)')


def features(data: config_lib.DataConfig) -> dict[str, tuple[int, ...]]:
  """Shapes [rows, length] of the int32 features of a train batch, by name.

  Of token distributions [rows, length, 2 k], with the k that `dss distributions` stores by default:
  what the loss needs for them is as large as the logits, whatever k is.
  """
  shapes = {name: (data.batch_size, data.feature_lengths[_SIDES[name[:7]]])
            for name in step_lib.FEATURES if data.pack or 'segment_ids' not in name
            if data.shared_encoder or 'cross' not in name
            if data.token_distributions or name != step_lib.DISTRIBUTION}
  return {name: (*shape, 2 * divergence.TOP_K) if name == step_lib.DISTRIBUTION else shape
          for name, shape in shapes.items()}


def decode_rows(config: config_lib.TrainConfig, shards: int) -> int:
  """Rows that evaluation decodes at a time: EVAL_BATCH_SIZE, rounded up to whole shares."""
  return -(-config.evaluation.batch_size // shards) * shards


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function with the shapes and shardings of its arguments; static ones as they are."""

  function: Any
  arguments: tuple[Any, ...]

  def lower(self) -> jax.stages.Lowered:
    return self.function.lower(*self.arguments)


def train_program(
    config: config_lib.TrainConfig, sharding: sharding_lib.Sharding) -> Program:
  """The train step, as `train.loop` runs it: donated state, rows over data and fsdp."""
  sharding.check_batch(config.data.batch_size, config.microbatches)
  compute = compute_lib.build(config, sharding)
  state = _abstract(jax.eval_shape(compute.init), compute.state_sharding)
  batch = {name: _tokens(shape, sharding.batch) for name, shape in features(config.data).items()}
  return Program(compute.train_step, (state, batch))


def decode_program(
    config: config_lib.TrainConfig, sharding: sharding_lib.Sharding) -> Program:
  """Greedy decoding as `train.evaluation` runs it, at the longest inputs and targets."""
  compute = compute_lib.build(config, sharding)
  params = _abstract(jax.eval_shape(compute.init).params, compute.state_sharding.params)
  lengths = config.data.limits
  rows = decode_rows(config, sharding.shards)
  search = decode.BatchDecoder(compute.model, sharding).searcher(lengths['targets'])
  return Program(search, (params, _tokens((rows, lengths['inputs']), sharding.batch)))


def run(
    kind: str, config: config_lib.TrainConfig, devices: Sequence[jax.Device], room: int
) -> dict[str, Any]:
  """Compiles one program and describes it with JSON-able values.

  Args:
    kind: TRAIN or DECODE.
    config: `config.mesh` and `config.microbatches` are used.
    devices: of the slice.
    room: bytes of one of them.

  Returns: `seconds` of compiling (`cpu_seconds`: of all threads), `memory` (see the module),
    `collectives` (see `collectives.Traffic`). Where the arguments alone exceed the device,
    `arguments`, their bytes, without compiling; where the compiler finds that temporaries alone
    do, `temporaries`.

  Raises:
    UserError: the mesh does not fit the devices, or the batch does not fit the mesh.
  """
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config.mesh, devices))
  program = (train_program if kind == TRAIN else decode_program)(config, sharding)
  arguments = bytes_of_arguments(program.arguments)
  if arguments > room:
    return {'seconds': 0.0, 'arguments': arguments}
  lowered = program.lower()
  began, worked = time.monotonic(), time.process_time()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = temporaries_of_error(str(error))
    if needed is None:
      raise
    return {'seconds': time.monotonic() - began, 'temporaries': needed}
  spent = {'seconds': time.monotonic() - began, 'cpu_seconds': time.process_time() - worked}
  traffic = collectives.count(compiled.as_text() or '')
  return spent | {'memory': memory_of(compiled), 'collectives': vars(traffic)}


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes per device by part, see the module; from XLA's own accounting."""
  stats: Any = compiled.memory_analysis()
  return {'arguments': stats.argument_size_in_bytes,
          'temporaries': stats.temp_size_in_bytes,
          'results': stats.output_size_in_bytes - stats.alias_size_in_bytes,
          'program': stats.generated_code_size_in_bytes}


def bytes_of_arguments(arguments: Any) -> int:
  """Bytes on one device of a tree of sharded shapes, without what their layout will add."""
  shapes = [one for one in jax.tree.leaves(arguments) if isinstance(one, jax.ShapeDtypeStruct)]
  return sum(
      math.prod(one.sharding.shard_shape(one.shape)) * one.dtype.itemsize for one in shapes)


def temporaries_of_error(message: str) -> int | None:
  """What the compiler says it would have needed; None if the error is another one.

  >>> temporaries_of_error('RESOURCE_EXHAUSTED: ... HLO temporaries (1.50G) exceeds available HBM')
  1610612736
  """
  if 'RESOURCE_EXHAUSTED' not in message and 'Ran out of memory' not in message:
    return None
  found = _NEEDED.search(message)
  return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def gib(size: float) -> str:
  """Bytes -> '12.34', in GiB; one place from 100."""
  return f'{size / 2**30:.{2 if size < 100 * 2**30 else 1}f}'


def num_parameters(model: models.Config) -> int:
  """How many numbers the network has."""
  tokens = jnp.ones((1, 8), jnp.int32)
  shapes = jax.eval_shape(families.network(model).init, jax.random.key(0), tokens, tokens)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _abstract(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      shapes, shardings)


def _tokens(shape: tuple[int, ...], sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
