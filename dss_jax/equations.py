"""Arithmetic in text, evaluated without `eval`.

Labels of SVAMP are equations such as `( 84.0 / 2.0 )`, and both a teacher and a student write
what they like in that place. The released code hands the text to `eval()`, which runs code and
hangs on `9**9**7`; here only numbers, + - * / parentheses and unary minus exist.
"""

import ast
import math
import operator
import re
import threading
from collections.abc import Callable

MAX_LENGTH = 256  # characters; also what keeps the parser's own recursion bounded
MAX_DEPTH = 64  # of parentheses, and of the syntax tree: a sum of n terms has n levels
TOLERANCE = 1e-6

_ARITHMETIC = re.compile(r'[-+*/(). \t0-9]+')
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ONE_THREAD = threading.Lock()


def evaluate(text: str) -> float:
  """The value of an arithmetic expression.

  >>> evaluate('( 84.0 / 2.0 )')
  42.0
  >>> evaluate('-(3 - 5) * 2')
  4.0

  Args:
    text: numbers, + - * / parentheses, unary minus; white space at the ends is ignored.

  Raises:
    ValueError: anything else (names, calls, `**`, `//`, exponents, commas), a division by zero,
      an overflow, more than MAX_LENGTH characters or MAX_DEPTH levels. Never another exception.
  """
  text = text.strip()
  if len(text) > MAX_LENGTH:
    raise ValueError(f'{len(text)} characters; at most {MAX_LENGTH} are read')
  if not _ARITHMETIC.fullmatch(text):
    raise ValueError(f'not arithmetic: {text!r}')
  if _parentheses(text) > MAX_DEPTH:
    raise ValueError(f'nested more than {MAX_DEPTH} levels deep')
  try:
    tree = parse(text)
  except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
    raise ValueError(f'not an expression: {text!r}') from error
  try:
    return _value(tree.body, MAX_DEPTH)
  except ZeroDivisionError as error:
    raise ValueError('division by zero') from error
  except OverflowError as error:
    raise ValueError('the value is too large') from error


def parse(text: str) -> ast.Expression:
  """`ast.parse` of an expression, by one thread at a time: shards are read in several.

  Before Python 3.13 all threads of a process count the depth of their trees in one place, and a
  thread that loses the interpreter half way fails with SystemError (CPython issue 106905).

  Raises:
    SyntaxError, ValueError, MemoryError, RecursionError: as `ast.parse`.
  """
  with _ONE_THREAD:
    return ast.parse(text, mode='eval')


def equal(a: str, b: str) -> bool:
  """Whether two equations have the same value; False if either cannot be evaluated.

  The tolerance is absolute: a relative one of 1e-6 would make 1538910 and 1538911 equal.

  >>> equal('( 84.0 / 2.0 )', '(21 * 2)'), equal('42', 'forty-two')
  (True, False)
  """
  try:
    return abs(evaluate(a) - evaluate(b)) <= TOLERANCE
  except ValueError:
    return False


def _value(node: ast.expr, depth: int) -> float:
  if depth == 0:
    raise ValueError(f'nested more than {MAX_DEPTH} levels deep')
  match node:
    case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
      value = float(number)
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      value = -_value(operand, depth - 1)
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      value = _OPERATORS[type(op)](_value(left, depth - 1), _value(right, depth - 1))
    case _:
      raise ValueError(f'{type(getattr(node, "op", node)).__name__} is not + - * / or a number')
  if not math.isfinite(value):  # At every level: 1 / (1e200 * 1e200) must not become 0.
    raise OverflowError
  return value


def _parentheses(text: str) -> int:
  """How deep they nest; the syntax tree leaves them out."""
  depth = deepest = 0
  for character in text:
    depth += (character == '(') - (character == ')')
    deepest = max(deepest, depth)
  return deepest
