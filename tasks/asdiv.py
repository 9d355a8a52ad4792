"""ASDiv (Miao et al. 2020), which extends SVAMP's training set (paper, section 4.3).

`dss_asdiv` trains on SVAMP and ASDiv together and is validated and tested on SVAMP, so it
reads the record sets svamp-train, asdiv-train, svamp-validation and svamp-test.
"""

from dss_jax import data, datasets, equations, fields
from dss_jax.tasks import svamp

_NAMES = {'body': 'Body', 'question': 'Question', 'formula': 'Formula'}


def read_row(row, row_number: int) -> datasets.Example:
  """{'Body': ..., 'Question': ..., 'Formula': '7+2=9'} -> label '( 7+2 )'; else as SVAMP.

  The names may be in lower case, as at the Hugging Face hub. A formula that is no equation of
  numbers ('lcm(4,6)=12') is a label that is not known.
  """
  row = {_NAMES.get(name, name): value for name, value in row.items()}
  if 'Formula' not in row:
    example = svamp.read_row(row, row_number)
    return example if 'id' in row or 'ID' in row else datasets.Example(
        id=f'asdiv-{row_number}', input=example.input, label=example.label)
  formula = fields.label(row, 'Formula').split('=')[0].strip()
  return datasets.Example(
      id=fields.text(row, 'id' if 'id' in row else 'ID', f'asdiv-{row_number}'),
      input=f"{fields.text(row, 'Body')}\n{fields.text(row, 'Question')}",
      label=f'( {formula} )' if _has_value(formula) else '')


def _has_value(formula: str) -> bool:
  try:
    equations.evaluate(formula)
  except ValueError:
    return False
  return True


DATASET = data.register(
    'asdiv',
    read_row=read_row,
    metric='equation',
    completion=svamp.COMPLETION,
    holdout=None,
    records={'train': ('svamp', 'asdiv'), 'validation': ('svamp',), 'test': ('svamp',)},
    source='github.com/chaochun/nlu-asdiv-dataset; Miao et al. 2020',
    hub={'train': 'hf://EleutherAI/asdiv:validation'})
