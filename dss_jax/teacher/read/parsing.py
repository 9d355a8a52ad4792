"""From a completion to (rationale, label), or a reason why not.

`parse_strict` follows the dataset's `CompletionFormat` and the table of words, `reading.toml`, and
knows no dataset by name; `released.parse_released` is the released code's behaviour.
"""

import dataclasses
import re

from dss_jax import datasets
from dss_jax.teacher import protocol
from dss_jax.teacher.read import (
    answers,
    labels,
    parsed,
    places,
    released,
    structured,
    thoughts,
)
from dss_jax.teacher.read import table as table_lib

NO_TEACHER = 'no_teacher'
REJECTED = 'rejected'
UNANSWERED = 'unanswered'
REFUSED = 'refused'
MISSING = 'missing'
DISAGREES = 'disagrees'
TRUNCATED = 'truncated'
LONG_THINKING = 'long_thinking'
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
    LONG_THINKING: 'the thoughts have more words than --max_thinking',
    'no_label_key': 'the answer is JSON without a key that is known to hold the label: name it in '
                    'json_label, in the [reading] table of the prompt file',
    'empty_rationale': 'nothing before the answer phrase, or no thoughts',
    'empty_label': 'nothing after the answer phrase',
    'unknown_choice': 'the answer names none of the choices',
    'unknown_label': 'the answer is not in the label set',
    'ambiguous_label': 'the answer names several labels, or its letter and text disagree',
    'not_an_equation': 'the answer is not arithmetic that can be evaluated',
    released.BLANK: 'the released code reads a blank rationale or label',
    released.RAISES: 'the released code stops with an exception',
}
PARSERS = ('strict', 'released')
_LONG_RUN = re.compile(r'([\s*_`#>~-]{64})[\s*_`#>~-]+')  # Of a teacher that loops.
# Of a server that leaves the end of a turn in the text; `<|...|>` is taken off with the thoughts.
_END_TOKENS = re.compile(
    r'(?:\s*(?:</s>|<eos>|<pad>|<end_of_turn>|\[/INST\]|<\uff5c[^\uff5c\n]{1,40}\uff5c>)){1,64}\s*\Z')
RATIONALES_FROM = ('answer', 'thinking')


@dataclasses.dataclass(frozen=True)
class Reading:
  """How completions are read.

  Attributes:
    parser: 'strict' or 'released'.
    rationale_from: 'answer', or 'thinking': the rationale is what the model thought.
    max_thinking: words of such a rationale at most; 0 for any.
  """

  parser: str = 'strict'
  rationale_from: str = 'answer'
  max_thinking: int = 0


def parse_strict(
    completion: str, example: datasets.Example, dataset: datasets.Dataset
) -> parsed.Parsed:
  """Reads rationale and label; a failure has a reason, and then both are ''.

  >>> parse_strict('Both smell. So the answer is (a) perfume or (b) soap.\\n\\nQ:', example, cqa)
  Parsed(rationale='Both smell.', label='perfume', status='ok')

  The label stands behind the answer phrase, or behind one that the table of words makes; of
  several the last counts, where the text says that it mends the others. See `answers.find`, and
  `labels.READERS` for each `label_kind`.
  """
  return read(protocol.Completion(completion), example, dataset, 'strict')


def read(
    completion: protocol.Completion, example: datasets.Example, dataset: datasets.Dataset,
    how: Reading | str = 'strict',
) -> parsed.Parsed:
  """Parses a completion, knowing why it ended.

  Thoughts are taken off first, whatever the parser: the released code never saw any, and a phrase
  or an end marker among them would be read as the answer's.

  Args:
    completion: its `thoughts` are those that the server parted.
    example: whose choices are named.
    dataset: how an answer is laid out.
    how: or the name of a parser.
  """
  how = Reading(how) if isinstance(how, str) else how
  if completion.finish_reason in (REJECTED, UNANSWERED, MISSING):
    return parsed.failed(completion.finish_reason)
  if completion.apart:
    rationale, label = (_END_TOKENS.sub('', one).strip() for one in completion.apart)
    return _read_apart(rationale, label, example, dataset)
  table = table_lib.of(dataset.completion)
  _, text, unclosed = thoughts.part(completion.text, table)
  if unclosed:
    return parsed.failed(TRUNCATED)
  text = _END_TOKENS.sub('', text) if '<s>' not in text else text
  if lead_in := dataset.completion.lead_in:  # A chat teacher copies it from the demonstrations.
    said = text.lstrip()
    text = said.removeprefix(lead_in).lstrip() if said.startswith(lead_in) else text
  found = _parse(text, completion.finish_reason, example, dataset, how)
  if how.rationale_from == 'thinking' and found.ok:
    return _with_thoughts(divide(completion, dataset)[0], found, how.max_thinking)
  return found


