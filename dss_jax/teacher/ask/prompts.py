"""Few-shot chain-of-thought prompts as data: `tasks/prompts/<dataset>.toml`.

A file holds an instruction, demonstrations, how a question and its answer are laid out, and where
the answer stops:

  version = 1
  dataset = 'tickets'
  instruction = '''
  Explain in one sentence what the ticket is about, then name the team: bug or billing.

  Answer in this form: A: <explanation> So the answer is <team>.'''

  [completion]
  question = 'Q: {input}'
  answer = 'A: {rationale} So the answer is {label}.'
  answer_phrase = 'So the answer is'
  label_kind = 'class'             # see datasets.CompletionFormat
  stop = ['Q:']                    # the teacher stops there; the first is the end marker
  parts = ['premise', 'hypothesis']   # optional: names of what `</s>` separates in an input

  [reading]                        # optional: more words, see teacher/read/reading.toml
  synonyms = {bug = ['defect']}

  [[demonstrations]]               # optional: without any the teacher is asked zero-shot
  input = 'The app crashes.'
  rationale = 'A crash is a fault of the program.'
  label = 'bug'
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import string
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors, fields
from dss_jax.teacher.read import table

_KEYS = ('version', 'dataset', 'instruction', 'completion', 'reading', 'demonstrations')
_COMPLETION_KEYS = ('question', 'answer', 'answer_phrase', 'label_kind', 'stop', 'parts')
_DEMONSTRATION_KEYS = ('input', 'rationale', 'label')
_SEPARATOR = '</s>'
_ANY_INPUT = 'Birds build nests.'


@dataclasses.dataclass(frozen=True)
class Demonstration:
  """A question that is answered in the prompt; `label` as the teacher is to write it."""

  input: str
  rationale: str
  label: str


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt file.

  Attributes:
    dataset: its name.
    version: of the file's contents, raised by its author.
    instruction: what comes first, line by line as the file has it.
    question: template with {input}, or with the names of `parts`.
    answer: template with {rationale} and then {label}.
    stop: strings that end a completion.
    parts: names of what `</s>` separates in an input.
    completion: how an answer is read back.
    demonstrations: question and answer pairs.
  """

  dataset: str
  version: int
  instruction: str
  question: str
  answer: str
  stop: tuple[str, ...]
  parts: tuple[str, ...]
  completion: datasets.CompletionFormat
  demonstrations: tuple[Demonstration, ...]
  form = 'text'  # of an answer, see `structured.JsonPrompt` for the other

  def sha256(self) -> str:
    """Of everything that shapes a request or how its answer is read."""
    content = dataclasses.asdict(self)
    for derived in ('lead_in', 'more_end_markers'):  # Of what is in it already.
      del content['completion'][derived]
    if not content['completion']['reading']:
      del content['completion']['reading']
    said = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode('utf-8')).hexdigest()

  def ask(self, text: str) -> str:
    """An input as a question: 'Q: Where do birds live?'"""
    if not self.parts:
      return self.question.format(input=text)
    values = text.split(_SEPARATOR)
    if len(values) != len(self.parts):
      raise errors.UserError(
          f'the prompt of {self.dataset!r} wants {len(self.parts)} parts ({", ".join(self.parts)}) '
          f'separated by {_SEPARATOR} in an input, this one has {len(values)}: {text[:80]!r}')
    return self.question.format(**dict(zip(self.parts, values, strict=True)))

  def reply(self, shown: Demonstration) -> str:
    """A demonstration's answer: 'A: Birds build nests. So the answer is (a) nest.'"""
    return self.answer.format(rationale=shown.rationale, label=shown.label)

  @property
  def any_input(self) -> str:
    """One that a teacher which answers at all has an answer to."""
    return self.demonstrations[0].input if self.demonstrations else _SEPARATOR.join(
        [_ANY_INPUT] * max(1, len(self.parts)))

  def fields(self, example: datasets.Example) -> dict[str, Any]:
    """Of a request, what asks for the form of the answer to this example."""
    del example
    return {}

  @property
  def lead_in(self) -> str:
    """What stands before a rationale: 'A:'."""
    return _lead_in(self.answer)

  def as_text(self, text: str) -> str:
    """The request to a completions endpoint: it goes on after the lead-in."""
    shown = [f'{self.ask(one.input)}\n{self.reply(one)}' for one in self.demonstrations]
    said = '\n\n'.join([self.instruction, *shown, f'{self.ask(text)}\n{self.lead_in}'])
    return said if shown else said.strip()

  def as_messages(self, text: str) -> list[dict[str, str]]:
    """The request to a chat endpoint: demonstrations are earlier turns."""
    # Some servers refuse an empty message.
    messages = [{'role': 'system', 'content': self.instruction}] if self.instruction else []
    for one in self.demonstrations:
      messages += [{'role': 'user', 'content': self.ask(one.input)},
                   {'role': 'assistant', 'content': self.reply(one)}]
    return [*messages, {'role': 'user', 'content': self.ask(text)}]


def path_of(dataset: str) -> str:
  """The file that comes with the package for one of its datasets; it need not exist."""
  spec = importlib.util.find_spec('dss_jax.tasks')  # Not imported: that would load SeqIO.
  if spec is None or not spec.submodule_search_locations:
    raise errors.UserError('dss_jax.tasks is not installed; give --prompt=FILE')
  return os.path.join(list(spec.submodule_search_locations)[0], 'prompts', f'{dataset}.toml')


