"""The equation, or the number, in the line after the answer phrase."""

import re

from dss_jax import datasets, equations
from dss_jax.teacher.read import markup, parsed
from dss_jax.teacher.read import table as table_lib

_CURRENCY_OR_THOUSANDS = re.compile(r'\$|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))')
_ARITHMETIC = re.compile(r'(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/() \t])+')
_OR = re.compile(r'\W*or\W', re.IGNORECASE)
_DATE = re.compile(r'[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2}')
_WITH_UNIT = re.compile(r'(?P<number>-?[0-9]+(?:\.[0-9]+)?)\s+(?P<unit>[^\W\d_][^\d=+*/()]*)')
_IN_BRACKETS = re.compile(r'(?P<said>.+?)\s*\((?P<more>[^()]*)\)')
_NAME = re.compile(r'[^\W\d_]\w*(?:\s+[^\W\d_]\w*){0,3}')
_MOST_BRACKETS = 8  # behind a number; a teacher that loops writes thousands
_MOST_UNIT_WORDS = 4


def read_equation(
    answer: str, example: datasets.Example, dataset: datasets.Dataset, table: table_lib.Table
) -> str:
  """The arithmetic around the first parenthesis, or the whole line if it is arithmetic.

  The teacher's own text is kept ('(84 / 2)' is not respelt as the gold '( 84.0 / 2.0 )', the
  released code's choice too), without $ and thousands commas, which cannot be evaluated.
  '(84 / 2).' -> '(84 / 2)'; '(16 * 17) * 4.' -> '(16 * 17) * 4' (the released code drops '* 4');
  '(8 / 4) and (6 / 4)' -> '(8 / 4)', the first answer; '(25 + x)' and '((8 / 4) and (6 / 4))' ->
  not_an_equation; '((491 - 21' -> truncated.
  """
  del example, dataset
  if table.has('negations', answer) or _DATE.search(answer):
    raise parsed.Unreadable('not_an_equation')
  try:
    return _in_parentheses(answer, table)
  except parsed.Unreadable as error:
    if error.reason == 'truncated' or not (label := _of_sides(markup.arithmetic(answer), table)):
      raise
    return label


def _in_parentheses(answer: str, table: table_lib.Table) -> str:
  text = _CURRENCY_OR_THOUSANDS.sub('', answer)
  runs = list(_ARITHMETIC.finditer(text))
  run = next((r for r in runs if '(' in r[0]), None)
  if run is None:  # No parentheses: then only a line that is nothing but an equation.
    run = next((r for r in runs if r[0].strip() == text.rstrip(' .')), None)
  if run is None:
    raise parsed.Unreadable('not_an_equation')
  expression = run[0].strip()
  if not expression:
    raise parsed.Unreadable('not_an_equation')
  if run.end() == len(text) and expression.count('(') > expression.count(')'):
    raise parsed.Unreadable('truncated')
  # '7x - (3 + 4)' and '(3 + 4)x' hold arithmetic, but it is not what they say.
  left, right = text[:run.start()], text[run.end():]
  if (left and expression[0] in '-+*/') or _touches(left[-1:], run[0][0]) or _touches(
      right[:1], run[0][-1]):
    raise parsed.Unreadable('not_an_equation')
  known = {*table.lists['fillers'], *table.lists['connectives']}
  if _OR.match(right) or not (left.rstrip().endswith('=') or known.issuperset(
      re.findall(r'[^\W\d_]+', left.lower()))):  # 'hardly (3 + 4)'
    raise parsed.Unreadable('not_an_equation')
  try:
    equations.evaluate(expression)
  except ValueError as error:
    raise parsed.Unreadable('not_an_equation') from error
  return expression


def _of_sides(text: str, table: table_lib.Table) -> str:
  """Of '30 - 12 = 18 dollars' the side with an operation, if all sides have one value; or ''."""
  sides = [_amount(side, table) for side in _CURRENCY_OR_THOUSANDS.sub('', text).split('=')
           if not _NAME.fullmatch(side.strip())]
  if not sides or not all(sides) or any(
      not equations.equal(sides[0], side) for side in sides[1:]):
    return ''
  return next((side for side in sides if re.search(r'[0-9)]\s*[-+*/]', side)), sides[0])


def _amount(side: str, table: table_lib.Table) -> str:
  """An expression, or a number and its unit; '' for what is neither."""
  for _ in range(_MOST_BRACKETS):
    side = side.strip().rstrip('.,;:').rstrip()
    if not (found := _IN_BRACKETS.fullmatch(side)):  # '18 (dollars)', '30 - 12 (18.0)'
      break
    said, more = found['said'], found['more']
    if not _NAME.fullmatch(more) and (not equations.equal(said, more) or said.endswith(')')):
      break
    side = said
  if (found := _WITH_UNIT.fullmatch(side)) and not table.has('not_units', found['unit']) and (
      len(found['unit'].split()) <= _MOST_UNIT_WORDS):
    return found['number']
  return side if equations.equal(side, side) else ''


def _touches(outside: str, inside: str) -> bool:
  return outside.isalnum() and not inside.isspace()
