"""SVAMP (Patel et al. 2021): word problems whose label is an equation."""

from dss_jax import data, datasets, fields


def read_row(row, row_number: int) -> datasets.Example:
  """Either the original fields or `input` and `label`; rows without an id get their number.

  {'ID': 'chal-1', 'Body': 'Dan had $ 3.', 'Question': 'How much?', 'Equation': '( 4.0 - 3.0 )'}
  -> input 'Dan had $ 3.\\nHow much?', label '( 4.0 - 3.0 )'
  """
  if 'Body' in row:
    return datasets.Example(
        id=fields.text(row, 'ID', f'svamp-{row_number}'),
        input=f"{fields.text(row, 'Body')}\n{fields.text(row, 'Question')}",
        label=fields.label(row, 'Equation'))
  return datasets.Example(
      id=fields.text(row, 'id', f'svamp-{row_number}'), input=fields.text(row, 'input'),
      label=fields.label(row))


COMPLETION = datasets.CompletionFormat(answer_phrase='The answer is', label_kind='equation')

DATASET = data.register(
    'svamp',
    read_row=read_row,
    metric='equation',
    completion=COMPLETION,
    holdout='permutation',
    source='github.com/arkilpatel/SVAMP; Patel et al. 2021',
    hub={split: f'hf://ChilleD/SVAMP:{split}' for split in ('train', 'test')})
