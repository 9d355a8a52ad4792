"""What e-SNLI and ANLI share: the three labels and the input `premise</s>hypothesis`."""

import re
from collections.abc import Mapping
from typing import Any

from dss_jax import fields

LABELS = ('entailment', 'neutral', 'contradiction')  # class indices 0, 1, 2


def label_name(row: Mapping[str, Any]) -> str:
  """{'label': 0} -> 'entailment'; a name stays as it is, -1 (no gold label in SNLI) becomes ''.

  So does any other number, which the check of gold labels then refuses. Raises KeyError without
  the field, UserError if it is neither text nor a number.
  """
  label = fields.label(row) if row['label'] is None else fields.text(row, 'label')
  if not re.fullmatch(r'-?[0-9]+(\.0*)?', label):
    return label
  index = int(label.partition('.')[0])
  if index == -1:
    return ''
  return LABELS[index] if 0 <= index < len(LABELS) else label


def join(premise: str, hypothesis: str) -> str:
  """'A man sleeps.', 'He is awake.' -> 'A man sleeps.</s>He is awake.'"""
  return f'{premise}</s>{hypothesis}'