def divide(completion: protocol.Completion, dataset: datasets.Dataset) -> tuple[str, str]:
  """(all that was thought, whether the server or the text holds it; the rest of the text)."""
  thought, text, _ = thoughts.part(completion.text, table_lib.of(dataset.completion))
  return '\n'.join(filter(None, (completion.thoughts.strip(), thought))), text


def _with_thoughts(thought: str, found: parsed.Parsed, most: int) -> parsed.Parsed:
  """Over-long thoughts are not cut: what led to the label is at their end."""
  if not thought:
    return parsed.failed('empty_rationale')
  if most and len(thought.split()) > most:
    return parsed.failed(LONG_THINKING)
  return dataclasses.replace(found, rationale=thought)


def _parse(
    text: str, finish_reason: str, example: datasets.Example, dataset: datasets.Dataset,
    how: Reading,
) -> parsed.Parsed:
  """A server that was told where to stop leaves the end marker out, and one that ran out of tokens
  may have stopped inside the label."""
  found, complete = (_released(text, dataset) if how.parser == 'released' else
                     _strict(text, finish_reason == 'stop', example, dataset,
                             how.rationale_from == 'answer'))
  if finish_reason == 'length' and not complete:
    return parsed.failed(TRUNCATED)
  if not found.ok and (finish_reason in ('refusal', 'content_filter') or
                       _refuses(text, table_lib.of(dataset.completion))):
    return parsed.failed(REFUSED)
  return found


def _refuses(text: str, table: table_lib.Table) -> bool:
  """'I'm sorry, but I can't give medical advice.'"""
  first = re.split(r'(?<=[.!?])\s|\n', text.replace('\u2019', "'").strip(), maxsplit=1)[0]
  return bool(table.has('unable', first) and table.has('refused_acts', first))


def _read_apart(
    rationale: str, label: str, example: datasets.Example, dataset: datasets.Dataset
) -> parsed.Parsed:
  """What came as two fields has no phrase to look for; its label is read as any other."""
  if not rationale or not label:
    return parsed.failed('empty_label' if rationale else 'empty_rationale')
  try:
    table = table_lib.of(dataset.completion)
    return parsed.Parsed(rationale, labels.read(label, example, dataset, table))
  except parsed.Unreadable as error:
    return parsed.failed(error.reason)



def _strict(
    text: str, stopped: bool, example: datasets.Example, dataset: datasets.Dataset,
    needs_rationale: bool,
) -> tuple[parsed.Parsed, bool]:
  """What is read, and whether it is known to be all that there was to read."""
  form, ended = dataset.completion, False
  text = _LONG_RUN.sub(r'\1', text)
  if not text.strip():
    return parsed.failed('empty_completion'), False
  reader = answers.Reader(example, dataset, table_lib.of(form), needs_rationale)
  try:
    found = reader.in_json(text)
    if found is None:
      body, ended = places.before_end(text, example, form, reader.table)
      found = reader.in_text(body)
  except parsed.Unreadable as error:
    reason = error.reason
    if reason == 'no_answer_phrase':
      open_end = text.rstrip()[-1] not in '.!?"\')' and not (stopped and form.end_marker)
      keys = structured.keys_of(form, reader.table)
      if structured.begun(text, keys, reader.table) or (open_end and not ended):
        reason = TRUNCATED
    return parsed.failed(reason), ended
  if needs_rationale and not found.rationale.strip():
    return parsed.failed('empty_rationale'), ended
  return parsed.Parsed(found.rationale, found.label), ended or found.complete


def _released(text: str, dataset: datasets.Dataset) -> tuple[parsed.Parsed, bool]:
  form = dataset.completion
  found = released.parse_released(text, dataset)
  if places.end_markers(text, form):
    return found, True
  said = text.rpartition(form.answer_phrase)[2]
  return found, found.ok and not labels.may_go_on(said, form.label_kind)
