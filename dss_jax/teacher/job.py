"""The job: examples and a teacher in, finished record sets out.

Everything that can be wrong is found before the first byte is written.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tqdm

from dss_jax import datasets, errors, records
from dss_jax.teacher import holdout as holdout_lib
from dss_jax.teacher import inputs, parsing, protocol

HOLDOUTS = ('auto', 'none')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run wrote: for each split its records, in the order of the inputs."""

  dataset: datasets.Dataset
  teacher_model: str
  parser: str
  records_dir: str
  splits: Mapping[str, Sequence[records.RationaleRecord]]
  shards: Mapping[str, int]  # number of files of each split


def run(
    dataset: datasets.Dataset,
    split: str,
    examples: Sequence[datasets.Example],
    client: protocol.Client,
    parser: str,
    records_dir: str,
    *,
    num_shards: int = 16,
    holdout: str = 'auto',
    provenance: Mapping[str, Any] | None = None,
) -> Outcome:
  """Asks the teacher about every example and writes `<dataset>-<split>`.

  A row that does not parse keeps its gold label and the reason as `parse_status`; its rationale
  and teacher label are ''. Where the dataset names a holdout, 10 % of 'train' is written as
  'validation' instead.

  Args:
    dataset: how inputs are labelled and completions laid out.
    split: 'train', 'validation' or 'test'.
    examples: with unique ids.
    client: e.g. `recorded.RecordedClient(...)` or `clients.ScriptedClient(fn)`.
    parser: 'strict' or 'released'.
    records_dir: where the sets go; other sets there stay.
    num_shards: files per set.
    holdout: 'auto' as the dataset says, or 'none' to keep all of train.
    provenance: more for the manifest, e.g. the inputs' checksum.

  Raises:
    UserError: see `inputs.check_examples`, the client, and `records.write_records`.
  """
  _check(dataset, split, examples, client, parser, holdout, num_shards)
  splits = _assign(dataset, split, [example.id for example in examples], holdout)
  if holdout == 'none' and split == 'train':
    _check_no_leak(records_dir, dataset, examples)
  rows = _to_records(dataset, examples, client, parser)
  manifest = {
      'teacher': {'client': getattr(client, 'name', type(client).__name__), 'model': client.model,
                  'prompt_sha256': _common(r.prompt_sha256 for r in rows), **client.provenance()},
      'parser': parser,
      'holdout': dataset.holdout if len(splits) > 1 else None,
      **(provenance or {}),
  }
  written = {}
  shards = {}
  for name, numbers in splits.items():
    written[name] = [dataclasses.replace(rows[i], split=name) for i in numbers]
    entry = records.write_records(records_dir, dataset.name, name, written[name],
                                  num_shards=num_shards, provenance=manifest)
    shards[name] = len(entry['shards'])
  return Outcome(dataset, client.model, parser, records_dir, written, shards)


def request_key(example_id: str, completion: protocol.Completion) -> str:
  """The client's own key, or SHA-256 of the JSON list [id, completion text]."""
  if completion.request_key:
    return completion.request_key
  return hashlib.sha256(json.dumps([example_id, completion.text]).encode()).hexdigest()


def _check(
    dataset: datasets.Dataset,
    split: str,
    examples: Sequence[datasets.Example],
    client: protocol.Client,
    parser: str,
    holdout: str,
    num_shards: int,
) -> None:
  for flag, value, known in (('--split', split, datasets.SPLITS),
                             ('--parser', parser, parsing.PARSERS),
                             ('--holdout', holdout, HOLDOUTS)):
    if value not in known:
      raise errors.UserError(f'unknown {flag}={value}: {errors.did_you_mean(value, known)}')
  if num_shards < 1:
    raise errors.UserError(f'--num_shards={num_shards}: at least one file is needed')
  if split == 'validation' and dataset.holdout and holdout == 'auto':
    raise errors.UserError(
        f'dataset {dataset.name!r} has no validation split of its own: --split=train writes it, '
        'from 10 % of train; use --holdout=none for both if you have one')
  inputs.check_examples(examples, dataset, lambda i: f'{dataset.name} {split} row {i + 1}')
  if parser == 'strict' and client.model:
    _check_format(dataset, split, examples)


def _check_format(
    dataset: datasets.Dataset, split: str, examples: Sequence[datasets.Example]
) -> None:
  """A format that no completion can satisfy is the dataset's fault, not 10,000 failed rows."""
  kind = dataset.completion.label_kind
  if kind == 'class' and not dataset.labels:
    raise errors.UserError(
        f"dataset {dataset.name!r}: label_kind='class' needs labels=(...) in register(...)")
  for i, example in enumerate(examples):
    if kind == 'choice' and not example.choices:
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


def _to_records(
    dataset: datasets.Dataset,
    examples: Sequence[datasets.Example],
    client: protocol.Client,
    parser: str,
) -> list[records.RationaleRecord]:
  completions = client.complete(examples)
  if len(completions) != len(examples):
    raise ValueError(f'client gave {len(completions)} completions for {len(examples)} examples')
  pairs = tqdm.tqdm(zip(examples, completions, strict=True), total=len(examples),
                    desc=f'parsing {dataset.name}', unit='row', delay=3, disable=None)
  parse = parsing.PARSERS[parser]
  return [_to_record(dataset, example, completion, client.model, parse)
          for example, completion in pairs]


def _to_record(
    dataset: datasets.Dataset,
    example: datasets.Example,
    completion: protocol.Completion | None,
    model: str,
    parse: parsing.Parser,
) -> records.RationaleRecord:
  record = records.RationaleRecord(
      id=example.id, input=example.input, label=example.label, dataset=dataset.name)
  if completion is None:
    return dataclasses.replace(record, parse_status=parsing.NO_TEACHER)
  parsed = parse(completion.text, example, dataset)
  return dataclasses.replace(
      record,
      # Of a failed row nothing is kept, not even half: it must never become an empty target.
      teacher_label=parsed.label if parsed.ok else '',
      rationale=parsed.rationale if parsed.ok else '',
      teacher_model=model,
      prompt_sha256=completion.prompt_sha256,
      request_key=request_key(example.id, completion),
      finish_reason=completion.finish_reason,
      parse_status=parsed.status,
  )


def _common(values: Iterable[str]) -> str:
  """The one value that all share, or ''."""
  distinct = set(values)
  return distinct.pop() if len(distinct) == 1 else ''
