"""`--answer=json`: the teacher is shown, and where a server can, held to, JSON answers."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.teacher.ask import prompts

_LETTERED = re.compile(r'\([a-z]\) ')
_INSTRUCTION = ('Write the answer as one JSON object and nothing else, the explanation first and '
                'then the label alone: {"rationale": "...", "label": "..."}')


@dataclasses.dataclass(frozen=True)
class JsonPrompt(prompts.Prompt):
  """A prompt whose demonstrations answer {"rationale": ..., "label": ...}, in that order: a label
  that comes first is not reasoned for.

  Attributes:
    labels: the closed set, if the dataset has one.
  """

  labels: tuple[str, ...] | None = None
  form = 'json'

  def sha256(self) -> str:
    return hashlib.sha256(f'{super().sha256()} json'.encode()).hexdigest()

  def reply(self, shown: prompts.Demonstration) -> str:
    return json.dumps({'rationale': shown.rationale, 'label': shown.label}, ensure_ascii=False)

  @property
  def lead_in(self) -> str:
    return ''

  def fields(self, example: datasets.Example) -> dict[str, Any]:
    """OpenAI's `response_format` with a JSON schema, which vLLM and others take too."""
    label: dict[str, Any] = {'type': 'string'}
    if names := self._names(example):
      label['enum'] = list(dict.fromkeys(names))
    schema = {'type': 'object', 'properties': {'rationale': {'type': 'string'}, 'label': label},
              'required': ['rationale', 'label'], 'additionalProperties': False}
    return {'response_format': {
        'type': 'json_schema', 'json_schema': {'name': 'answer', 'strict': True, 'schema': schema}}}

  def _names(self, example: datasets.Example) -> Sequence[str]:
    """What a label may be, as the demonstrations write it: '(a) bank'."""
    if self.completion.label_kind == 'class':
      return self.labels or ()
    if self.completion.label_kind != 'choice':
      return ()
    letters = [_LETTERED.match(shown.label) for shown in self.demonstrations]
    if not letters or not all(letters):
      return example.choices
    return [f'({chr(ord("a") + number)}) {choice}' for number, choice in enumerate(example.choices)]


def of(prompt: prompts.Prompt, labels: tuple[str, ...] | None) -> JsonPrompt:
  """The same prompt, asking for JSON."""
  given = {one.name: getattr(prompt, one.name) for one in dataclasses.fields(prompt)}
  return JsonPrompt(**{**given, 'instruction': f'{prompt.instruction} {_INSTRUCTION}',
                       'completion': dataclasses.replace(prompt.completion, lead_in='')},
                    labels=labels)
