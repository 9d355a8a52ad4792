"""The recorded teacher: completions that some other program has saved."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors, fields
from dss_jax.teacher import protocol
from dss_jax.teacher.inputs import json_files


class RecordedClient(protocol.Client):
  """Completions from files, joined to the examples.

  Two layouts, told apart by the first character of the file:
    JSON lists of completions, `["Birds have wings. So ...", ...]`, joined in natural order of
      the file names (`train_CoT_10` after `train_CoT_9`): completion i belongs to row i.
    JSON lines `{"id": "q1", "completion": "..."}`, joined by id; `finish_reason` is optional.
  """

  name = 'recorded'

  def __init__(self, completions: str, model: str = 'recorded'):
    """`completions` is a glob; `model` what the records name as their teacher."""
    self.model = model
    self._pattern = completions
    self._files: list[json_files.JsonFile] = []
    self._found: dict[str, protocol.Completion] = {}

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'RecordedClient':
    if not flags.completions:
      raise errors.UserError(
          "--client=recorded needs --completions='GLOB', the files with what the teacher wrote; "
          'or --client=none to use gold labels alone')
    return cls(flags.completions, flags.teacher_model or 'recorded')

  def prepare(self, ids: Sequence[str]) -> None:
    """Reads and joins the files.

    Raises:
      UserError: no file matches, both layouts at once, an entry that is not text, another
        number of completions than examples, ids without a partner on the other side.
    """
    paths = json_files.natural_glob(self._pattern)
    if not paths:
      raise errors.UserError(f'--completions={self._pattern}: no such file; quote the pattern')
    self._files = [json_files.JsonFile(path, '--completions') for path in paths]
    if len({f.is_list for f in self._files}) > 1:
      raise errors.UserError(
          f'--completions={self._pattern}: some files are JSON lists and some JSON lines '
          f'({_sizes(self._files)}); use one layout')
    self._found = (self._by_order if self._files[0].is_list else self._by_id)(ids)

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[tuple[protocol.Completion, ...]]:
    return [(self._found[example.id],) for example in examples]

  def provenance(self) -> Mapping[str, Any]:
    return {'completions': [
        {'name': os.path.basename(f.path), 'rows': len(f), 'sha256': f.sha256}
        for f in self._files]}

  def _by_order(self, ids: Sequence[str]) -> dict[str, protocol.Completion]:
    total = sum(len(f) for f in self._files)
    if total != len(ids):
      raise errors.UserError(
          f'--inputs has {len(ids)} rows, but --completions={self._pattern} has {total} '
          f'({_sizes(self._files)}); row i must match completion i, so use the files that belong '
          'together')
    texts = (protocol.Completion(_text(value, f.where(i)))
             for f in self._files for i, value in enumerate(f))
    return dict(zip(ids, texts, strict=True))

  def _by_id(self, ids: Sequence[str]) -> dict[str, protocol.Completion]:
    found: dict[str, protocol.Completion] = {}
    known = frozenset(ids)
    for f in self._files:
      for i, row in enumerate(f):
        key, completion = _row(row, f.where(i))
        if key in found:
          raise errors.UserError(f'{f.where(i)}: id {key!r} has a completion already')
        if key not in known:
          raise errors.UserError(
              f'{f.where(i)}: id {key!r} is not in --inputs; use the files that belong together')
        found[key] = completion
    missing = [one for one in ids if one not in found]
    if missing:
      raise errors.UserError(
          f'--completions={self._pattern}: no completion for {len(missing)} of {len(ids)} '
          f'inputs, first id {missing[0]!r}; add them, or remove the rows from --inputs')
    return found


def _row(row: object, where: str) -> tuple[str, protocol.Completion]:
  if not isinstance(row, dict) or 'id' not in row or 'completion' not in row:
    raise errors.UserError(f'{where}: expected an object with the fields id and completion')
  reason = row.get('finish_reason')
  if not isinstance(reason, str | None):
    raise errors.UserError(f"{where}: field 'finish_reason' is {fields.describe(reason)}: write "
                           "the endpoint's word ('stop', 'length', ...), or leave it out")
  return fields.as_text(row['id'], f"{where}: field 'id'"), protocol.Completion(
      _text(row['completion'], where), finish_reason=reason or '')


def _text(value: object, where: str) -> str:
  if not isinstance(value, str):
    raise errors.UserError(f'{where}: {type(value).__name__} instead of the completion as text')
  return protocol.clean(value)


def _sizes(parts: Sequence[json_files.JsonFile]) -> str:
  shown = [f'{os.path.basename(f.path)}: {len(f)}' for f in parts[:12]]
  return ', '.join(shown + ['...'] * (len(parts) > 12))
