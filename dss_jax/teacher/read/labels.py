"""The label in the line after the answer phrase, for each `CompletionFormat.label_kind`."""

import re
from collections.abc import Callable, Sequence

from dss_jax import datasets
from dss_jax.teacher.read import arithmetic, markup, matching, parsed
from dss_jax.teacher.read import table as table_lib

_LEAD = rf'^[\s{re.escape("".join(matching.PROSE))}]*'
_LETTER = re.compile(  # '(b) fly', 'either (b) fly or (c) run'; 'b) fly', 'b: fly'; not 'a ledge'
    rf'\(\s*([A-Za-z])\s*\)|{_LEAD}([A-Za-z])(?:\)|[.:]\s|\s[-–—]\s|{_LEAD[1:]}$)')
_NEXT_LETTER = re.compile(r'[-–—\s,;/]*(?:(?<!\w)(?:or|and)(?!\w))?\s*$', re.IGNORECASE)
_QUOTED = re.compile(r'["“]([^"”]+)["”]\.?')
_FULL_STOPS = ('.', '!', '?', '。')
_INITIAL = re.compile(r'(?<!\w)[^\W\d_]\.$')  # 'the U.' of 'the U.S.A.'
_INITIALS = re.compile(r'(?<!\w)(?:[^\W\d_]\.){2,}$')
_HALF_A_PAIR = re.compile(r'^(?:\*\*|__)|(?:\*\*|__)$')  # '**Answer: (a) bank**'
_NOT_BUT = re.compile(
    r'\W*not\s+(?!only|just|merely|simply).+?[\s,;]+(?:but(?:\s+rather|\s+instead)?|instead|rather)'
    r'\s+(?P<second>.+)', re.IGNORECASE)
_CROSS = re.compile('[\u274c\u2717\u2718\u2716\u2612\U0001f6ab\u26d4\U0001f44e]')
_NO_SIGN = re.compile('[!~\u00ac\u2260]$')
_DENIED = re.compile(r'(?<=[\w)\]"\'*])\s*[:=,;(\u2013\u2014-]+\s*(?=\w)')
_SENTENCE_END = re.compile(r'(?<=[^\s.][.!])[*_"\')]*\s+(?=[A-Z(])')
_DUNDER = re.compile(r'__[a-z0-9_]+__\.?')  # Python's own names are not bold.
_WORDS = re.compile(r"[^\W\d_]{2}[\w' -]*")


def read(
    line: str, example: datasets.Example, dataset: datasets.Dataset, table: table_lib.Table,
    tight: bool = False,
) -> str:
  """The label of a line as it stands, or else without markup, or of its first sentence.

  'not (d) mall but (a) bank' is '(a) bank', whatever the kind of label.

  Args:
    line: what follows an answer phrase.
    example, dataset, table: whose labels they are, and by which words they are read.
    tight: the phrase may begin any sentence, so that the label must come first.

  Raises:
    Unreadable: there is none, or several.
  """
  kind = dataset.completion.label_kind
  cleaned = _HALF_A_PAIR.sub('', markup.untex(markup.plain(line, table)))
  ways = [line, cleaned]
  if mended := _NOT_BUT.match(cleaned):
    ways = [mended['second']]
    if table.has('negations', mended['second']):
      raise parsed.Unreadable('ambiguous_label')
  elif kind != 'text':
    ways.append(_SENTENCE_END.split(cleaned)[0])
  names = (*example.choices, *(dataset.labels or ()))
  if kind != 'text' and '?' in cleaned and not any('?' in name for name in names):
    raise parsed.Unreadable('ambiguous_label')
  if kind != 'text' and (_retracted(ways[-1], table) or _denied(ways[-1], names, table)):
    raise parsed.Unreadable('ambiguous_label')
  if tight and kind == 'choice' and not _choice_first(ways[-1], example.choices, table):
    raise parsed.Unreadable('unknown_choice')
  failed: parsed.Unreadable | None = None
  for said in filter(None, dict.fromkeys(way.strip() for way in ways)):
    try:
      return READERS[kind](said, example, dataset, table)
    except parsed.Unreadable as error:
      failed = failed or error
  raise failed or parsed.Unreadable('empty_label')


def first_line(text: str) -> str:
  """': bug' and ' : bug' -> 'bug', but the label ':)' keeps its colon."""
  lines = re.sub(r'^[*_]*:|^\s+:(?=\s)', '', text).strip().splitlines()
  return lines[0].strip() if lines else ''


def may_go_on(said: str, kind: str, names: Sequence[str] = ()) -> bool:
  """'... is ent', 'C+', '3.' may go on; '... is entailment.' does not, nor '(c) ne': a letter.

  A choice without a letter may if another of the names begins with it, and a bare letter: 'b'.
  """
  answer = said.lstrip()
  if kind == 'choice':
    text = matching.normal(answer.strip(' *_'))
    return len(text) == 1 or bool(text) and text[-1].isalnum() and any(
        matching.normal(name).startswith(text) and matching.normal(name) != text for name in names)
  if kind == 'text':
    return answer[-1:] not in _FULL_STOPS or bool(_INITIAL.search(answer))
  return '\n' not in answer and bool(answer) and (
      answer[-1] not in matching.PROSE or bool(re.search(r'[0-9][.,]$', answer)))


