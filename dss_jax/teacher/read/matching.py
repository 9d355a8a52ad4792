"""Which of some names (labels, choices) a text is: exactly first, and never by a shared form.

Punctuation is part of a name ('C', 'C++', '-1', '>50K', 'A*'), so only what prose puts around one
is taken off, a layer at a time, until what is left is a name. Case, white space, kinds of quotes
and Unicode's compatible forms are overlooked where no other name has the same form.
"""

import collections
import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from dss_jax.teacher.read import table

PROSE = frozenset('.,;:!?…\'"`*_()[]{}“”‘’«»‹›„‚¡¿。，、；：！？．（）［］【】「」『』《》〈〉')
_ENDS = frozenset('.,;:!?…。，、；：！？．')
_PAIRS = dict(zip('"\'`*_([{“‘«‹（［【「『《〈<$|',
                  '"\'`*_)]}”’»›）］】」』》〉>$|', strict=True))
_DASHES = frozenset('–—')
_NO_START = frozenset('!?')  # '!urgent' is not urgent.
_BULLET = re.compile(r'[-•·>#→–—]+\s+(?=[^\W\d_])')  # '- billing', but '- 1' may be a number
_QUOTED = re.compile(r'(\*{1,3}|_{1,3}|`+|["\'“‘«„])(?P<inner>.+?)(?:\1|["\'”’»“])(?![\w*`])')
_SAME = str.maketrans({**dict.fromkeys('‘’‚ʼ′', "'"), **dict.fromkeys('“”„″', '"'),
                       **dict.fromkeys('−‐‑', '-'),
                       **dict.fromkeys('\u200b\u2060\ufeff\u00ad\ufe0e\ufe0f')})
_NUMBER = re.compile(r'(?<![\w.])[-+]?\.?[0-9]+(?:[.,:/][0-9]+)*')
_SYMBOL = re.compile(r'[+#<>=~^%]|(?<!\w)-(?=\w)|(?<=\w)-(?!\w)')
_WORDS = table.DEFAULT.lists
_NOT = re.compile(rf"(?<!\w)(?:{table.words(_WORDS['negations'])})(?!\w)|n't(?!\w)")
_LIKE, _VERY_LIKE, _MIN_PREFIX = 0.75, 0.85, 3


def whole(text: str, names: Iterable[str]) -> set[str]:
  """The names that the text is, less what prose puts around one.

  With ('C', 'C++'): '**C++**.' -> {'C++'}; 'c' -> {'C'}; 'C#' -> set(). With ('US', 'us'): 'US' ->
  {'US'}; 'Us' -> both, since it is as near to either.
  """
  known = list(names)
  said = text.strip()
  for exact in (said, said.removesuffix('.')):
    for found in ({name for name in known if name == exact},
                  {name for name in known if name.strip() == exact}):
      if found:
        return found
  known = [name for name in known if bare(name)]
  for said in _peeled(text):
    for form in (_spaced, normal, _core):
      target = _spaced(said) if form is _spaced else normal(said)
      if target and (found := {name for name in known if form(name) == target}):
        return found
  return set()


def start(text: str, names: Iterable[str]) -> tuple[set[str], str]:
  """The longest names that the text begins with as whole words, and what follows.

  With ('no', 'not sure'): 'No, since it ...' -> {'no'}, ', since it ...'; 'nothing', 'no-one' ->
  nothing. With ('1', '2'): '1.5', '1/2' -> nothing.
  """
  known = [name for name in names if bare(name)]
  if (quoted := _QUOTED.match(text)) and (found := whole(quoted['inner'], known)):
    return found, text[quoted.end():]
  said = normal(text)
  while said:
    forms = [(form, rank, name) for name in known
             for rank, form in enumerate((_core(name), normal(name)))
             if said.startswith(form) and _is_end(said, len(form))]
    if forms:
      longest, rank, _ = max(forms, key=lambda one: (len(one[0]), one[1]))
      found = {name for form, r, name in forms if (len(form), r) == (len(longest), rank)}
      as_written = {name for name in found if _spaced(name) in _spaced(text)}
      return as_written if len(as_written) == 1 else found, said[len(longest):]
    bullet = _BULLET.match(said)
    if not bullet and (said[0] not in PROSE - _NO_START or _is_number(said)):
      break
    said = said[bullet.end() if bullet else 1:].lstrip()
  return set(), ''


def mentioned(text: str, names: Iterable[str]) -> set[str]:
  """Names that occur anywhere, less those inside a longer one; rather too many than too few."""
  said = normal(text)
  found = {name: form for name in names if bare(name) and _occurs(form := normal(name), said)}
  return {name for name, form in found.items()
          if not any(form in other and form != other for other in found.values())}


def clearly_named(text: str, names: Iterable[str]) -> set[str]:
  """Those of `mentioned` that stand alone: not 'C' in 'C#', '5' in '-5', 'soap' in 'soap-free'."""
  said, found = normal(text), set()
  for name in mentioned(text, names):
    for at in re.finditer(re.escape(form := normal(name)), said):
      before = said[:at.start()]
      signed = form[0].isdigit() and re.search(r'[-+]\s*$', before)
      parted = not before or before[-1].isspace() or before[-1] in PROSE - _NO_START
      if parted and not signed and not (
          form[0].isdigit() and re.search(r'[0-9][.,:]$', before)) and _is_end(said, at.end()):
        found.add(name)
  return found


def continues(text: str, name: str, names: Iterable[str]) -> bool:
  """Whether another name has this one's words and more, and the text has them too.

  'billing errors' begins with 'billing', but is no less a 'billing error'.
  """
  said, short = _words(text), _words(name)
  return bool(short) and any(
      said.startswith(longer) for other in names
      if (longer := _words(other)) != short and longer.startswith(short))


