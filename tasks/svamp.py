"""SVAMP (Patel et al. 2021): word problems whose label is an equation."""

from dss_jax import data, datasets


def read_row(row, row_number: int) -> datasets.Example:
  """Either the original fields or `input` and `label`; rows without an id get their number.

  {'ID': 'chal-1', 'Body': 'Dan had $ 3.', 'Question': 'How much?', 'Equation': '( 4.0 - 3.0 )'}
  -> input 'Dan had $ 3.\\nHow much?', label '( 4.0 - 3.0 )'
  """
  if 'Body' in row:
    return datasets.Example(
        id=str(row.get('ID', f'svamp-{row_number}')),
        input=f"{row['Body']}\n{row['Question']}",
        label=row.get('Equation', ''))
  return datasets.Example(
      id=str(row.get('id', f'svamp-{row_number}')), input=row['input'], label=row.get('label', ''))


COMPLETION = datasets.CompletionFormat(answer_phrase='The answer is', label_kind='equation')

DATASET = data.register(
    'svamp',
    read_row=read_row,
    metric='equation',
    completion=COMPLETION,
    holdout='permutation',
    source='github.com/arkilpatel/SVAMP; Patel et al. 2021')
