"""From a completion to (rationale, label), or a reason why not.

`parse_strict` follows the dataset's `CompletionFormat` and knows no dataset by name;
`released.parse_released` is the released code's behaviour.
"""

import re
import unicodedata
from collections.abc import Callable

from dss_jax import datasets
from dss_jax.teacher import protocol
from dss_jax.teacher.read import labels, matching, parsed, released

NO_TEACHER = 'no_teacher'
REJECTED = 'rejected'
UNANSWERED = 'unanswered'
REFUSED = 'refused'
MISSING = 'missing'
DISAGREES = 'disagrees'
TRUNCATED = 'truncated'
REASONS = {  # every parse_status but 'ok'
    NO_TEACHER: 'no teacher was asked (--client=none)',
    REJECTED: 'the endpoint would not take the request (too long, filtered)',
    UNANSWERED: 'the endpoint gave no answer, however often it was asked',
    MISSING: 'there is no completion for the row, or it is null',
    REFUSED: 'the teacher refused to answer',
    DISAGREES: "the teacher's label is not the gold one (--keep=agree)",
    'empty_completion': 'the teacher wrote nothing',
    'no_answer_phrase': 'the answer phrase does not occur before the end marker',
    TRUNCATED: 'the completion stops before its answer is complete',
    'empty_rationale': 'nothing before the answer phrase',
    'empty_label': 'nothing after the answer phrase',
    'unknown_choice': 'the answer names none of the choices',
    'unknown_label': 'the answer is not in the label set',
    'ambiguous_label': 'the answer names several labels, or its letter and text disagree',
    'not_an_equation': 'the answer is not arithmetic that can be evaluated',
    released.BLANK: 'the released code reads a blank rationale or label',
    released.RAISES: 'the released code stops with an exception',
}


def parse_strict(
    completion: str, example: datasets.Example, dataset: datasets.Dataset
) -> parsed.Parsed:
  """Reads rationale and label; a failure has a reason, and then both are ''.

  >>> parse_strict('Both smell. So the answer is (a) perfume or (b) soap.\\n\\nQ:', example, cqa)
  Parsed(rationale='Both smell.', label='perfume', status='ok')

  The text before the end marker is cut at the first answer phrase (a later one belongs to
  another question), in another case only if it does not occur as it is written; the label is
  read from the line after it, see `labels.READERS` for each `label_kind`.
  """
  form = dataset.completion
  if not completion.strip():
    return parsed.failed('empty_completion')
  body, ended = completion, ''
  if form.end_marker:
    end = _find(completion, form.end_marker)
    body, ended = completion[:end], completion[end:] if end is not None else ''
  halves = _split(body, form.answer_phrase)
  if halves is None:
    stopped = not ended and completion.rstrip()[-1] not in '.!?"\')'
    return parsed.failed(TRUNCATED if stopped else 'no_answer_phrase')
  rationale, answer = halves[0].strip().rstrip(',').rstrip(), _first_line(halves[1])
  if not rationale:
    return parsed.failed('empty_rationale')
  if not answer:
    return parsed.failed('empty_label')
  try:
    return parsed.Parsed(rationale, labels.READERS[form.label_kind](answer, example, dataset))
  except labels.Unreadable as error:
    return parsed.failed(error.reason)


def read(
    completion: protocol.Completion, example: datasets.Example, dataset: datasets.Dataset,
    parser: str
) -> parsed.Parsed:
  """Parses a completion, knowing why it ended.

  A server that was told where to stop leaves the end marker out, and one that ran out of tokens
  may have stopped inside the label.
  """
  if completion.finish_reason in (REJECTED, UNANSWERED, MISSING):
    return parsed.failed(completion.finish_reason)
  if completion.apart:
    return _read_apart(completion.apart[0].strip(), completion.apart[1].strip(), example, dataset)
  text, form = completion.text, dataset.completion
  ended = bool(form.end_marker) and _find(text, form.end_marker) is not None
  if completion.finish_reason == 'stop' and form.end_marker and text.strip() and not ended:
    text = f'{text}\n{form.end_marker}'
  found = PARSERS[parser](text, example, dataset)
  if completion.finish_reason == 'length' and not ended and (
      not found.ok or _stops_in_label(text, form)):
    return parsed.failed(TRUNCATED)
  if not found.ok and completion.finish_reason in ('refusal', 'content_filter'):
    return parsed.failed(REFUSED)
  return found


def _read_apart(
    rationale: str, label: str, example: datasets.Example, dataset: datasets.Dataset
) -> parsed.Parsed:
  """What came as two fields has no phrase to look for; its label is read as any other."""
  if not rationale or not label:
    return parsed.failed('empty_label' if rationale else 'empty_rationale')
  try:
    return parsed.Parsed(
        rationale, labels.READERS[dataset.completion.label_kind](label, example, dataset))
  except labels.Unreadable as error:
    return parsed.failed(error.reason)


def _stops_in_label(text: str, form: datasets.CompletionFormat) -> bool:
  """'... is ent', 'C+', '3.' may go on; '... is entailment.' does not, nor '(c) ne': a letter."""
  answer = text.rpartition(form.answer_phrase)[2].lstrip()
  return form.label_kind != 'choice' and '\n' not in answer and bool(answer) and (
      answer[-1] not in matching.PROSE or bool(re.search(r'[0-9][.,]$', answer)))


def _released(
    completion: str, example: datasets.Example, dataset: datasets.Dataset
) -> parsed.Parsed:
  del example  # The released code looks at the completion alone.
  return released.parse_released(completion, dataset)


Parser = Callable[[str, datasets.Example, datasets.Dataset], parsed.Parsed]
PARSERS: dict[str, Parser] = {'strict': parse_strict, 'released': _released}


def _split(body: str, phrase: str) -> tuple[str, str] | None:
  """Before the first answer phrase, and from there to the next one."""
  text = body
  if _find(body, phrase) is None:  # "It ended in 1982, so the answer is contradiction."
    phrase, text = _lower(phrase), _lower(body)
  start = _find(text, phrase)
  if start is None:
    return None
  after = start + len(phrase)
  return body[:start], body[after:_find(text, phrase, after)]


def _find(text: str, phrase: str, start: int = 0) -> int | None:
  """Where the phrase first stands as words of its own: 'Q:' is not in 'FAQ:'.

  Scripts that write words without spaces between have no such boundary.
  """
  left = r'(?<!\w)' if _begins_a_word(phrase[0]) else ''
  right = r'(?!\w)' if _begins_a_word(phrase[-1]) else ''
  found = re.compile(left + re.escape(phrase) + right).search(text, start)
  return found.start() if found else None


def _begins_a_word(character: str) -> bool:
  return character.isalnum() and unicodedata.category(character) != 'Lo'


def _lower(text: str) -> str:
  """Lower case of the same length, so that positions agree ('İ'.lower() has two characters)."""
  return ''.join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _first_line(text: str) -> str:
  """': bug' and ' : bug' -> 'bug', but the label ':)' keeps its colon."""
  lines = re.sub(r'^:|^\s+:(?=\s)', '', text).strip().splitlines()
  return lines[0].strip() if lines else ''