def _retracted(said: str, table: table_lib.Table) -> bool:
  """'(a) bank is wrong', but not 'contradiction, because the hypothesis is false'."""
  verb = re.search(rf'\s(?:is|are|was|would be|seems|can be|(?:is|was)n.t)\s+'
                   rf'(?:{table_lib.words(table.lists["retractions"])})(?!\w)', said, re.IGNORECASE)
  if not verb:
    return False
  before = said[:verb.start()]
  return not table.has('reasons', before) and not re.search(r'[,;:(]\s', before)


def _denied(said: str, names: Sequence[str], table: table_lib.Table) -> bool:
  """'bug: no.', 'bug = false', 'bug ❌'; not where the word is itself a label's name."""
  if _CROSS.search(said) and not any(map(_CROSS.search, names)):
    return True
  others = {matching.normal(name)
            for label, more in table.of_labels(names).items() for name in (label, *more)}
  behind = [said[one.end():] for one in _DENIED.finditer(said)]
  return any(begins_with_denial(one, table) and
             matching.normal(re.split(r'\W', one, maxsplit=1)[0]) not in others for one in behind)


def begins_with_denial(said: str, table: table_lib.Table) -> bool:
  """'no.', 'No, the pain is old', 'false'; not 'no dog is there'."""
  return bool(re.match(rf'(?:{table_lib.words(table.lists["denials"])})\s*(?:[.,;:!?)\]}}"]|$)',
                       said, re.IGNORECASE))


def _choice_first(said: str, choices: Sequence[str], table: table_lib.Table) -> bool:
  if matching.whole(said, choices):
    return True
  fillers = table_lib.words(table.lists['fillers'])
  said = re.sub(rf'^\W*(?:(?:{fillers})\s+)*(?=\w{{2}}|\()', '', said, flags=re.IGNORECASE)
  letters = [one[1] or one[2] for one in _LETTER.finditer(said)]
  letter = _LETTER.search(said)
  if letter and not matching.bare(said[:letter.start()]):
    return len({*map(str.lower, letters)}) == 1
  found, rest = matching.start(said, choices)
  return bool(found) and not re.match(r'\s*\w', rest) or bool(
      found and re.match(rf'\s*(?:{table_lib.words(table.lists["reasons"])})(?!\w)', rest))


def read_choice(
    answer: str, example: datasets.Example, dataset: datasets.Dataset, table: table_lib.Table
) -> str:
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
      raise parsed.Unreadable('ambiguous_label')
    if text:
      return text.pop()
  if not letter:
    return _named(answer, choices)
  if not (lettered := _at(letter, choices)):
    raise parsed.Unreadable('unknown_choice')
  (choice,) = lettered
  following = _LETTER.search(answer, letter.end())
  said = answer[letter.end():following.start() if following else None]
  if not _supports(choice, answer[:letter.start()], said, choices, table):
    raise parsed.Unreadable('ambiguous_label')
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
    raise parsed.Unreadable('ambiguous_label')
  raise parsed.Unreadable('truncated' if answer.endswith('(') else 'unknown_choice')


def _supports(
    choice: str, before: str, said: str, choices: Sequence[str], table: table_lib.Table
) -> bool:
  """Whether the text around a letter is of the letter's choice, or says nothing."""
  others = set(choices) - {choice}
  if matching.denies(before) or matching.mentioned(before, choices) & others:
    return False
  if not matching.bare(_NEXT_LETTER.sub('', said)) and not matching.whole(said, choices):
    said = ' '.join(word for word in before.split()
                    if ''.join(filter(str.isalpha, word)).lower() not in table.lists['fillers']
                    and any(map(str.isalpha, word)))
    if not said:
      return True
  for text in (said, _NEXT_LETTER.sub('', said)):
    if found := matching.whole(text, choices):
      return choice in found
    found, rest = matching.start(text, choices)
    if found == {choice} and not matching.mentioned(rest, choices) & others:
      return True
  reason = table.has('reasons', said)
  if reason and not matching.bare(said[:reason.start()]) and not (
      matching.mentioned(said, choices) & others):
    return True
  return matching.resembles(_NEXT_LETTER.sub('', said), choice, choices)


