"""Inputs of the teacher job: rows of a file, one by one, as checked `Example`s."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tqdm

from dss_jax import datasets, equations, errors
from dss_jax import rows as rows_lib


class Inputs(Sequence[datasets.Example]):
  """A file's examples, in its order, read when they are asked for.

  Attributes:
    path, sha256: of the file.
    paths: the files, where the path is a glob of several.
    ids: of all examples.
  """

  def __init__(self, rows: rows_lib.Rows, dataset: datasets.Dataset):
    """Reads every row once and checks it; see `read_inputs`."""
    self.path, self.sha256 = rows.path, rows.sha256
    self.paths = [file.path for file in rows.files]
    self._rows, self._dataset = rows, dataset
    bar = tqdm.tqdm(range(len(rows)), desc='checking inputs', unit='row', delay=3, disable=None)
    # A map, unlike a generator, goes on behind an error.
    self.ids = check_examples(map(self._read, bar), dataset, rows.where)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return tuple(self[i] for i in range(*index.indices(len(self))))
    if not 0 <= index < len(self):  # Sequence iterates until IndexError.
      raise IndexError(index)
    # An id that is made is numbered where its input is repeated.
    return dataclasses.replace(self._read(index), id=self.ids[index])

  def _read(self, index: int) -> datasets.Example:
    return _read_row(self._rows[index], index, self._rows.where(index), self._dataset)


def read_inputs(
    path: str, dataset: datasets.Dataset, columns: Mapping[str, str] | None = None,
) -> Inputs:
  """What `rows.Rows` reads, through `dataset.read_row`.

  Raises:
    UserError: an unreadable or empty file, bad JSON, a missing or unusable field, and what
      `check_examples` finds; the message names the file and the line.
  """
  return Inputs(rows_lib.Rows(path, '--inputs', columns), dataset)


def check_examples(
    examples: Iterable[datasets.Example],
    dataset: datasets.Dataset,
    where: Callable[[int], str],
) -> list[str]:
  """Refuses examples that records cannot hold; `where(i)` names row i in the message.

  Returns: the ids; of inputs without ids those of `datasets.made_id`, from the second of the same
  input on with its number.

  Raises:
    UserError: no examples, an empty id or input, an id that occurs twice or that only some rows
      have, text that is not Unicode, a gold label that is blank, outside the row's choices or the
      dataset's label set, or an equation without value; lists the first ten such rows.
  """
  seen: dict[str, int] = {}
  repeated: collections.Counter[str] = collections.Counter()
  wrong = errors.Collected('rows of the inputs')
  rest, end = iter(examples), object()
  for i in itertools.count():
    with wrong:
      if (example := next(rest, end)) is end:
        break
      _check(example, dataset, seen, repeated, where, i)
  wrong.check()
  if not seen:
    raise errors.UserError(f'{dataset.name}: no examples; check --inputs')
  return list(seen)


def _check(
    example: Any, dataset: datasets.Dataset, seen: dict[str, int],
    repeated: collections.Counter[str], where: Callable[[int], str], i: int,
) -> None:
  """Of one row; `seen` are the ids so far, with their rows, `repeated` those that were made."""
  try:
    datasets.as_example(example)
  except errors.UserError as error:
    raise errors.UserError(f'{where(i)}: {error}') from error
  if not example.id.strip():
    raise errors.UserError(f'{where(i)}: the id is empty; every row needs one of its own')
  key = example.id
  made = key == datasets.made_id(example.input)
  if seen and made != bool(repeated):
    raise errors.UserError(f"{where(i)}: {'no' if made else 'a'} field 'id', unlike the rows "
                           'above: give one to all rows, or to none')
  if made:
    repeated[key] += 1
    key = datasets.numbered(key, repeated[key])
  if key in seen:
    raise errors.UserError(
        f'{where(i)}: id {key!r} occurs also in {where(seen[key])}; '
        'ids must be unique, since rationales are joined by id')
  seen[key] = i
  if not example.input.strip():
    raise errors.UserError(f'{where(i)}: the input is empty; fill it in or remove the row')
  _check_label(example, dataset, where, i)


def _read_row(
    row: object, row_number: int, where: str, dataset: datasets.Dataset
) -> datasets.Example:
  if not isinstance(row, dict):
    raise errors.UserError(f'{where}: {type(row).__name__} instead of an object with fields')
  try:
    example = datasets.as_example(dataset.read_row(row, row_number))
    return datasets.with_extra(example, row, dataset)
  except KeyError as error:
    known = ', '.join(map(str, row)) or 'none'
    name = str(error.args[0])
    raise errors.UserError(
        f'{where}: no field {name!r}, which dataset {dataset.name!r} needs (the row has: {known}'
        f'{rows_lib.inner_list(row)}); '
        f'--columns={name}=COLUMN says which of them it is') from error
  except errors.UserError as error:
    raise errors.UserError(f'{where}: {error}') from error
  except (TypeError, ValueError, IndexError, AttributeError) as error:
    raise errors.UserError(
        f'{where}: not a row of dataset {dataset.name!r} ({error})') from error


def _check_label(
    example: datasets.Example, dataset: datasets.Dataset, where: Callable[[int], str], i: int
) -> None:
  if example.label and not example.label.strip():
    raise errors.UserError(f'{where(i)}: the gold label is blank; fill it in, or leave it out')
  if example.label and dataset.metric == 'equation':
    try:
      equations.evaluate(example.label)
    except ValueError as error:
      raise errors.UserError(f'{where(i)}: gold equation {example.label[:80]!r} has no value '
                             f'({error}); mend it, or leave it out') from error
  allowed = example.choices or dataset.labels
  if not example.label or allowed is None or example.label in allowed:
    return  # No gold label is fine: the teacher's will do.
  of = 'the choices of this row' if example.choices else f'the labels of {dataset.name!r}'
  raise errors.UserError(
      f'{where(i)}: gold label {example.label!r} is not among {of}: '
      f'{errors.did_you_mean(example.label, allowed)}')
