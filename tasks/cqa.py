"""CommonsenseQA (Talmor et al. 2019) as distributed in CoS-E v1.11."""

from collections.abc import Mapping
from typing import Any

from dss_jax import data, datasets, errors, fields

LETTERS = 'abcdefghijklmnopqrstuvwxyz'


def read_row(row, row_number: int) -> datasets.Example:
  """Question and lettered choices; the label is the choice's text.

  {'id': '7', 'question': 'Where do birds live?', 'choices': ['nest', 'sea'], 'answer': 'nest'}
  -> input 'Where do birds live?\\nAnswer Choices:\\n(a) nest\\n(b) sea', label 'nest'

  So does Hugging Face's layout: 'choices': {'label': ['A', 'B'], 'text': ['nest', 'sea']} and
  'answerKey': 'A', which is '' where the answer is not known.
  """
  del row_number
  keyed = isinstance(row['choices'], Mapping) and {'label', 'text'} <= set(row['choices'])
  choices = fields.texts(row['choices'] if keyed else row, 'text' if keyed else 'choices')
  if len(choices) > len(LETTERS):
    raise errors.UserError(f'{len(choices)} choices, but {len(LETTERS)} letters to name them')
  lettered = '\n'.join(f'({letter}) {choice}' for letter, choice in zip(LETTERS, choices))
  return datasets.Example(
      id=fields.text(row, 'id'),
      input=f"{fields.text(row, 'question')}\nAnswer Choices:\n{lettered}",
      label=_keyed_answer(row, choices) if keyed else fields.label(row, 'answer'),
      choices=choices)


def _keyed_answer(row: Mapping[str, Any], choices: tuple[str, ...]) -> str:
  keys, answer = fields.texts(row['choices'], 'label'), fields.label(row, 'answerKey')
  if len(set(keys)) != len(choices) or len(keys) != len(choices):
    raise errors.UserError(f'{len(choices)} choices have the labels {", ".join(keys)}: give each '
                           'one of its own')
  if answer and answer not in keys:
    raise errors.UserError(f'answerKey {answer!r} is none of {", ".join(keys)}')
  return choices[keys.index(answer)] if answer else ''


DATASET = data.register(
    'cqa',
    read_row=read_row,
    completion=datasets.CompletionFormat(label_kind='choice'),
    holdout='permutation',
    source='TFDS cos_e (test is its validation split); Talmor et al. 2019, Rajani et al. 2019',
    tfds='cos_e',
    tfds_splits={'test': 'validation'},
    hub={'train': 'hf://tau/commonsense_qa:train', 'test': 'hf://tau/commonsense_qa:validation'})
