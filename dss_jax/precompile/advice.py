"""The answer to "out of memory": what the train step needs here, and in how many parts it fits."""

import dataclasses
import math
import os
from collections.abc import Iterator

import jax

from dss_jax import errors
from dss_jax import sharding as sharding_lib
from dss_jax.precompile import compiled, shapes
from dss_jax.train import config as config_lib

# The first three are no part of what a run is: the same MODEL_DIR takes them.
NONE_FITS = ('None of these fits. With the same result, --gin.REMAT=full, --gin.LOSS_CHUNK=64 or '
             'more devices along MESH_FSDP need less; so do shorter TASK_FEATURE_LENGTHS or a '
             'smaller model, in another MODEL_DIR.')
_NO_LIMIT = 2**62  # bytes
_MOST = 5  # compilations; each takes about as long as the one that failed
_CPU_TOKENS = 1600  # of a microbatch: what it needs at once stays in the caches


def is_out_of_memory(error: Exception) -> bool:
  """Whether XLA, or the device, says so."""
  return isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)


def fewest_microbatches(config: config_lib.TrainConfig) -> int:
  """MICROBATCHES='auto': the fewest parts of a step with which it fits, as the compiler counts.

  On a CPU, which has no such limit, the parts that are fastest: a few rows each.

  Raises:
    UserError: no number of parts fits; with a table of what each needs.
  """
  numbers = _numbers(config, 1)
  if jax.default_backend() == 'cpu':
    tokens = config.data.batch_size * sum(config.data.feature_lengths.values())
    return next(k for k in reversed(numbers) if k == 1 or tokens / k >= _CPU_TOKENS)
  for k, needed in _attempts(config, numbers):
    if needed and sum(needed.values()) <= _room():
      return k
  raise errors.UserError(out_of_memory(config))


def out_of_memory(config: config_lib.TrainConfig) -> str:
  """Compiles the train step in more and more parts; a table, and the settings that fit."""
  room, lines = _room(), ['MICROBATCHES  arguments  temporaries  total MiB']
  least = 1 if config.microbatches == config_lib.AUTO else int(config.microbatches)
  for k, needed in _attempts(config, _numbers(config, least)):
    if not needed:
      lines.append(f'{k:12}  too many temporaries to compile')
      continue
    total = sum(needed.values())
    lines.append(f'{k:12}  {_mib(needed["arguments"]):>9}  {_mib(needed["temporaries"]):>11}  '
                 f'{_mib(total):>9}')
    if total <= room:
      but = ', but for what dropout draws' if config.model.dropout_rate else ''
      lines.append(f'--gin.MICROBATCHES={k} fits, with the same result{but}.')
      break
  else:
    lines.append(NONE_FITS)
  first = f'the train step does not fit into the memory of a device, {_mib(room)} MiB.'
  return '\n'.join([first, *lines])


def _numbers(config: config_lib.TrainConfig, least: int) -> list[int]:
  """Of microbatches with whole rows on every device, ascending."""
  mesh = sharding_lib.make_mesh(config.mesh)
  shards = math.prod(mesh.shape[axis] for axis in ('data', 'fsdp'))
  return [k for k in shapes.divisors(config.data.batch_size // shards) if k >= least]


def _attempts(
    config: config_lib.TrainConfig, numbers: list[int]) -> Iterator[tuple[int, dict[str, int]]]:
  """Microbatches and the bytes of the step by part; {} if it is too large to compile."""
  for k in _powers(numbers)[:_MOST]:
    facts = compiled.run(
        compiled.TRAIN, dataclasses.replace(config, microbatches=k), jax.devices(), _NO_LIMIT)
    yield k, facts.get('memory', {})


def _powers(numbers: list[int]) -> list[int]:
  """Every second factor or so: [1, 2, 3, 4, 6, 8, 12] -> [1, 2, 4, 8]."""
  chosen: list[int] = []
  for number in numbers:
    if not chosen or number >= 2 * chosen[-1]:
      chosen.append(number)
  return chosen


def _room() -> int:
  """Bytes that a program may use on one device; a CPU's share of the machine's memory."""
  stats = jax.local_devices()[0].memory_stats() or {}
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return stats.get('bytes_limit') or machine // jax.local_device_count()


def _mib(size: int) -> str:
  return f'{size / 2**20:.1f}'
