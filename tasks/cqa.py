"""CommonsenseQA (Talmor et al. 2019) as distributed in CoS-E v1.11."""

from dss_jax import data, datasets

LETTERS = 'abcdefghijklmnopqrstuvwxyz'


def read_row(row, row_number: int) -> datasets.Example:
  """Question and lettered choices; the label is the choice's text.

  {'id': '7', 'question': 'Where do birds live?', 'choices': ['nest', 'sea'], 'answer': 'nest'}
  -> input 'Where do birds live?\\nAnswer Choices:\\n(a) nest\\n(b) sea', label 'nest'
  """
  del row_number
  choices = tuple(row['choices'])
  lettered = '\n'.join(f'({letter}) {choice}' for letter, choice in zip(LETTERS, choices))
  return datasets.Example(
      id=str(row['id']),
      input=f"{row['question']}\nAnswer Choices:\n{lettered}",
      label=row.get('answer', ''),
      choices=choices)


DATASET = data.register(
    'cqa',
    read_row=read_row,
    completion=datasets.CompletionFormat(label_kind='choice'),
    holdout='permutation',
    source='TFDS cos_e (test is its validation split); Talmor et al. 2019, Rajani et al. 2019',
    tfds='cos_e',
    tfds_splits={'test': 'validation'})