def load(path: str) -> Prompt:
  """Reads and checks a prompt file.

  Raises:
    UserError: no such file, bad TOML, an unknown or missing key, a value of another type,
      templates without their places; names the file and the key.
  """
  try:
    with open(path, 'rb') as f:
      raw = tomllib.loads(f.read().decode('utf-8-sig').replace('\r\n', '\n'),
                          parse_float=fields.WrittenFloat)
  except OSError as error:
    raise errors.UserError(
        f'prompt {path}: {error.strerror}; a dataset of your own needs a prompt file of its own, '
        '--prompt=FILE: docs/your_task.md shows one') from error
  except ValueError as error:  # Bad TOML, or not UTF-8.
    raise errors.UserError(f'prompt {path}: not TOML ({error})') from error
  _check_keys(raw, _KEYS, ('reading', 'demonstrations'), path)
  if type(raw['version']) is not int:
    raise errors.UserError(f'prompt {path}: version is {fields.describe(raw["version"])}: give a '
                           'whole number, version = 1')
  form = raw['completion']
  _check_keys(form, _COMPLETION_KEYS, ('parts',), f'{path}, [completion]')
  if not isinstance(given := raw.get('demonstrations', []), list):
    raise errors.UserError(f'prompt {path}: demonstrations is {fields.describe(given)}: head each '
                           'with [[demonstrations]]')
  shown = [_demonstration(one, f'{path}, demonstration {number}')
           for number, one in enumerate(given, 1)]
  for name, where in (('dataset', raw), ('instruction', raw), ('question', form),
                      ('answer', form), ('answer_phrase', form), ('label_kind', form)):
    if not isinstance(where[name], str):
      raise errors.UserError(f'prompt {path}: {name} is {fields.describe(where[name])}: give one '
                             'text')
  return _make(raw, form, shown, path)


def _demonstration(shown: Any, where: str) -> Demonstration:
  """Numbers are texts, as in rows: label = 1 is '1'."""
  _check_keys(shown, _DEMONSTRATION_KEYS, (), where)
  found = {key: fields.as_text(value, f'prompt {where}: {key}').strip()
           for key, value in shown.items()}
  for key, value in found.items():
    if not value:
      raise errors.UserError(f'prompt {where}: {key} is blank; fill it in')
  return Demonstration(**found)


def _list(form: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
  found = form.get(name, [])
  if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
    raise errors.UserError(f"prompt {path}: {name} = {found!r}: give a list of texts, "
                           f"{name} = ['...'], or [] for none")
  return tuple(found)


def _make(
    raw: Mapping[str, Any], form: Mapping[str, Any], shown: Sequence[Demonstration], path: str
) -> Prompt:
  parts, stop = _list(form, 'parts', path), _list(form, 'stop', path)
  _check_places(form['question'], parts or ('input',), f'{path}, question')
  _check_places(form['answer'], ('rationale', 'label'), f'{path}, answer')
  if form['answer_phrase'] not in form['answer'].format(rationale='', label=''):
    raise errors.UserError(f'prompt {path}: answer does not hold the answer_phrase '
                           f'{form["answer_phrase"]!r}, by which the label is found')
  try:
    completion = datasets.CompletionFormat(
        end_marker=stop[0] if stop else '', answer_phrase=form['answer_phrase'],
        label_kind=form['label_kind'], lead_in=_lead_in(form['answer']),
        more_end_markers=stop[1:], reading=raw.get('reading', {}))
    table.of(completion)
  except (ValueError, errors.UserError) as error:
    raise errors.UserError(f'prompt {path}: {error}') from error
  return Prompt(
      dataset=raw['dataset'], version=raw['version'], instruction=raw['instruction'].strip(),
      question=form['question'].strip(), answer=form['answer'].strip(), stop=stop, parts=parts,
      completion=completion,
      demonstrations=tuple(shown))


def _lead_in(answer: str) -> str:
  """What a template has before {rationale}; a doubled brace is one."""
  said = ''
  for literal, name, _, _ in string.Formatter().parse(answer.strip()):
    said += literal
    if name is not None:
      break
  return said.rstrip()


def _check_keys(
    found: Any, known: Sequence[str], optional: Sequence[str], where: str) -> None:
  if not isinstance(found, Mapping):
    raise errors.UserError(f'prompt {where}: {fields.describe(found)} instead of a table with '
                           f'{", ".join(known)}')
  for key in found:
    if key not in known:
      raise errors.UserError(
          f'prompt {where}: unknown key {key!r}: {errors.did_you_mean(key, known)}')
  for key in known:
    if key not in found and key not in optional:
      raise errors.UserError(f'prompt {where}: no {key!r}')


def _check_places(template: str, wanted: Sequence[str], where: str) -> None:
  try:
    found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
  except ValueError as error:
    raise errors.UserError(f'prompt {where}: {error}') from error
  if found != list(wanted):
    places = ', '.join(f'{{{name}}}' for name in wanted)
    raise errors.UserError(f'prompt {where}: {template!r} must hold exactly {places}, in order')
