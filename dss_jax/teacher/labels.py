"""The label in the line after the answer phrase, for each `CompletionFormat.label_kind`."""

import re
from collections.abc import Callable, Iterable

from dss_jax import datasets, equations

_LETTER = re.compile(r'\(\s*([A-Za-z])\s*\)'  # '(b) fly', 'either (b) fly or (c) run'
                     r'|^\W*([A-Za-z])(?:\)|\W*$)')  # 'b) fly', 'b.', but not 'a ledge'
_CURRENCY_OR_THOUSANDS = re.compile(r'\$|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))')
_ARITHMETIC = re.compile(r'(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/() \t])+')


class Unreadable(Exception):
  """There is no label; `reason` is a key of `parsing.REASONS`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def read_choice(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The choice that the first letter names, in the example's own spelling.

  With choices ('perfume', 'soap'):
  '(a) Perfume.' -> 'perfume'; 'either (a) perfume or (b) soap' -> 'perfume';
  'soap' -> 'soap'; '(b) perfume' -> ambiguous_label; '(f) ink', 'none' -> unknown_choice.
  """
  del dataset
  found = _LETTER.search(answer)
  if not found:
    named = _named(answer, example.choices)
    if len(named) == 1:
      return named.pop()
    if named:
      raise Unreadable('ambiguous_label')
    raise Unreadable('truncated' if answer.endswith('(') else 'unknown_choice')
  index = ord((found[1] or found[2]).lower()) - ord('a')
  if index >= len(example.choices):
    raise Unreadable('unknown_choice')
  choice = example.choices[index]
  following = _LETTER.search(answer, found.end())
  said = _plain(answer[found.end():following.start() if following else None])
  # A misspelt text is repaired by the letter; the text of *another* choice contradicts it.
  if said != _plain(choice) and said in map(_plain, example.choices):
    raise Unreadable('ambiguous_label')
  return choice


def read_class(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The label of the closed set that the answer starts with, whatever case and punctuation.

  With labels ('entailment', 'neutral'):
  'neutral', 'Neutral.', 'neutral: it may rain' -> 'neutral'; 'neutral or entailment' ->
  ambiguous_label; 'not neutral', 'maybe' -> unknown_label; 'neut' -> truncated.
  """
  del example
  said, known = _plain(answer), dataset.labels or ()
  first = [label for label in known if re.match(re.escape(_plain(label)) + r'(?!\w)', said)]
  if first:
    longest = max(first, key=len)
    if _named(said[len(_plain(longest)):], known) - {longest}:
      raise Unreadable('ambiguous_label')
    return longest
  if answer[-1].isalnum() and any(_plain(label).startswith(said) for label in known):
    raise Unreadable('truncated')
  raise Unreadable('unknown_label')


def read_equation(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The arithmetic around the first parenthesis, or the whole line if it is arithmetic.

  The teacher's own text is kept ('(84 / 2)' is not respelt as the gold '( 84.0 / 2.0 )', the
  released code's choice too), without $ and thousands commas, which cannot be evaluated.
  '(84 / 2).' -> '(84 / 2)'; '(16 * 17) * 4.' -> '(16 * 17) * 4' (the released code drops '* 4');
  '(8 / 4) and (6 / 4)' -> '(8 / 4)', the first answer; '(25 + x)' and '((8 / 4) and (6 / 4))' ->
  not_an_equation; '((491 - 21' -> truncated.
  """
  del example, dataset
  text = _CURRENCY_OR_THOUSANDS.sub('', answer)
  runs = list(_ARITHMETIC.finditer(text))
  run = next((r for r in runs if '(' in r[0]), None)
  if run is None:  # No parentheses: then only a line that is nothing but an equation.
    run = next((r for r in runs if r[0].strip() == text.rstrip(' .')), None)
  if run is None:
    raise Unreadable('not_an_equation')
  expression = run[0].strip()
  if run.end() == len(text) and expression.count('(') > expression.count(')'):
    raise Unreadable('truncated')
  # '7x - (3 + 4)' and '(3 + 4)x' hold arithmetic, but it is not what they say.
  left, right = text[:run.start()], text[run.end():]
  if (left and expression[0] in '-+*/') or _touches(left[-1:], run[0][0]) or _touches(
      right[:1], run[0][-1]):
    raise Unreadable('not_an_equation')
  try:
    equations.evaluate(expression)
  except ValueError as error:
    raise Unreadable('not_an_equation') from error
  return expression


def read_text(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The line as it is, less one trailing period: 'Paris.' -> 'Paris'."""
  del example, dataset
  label = answer.removesuffix('.').rstrip()
  if not label:
    raise Unreadable('empty_label')
  return label


READERS: dict[str, Callable[[str, datasets.Example, datasets.Dataset], str]] = {
    'choice': read_choice,
    'class': read_class,
    'equation': read_equation,
    'text': read_text,
}


def _plain(text: str) -> str:
  """For comparison: no case, no punctuation at the ends, single spaces."""
  return ' '.join(re.sub(r'^[\W_]+|[\W_]+$', '', text).split()).casefold()


def _named(answer: str, names: Iterable[str]) -> set[str]:
  """Names that occur in the answer as whole words, less those inside a longer one."""
  said = _plain(answer)
  found = {name for name in names
           if _plain(name) and re.search(rf'(?<!\w){re.escape(_plain(name))}(?!\w)', said)}
  return {name for name in found
          if not any(_plain(name) in _plain(other) and _plain(name) != _plain(other)
                     for other in found)}


def _touches(outside: str, inside: str) -> bool:
  return outside.isalnum() and not inside.isspace()