def denies(text: str) -> bool:
  """Whether it holds a negation."""
  return bool(_NOT.search(normal(text)))


def resembles(said: str, name: str, names: Iterable[str]) -> bool:
  """Whether `said` is a misspelt or abridged `name`, and is no nearer to another of the names.

  ('sope', 'soap'), ("doctor office", "doctor's office"), ('cut trees', 'cut trees deer') ->
  True; ('engine', 'soap'), ('15', '16'), ('not safe', 'safe') -> False.
  """
  likeness = _likeness(said, name)
  others = {other for other in names if normal(other) != normal(name)}
  if any(_likeness(said, other) > max(likeness, _LIKE) for other in others):
    return False
  a, b = _squashed(said), _squashed(name)
  if not a or not b or _marks(said) != _marks(name) or not _numbers_fit(said, name):
    return False
  long, short = sorted((normal(said), normal(name)), key=len, reverse=True)
  if long.endswith(short) and long.removesuffix(short) in _WORDS['opposites']:
    return False
  cut = normal(said)[-1].isalnum()
  if b.startswith(a) and (cut or len(a) >= _MIN_PREFIX):
    return True
  x, y = _content(said), _content(name)
  if x and y and (x <= y or y <= x):
    return True
  return likeness >= (_LIKE if a[0] == b[0] else _VERY_LIKE)


def bare(text: str) -> str:
  """A text without white space and prose's punctuation: '' of what is nothing else."""
  return ''.join(c for c in text.translate(_SAME) if c not in PROSE and not c.isspace())


@functools.lru_cache(4096)
def normal(text: str) -> str:
  """For comparison: no case, single spaces, one kind of quotes, Unicode's compatible forms."""
  return ' '.join(unicodedata.normalize('NFKC', text.translate(_SAME)).casefold().split())


@functools.lru_cache(4096)
def _spaced(text: str) -> str:
  return ' '.join(unicodedata.normalize('NFC', text.translate(_SAME)).split())


@functools.lru_cache(4096)
def _core(name: str) -> str:
  """A name without the quotes around it and the period after it; its symbols stay."""
  said = normal(name)
  while len(said) > 1:
    if said[0] in '"\'([{' and _PAIRS[said[0]] == said[-1]:
      said = said[1:-1].strip()
    elif said[-1] in _ENDS:
      said = said[:-1].strip()
    else:
      break
  return said


def _peeled(text: str) -> Iterator[str]:
  """The text, and what is left after each layer: '**A**.', '**A**', '*A*', 'A'."""
  said = text.translate(_SAME).strip()
  while said:
    yield said
    bullet = _BULLET.match(said)
    if bullet:
      said = said[bullet.end():]
    elif len(said) > 1 and _PAIRS.get(said[0]) == said[-1]:
      said = said[1:-1]
    elif said[-1] in _ENDS:
      said = said[:-1]
    elif said[0] in PROSE - _NO_START and not _is_number(said):
      said = said[1:]
    elif said[-1] in PROSE:
      said = said[:-1]
    else:
      return
    said = said.strip()


def _is_number(text: str) -> bool:
  """'.5' is no 5."""
  return text[0] in '.,' and text[1:2].isdigit()


def _is_end(text: str, at: int) -> bool:
  """Whether a name that stops here stops at a word's end: not 'A|+', '4|/5', 'no|-one'."""
  rest = text[at:].lstrip()
  if not rest:
    return True
  if text[at].isspace():  # '5 %', 'a < b', 'A -', but not 'bug - it fails'
    return rest[0] not in '+<>=~%#/&^' and not re.match(r'-(?!\s)', rest)
  last, here, after = text[at - 1], text[at], text[at + 1:at + 2]
  if here in '.,:':
    initial = here == '.' and after.isalpha() and not text[max(at - 2, 0):at - 1].isalnum()
    return not initial and not (last.isdigit() and after.isdigit())  # Nor 'U|.S.', '3|.5'.
  if here in "'_":
    return not after.isalnum()
  if here in _DASHES:
    return not after.isdigit()
  return here in PROSE


def _occurs(form: str, said: str) -> bool:
  left = r'(?<!\w)' if form[0].isalnum() else ''
  right = r'(?!\w)' if form[-1].isalnum() else ''
  return re.search(left + re.escape(form) + right, said) is not None


def _words(text: str) -> str:
  return ' '.join(re.findall(r'[^\W_]+', normal(text)))


def _squashed(text: str) -> str:
  return ''.join(re.findall(r'[^\W_]+', normal(text)))


def _content(text: str) -> frozenset[str]:
  words = frozenset(re.findall(r'[^\W_]+', normal(text).replace("'", '')))
  return frozenset(word for word in words if word not in _WORDS['small_words']) or words


def _marks(text: str) -> collections.Counter[str]:
  """What makes another thing of a name: signs and negations."""
  said = _NUMBER.sub(' ', normal(text))
  return collections.Counter(_SYMBOL.findall(said) + ['not' for _ in _NOT.finditer(said)])


def _numbers_fit(said: str, name: str) -> bool:
  """'apples' may be short for '5 apples'; '6 apples' is not."""
  numbers = _NUMBER.findall(normal(said))
  return not numbers or sorted(numbers) == sorted(_NUMBER.findall(normal(name)))


def _likeness(said: str, name: str) -> float:
  return difflib.SequenceMatcher(None, _squashed(said), _squashed(name)).ratio()
