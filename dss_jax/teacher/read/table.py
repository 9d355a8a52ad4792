"""The words and marks by which answers are read: `reading.toml` and a data set's own additions."""

import dataclasses
import functools
import json
import pathlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from dss_jax import datasets, errors, fields

_DEFAULT = tomllib.loads(pathlib.Path(__file__).with_name('reading.toml').read_text('utf-8'))
_LISTS = tuple(name for name in _DEFAULT if name not in ('thoughts', 'label_sets'))
_KEYS = (*_LISTS, 'thoughts', 'synonyms', 'extend')
_MARKS = r'[\s*_`]'  # never without a bound: a teacher that loops writes 10,000 of them


@dataclasses.dataclass(frozen=True)
class Table:
  """The words as data, and the patterns that are made of them once.

  Attributes:
    lists: by their names in `reading.toml`.
    thoughts: (opening, closing) marks of a thinking model's thoughts.
    synonyms: other words for labels, of the data set's own table.
    phrase: 'So, the best answer is', in which `header` is matched for 'Answer:' and its like.
    denied: just before a label, that it is not meant.
  """

  lists: Mapping[str, tuple[str, ...]]
  thoughts: tuple[tuple[str, str], ...]
  synonyms: Mapping[str, tuple[str, ...]]
  phrase: re.Pattern[str]
  denied: re.Pattern[str]

  def has(self, name: str, text: str) -> re.Match[str] | None:
    """The first of a list's words or phrases in a text."""
    return _anywhere(self.lists[name]).search(text)

  def of_labels(self, labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each label of a closed set, what else it is called there."""
    known = tuple(labels)
    more: Mapping[str, list[str]] = next(
        (one for one in _DEFAULT['label_sets'] if sorted(one) == sorted(known)), {})
    return {label: (*more.get(label, ()), *self.synonyms.get(label, ())) for label in known}


def of(form: datasets.CompletionFormat) -> Table:
  """The table for a data set's completions.

  Raises:
    UserError: an unknown key in its own table, or what is no list of texts.
  """
  return _made(json.dumps(form.reading, sort_keys=True))


def words(names: Iterable[str]) -> str:
  """A pattern of any of some words, the longest first; white space and marks between are any."""
  return '|'.join(_spaced(name) for name in sorted(names, key=len, reverse=True))


@functools.lru_cache(256)
def _anywhere(names: tuple[str, ...]) -> re.Pattern[str]:
  return re.compile(rf"(?<![\w'])(?:{words(names)})(?![\w])", re.IGNORECASE)


def _spaced(name: str) -> str:
  return rf'{_MARKS}{{1,8}}'.join(map(re.escape, name.split()))


@functools.lru_cache(64)
def _made(own: str) -> Table:
  added: dict[str, Any] = json.loads(own)
  for key, value in added.items():
    _check(key, value)
  extend = added.get('extend', True)
  lists = {name: tuple(added[name]) if name in added and not extend else
           (*_DEFAULT[name], *added.get(name, ())) for name in _LISTS}
  thoughts = (*(_DEFAULT['thoughts'] if extend or 'thoughts' not in added else ()),
              *added.get('thoughts', ()))
  return Table(
      lists, tuple((opening, closing) for opening, closing in thoughts),
      {label: tuple(names) for label, names in added.get('synonyms', {}).items()},
      re.compile(_phrase(lists), re.IGNORECASE | re.MULTILINE),
      re.compile(rf"(?:(?<![\w'])|(?=n't))(?:{words(lists['negations'])})(?!\w)[\s\"'(]*"
                 r"(?:(?:an?|the|clearly|strictly|necessarily|exactly)\s+)*[\"'(]*$",
                 re.IGNORECASE))


def _phrase(lists: Mapping[str, tuple[str, ...]]) -> str:
  """'[So,] the [best] answer is', '**Answer:**' and '### Answer' as lines, boxed, '#### 18'."""
  some = {name: words(lists[name]) for name in (
      'connectives', 'articles', 'adjectives', 'nouns', 'verbs', 'answer_tags')}
  gap, colon = rf'{_MARKS}{{1,8}}', rf'{_MARKS}{{0,8}}[:：](?:[*_]{{1,3}}(?=\s))?'
  lead = rf'(?P<connective>(?<!\w)(?:{some["connectives"]}),?{gap})?'
  noun = (rf'(?:(?:{some["articles"]}){gap})?(?:(?:{some["adjectives"]}),?{gap})*'
          rf'(?:{some["nouns"]})')
  between = r'(?:\s+(?:between|to|for|here)\b[^.:\n]{0,60}?)?'
  return '|'.join([
      rf'{lead}(?<!\w){noun}{between}{gap}(?:{some["verbs"]})(?!\w)',
      rf'(?P<header>(?:^|(?<=[.!?])[^\S\n]{{1,8}}|(?<=\*\*))[#*_`>\s-]{{0,16}}{noun}{colon})',
      rf'(?P<heading>^[#*_`>\s-]{{0,16}}(?:#|\*\*|__)[*_\s]{{0,8}}{noun}[*_ ]{{0,8}}$)',
      rf'(?P<tag><(?:{some["answer_tags"]})>)',
      r'(?P<boxed>(?:\\\(\s?|\${0,2})(?=\\boxed\s?\{))',
      r'(?P<hashes>^#{3,}\s*(?=[-$(]?\d))'])


def _check(key: str, value: Any) -> None:
  if key not in _KEYS:
    raise errors.UserError(f'reading: unknown key {key!r}: {errors.did_you_mean(key, _KEYS)}')
  if key == 'extend':
    good, wanted = isinstance(value, bool), 'true or false'
  elif key == 'thoughts':
    good = isinstance(value, list) and all(_texts(pair) and len(pair) == 2 for pair in value)
    wanted = "pairs of marks, [['<think>', '</think>']]"
  elif key == 'synonyms':
    good = isinstance(value, dict) and all(map(_texts, value.values()))
    wanted = "a list of texts for each label, {bug = ['defect']}"
  else:
    good, wanted = _texts(value), "a list of texts, ['...']"
  if not good:
    raise errors.UserError(f'reading: {key} is {fields.describe(value)}: give {wanted}')


def _texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)


DEFAULT = _made('{}')
