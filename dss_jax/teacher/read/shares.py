"""How sure a teacher was of its label: a closed set's probabilities, from those of the tokens.

Where the label stands is not asked of the parser, but tried: it is the last place at which the
answer, with another label written there and perhaps repeated, would have been read as that label.
From there the alternatives to each token are added to the labels that they begin, along the path
that the answer took.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from dss_jax import datasets
from dss_jax.teacher import protocol
from dss_jax.teacher.read import logprobs, parsed, places
from dss_jax.teacher.read import table as table_lib

_LETTERED = (  # how a choice is written
    '({0}) {1}', '({0})', '{0}) {1}', '{0}. {1}', '{0}: {1}', '{0})', '{0}.', '{0}:', '{1}', '{0}')
_OTHERS_TRIED, _PLACES_TRIED = 2, 32
_LETTER_ENDS = r'(?=[^\w\s]|\s*$|\s*\n|\s[-–—])'  # of 'b' that is a choice: no article
_CONTEXT = 16  # characters before a label by which it is found among the tokens
_Style = Sequence[tuple[str, str]]  # (label, how it is written), of all labels
_Left = list[tuple[str, bytes]]  # (label, what of it is still to be written)
_Read = Callable[[protocol.Completion], parsed.Parsed]


def of(
    completion: protocol.Completion, label: str, example: datasets.Example,
    dataset: datasets.Dataset, read: _Read,
) -> dict[str, float] | None:
  """Label -> probability, of those that have any; they add up to 1.

  'So the answer is bug.' with ' bug' 0.7, ' billing' 0.2, ' a' 0.1 -> bug 7/9, billing 2/9.

  Exact is: the sum over all ways to go on that begin one label alone, as far as the server lists
  them; labels that begin alike, where the answer began so. An alternative that begins several
  labels is divided evenly among them; one that begins all or none is left out, and the rest is
  scaled to 1.

  Args:
    completion: with `logprobs`.
    label: which was read from it.
    example, dataset: whose labels they are.
    read: how this job reads completions to that example.

  Returns:
    None where the server gave no tokens, or the label is not found among them.
  """
  if not (tokens := logprobs.tokens(completion.logprobs)):
    return None
  stream = b''.join(token.text for token in tokens)
  for start, end, style in _places(completion.text, label, example, dataset):
    if not _decides(completion, start, end, label, style, read):
      continue
    # White space before a label may be the beginning of its token.
    lead = len(completion.text[:start].rstrip())
    at = _offset(stream, completion.text, lead)
    if at is None:
      return None
    found = {name: mass for name, mass in _walk(tokens, at, style).items()
             if name in (dataset.labels or ()) and mass > 0}
    total = sum(found.values())
    return {name: mass / total for name, mass in found.items()} if label in found else None
  return None


def _styles(example: datasets.Example, dataset: datasets.Dataset) -> list[_Style]:
  """The ways in which an answer may write its label; all labels are written alike."""
  if dataset.completion.label_kind == 'choice':
    letters = [(chr(ord('a') + number), choice) for number, choice in enumerate(example.choices)]
    return [[(choice, form.format(letter, choice)) for letter, choice in letters]
            for form in _LETTERED]
  known = dataset.labels or ()
  if dataset.completion.label_kind != 'class':
    return [[(label, label) for label in known]]
  more = table_lib.of(dataset.completion).of_labels(known)
  return [[(label, form) for label in known for form in (label, *more[label])]]


def _places(
    text: str, label: str, example: datasets.Example, dataset: datasets.Dataset
) -> Iterator[tuple[int, int, _Style]]:
  """Where the label is written: from the last to the first, the longest way first.

  What follows an end marker, such as questions that the teacher made up, comes after all else.
  """
  layout, styles, found = dataset.completion, _styles(example, dataset), []
  body, _ = places.before_end(text, example, layout, table_lib.of(layout))
  for style in styles:
    for form in (form for name, form in style if name == label):
      bare = style is styles[-1] and len(styles) > 1
      found += [(one.start(), one.end(), style) for one in re.finditer(
          _pattern(form) + (_LETTER_ENDS if bare else ''), text, re.IGNORECASE)]
  found.sort(key=lambda one: (one[0] < len(body), one[1], -one[0]), reverse=True)
  yield from found[:_PLACES_TRIED]


def _pattern(form: str) -> str:
  """Of a label as words of its own."""
  left, right = r'(?<!\w)' * form[0].isalnum(), r'(?!\w)' * form[-1].isalnum()
  return left + re.escape(form) + right


def _decides(
    completion: protocol.Completion, start: int, end: int, label: str, style: _Style, read: _Read
) -> bool:
  """Whether another label, written there, would have been read.

  As the answer goes on, or if it repeated that label, or ended there; JSON that ends there is text,
  and would be read as such.
  """
  text, again = completion.text, _pattern(completion.text[start:end])
  for name, form in [one for one in style if one[0] != label][:_OTHERS_TRIED]:
    repeated = re.sub(again, form.replace('\\', r'\\'), text[end:], flags=re.IGNORECASE)
    for rest in dict.fromkeys((text[end:], repeated, *([] if '{' in text else ['']))):
      found = read(dataclasses.replace(
          completion, text=text[:start] + form + rest, finish_reason='stop'))
      if found.ok and found.label == name:
        return True
  return False


def _offset(stream: bytes, text: str, at: int) -> int | None:
  """Where text[at:] begins among the tokens, which may hold thoughts before the text.

  Some servers cannot write half a character, so that of a text with an emoji only what is near the
  label is compared.
  """
  for begin in (0, max(0, at - _CONTEXT), at):
    found = stream.rfind(text[begin:].encode('utf-8', 'surrogatepass'))
    if found >= 0:
      return found + len(text[begin:at].encode('utf-8', 'surrogatepass'))
  return None


def _walk(tokens: Sequence[logprobs.Token], at: int, style: _Style) -> dict[str, float]:
  """The mass of each label that is begun at byte `at` of the tokens."""
  mass: dict[str, float] = collections.defaultdict(float)
  left: _Left = [(name, one) for name, form in style for one in _cases(form)]
  reached, begun, position = 1.0, False, 0
  for token in tokens:
    before = token.text[:max(0, at - position)]
    position += len(token.text)
    if position <= at or not token.text:
      continue

    def rest_of(text: bytes, before: bytes = before, begun: bool = begun) -> bytes:
      said = text[len(before):].lower() if text.startswith(before) else b''
      return said if begun else said.lstrip()
    going_on = 0.0  # with what is no whole label yet
    for text, probability in token.others:
      names = _begins(rest_of(text), left)
      going_on += probability * bool(names)
      for name in names:
        mass[name] += reached * probability / len(names)
    said = rest_of(token.text)
    following = _following(said, left)
    going = {name for name, _ in following} or {*_begins(said, left)}
    for name in {name for name, rest in left if not rest}:  # A label that is whole, and ends here.
      mass[name] += reached * max(0.0, 1 - going_on - token.probability * bool(going))
    reached *= token.probability
    if said and len(going) <= 1:
      left = []
      for name in going:
        mass[name] += reached
      break
    if said:
      left, begun = following, True
  for name in {name for name, rest in left if not rest}:  # It ends with the answer.
    mass[name] += reached
  return mass


def _following(said: bytes, left: _Left) -> _Left:
  """What is left of the labels that go on with these bytes."""
  return [(name, rest[len(said):]) for name, rest in left if rest.startswith(said) and rest]


def _begins(said: bytes, left: _Left) -> list[str]:
  """The labels that an alternative begins: the one that it is, those that go on with it, or the
  longest that it goes beyond: 'bug.'; none where it could be any."""
  if not said:
    return []
  if whole := {name for name, rest in left if rest == said}:
    return sorted(whole)
  if following := {name for name, _ in _following(said, left)}:
    every = {name for name, _ in left}
    return sorted(following) if following != every or len(every) == 1 else []
  beyond = [(len(rest), name) for name, rest in left
            if rest and said.startswith(rest) and not _goes_on(rest, said[len(rest):])]
  return [max(beyond)[1]] if beyond else []


def _goes_on(form: bytes, more: bytes) -> bool:
  """Whether a word goes on: 'bug|s', but not 'bug|.'"""
  last, first = (text.decode('utf-8', 'replace') for text in (form, more))
  return last[-1].isalnum() and first[0].isalnum()


def _cases(form: str) -> set[bytes]:
  """A label in UTF-8 as tokens are compared: ASCII letters are small, others may be halves."""
  ways = (form, form.lower(), form.upper(), form[:1].upper() + form[1:].lower())
  return {way.encode('utf-8').lower() for way in ways}
