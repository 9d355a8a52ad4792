"""What one device hands to collective operations in one run of a compiled program.

Bytes of an operation: the larger of what it reads and what it gives, on one device: the gathered
array of an all-gather, the array before a reduce-scatter, the array itself elsewhere. What goes
over the wires differs by algorithm: a ring's all-reduce over n devices sends 2 * (n - 1) / n of
it, its all-gather (n - 1) / n.

Bodies of loops count as often as they run (`trips`). Loops that end on data (decoding: when every
row has its EOS) are counted apart, one pass.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(r'\b(calls|to_apply|body|condition|(?:true|false|branch)_computations?)='
                     r'\{?(%[\w.\-]+(?:, %[\w.\-]+)*)')


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


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of HLO: `[ROOT] %name = type operation(rest`."""

  is_root: bool
  type: str
  operation: str
  rest: str

  @property
  def kind(self) -> str:
    """Its operation; one of KINDS for all forms of these but the end of an asynchronous one."""
    return self.operation.removesuffix('-start').removeprefix('ragged-')

  @property
  def operands(self) -> list[str]:
    return _NAME.findall(self.rest.partition(')')[0])

  @property
  def called(self) -> dict[str, list[str]]:
    """Names of computations, by attribute."""
    return {name: _NAME.findall(listed) for name, listed in _CALLED.findall(self.rest)}

  @property
  def sizes(self) -> list[int]:
    """Bytes of each array of its type; types of less than a byte are rounded up as a whole."""
    return [-(-(8 if kind == 'pred' else int((re.findall(r'\d+', kind) or ['0'])[0]))
              * math.prod(int(side) for side in shape.split(',') if side) // 8)
            for kind, shape in _ARRAY.findall(self.type)]


Computation = dict[str, Instruction]  # by name, in the order of the schedule
Module = dict[str, Computation]


def count(text: str) -> Traffic:
  """From a compiled module's text (`Compiled.as_text()`)."""
  traffic = Traffic(dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), 0)
  unknown: set[str] = set()
  begun: set[str] = set()
  for kind, size, loops, channel in _found(*parse(text)):
    unknown |= loops
    # On TPU one collective may go on through several fusions, which share its channel.
    if not channel or channel not in begun:
      (traffic.per_pass if loops else traffic.whole)[kind] += size
      begun.add(channel)
  return dataclasses.replace(traffic, unknown_loops=len(unknown))


def parse(text: str) -> tuple[Module, str]:
  """All computations, and the entry's name; ValueError if there is none."""
  module: Module = {}
  entry = name = ''
  for line in text.splitlines():
    if begins := _COMPUTATION.match(line):
      name = begins[2]
      module[name] = {}
      entry = name if begins[1] else entry
    elif found := _INSTRUCTION.match(line):
      module[name][found[2]] = Instruction(bool(found[1]), found[3], found[4], found[5])
  if not entry:
    raise ValueError('the HLO text has no entry computation')
  return module, entry


def _found(
    module: Module, name: str, times: int = 1, loops: frozenset[str] = frozenset(),
    fused: bool = False) -> Iterator[tuple[str, int, frozenset[str], str]]:
  """(kind, bytes, loops of unknown length around it, channel if fused), as the program runs."""
  around = module[name]
  for one in around.values():
    called = one.called
    if one.kind in KINDS:
      channel = re.search(r'channel_id=(\d+)', one.rest) if fused else None
      yield one.kind, times * _size(one, around), loops, channel[1] if channel else ''
    elif one.operation == 'while':
      passes, body = trips(module, around, one), called['body'][0]
      yield from (_found(module, body, times, loops | {body}) if passes is None
                  else _found(module, body, times * passes, loops))
    elif one.operation == 'fusion' and called['calls'][0].startswith('all-reduce-scatter'):
      # On TPU: an all-reduce, of the array before it is scattered, and the slice of its result.
      inner = module[called['calls'][0]].values()
      yield ('reduce-scatter', times * sum(sum(i.sizes) for i in inner if i.kind == 'all-reduce'),
             loops, '')
    elif one.operation in ('fusion', 'call', 'conditional', 'async-start'):
      for inside in (n for names in called.values() for n in names if n in module):
        yield from _found(module, inside, times, loops, one.operation == 'fusion')


def _size(one: Instruction, around: Computation) -> int:
  """The larger of its operands and its results, in bytes."""
  given = one.sizes
  if one.operation == 'collective-permute-start':
    return given[0]  # (operand, result, two counters)
  if one.operation.endswith('-start') and len(given) > 1:
    given = given[len(given) // 2:]  # (operands, results)
  return max(sum(given), sum(sum(around[n].sizes) for n in one.operands if n in around))


def trips(module: Module, around: Computation, loop: Instruction) -> int | None:
  """Times that the loop of a computation runs; None where that depends on data.

  As XLA says (CPU and GPU programs), or from the loop itself (TPU programs): its condition is
  `counter < bound`, its body adds a step to the counter, all constants. Loops that XLA unrolled
  in part have a step above 1.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
    return int(known[1])
  condition, body = (module[loop.called[name][0]] for name in ('condition', 'body'))
  test, end, start = _root(condition), _root(body), around[loop.operands[0]]
  _, compare = _inside(module, condition, test)
  if (compare.operation != 'compare' or 'direction=LT' not in compare.rest
      or len(test.operands) != 2 or {start.operation, end.operation} != {'tuple'}):
    return None
  counter, bound = condition.get(test.operands[0]), _constant(condition, test.operands[1])
  if counter is None or counter.operation != 'get-tuple-element':
    return None
  index = int(counter.rest.partition('index=')[2].partition(',')[0])
  first = _constant(around, start.operands[index])
  update = body[end.operands[index]]
  within, add = _inside(module, body, update)
  constants = [_constant(body, name) for name in update.operands]
  constants += [_constant(within, name) for name in add.operands] if add is not update else []
  steps = [step for step in constants if step]
  if bound is None or first is None or add.operation != 'add' or len(steps) != 1:
    return None
  return max(0, -(-(bound - first) // steps[0]))


def _inside(
    module: Module, around: Computation, one: Instruction) -> tuple[Computation, Instruction]:
  """What a fusion computes and where; another instruction as it is."""
  if one.operation != 'fusion':
    return around, one
  inner = module[one.called['calls'][0]]
  return inner, _root(inner)


def _root(computation: Computation) -> Instruction:
  return next(one for one in computation.values() if one.is_root)


def _constant(around: Computation, name: str) -> int | None:
  """The value of a scalar integer constant, or of its copy; None for anything else."""
  found = around.get(name)
  while found is not None and found.operation in ('copy', 'bitcast'):
    found = around.get(found.operands[0])
  if found is None or found.operation != 'constant' or not re.match(r'[su]\d+\[\]', found.type):
    return None
  value = re.match(r'-?\d+', found.rest)
  return int(value[0]) if value else None
