"""The label and the rationale in an answer, wherever it says them."""

import dataclasses
import re
from collections.abc import Iterable

from dss_jax import datasets, equations
from dss_jax.teacher.read import labels, markup, matching, parsed, places, structured
from dss_jax.teacher.read import table as table_lib

_CLOSED = ('choice', 'class')  # label kinds with names to look for
_SENTENCE_END = re.compile(r'(?<=[.!?])[*_"\')]*\s+')
_DASH = re.compile(r'\s+[-–—]\s+|:\s+')
_LETTERED = re.compile(r'(?<!\w)\(([A-Za-z])\)|(?<!\w)([A-Z])(?:[).:]|\s*$)', re.MULTILINE)
_NUMBER_ALONE = re.compile(r'[-+]?\d*[.,]?\d+\s*%?\s*(?:[,;|}]|$)')  # a score
_MANY_WORDS = 8  # of free text behind a phrase that may begin anything


@dataclasses.dataclass(frozen=True)
class Found:
  """A label and its rationale; complete if the label cannot go on where the text ends."""

  label: str
  rationale: str
  complete: bool = True


@dataclasses.dataclass(frozen=True)
class _Said:
  """A place whose label could be read, and the line that holds it."""

  place: places.Place
  label: str
  line: str
  after: int  # where that line ends in the text


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads answers to one example."""

  example: datasets.Example
  dataset: datasets.Dataset
  table: table_lib.Table
  needs_rationale: bool = True

  def in_json(self, text: str) -> Found | None:
    """Of an object with a label, unless an answer phrase stands outside of it."""
    if '{' not in text:
      return None
    keys = structured.keys_of(self.dataset.completion, self.table)
    if not (found := structured.find(text, keys)):
      return None
    outside: list[str] = []
    at = 0
    for _, start, end in found:
      outside, at = [*outside, text[at:start]], end
    around = '\n'.join([*outside, text[at:]])
    if places.phrases(around, self.dataset.completion.answer_phrase):
      return None
    said = [self._label(labels.first_line(one))
            for fields, *_ in found for one in structured.labels(fields, keys)]
    if not all(self._same(said[0], one) for one in said[1:]):
      raise parsed.Unreadable('ambiguous_label')
    self._check_around(around, text[found[-1][2]:], said[0])
    rationale = markup.rationale(structured.rationale(found[0][0], self.table), self.table)
    return Found(said[0], self._inner(rationale, said[0]))

  def _check_around(self, around: str, after: str, label: str) -> None:
    """What stands outside of an object must not say another label, nor take this one back."""
    if self.table.has('takes_back', after) or (
        self.table.has('corrections', after) and self._mentions_another(after, label)):
      raise parsed.Unreadable('ambiguous_label')
    self._inner(around, label)

  def _inner(self, rationale: str, label: str) -> str:
    """A rationale without the conclusion that repeats the label; not if that is another."""
    try:
      inner = self.in_text(rationale)
    except parsed.Unreadable:
      return rationale
    if not self._same(inner.label, label):
      raise parsed.Unreadable('ambiguous_label')
    return inner.rationale or rationale

  def in_text(self, body: str) -> Found:
    """Behind an answer phrase, or in a line of its own.

    Raises:
      Unreadable: there is no label, or several.
    """
    found, failed = self._said(body)
    said, found = found, [one for one in found if not one.place.vague]
    if not found:
      own = next((error for place, error in failed if place.own or self._only_denies(body, place)),
                 None)
      if own is None and structured.is_object(body):
        raise parsed.Unreadable('no_label_key')
      if own is None and (alone := self._alone(body)):
        return alone
      if failed:
        raise own or failed[-1][1]
      raise parsed.Unreadable('no_answer_phrase')
    last = found[-1]
    others = [one for one in found if not self._same(one.label, last.label)]
    first = found[0]
    if others:
      first = next(one for one in found if one.place.start > others[-1].place.start)
      if not self.table.has('corrections', body[others[-1].place.end:first.place.end]):
        raise parsed.Unreadable('ambiguous_label')
    if not all(self._same(one.label, last.label) for one in said if one.place.vague):
      raise parsed.Unreadable('ambiguous_label')
    self._check_rest(body, last, [place for place, _ in failed])
    return self._explained(body, first, last)

  def _only_denies(self, body: str, place: places.Place) -> bool:
    """'Label: not', before a line that would be read as the label."""
    line = labels.first_line(body[place.end:place.upto])
    return len(line.split()) == 1 and matching.denies(line)

  def _said(self, body: str) -> tuple[list[_Said], list[tuple[places.Place, parsed.Unreadable]]]:
    found, failed = [], []
    for place in places.find(body, self.dataset.completion, self.table):
      segment = body[place.end:place.upto]
      line = labels.first_line(segment)
      try:
        if not place.firm and self.dataset.completion.label_kind == 'text':
          self._check_vague(line, body[place.end:])
        label = self._label(line, tight=not place.own)
      except parsed.Unreadable as error:
        failed.append((place, error))
      else:
        after = place.end + segment.index(line) + len(line)
        found.append(_Said(place, label, line, after))
    return found, failed

  def _check_vague(self, line: str, rest: str) -> None:
    """'The answer is not hard to find. ...': free text may be anything."""
    rest = markup.without_closer(rest.strip(), self.table).strip()
    if rest != line.strip() or self.table.has('negations', line) or (
        len(line.split()) > _MANY_WORDS):
      raise parsed.Unreadable('no_answer_phrase')

  def _check_rest(self, body: str, last: _Said, failed: Iterable[places.Place]) -> None:
    """What follows the last label must not take it back."""
    for place in failed:
      if place.start > last.place.start:
        line = labels.first_line(body[place.end:place.upto])
        if place.own or matching.denies(line) or self._mentions_another(line, last.label):
          raise parsed.Unreadable('ambiguous_label')
    rest = body[last.place.end:]
    below = next(filter(str.strip, body[last.after:].splitlines()), '')
    if self.table.has('takes_back', rest) or not self._same(
        self._whole(below) or last.label, last.label):  # A list of labels.
      raise parsed.Unreadable('ambiguous_label')
    if not (mends := self.table.has('corrections', rest)):
      return
    more = rest[mends.end():]
    if self._mentions_another(more, last.label) or (
        matching.denies(more) and matching.mentioned(more, [last.label])):
      raise parsed.Unreadable('ambiguous_label')

  def _mentions_another(self, text: str, label: str) -> bool:
    kind = self.dataset.completion.label_kind
    if kind == 'equation':
      return bool(re.search(r'\d', text))
    if kind not in _CLOSED:
      return True
    names = self.example.choices if kind == 'choice' else self.dataset.labels or ()
    if matching.mentioned(text, names) - {label}:
      return True
    numbers = {ord((one[1] or one[2]).lower()) - ord('a') for one in _LETTERED.finditer(text)}
    return kind == 'choice' and any(
        number < len(names) and names[number] != label for number in numbers)

  def _explained(self, body: str, first: _Said, last: _Said) -> Found:
    """With the text before the label as the rationale; with that behind it if there is none."""
    rationale = self._clean(body[:first.place.start])
    after = body[last.after:]
    complete = not self.table.has('corrections', last.line + after) and (
        bool(after.strip(' \t')) or not self._may_go_on(last.line))
    if rationale or not self.needs_rationale:
      return Found(last.label, rationale, complete)
    rest = body[first.after:first.place.upto] if first is not last else body[first.after:]
    sentence = _SENTENCE_END.split(first.line, maxsplit=1)[1:]
    return Found(last.label, self._clean('\n'.join([*sentence, rest]), closes=True), False)

  def _alone(self, body: str) -> Found | None:
    """A label that is a line of its own, first or last; or a class that the last sentence names."""
    lines = [line for line in markup.without_closer(body.strip(), self.table).splitlines()
             if line.strip()]
    if not lines or self.dataset.completion.label_kind == 'text' and (
        len(lines) > 1 or self.needs_rationale):
      return None
    first, last = self._whole(lines[0]), self._whole(lines[-1])
    if len(lines) == 1:
      if first:
        return Found(first, '', False)
      return self._dashed(lines[0]) or self._concluded(lines)
    # Two labels beside each other are a list of them.
    if first and not self._whole(lines[1]) and (not last or self._same(first, last)):
      rest = '\n'.join(lines[1:-1] if last else lines[1:])
      return None if self._is_denied(rest) else Found(first, self._clean(rest), False)
    if last and not first and not self._whole(lines[-2]):
      before = markup.without_heading(body[:body.rindex(lines[-1])])
      return Found(last, self._clean(before), not self._may_go_on(lines[-1]))
    return None if first or last else self._concluded(lines)

  def _may_go_on(self, said: str) -> bool:
    return labels.may_go_on(said, self.dataset.completion.label_kind, self.example.choices)

  def _whole(self, line: str) -> str:
    """The label that a line is, and nothing else; or ''."""
    said = markup.untex(markup.plain(line, self.table))
    kind = self.dataset.completion.label_kind
    try:
      label = labels.read(said, self.example, self.dataset, self.table)
    except parsed.Unreadable:
      return ''
    if kind == 'class':
      return label if matching.whole(said, self.dataset.labels or ()) else ''
    if kind == 'choice':
      return label if matching.whole(re.sub(r'^\W*[A-Za-z](?:\)|[.:]\s)\s*', '', said),
                                     self.example.choices) else ''
    return label if re.fullmatch(r'[-+*/().=$\d\s]+', markup.arithmetic(said)) else ''

  def _dashed(self, line: str) -> Found | None:
    """'**Contradiction** - it was closed in 1973'."""
    head, *rest = _DASH.split(line, maxsplit=1)
    if self.dataset.completion.label_kind == 'class' and rest and (
        label := self._whole(head)) and not self._is_denied(rest[0]):
      return Found(label, self._clean(rest[0], closes=True), False)
    return None

  def _is_denied(self, reason: str) -> bool:
    """Whether what follows a label is no reason for it: 'no', 'false', 0.1, 'would be ...'."""
    said = markup.plain(reason, self.table).strip()
    return labels.begins_with_denial(said, self.table) or bool(
        _NUMBER_ALONE.match(said) or re.match(
            rf'(?:{table_lib.words(self.table.lists["conditions"])})(?!\w)', said, re.IGNORECASE))

  def _concluded(self, lines: list[str]) -> Found | None:
    """'... So the hypothesis contradicts the premise.': a last sentence of known words alone."""
    if self.dataset.completion.label_kind != 'class':
      return None
    sentences = _SENTENCE_END.split(lines[-1])
    last = markup.plain(sentences[-1], self.table)
    start = re.match(rf'(?:{table_lib.words(self.table.lists["connectives"])})(?!\w),?', last,
                     re.IGNORECASE)
    if not start:
      return None
    label = labels.affirmed(last[start.end():], self.dataset, self.table, alone=True)
    before = '\n'.join([*lines[:-1], ' '.join(sentences[:-1])])
    return Found(label, self._clean(before)) if label else None

  def _clean(self, text: str, closes: bool = False) -> str:
    text = markup.without_closer(text, self.table) if closes else text
    text = places.without_question(text.strip(), self.example, self.dataset.completion)
    return markup.rationale(text, self.table)

  def _label(self, line: str, tight: bool = False) -> str:
    if not line:
      raise parsed.Unreadable('empty_label')
    return labels.read(line, self.example, self.dataset, self.table, tight)

  def _same(self, one: str, other: str) -> bool:
    return one == other or (self.dataset.completion.label_kind == 'equation'
                            and equations.equal(one, other))
