"""What e-SNLI and ANLI share: the three labels and the input `premise</s>hypothesis`."""

LABELS = ('entailment', 'neutral', 'contradiction')  # class indices 0, 1, 2


def label_name(label: int | str) -> str:
  """0 -> 'entailment'; a name stays as it is, -1 (no gold label in SNLI) becomes ''."""
  if isinstance(label, str) and not label.lstrip('-').isdigit():
    return label
  index = int(label)
  return LABELS[index] if 0 <= index < len(LABELS) else ''


def join(premise: str, hypothesis: str) -> str:
  """'A man sleeps.', 'He is awake.' -> 'A man sleeps.</s>He is awake.'"""
  return f'{premise}</s>{hypothesis}'
