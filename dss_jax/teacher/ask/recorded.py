"""The recorded teacher: completions that some other program has saved."""

import argparse
import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors, fields
from dss_jax import rows as rows_lib
from dss_jax.teacher import protocol
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.ask import openai_client, order
from dss_jax.teacher.read import logprobs as logprobs_lib
from dss_jax.teacher.read import parsing

_TEXTS = ('completion', 'generation', 'response', 'output')  # fields with what the teacher wrote
_APART = ('rationale', 'label')  # or the two halves of it
_THOUGHTS = ('reasoning_content', 'reasoning')
_FIELDS = (*_TEXTS, *_APART, *_THOUGHTS, 'id', 'custom_id', 'input', 'finish_reason', 'logprobs',
           'error')
_MISSING = protocol.Completion('', parsing.MISSING)
_EXPECTED = (f'expected an object with id and {", ".join(_TEXTS[:-1])} or {_TEXTS[-1]}; or with '
             f'id, {" and ".join(_APART)}; or a line of a batch result. Other names are given with '
             '--completion_columns=FIELD=COLUMN. Completions without ids go into one JSON list, in '
             'the order of the inputs')
_Samples = tuple[protocol.Completion, ...]


class RecordedClient(protocol.Client):
  """Completions from files, joined to the examples.

  Two layouts, told apart by what the file holds:
    JSON lists of completions, `["Birds have wings. So ...", ...]`, joined in natural order of
      the file names (`train_CoT_10` after `train_CoT_9`): completion i belongs to row i.
    Rows, joined by id: JSON lines, a JSON list of objects, CSV, TSV or Parquet; where no row has
      ids, here and in the inputs, by `input`. A row has
      `completion` (or another of `_TEXTS`), or `rationale` and `label`; or it is a line of a
      batch's result, {"custom_id": ..., "response": {"body": ...}}. Several of an id are samples.
  Null, and in rows an id that is not there, is a row without an answer: `missing`.
  """

  name = 'recorded'

  def __init__(self, completions: str, model: str = 'recorded',
               columns: Mapping[str, str] | None = None, logprobs: bool = False):
    """Reads nothing yet.

    Args:
      completions: a glob, or whatever else `rows.Rows` takes.
      model: what the records name as their teacher.
      columns: a row's field -> the column that it is read from.
      logprobs: keep those of rows and of batch results, as OpenAI's responses have them.
    """
    self.model = model
    self._pattern = completions
    self._columns = columns
    self._logprobs = logprobs
    self._files: list[rows_lib.File] = []
    self._found: dict[str, _Samples] = {}

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'RecordedClient':
    if not flags.completions:
      raise errors.UserError(
          "--client=recorded needs --completions='GLOB', the files with what the teacher wrote; "
          'or --client=none to use gold labels alone')
    columns = rows_lib.parse_columns(
        flags.completion_columns, '--completion_columns', _FIELDS)
    return cls(flags.completions, flags.teacher_model or 'recorded', columns,
               bool(flags.label_logprobs))

  def prepare(self, ids: Sequence[str]) -> None:
    """Reads and joins the files.

    Raises:
      UserError: no file matches, both layouts at once, an entry that is not text, another
        number of completions than examples, an id that no example has.
    """
    self._files = rows_lib.Rows(self._pattern, '--completions', self._columns).files
    ordered = {f.is_list and not isinstance(f[0], dict) for f in self._files}
    if len(ordered) > 1:
      raise errors.UserError(
          f'--completions={self._pattern}: some files are JSON lists of completions and some have '
          f'rows with ids ({_sizes(self._files)}); use one layout')
    self._found = (self._by_order if ordered.pop() else self._by_id)(ids)
    if self._logprobs and not any(one.logprobs for row in self._found.values() for one in row):
      raise errors.UserError(
          f'--label_logprobs: no completion of --completions={self._pattern} has logprobs (in '
          "OpenAI's form, as a field of its row or in a batch result); drop it, or ask an endpoint "
          'for them')

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[_Samples]:
    return [self._found.get(example.id, (_MISSING,)) for example in examples]

  def provenance(self) -> Mapping[str, Any]:
    return {'completions': [
        {'name': os.path.basename(f.path), 'rows': len(f), 'sha256': f.sha256}
        for f in self._files]}

  def doubts(
      self, dataset: datasets.Dataset, examples: Sequence[datasets.Example],
      summary: summary_lib.Summary,
  ) -> list[str]:
    """Answers in another order than the inputs parse, and look like those of a poor teacher."""
    ids = getattr(examples, 'ids', None) or [example.id for example in examples]
    rationales = [_rationale(self._found.get(one, (_MISSING,))[0], dataset.completion)
                  for one in ids]
    return order.doubts(rationales, examples, next(iter(summary.accuracy.values()), 100.0))

  def _by_order(self, ids: Sequence[str]) -> dict[str, _Samples]:
    total = sum(len(f) for f in self._files)
    if total != len(ids):
      raise errors.UserError(
          f'--inputs has {len(ids)} rows, but --completions={self._pattern} has {total} '
          f'({_sizes(self._files)}); row i must match completion i, so use the files that belong '
          'together')
    found = []
    wrong = errors.Collected('completions')
    for f in self._files:
      for i in range(len(f)):
        with wrong:
          found.append(self._samples(f[i], f.where(i)) or (_MISSING,))
    wrong.check()
    return dict(zip(ids, found, strict=True))

  def _by_id(self, ids: Sequence[str]) -> dict[str, _Samples]:
    found: dict[str, _Samples] = {}
    known = frozenset(ids)
    repeated: collections.Counter[str] = collections.Counter()
    wrong = errors.Collected('rows of --completions')
    for f in self._files:
      for i in range(len(f)):
        with wrong:
          key, samples = self._row(_with_id(f[i], f.where(i), repeated), f.where(i))
          if key not in known:
            raise errors.UserError(
                f'{f.where(i)}: id {key!r} is not in --inputs; use the files that belong together')
          if samples:
            found[key] = found.get(key, ()) + samples
    wrong.check()
    return found

  def _row(self, row: object, where: str) -> tuple[str, _Samples]:
    """An id and what the row says for it; () if nothing."""
    name = 'custom_id' if isinstance(row, dict) and 'custom_id' in row else 'id'
    if not isinstance(row, dict) or name not in row:
      raise errors.UserError(f'{where}: {_EXPECTED}')
    key = fields.as_text(row[name], f'{where}: field {name!r}')
    if name == 'custom_id' and isinstance(row.get('response'), dict | None):
      return key, self._batch_line(row, where)
    said = [one for one in _TEXTS if one in row]
    if len(said) > 1 and 'completion' not in said:
      raise errors.UserError(f'{where}: both {" and ".join(said)}; name the one with the '
                             "teacher's words completion")
    if said:
      thoughts = next((row[one] for one in _THOUGHTS if isinstance(row.get(one), str)), '')
      samples = self._samples(row[said[0]], where)
      reason = _finish_reason(row, where)
      return key, tuple(dataclasses.replace(
          one, finish_reason=reason, thoughts=protocol.clean(thoughts),
          logprobs=self._kept(row.get('logprobs'))) for one in samples)
    if not all(one in row for one in _APART):
      raise errors.UserError(f'{where}: {_EXPECTED}')
    return key, _apart(row, where)

  def _batch_line(self, row: Mapping[str, Any], where: str) -> _Samples:
    """Of a result of OpenAI's Batch API or `vllm run-batch`: each choice is a sample."""
    body = (row.get('response') or {}).get('body')
    if row.get('error') or not isinstance(body, dict) or not body.get('choices'):
      return ()
    try:
      answers = [openai_client.OpenAIEndpoint.read({**body, 'choices': [choice]})
                 for choice in body['choices']]
    except (KeyError, TypeError, AttributeError) as error:
      raise errors.UserError(f'{where}: response.body is no completion ({error!r})') from error
    # A response's tokens are of all its choices.
    return tuple(protocol.Completion(
        protocol.clean(answer.text), answer.finish_reason, thoughts=protocol.clean(answer.thoughts),
        logprobs=self._kept(answer.logprobs),
        prompt_tokens=answer.prompt_tokens if i == 0 else 0,
        completion_tokens=answer.completion_tokens if i == 0 else 0)
                 for i, answer in enumerate(answers))

  def _kept(self, found: object) -> object:
    return logprobs_lib.kept(found) if self._logprobs else None

  def _samples(self, value: object, where: str) -> _Samples:
    """A text, some texts, or null."""
    texts = []
    for one in value if isinstance(value, list) else [value]:
      if isinstance(one, str):
        texts.append(protocol.clean(one))
      elif one is not None:
        raise errors.UserError(f'{where}: {fields.describe(one)} instead of the completion as text')
    return tuple(map(protocol.Completion, texts))


