"""How often the body of an HLO while loop runs."""

import re

from dss_jax.precompile import hlo

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def trips(module: hlo.Module, around: hlo.Computation, loop: hlo.Instruction) -> int | None:
  """Times that the loop of a computation runs; None where that depends on data.

  As XLA says (CPU and GPU programs), or from the loop itself (TPU programs): its condition is
  `counter < bound`, its body adds a step to the counter, all constants. Loops that XLA unrolled
  in part have a step above 1.
  """
  if known := _KNOWN.search(loop.rest):
    return int(known[1])
  condition = module.computations[loop.attribute('condition')]
  body = module.computations[loop.attribute('body')]
  index, bound = _bound(module, condition)
  if index is None or bound is None:
    return None
  step = _step(module, body, index)
  first = _first(around, loop, index)
  if not step or first is None:
    return None
  return max(0, -(-(bound - first) // step))


def _bound(module: hlo.Module, condition: hlo.Computation) -> tuple[int | None, int | None]:
  """(index of the counter in the loop's tuple, what it stays below)."""
  inner = condition.root
  if inner.operation == 'fusion':
    inner = module.computations[inner.attribute('calls')].root
  if inner.operation != 'compare' or 'direction=LT' not in inner.rest:
    return None, None
  counter, *rest = (condition.instructions.get(name) for name in condition.root.operands)
  bound = _constant(rest[0]) if len(rest) == 1 else None
  if counter is None or counter.operation != 'get-tuple-element':
    return None, None
  return _index(counter), bound


def _step(module: hlo.Module, body: hlo.Computation, index: int) -> int | None:
  """What the body adds to element `index` of its tuple."""
  if body.root.operation != 'tuple':
    return None
  added = body.instructions[body.root.operands[index]]
  found = [_constant(_through_copies(body, name)) for name in added.operands]
  if added.operation == 'fusion':
    inner = module.computations[added.attribute('calls')]
    added = inner.root
    found += [_constant(inner.instructions[name]) for name in added.operands]
  constants = [one for one in found if one is not None]
  return constants[0] if added.operation == 'add' and len(constants) == 1 else None


def _first(around: hlo.Computation, loop: hlo.Instruction, index: int) -> int | None:
  """The counter's value before the loop."""
  start = around.instructions.get(loop.operands[0])
  if start is None or start.operation != 'tuple':
    return None
  return _constant(_through_copies(around, start.operands[index]))


def _through_copies(around: hlo.Computation, name: str) -> hlo.Instruction | None:
  found = around.instructions.get(name)
  while found is not None and found.operation in ('copy', 'bitcast'):
    found = around.instructions.get(found.operands[0])
  return found


def _constant(instruction: hlo.Instruction | None) -> int | None:
  """The value of a scalar integer constant; None for anything else."""
  if instruction is None or instruction.operation != 'constant':
    return None
  value = re.match(r'-?\d+', instruction.rest)
  return int(value[0]) if value and re.match(r'[su]\d+\[\]', instruction.type) else None


def _index(element: hlo.Instruction) -> int:
  found = re.search(r'index=(\d+)', element.rest)
  assert found
  return int(found[1])
