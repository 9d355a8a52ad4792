"""ANLI round 1 (Nie et al. 2020), the round that the paper uses."""

from dss_jax import data, datasets, fields
from dss_jax.tasks import nli


def read_row(row, row_number: int) -> datasets.Example:
  """{'uid': ..., 'premise': ..., 'hypothesis': ..., 'label': 2} -> 'premise</s>hypothesis'.

  TFDS calls the premise `context`.
  """
  del row_number
  premise = 'context' if 'context' in row and 'premise' not in row else 'premise'
  return datasets.Example(
      id=fields.text(row, 'uid'),
      input=nli.join(fields.text(row, premise), fields.text(row, 'hypothesis')),
      label=nli.label_name(row))


DATASET = data.register(
    'anli',
    read_row=read_row,
    labels=nli.LABELS,
    completion=datasets.CompletionFormat(end_marker='Premise:', label_kind='class'),
    holdout=None,
    source='TFDS anli/r1; Nie et al. 2020',
    tfds='anli/r1',
    hub={'train': 'hf://facebook/anli:train_r1', 'validation': 'hf://facebook/anli:dev_r1',
         'test': 'hf://facebook/anli:test_r1'})
