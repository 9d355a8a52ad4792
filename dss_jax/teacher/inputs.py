"""Inputs of the teacher job: a JSON file, row by row, as checked `Example`s."""

import dataclasses
from collections.abc import Callable, Sequence

from dss_jax import datasets, errors
from dss_jax.teacher import files


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A file's examples, in its order."""

  path: str
  sha256: str
  examples: tuple[datasets.Example, ...]


def read_inputs(path: str, dataset: datasets.Dataset) -> Inputs:
  """Reads JSON lines, or one JSON list of objects, through `dataset.read_row`.

  Raises:
    UserError: an unreadable or empty file, bad JSON, a missing or unusable field, and what
      `check_examples` finds; the message names the file and the line.
  """
  source = files.read_json(path, '--inputs')
  examples = tuple(
      _read_row(row, i, source.where(i), dataset) for i, row in enumerate(source.values))
  check_examples(examples, dataset, source.where)
  return Inputs(path, source.sha256, examples)


def check_examples(
    examples: Sequence[datasets.Example],
    dataset: datasets.Dataset,
    where: Callable[[int], str],
) -> None:
  """Refuses examples that records cannot hold; `where(i)` names row i in the message.

  Raises:
    UserError: no examples, an empty id or input, an id that occurs twice, text that is not
      Unicode, a gold label outside the row's choices or the dataset's label set.
  """
  if not examples:
    raise errors.UserError(f'{dataset.name}: no examples; check --inputs')
  seen: dict[str, int] = {}
  for i, example in enumerate(examples):
    if not example.id.strip():
      raise errors.UserError(f'{where(i)}: the id is empty; every row needs one of its own')
    if example.id in seen:
      raise errors.UserError(
          f'{where(i)}: id {example.id!r} occurs also in {where(seen[example.id])}; '
          'ids must be unique, since rationales are joined by id')
    seen[example.id] = i
    if not example.input.strip():
      raise errors.UserError(f'{where(i)}: the input is empty; fill it in or remove the row')
    _check_unicode(example, where(i))
    _check_label(example, dataset, where(i))


def _read_row(
    row: object, row_number: int, where: str, dataset: datasets.Dataset
) -> datasets.Example:
  if not isinstance(row, dict):
    raise errors.UserError(f'{where}: {type(row).__name__} instead of an object with fields')
  try:
    return dataset.read_row(row, row_number)
  except KeyError as error:
    known = ', '.join(map(str, row)) or 'none'
    raise errors.UserError(
        f'{where}: no field {str(error.args[0])!r}, which dataset {dataset.name!r} needs '
        f'(the row has: {known})') from error
  except errors.UserError as error:
    raise errors.UserError(f'{where}: {error}') from error
  except (TypeError, ValueError, IndexError, AttributeError) as error:
    raise errors.UserError(
        f'{where}: not a row of dataset {dataset.name!r} ({error})') from error


def _check_unicode(example: datasets.Example, where: str) -> None:
  for name in ('id', 'input', 'label'):
    try:
      getattr(example, name).encode('utf-8')
    except UnicodeEncodeError as error:
      raise errors.UserError(
          f'{where}: {name} holds half of a surrogate pair at character {error.start}, '
          'which no text file can; remove it') from error


def _check_label(example: datasets.Example, dataset: datasets.Dataset, where: str) -> None:
  allowed = example.choices or dataset.labels
  if not example.label or allowed is None or example.label in allowed:
    return  # No gold label is fine: the teacher's will do.
  of = 'the choices of this row' if example.choices else f'the labels of {dataset.name!r}'
  raise errors.UserError(
      f'{where}: gold label {example.label!r} is not among {of}: '
      f'{errors.did_you_mean(example.label, allowed)}')
