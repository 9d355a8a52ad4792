"""The text of a compiled HLO module -> computations of instructions.

Only what counting collectives needs: names, types, operation, operands, called computations.
"""

import dataclasses
import functools
import math
import re

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition|true_computation|false_computation)='
                     r'%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_BITS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line: `%name = type operation(rest`."""

  name: str
  type: str
  operation: str
  rest: str

  @functools.cached_property
  def operands(self) -> list[str]:
    """Names of what it reads."""
    return re.findall(r'%([\w.\-]+)', self.rest.partition(')')[0])

  def attribute(self, name: str) -> str:
    """The computation that it calls as `name=%...`; '' without one."""
    found = re.search(rf'\b{name}=%?([\w.\-]+)', self.rest)
    return found[1] if found else ''

  def called(self) -> list[str]:
    """All computations that it calls."""
    branches = _BRANCHES.search(self.rest)
    listed = re.findall(r'[\w.\-]+', branches[1]) if branches else []
    return _CALLED.findall(self.rest) + listed

  def arrays(self) -> list[int]:
    """Bytes of each array of its type."""
    return [_bytes(kind, shape) for kind, shape in _ARRAY.findall(self.type)]


@dataclasses.dataclass(frozen=True)
class Computation:
  """A named list of instructions; the last or the marked one is its result."""

  name: str
  instructions: dict[str, Instruction]
  root: Instruction


@dataclasses.dataclass(frozen=True)
class Module:
  """All computations by name, and the entry's name."""

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads `Compiled.as_text()`.

  Raises:
    ValueError: it has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, name, root = '', '', None
  lines: dict[str, Instruction] = {}
  for line in text.splitlines():
    if begins := _COMPUTATION.match(line):
      name, lines, root = begins[2], {}, None
      entry = name if begins[1] else entry
    elif found := _INSTRUCTION.match(line):
      lines[found[2]] = Instruction(found[2], found[3], found[4], found[5])
      root = lines[found[2]] if found[1] or root is None else root
    elif line.startswith('}') and root is not None:
      computations[name] = Computation(name, lines, root)
      name, root = '', None
  if entry not in computations:
    raise ValueError('the HLO text has no entry computation')
  return Module(computations, entry)


def _bytes(kind: str, shape: str) -> int:
  """('bf16', '8,128') -> 2048. Types of less than a byte are rounded up as a whole."""
  bits = 8 if kind == 'pred' else int((_BITS.search(kind) or ['0'])[0])
  return -(-bits * math.prod(int(size) for size in shape.split(',') if size) // 8)
