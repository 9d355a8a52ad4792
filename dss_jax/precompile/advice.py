"""The answer to "out of memory": what the train step needs here, and in how many parts it fits."""

import dataclasses
import math
import os

import jax

from dss_jax import sharding as sharding_lib
from dss_jax.precompile import compiled, shapes
from dss_jax.train import config as config_lib

# The first three are no part of what a run is: the same MODEL_DIR takes them.
NONE_FITS = ('None of these fits. With the same result, --gin.REMAT=full, --gin.LOSS_CHUNK=64 or '
             'more devices along MESH_FSDP need less; so do shorter TASK_FEATURE_LENGTHS or a '
             'smaller model, in another MODEL_DIR.')
_NO_LIMIT = 2**62  # bytes
_MOST = 4  # compilations; each takes about as long as the one that failed


def is_out_of_memory(error: Exception) -> bool:
  """Whether XLA, or the device, says so."""
  return isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)


def out_of_memory(config: config_lib.TrainConfig) -> str:
  """Compiles the train step in more and more parts; a table, and the settings that fit."""
  room = _room()
  mesh = sharding_lib.make_mesh(config.mesh)
  shards = math.prod(mesh.shape[axis] for axis in ('data', 'fsdp'))
  numbers = [k for k in shapes.divisors(config.data.batch_size // shards)
             if k >= config.microbatches]
  lines = [f'the train step does not fit into the memory of a device, {_mib(room)} MiB.',
           'MICROBATCHES  arguments  temporaries  total MiB']
  for k in sorted({config.microbatches, *_powers(numbers)})[:_MOST]:
    facts = compiled.run(
        compiled.TRAIN, dataclasses.replace(config, microbatches=k), jax.devices(), _NO_LIMIT)
    if 'memory' not in facts:
      lines.append(f'{k:12}  too many temporaries to compile')
      continue
    needed = facts['memory']
    total = sum(needed.values())
    lines.append(f'{k:12}  {_mib(needed["arguments"]):>9}  {_mib(needed["temporaries"]):>11}  '
                 f'{_mib(total):>9}')
    if total <= room:
      but = ', but for what dropout draws' if config.model.dropout_rate else ''
      lines.append(f'--gin.MICROBATCHES={k} fits, with the same result{but}.')
      break
  else:
    lines.append(NONE_FITS)
  return '\n'.join(lines)


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
