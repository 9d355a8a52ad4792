"""The label in the line after the answer phrase, for each `CompletionFormat.label_kind`."""

import re
from collections.abc import Callable, Sequence

from dss_jax import datasets, equations
from dss_jax.teacher.read import matching

_LEAD = rf'^[\s{re.escape("".join(matching.PROSE))}]*'
_LETTER = re.compile(  # '(b) fly', 'either (b) fly or (c) run'; 'b) fly', 'b: fly'; not 'a ledge'
    rf'\(\s*([A-Za-z])\s*\)|{_LEAD}([A-Za-z])(?:\)|[.:]\s|\s[-–—]\s|{_LEAD[1:]}$)')
_AROUND_LETTERS = re.compile(  # Words that say nothing about which choice is meant.
    '|either|both|options?|choices?|answer|letter|the|is|are|best|correct|right|most|likely|'
    'probably|definitely|would|be|of|course|and|or|boxed|text')
_REASON = re.compile(r'\W*(?:because|since|as|for)(?!\w)', re.IGNORECASE)
_NEXT_LETTER = re.compile(r'[-–—\s,;/]*(?:(?<!\w)(?:or|and)(?!\w))?\s*$', re.IGNORECASE)
_INITIALS = re.compile(r'(?<!\w)(?:[^\W\d_]\.){2,}$')
_CURRENCY_OR_THOUSANDS = re.compile(r'\$|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))')
_ARITHMETIC = re.compile(r'(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/() \t])+')


class Unreadable(Exception):
  """There is no label; `reason` is a key of `parsing.REASONS`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def read_choice(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The choice that the text is, or that the first letter names, in the example's own spelling.

  A letter repairs the text of its choice where that is misspelt, cut or missing; it does not
  outweigh another text. With choices ('perfume', 'soap'):
  '(a) Perfume.', '(a) parfume', '(a)' -> 'perfume'; 'either (a) perfume or (b) soap' -> 'perfume';
  'soap' -> 'soap'; '(b) perfume', '(b) engine', 'not (b)' -> ambiguous_label; '(f) ink', 'none' ->
  unknown_choice.
  """
  del dataset
  choices, letter = example.choices, _LETTER.search(answer)
  around = (answer[:letter.start()], answer[letter.end():]) if letter else ()
  if not letter or letter[2] or any(map(matching.bare, around)):  # Not just '(b)'.
    text = matching.whole(answer, choices)
    if letter and letter[2] and not any(map(matching.bare, around)):
      text |= _at(letter, choices)  # 'A' is choice (a), and may be the text of another.
    if len(text) > 1:
      raise Unreadable('ambiguous_label')
    if text:
      return text.pop()
  if not letter:
    return _named(answer, choices)
  if not (lettered := _at(letter, choices)):
    raise Unreadable('unknown_choice')
  (choice,) = lettered
  following = _LETTER.search(answer, letter.end())
  said = answer[letter.end():following.start() if following else None]
  if not _supports(choice, answer[:letter.start()], said, choices):
    raise Unreadable('ambiguous_label')
  return choice


def _at(letter: re.Match[str], choices: Sequence[str]) -> set[str]:
  index = ord((letter[1] or letter[2]).lower()) - ord('a')
  return set(choices[index:index + 1])


def _named(answer: str, choices: Sequence[str]) -> str:
  """The one choice that an answer without a letter names."""
  alone, named = matching.clearly_named(answer, choices), matching.mentioned(answer, choices)
  if len(named) == 1 and alone == named:
    (choice,) = named
    if not matching.denies(matching.normal(answer).partition(matching.normal(choice))[0]):
      return choice
  if named:
    raise Unreadable('ambiguous_label')
  raise Unreadable('truncated' if answer.endswith('(') else 'unknown_choice')


def _supports(choice: str, before: str, said: str, choices: Sequence[str]) -> bool:
  """Whether the text around a letter is of the letter's choice, or says nothing."""
  others = set(choices) - {choice}
  if matching.denies(before) or matching.mentioned(before, choices) & others:
    return False
  if not matching.bare(_NEXT_LETTER.sub('', said)) and not matching.whole(said, choices):
    said = ' '.join(word for word in before.split()
                    if not _AROUND_LETTERS.fullmatch(''.join(filter(str.isalpha, word)).lower()))
    if not said:
      return True
  for text in (said, _NEXT_LETTER.sub('', said)):
    if found := matching.whole(text, choices):
      return choice in found
    found, rest = matching.start(text, choices)
    if found == {choice} and not matching.mentioned(rest, choices) & others:
      return True
  if _REASON.match(said) and not matching.mentioned(said, choices) & others:
    return True
  return matching.resembles(_NEXT_LETTER.sub('', said), choice, choices)


def read_class(answer: str, example: datasets.Example, dataset: datasets.Dataset) -> str:
  """The label of the closed set that the answer is, or starts with, whatever case and quotes.

  With labels ('entailment', 'neutral'):
  'neutral', '**Neutral.**', 'neutral: it may rain' -> 'neutral'; 'neutral or entailment' ->
  ambiguous_label; 'not neutral', 'maybe' -> unknown_label; 'neut' -> truncated.
  With labels ('C', 'C++'): 'C++.' -> 'C++'; 'C#' -> unknown_label.
  """
  del example
  known = dataset.labels or ()
  found, rest = matching.whole(answer, known), ''
  if not found:
    found, rest = matching.start(answer, known)
  if len(found) == 1:
    (label,) = found
    if rest and (matching.mentioned(rest, known) - found
                 or matching.continues(answer, label, known)):
      raise Unreadable('ambiguous_label')
    return label
  if found:
    raise Unreadable('ambiguous_label')
  said = matching.normal(answer)
  if answer[-1].isalnum() and any(matching.normal(label).startswith(said) for label in known):
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
  """The line as it is, less one trailing period: 'Paris.' -> 'Paris', but 'U.S.A.' as it is."""
  del example, dataset
  label = answer if _INITIALS.search(answer) else answer.removesuffix('.').rstrip()
  if not label:
    raise Unreadable('empty_label')
  return label


READERS: dict[str, Callable[[str, datasets.Example, datasets.Dataset], str]] = {
    'choice': read_choice,
    'class': read_class,
    'equation': read_equation,
    'text': read_text,
}


def _touches(outside: str, inside: str) -> bool:
  return outside.isalnum() and not inside.isspace()
