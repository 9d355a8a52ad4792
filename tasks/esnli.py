"""e-SNLI (Camburu et al. 2018): SNLI with human explanations, which the teacher replaces."""

from dss_jax import data, datasets, fields
from dss_jax.tasks import nli


def read_row(row, row_number: int) -> datasets.Example:
  """{'premise': ..., 'hypothesis': ..., 'label': 0} -> input 'premise</s>hypothesis'."""
  return datasets.Example(
      id=fields.text(row, 'id', f'esnli-{row_number}'),
      input=nli.join(fields.text(row, 'premise'), fields.text(row, 'hypothesis')),
      label=nli.label_name(row))


DATASET = data.register(
    'esnli',
    read_row=read_row,
    labels=nli.LABELS,
    completion=datasets.CompletionFormat(
        end_marker='Premise:', answer_phrase='Answer:', label_kind='class'),
    holdout=None,
    source='TFDS esnli; Camburu et al. 2018',
    tfds='esnli')