def read_class(
    answer: str, example: datasets.Example, dataset: datasets.Dataset, table: table_lib.Table
) -> str:
  """The label of the closed set that the answer is, or starts with, whatever case and quotes.

  With labels ('entailment', 'neutral'):
  'neutral', '**Neutral.**', 'neutral: it may rain' -> 'neutral'; 'neutral or entailment' ->
  ambiguous_label; 'not neutral', 'maybe' -> unknown_label; 'neut' -> truncated.
  With labels ('C', 'C++'): 'C++.' -> 'C++'; 'C#' -> unknown_label.
  """
  del example
  try:
    return _class_first(answer, dataset, table)
  except parsed.Unreadable:
    if label := affirmed(answer, dataset, table):
      return label
    raise


def _class_first(answer: str, dataset: datasets.Dataset, table: table_lib.Table) -> str:
  known = dataset.labels or ()
  found, rest = matching.whole(answer, known), ''
  if not found:
    found, rest = matching.start(answer, known)
  if len(found) == 1:
    (label,) = found
    if rest and (matching.mentioned(rest, known) - found
                 or matching.continues(answer, label, known)):
      raise parsed.Unreadable('ambiguous_label')
    if re.match(rf'[\s,(]+(?:{table_lib.words(table.lists["hedges"])})(?!\w|\s+because)', rest):
      raise parsed.Unreadable('ambiguous_label')
    word = re.match(r'\s+([^\W\d_]+)', rest) if label[-1].isalpha() else None  # Not '3.5 stars'.
    if word and (word[1] not in (*table.lists['reasons'], *table.lists['followers']) or (
        matching.denies(label) and word[1] in (*table.lists['nouns'], 'team'))):
      raise parsed.Unreadable('unknown_label')  # 'bug free' is no bug, 'no label fits' no 'no'.
    return label
  if found:
    raise parsed.Unreadable('ambiguous_label')
  said = matching.normal(answer)
  if answer[-1].isalnum() and any(matching.normal(label).startswith(said) for label in known):
    raise parsed.Unreadable('truncated')
  raise parsed.Unreadable('unknown_label')


def affirmed(
    answer: str, dataset: datasets.Dataset, table: table_lib.Table, alone: bool = False
) -> str:
  """The label that a sentence of known words affirms, or ''.

  'false (contradiction)', 'neither, so neutral', 'a contradiction', 'neutral (neither entailment
  nor contradiction)'; not 'anything but neutral', 'slightly positive'. `alone`: nothing but known
  words may follow, either.
  """
  names = {matching.normal(name): label
           for label, more in table.of_labels(dataset.labels or ()).items()
           for name in (label, *more)}
  if not all(map(_WORDS.fullmatch, names)):  # '-1', 'C++': signs decide, not words.
    return ''
  said = matching.normal(answer)
  longest_first = '|'.join(sorted(map(re.escape, names), key=len, reverse=True))
  pattern = re.compile(rf"(?<![\w'-])(?:{longest_first})(?![\w'+#-])")
  meant: list[tuple[int, int, str]] = []
  denied = 0
  for one in pattern.finditer(said):
    if table.denied.search(said[:one.start()]):
      denied += 1
    elif _NO_SIGN.search(said[:one.start()]):
      return ''
    else:
      meant.append((one.start(), one.end(), names[one[0]]))
  if len({label for _, _, label in meant}) != 1 or (len(meant) == 1 and not denied
                                                    and said.startswith(meant[0][2])):
    return ''
  start, end, label = meant[0]
  around = said[:start] + (pattern.sub(' ', said[end:]) if alone else '')
  around = pattern.sub(' ', around)
  left = set(re.findall(r"[\w'-]+", around)) - set(table.lists['fillers'])
  if denied or re.match(r'neither\s*(?:,|so)', said):
    left -= set(table.lists['negations'])
  return '' if left or (not alone and re.match(r'\s*[^\W\d_]', said[end:])
                        and not _known_next(said[end:], table)) else label


def _known_next(rest: str, table: table_lib.Table) -> bool:
  """Whether what follows a label explains it: 'because ...', 'rather than ...'."""
  for name in ('reasons', 'negations'):
    if (found := table.has(name, rest)) and not rest[:found.start()].strip():
      return True
  return False


def read_text(
    answer: str, example: datasets.Example, dataset: datasets.Dataset, table: table_lib.Table
) -> str:
  """The line as it is, less one trailing period: 'Paris.' -> 'Paris', but 'U.S.A.' as it is."""
  del example, dataset
  said = answer.strip()
  if not _DUNDER.fullmatch(said):
    said = markup.unframed(markup.plain(said, table).strip().removesuffix('.')) if (
        '\\' in said) else markup.plain(said, table).strip()
  if quoted := _QUOTED.fullmatch(said):
    said = quoted[1]
  label = said if _INITIALS.search(said) else said.removesuffix('.').rstrip()
  if not label.strip('*_`"\'“”'):
    raise parsed.Unreadable('empty_label')
  return label


Reader = Callable[[str, datasets.Example, datasets.Dataset, table_lib.Table], str]
READERS: dict[str, Reader] = {
    'choice': read_choice,
    'class': read_class,
    'equation': arithmetic.read_equation,
    'text': read_text,
}
