"""What one device hands to collective operations in one run of a compiled program.

Bytes of an operation: the larger of what it reads and what it gives, on one device: the gathered
array of an all-gather, the array before a reduce-scatter, the array itself elsewhere. What goes
over the wires differs by algorithm: a ring's all-reduce over n devices sends 2 * (n - 1) / n of
it, its all-gather (n - 1) / n.

Bodies of loops count as often as they run (`loops.trips`). Loops that end on data (decoding: when
every row has its EOS) are counted apart, one pass.
"""

import dataclasses
import re

from dss_jax.precompile import hlo, loops

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_CHANNEL = re.compile(r'channel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes per device, by kind.

  Attributes:
    whole: in the whole run, of operations that run a known number of times.
    per_pass: in one pass through the loops whose length is not known.
    unknown_loops: how many of those hold collectives.
  """

  whole: dict[str, int]
  per_pass: dict[str, int]
  unknown_loops: int


def count(text: str) -> Traffic:
  """From a compiled module's text (`Compiled.as_text()`)."""
  counter = _Counter(hlo.parse(text))
  counter.visit(counter.module.entry, 1, False)
  return Traffic(counter.whole, counter.per_pass, len(counter.unknown))


class _Counter:
  """Walks the computations as the program would."""

  def __init__(self, module: hlo.Module):
    self.module = module
    self.whole = dict.fromkeys(KINDS, 0)
    self.per_pass = dict.fromkeys(KINDS, 0)
    self.unknown: set[str] = set()
    self._fused: set[str] = set()

  def visit(self, name: str, times: int, apart: bool, fused: bool = False) -> int:
    """Adds a computation that runs `times`; returns how many collectives it holds."""
    held = 0
    around = self.module.computations[name]
    for instruction in around.instructions.values():
      kind = _kind(instruction)
      if kind:
        held += 1
        if not (fused and self._again(instruction)):
          self._add(kind, self._size(instruction, name) * times, apart)
      elif instruction.operation == 'while':
        held += self._loop(around, instruction, times, apart)
      elif instruction.operation == 'fusion' and _is_reduce_scatter(instruction):
        held += 1
        self._add('reduce-scatter', self._scattered(instruction) * times, apart)
      elif instruction.operation in ('fusion', 'call', 'conditional', 'async-start'):
        fusion = instruction.operation == 'fusion'
        held += sum(self.visit(called, times, apart, fusion) for called in instruction.called()
                    if called in self.module.computations)
    return held

  def _loop(
      self, around: hlo.Computation, loop: hlo.Instruction, times: int, apart: bool) -> int:
    trips = loops.trips(self.module, around, loop)
    body = loop.attribute('body')
    passes = 1 if trips is None else trips
    held = self.visit(body, times * passes, apart or trips is None)
    if held and trips is None:
      self.unknown.add(body)
    return held

  def _again(self, instruction: hlo.Instruction) -> bool:
    """Whether it was counted: on TPU one collective may go on through several fusions.

    They share a channel. The first, where it starts, is met first: programs are in the order of
    their schedule.
    """
    channel = _CHANNEL.search(instruction.rest)
    if not channel or channel[1] in self._fused:
      return bool(channel)
    self._fused.add(channel[1])
    return False

  def _size(self, instruction: hlo.Instruction, name: str) -> int:
    """The larger of its operands and its results, in bytes."""
    given = instruction.arrays()
    if instruction.operation.endswith('-start'):
      if instruction.operation.startswith('collective-permute'):
        return given[0]  # (operand, result, two counters)
      given = given[len(given) // 2:] if len(given) > 1 else given  # (operands, results)
    return max(sum(given), self._read(instruction, name))

  def _read(self, instruction: hlo.Instruction, name: str) -> int:
    around = self.module.computations[name].instructions
    return sum(sum(around[one].arrays()) for one in instruction.operands if one in around)

  def _scattered(self, fusion: hlo.Instruction) -> int:
    """Bytes of the array that a reduce-scatter fusion reduces, before it is scattered."""
    inner = self.module.computations[fusion.attribute('calls')].instructions.values()
    return sum(sum(one.arrays()) for one in inner if _kind(one) == 'all-reduce')

  def _add(self, kind: str, size: int, apart: bool) -> None:
    (self.per_pass if apart else self.whole)[kind] += size


def _kind(instruction: hlo.Instruction) -> str:
  """Which of KINDS it is; '' for others, and for the second half of asynchronous ones."""
  operation = instruction.operation.removesuffix('-start').removeprefix('ragged-')
  return operation if operation in KINDS else ''


def _is_reduce_scatter(fusion: hlo.Instruction) -> bool:
  """On TPU, an all-reduce and the slice of its result are one fusion of this name."""
  return fusion.attribute('calls').startswith('all-reduce-scatter')
