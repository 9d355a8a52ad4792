"""Where an answer says its label, and where it ends."""

import dataclasses
import re
import unicodedata

from dss_jax import datasets
from dss_jax.teacher.read import markup, matching
from dss_jax.teacher.read import table as table_lib

_ONLY_MARKS = re.compile(r'[\s*_`#>:$\\(]*')
_SENTENCE = re.compile(r'(?<=[.!?])[*_"\')]*\s+|\n')
_FEW_WORDS = 4  # An input of fewer tells no question from another.
_SAME_QUESTION, _MOST_LIKELY = 0.7, 0.5  # of a line's words that are the input's


@dataclasses.dataclass(frozen=True)
class Place:
  """A phrase behind which a label may stand: text[start:end].

  Attributes:
    own: it is the data set's own answer phrase.
    firm: it says that an answer follows; 'the answer is' in a sentence may begin anything.
    vague: it stands somewhere in a sentence: no answer, but none may contradict it.
    upto: where the next place begins.
  """

  start: int
  end: int
  own: bool
  firm: bool
  vague: bool = False
  upto: int = 0


def find(body: str, form: datasets.CompletionFormat, table: table_lib.Table) -> list[Place]:
  """In order. Before the first own phrase nothing else counts, nor what says it doubtfully."""
  own = [one for one in phrases(body, form.answer_phrase)
         if one[0].split() == form.answer_phrase.split() or _is_said(body, one.start(), table)]
  found = [Place(one.start(), one.end(), True, True) for one in own]
  for one in table.phrase.finditer(body, own[0].end() if own else 0):
    if any(one.start() < other.end() and other.start() < one.end() for other in own):
      continue
    firm = bool(one.lastgroup)
    vague = not firm and not _is_said(body, one.start(), table)
    if not vague or not table.has('doubts', _SENTENCE.split(body[:one.start()])[-1]):
      found.append(Place(one.start(), one.end(), False, firm, vague))
  if not found:
    return []
  found.sort(key=lambda place: place.start)
  merged: list[Place] = []
  for place in found:
    if merged and _ONLY_MARKS.fullmatch(body, merged[-1].end, place.start):
      merged[-1] = dataclasses.replace(merged[-1], end=place.end)
    else:
      merged.append(place)
  ends = [place.start for place in merged[1:]] + [len(body)]
  return [dataclasses.replace(place, upto=end) for place, end in zip(merged, ends, strict=True)]


def _is_said(body: str, start: int, table: table_lib.Table) -> bool:
  """Whether a sentence begins here, or its main clause: not 'Nobody would say the answer is'."""
  before = _SENTENCE.split(body[:start])[-1]
  lead = before.strip(' *_`>#-\t').lower()
  return not lead or (lead.endswith((',', ':', ';')) and not table.has('doubts', before)) or (
      {*re.findall(r'\w+', lead)} <= {*table.lists['connectives'], *table.lists['joints']})


def phrases(text: str, phrase: str) -> list[re.Match[str]]:
  """Where a phrase stands as words of its own: 'Q:' is not in 'FAQ:'.

  In another case only if it does not occur as it is written; white space and bold within it are
  overlooked. Scripts that write words without spaces between have no such boundary.
  """
  words = phrase.split()
  left = r'(?<!\w)' if _begins_a_word(words[0][0]) else ''
  right = r'(?!\w)' if _begins_a_word(words[-1][-1]) else ''
  pattern = left + r'[\s*_]+'.join(map(re.escape, words)) + right
  return list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))


def _begins_a_word(character: str) -> bool:
  return character.isalnum() and unicodedata.category(character) != 'Lo'


def before_end(
    text: str, example: datasets.Example, form: datasets.CompletionFormat,
    table: table_lib.Table,
) -> tuple[str, bool]:
  """The text before an end marker, and whether there is one.

  A chat model may begin with the question that it was asked: that marker ends nothing.
  """
  own = phrases(text, form.answer_phrase)
  answered = own[0].start() if own else len(text)
  for at, end in end_markers(text, form):
    if at > answered or not _restates(text, at, end, example, table):
      return text[:at], True
  return text, False


def end_markers(text: str, form: datasets.CompletionFormat) -> list[tuple[int, int]]:
  """Where any stands, in order."""
  found = []
  for marker in (form.end_marker, *form.more_end_markers):
    if not marker.strip():
      found += [(one.start(), one.end()) for one in re.finditer(re.escape(marker), text) if marker]
      continue
    for one in phrases(text, marker):
      if one[0].split() == marker.split():  # As it is written.
        found.append((one.start(), one.end()))
  return sorted(found)


def _restates(
    text: str, at: int, end: int, example: datasets.Example, table: table_lib.Table
) -> bool:
  """Whether the question behind a marker is the input's own."""
  said = text[end:].lstrip(' *_:\n').partition('\n')[0]
  share = _shared(said, example)
  if markup.rationale(text[:at], table):
    return share is not None and share >= _SAME_QUESTION
  return share is None or share >= _MOST_LIKELY


def _shared(said: str, example: datasets.Example) -> float | None:
  """The share of its words that are the input's; None if the input has hardly any."""
  words, asked = _words(said), set(_words(example.input))
  if len(asked) < _FEW_WORDS:
    return None
  return sum(word in asked for word in words) / max(len(words), 1)


def _words(text: str) -> list[str]:
  return re.findall(r'[^\W_]+', matching.normal(text))


def without_question(
    rationale: str, example: datasets.Example, form: datasets.CompletionFormat
) -> str:
  """A rationale that begins with the question, without it, if anything is left."""
  marker = re.compile(rf'[\s*_>#]*(?:{re.escape(form.end_marker)})') if form.end_marker else None
  if not marker or not marker.match(rationale):
    return rationale
  lines = rationale.splitlines()
  rest = lines[1:]
  while rest:
    head, colon, said = rest[0].partition(':')
    share = _shared(said if colon and len(head.split()) < 3 else rest[0], example)
    if rest[0].strip() and (share is None or share < (_SAME_QUESTION if colon else 1.0)):
      break
    rest = rest[1:]
  if any(line.strip() for line in rest):
    return '\n'.join(rest)
  asked, mark, after = marker.sub('', lines[0], count=1).partition('?')
  return after if mark and after.strip() else rationale
