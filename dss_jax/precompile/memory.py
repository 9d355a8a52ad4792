"""Bytes per device of a compiled program.

    total = arguments + temporaries + results that reuse no argument + program

Everything that lies in HBM while the step runs. Arguments are the train state and the batch (or
the parameters and the tokens), temporaries what XLA's plan needs besides at its worst moment,
gaps included. The train state is donated: its new value takes the place of the old one.
"""

import dataclasses
import math
import re
from typing import Any

import jax

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_NEEDED = re.compile(r'(?:HLO temporaries \(|Used )([\d.]+)([KMGT]?)')


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes per device; see the module."""

  arguments: int
  temporaries: int
  results: int
  program: int

  @property
  def total(self) -> int:
    return self.arguments + self.temporaries + self.results + self.program


def of(compiled: Any) -> Memory:
  """From XLA's own accounting of a `jax.stages.Compiled`."""
  stats = compiled.memory_analysis()
  return Memory(
      arguments=stats.argument_size_in_bytes,
      temporaries=stats.temp_size_in_bytes,
      results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
      program=stats.generated_code_size_in_bytes)


def of_arguments(arguments: Any) -> int:
  """Bytes on one device of a tree of sharded shapes, without what their layout will add."""
  shapes = [one for one in jax.tree.leaves(arguments) if isinstance(one, jax.ShapeDtypeStruct)]
  return sum(
      math.prod(one.sharding.shard_shape(one.shape)) * one.dtype.itemsize for one in shapes)


def temporaries_of_error(message: str) -> int | None:
  """What the compiler says it would have needed; None if the error is another one.

  >>> temporaries_of_error('... required for HLO temporaries (1.50G) exceeds available HBM')
  1610612736
  """
  if 'RESOURCE_EXHAUSTED' not in message and 'Ran out of memory' not in message:
    return None
  found = _NEEDED.search(message)
  return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def gib(size: float) -> str:
  """Bytes -> '12.34', in GiB; one place from 100."""
  return f'{size / 2**30:.{2 if size < 100 * 2**30 else 1}f}'