def _apart(row: Mapping[str, Any], where: str) -> _Samples:
  """Rationale and label as columns; null in both is no answer."""
  if all(row[one] is None for one in _APART):
    return ()
  rationale, label = (
      '' if row[one] is None else
      protocol.clean(fields.as_text(row[one], f'{where}: field {one!r}')) for one in _APART)
  text = json.dumps(dict(zip(_APART, (rationale, label), strict=True)), ensure_ascii=False)
  return (protocol.Completion(text, _finish_reason(row, where), apart=(rationale, label)),)


def _finish_reason(row: Mapping[str, Any], where: str) -> str:
  reason = row.get('finish_reason')
  if not isinstance(reason, str | None):
    raise errors.UserError(f"{where}: field 'finish_reason' is {fields.describe(reason)}: write "
                           "the endpoint's word ('stop', 'length', ...), or leave it out")
  return reason or ''


def _rationale(completion: protocol.Completion, form: datasets.CompletionFormat) -> str:
  """About so much of a completion, whether it parses or not."""
  if completion.apart:
    return completion.apart[0]
  text = completion.text.partition(form.end_marker)[0] if form.end_marker else completion.text
  return text.partition(form.answer_phrase)[0]


def _sizes(parts: Sequence[rows_lib.File]) -> str:
  shown = [f'{os.path.basename(f.path)}: {len(f)}' for f in parts[:12]]
  return ', '.join(shown + ['...'] * (len(parts) > 12))


def _with_id(row: object, where: str, repeated: collections.Counter[str]) -> object:
  """A row that has its input, but no id, has the id that such an input gets."""
  if not isinstance(row, dict) or {'id', 'custom_id'} & set(row) or 'input' not in row:
    return row
  made = datasets.made_id(fields.as_text(row['input'], f"{where}: field 'input'"))
  repeated[made] += 1
  return {**row, 'id': datasets.numbered(made, repeated[made])}
