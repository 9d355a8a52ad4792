"""e-SNLI (Camburu et al. 2018): SNLI with human explanations, which the teacher replaces."""

from dss_jax import data, datasets
from dss_jax.tasks import nli


def read_row(row, row_number: int) -> datasets.Example:
  """{'premise': ..., 'hypothesis': ..., 'label': 0} -> input 'premise</s>hypothesis'."""
  return datasets.Example(
      id=str(row.get('id', f'esnli-{row_number}')),
      input=nli.join(row['premise'], row['hypothesis']),
      label=nli.label_name(row['label']))


DATASET = data.register(
    'esnli',
    read_row=read_row,
    labels=nli.LABELS,
    completion=datasets.CompletionFormat(
        end_marker='Premise:', answer_phrase='Answer:', label_kind='class'),
    holdout=None,
    source='TFDS esnli; Camburu et al. 2018',
    tfds='esnli')
