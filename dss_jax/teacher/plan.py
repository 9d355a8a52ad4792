"""What a job is to write: which rows in which files, checked before the first byte is written."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors, records
from dss_jax.teacher import protocol
from dss_jax.teacher import shard as shard_lib
from dss_jax.teacher.inputs import holdout as holdout_lib
from dss_jax.teacher.inputs import reading
from dss_jax.teacher.read import parsing, released, table

HOLDOUTS = ('auto', 'none')


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a job is to write; made, and checked, before anything is.

  Attributes:
    splits: for each split to write, its shards.
    staging: for each split, the folder in which its shards wait.
  """

  dataset: datasets.Dataset
  records_dir: str
  settings: shard_lib.Settings
  splits: Mapping[str, Sequence[shard_lib.Spec]]
  provenance: Mapping[str, Any]

  @property
  def specs(self) -> list[shard_lib.Spec]:
    return [spec for specs in self.splits.values() for spec in specs]

  def staging(self, split: str) -> str:
    return os.path.join(self.records_dir, f'.{self.dataset.name}-{split}.pending')


def make(
    dataset: datasets.Dataset, split: str, examples: Sequence[datasets.Example],
    client: protocol.Client, settings: shard_lib.Settings, records_dir: str, num_shards: int | None,
    holdout: str, provenance: Mapping[str, Any],
) -> Plan:
  """Checks everything that can be checked, and divides the rows into splits and shards."""
  ids = _check(dataset, split, examples, client, settings, holdout, num_shards)
  splits = _assign(dataset, split, ids, holdout)
  if holdout == 'none' and split == 'train':
    _check_no_leak(records_dir, dataset, examples)
  client.prepare(ids)
  divided = {name: _divide(dataset.name, name, rows, num_shards) for name, rows in splits.items()}
  return Plan(dataset, records_dir, settings, divided,
              {'holdout': dataset.holdout if len(splits) > 1 else None, **provenance})


def _check(
    dataset: datasets.Dataset,
    split: str,
    examples: Sequence[datasets.Example],
    client: protocol.Client,
    settings: shard_lib.Settings,
    holdout: str,
    num_shards: int | None,
) -> Sequence[str]:
  """Returns the examples' ids."""
  for flag, value, known in (('--split', split, datasets.SPLITS),
                             ('--parser', settings.parser, parsing.PARSERS),
                             ('--keep', settings.keep, shard_lib.KEEP),
                             ('--rationale_from', settings.rationale_from,
                              parsing.RATIONALES_FROM),
                             ('--holdout', holdout, HOLDOUTS)):
    if value not in known:
      raise errors.UserError(f'unknown {flag}={value}: {errors.did_you_mean(value, known)}')
  for flag, number, least in (('--num_shards', num_shards, 1),
                              ('--retry_failed', settings.retry_failed, 0),
                              ('--max_thinking', settings.max_thinking, 0)):
    if number is not None and number < least:
      raise errors.UserError(f'{flag}={number}: use {least} or more')
  if settings.rationale_from == 'thinking' and settings.parser == 'released':
    raise errors.UserError('--rationale_from=thinking: the released code knows no thoughts; use '
                           '--parser=strict')
  if split == 'validation' and dataset.holdout and holdout == 'auto':
    raise errors.UserError(
        f'dataset {dataset.name!r} has no validation split of its own: --split=train writes it, '
        'from 10 % of train; use --holdout=none for both if you have one')
  where = f'{dataset.name} {split} row {{}}'
  ids = examples.ids if isinstance(examples, reading.Inputs) else reading.check_examples(
      examples, dataset, lambda i: where.format(i + 1))
  if client.model:
    _check_format(dataset, split, examples, settings.parser)
  if settings.label_logprobs and not dataset.labels:
    raise errors.UserError(f'--label_logprobs: the labels of {dataset.name!r} are no closed set '
                           '(labels=... in register), so none can be weighed; drop it')
  return ids


def _check_format(
    dataset: datasets.Dataset, split: str, examples: Sequence[datasets.Example], parser: str
) -> None:
  """A format that no completion can satisfy is the dataset's fault, not 10,000 failed rows."""
  kind = dataset.completion.label_kind
  table.of(dataset.completion)  # A misspelt word list.
  if parser == 'released':
    released.parse_released('', dataset)  # It has rules for the paper's datasets.
    return
  if kind == 'class' and not dataset.labels:
    raise errors.UserError(
        f"dataset {dataset.name!r}: label_kind='class' needs labels=(...) in register(...)")
  if kind != 'choice':
    return
  for i, example in enumerate(examples):
    if not example.choices:
      raise errors.UserError(
          f"{dataset.name} {split} row {i + 1}: label_kind='choice' needs the choices of every "
          "row; set them in read_row, or register with label_kind='text'")


def _assign(
    dataset: datasets.Dataset, split: str, ids: Sequence[str], holdout: str
) -> dict[str, list[int]]:
  """Row numbers of each split to write; rows keep their order within it."""
  if split != 'train' or dataset.holdout is None or holdout == 'none':
    return {split: list(range(len(ids)))}
  held_out = holdout_lib.validation_rows(dataset.holdout, ids)
  return {
      'train': [i for i in range(len(ids)) if i not in held_out],
      'validation': [i for i in range(len(ids)) if i in held_out],
  }


def _divide(
    dataset: str, split: str, rows: Sequence[int], num_shards: int | None
) -> list[shard_lib.Spec]:
  """Runs of rows, as `records.bounds` cuts them."""
  bounds = records.shard_bounds(len(rows), num_shards)
  return [shard_lib.Spec(dataset, split, i, len(bounds), rows[start:end])
          for i, (start, end) in enumerate(bounds)]


def _check_no_leak(
    records_dir: str, dataset: datasets.Dataset, examples: Sequence[datasets.Example]
) -> None:
  """An earlier run's held-out rows must not stay validation when they become train."""
  name = f'{dataset.name}-validation'
  if name not in records.set_names(records_dir):
    return
  # With the input, since ids made of row numbers are the same in every file.
  held_out = {(record.id, record.input)
              for record in records.read_records(records_dir, dataset.name, 'validation')}
  shared = sum((example.id, example.input) in held_out for example in examples)
  if shared:
    raise errors.UserError(
        f'{records_dir}: set {name!r} holds {shared} of these training rows (an earlier run held '
        'them out); write --holdout=none to another --records_dir')
