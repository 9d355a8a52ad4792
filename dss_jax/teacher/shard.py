"""One shard: its rows are asked about, parsed, voted on, and staged as one file.

The unit of every runner. A shard depends on nothing but its rows and the client, so it can be
done again, anywhere, with the same bytes as result.
"""

import asyncio
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Sequence

from etils import epath

from dss_jax import datasets, files, metrics, records
from dss_jax.teacher import first_look, protocol
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.read import parsed as parsed_lib
from dss_jax.teacher.read import parsing, shares, thoughts, voting

KEEP = ('all', 'agree')
_NOT_QUARANTINED = (records.PARSED, parsing.NO_TEACHER, parsing.DISAGREES)
_SHOWN_THOUGHTS = 600  # characters of them in the quarantine file
_Samples = Sequence[protocol.Completion]


@dataclasses.dataclass(frozen=True)
class Spec:
  """Which rows make up a file.

  Attributes:
    dataset, split: of the set.
    index, count: this is file `index` of `count`.
    rows: numbers of the examples, in order.
  """

  dataset: str
  split: str
  index: int
  count: int
  rows: Sequence[int]

  @property
  def name(self) -> str:
    return records.shard_name(self.dataset, self.split, self.index, self.count)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How completions become records.

  Attributes:
    parser: 'strict' or 'released'.
    keep: 'all', or 'agree': no rationale whose label is not the gold one.
    retry_failed: further attempts at rows whose completion did not parse.
    rationale_from: 'answer', or 'thinking': what the model thought before it answered.
    max_thinking: words of a rationale from thinking at most; 0 for any.
    keep_samples: all samples that parsed become records, of schema 2; else the one that the vote
      chose.
    label_logprobs: the votes of a closed set are divided by the probabilities of the label's
      tokens, and are in the records, of schema 2.
  """

  parser: str = 'strict'
  keep: str = 'all'
  retry_failed: int = 0
  rationale_from: str = 'answer'
  max_thinking: int = 0
  keep_samples: bool = False
  label_logprobs: bool = False

  @property
  def reading(self) -> parsing.Reading:
    return parsing.Reading(self.parser, self.rationale_from, self.max_thinking)


@dataclasses.dataclass(frozen=True)
class Result:
  """A staged shard."""

  spec: Spec
  shard: records.Shard
  summary: summary_lib.Summary


async def run(
    spec: Spec,
    examples: Sequence[datasets.Example],
    dataset: datasets.Dataset,
    client: protocol.Client,
    settings: Settings,
    staging_dir: str,
) -> Result:
  """Writes `<staging_dir>/<spec.name>`, and beside it the rows that failed.

  Args:
    spec: which rows.
    examples: all examples of the job.
    dataset: how a completion is laid out.
    client: who answers.
    settings: see there.
    staging_dir: where files wait until all are there.

  Raises:
    Unfinished: the client stopped before all rows were answered.
  """
  rows = await asyncio.to_thread(lambda: [examples[i] for i in spec.rows])
  read = reader(dataset, settings)
  completions: list[_Samples] = list(await client.complete(rows))
  for attempt in range(1, settings.retry_failed + 1):
    failed = await asyncio.to_thread(_failed, rows, completions, read)
    again = await client.complete([rows[i] for i in failed], attempt) if failed else []
    for i, more in zip(failed, again, strict=True):
      completions[i] = (*completions[i], *more)
  # In a thread: the requests of the next shard go on meanwhile.
  return await asyncio.to_thread(
      _write, spec, rows, completions, dataset, client.model, settings, staging_dir)


def quarantine_name(spec: Spec) -> str:
  return f'{spec.name}.quarantine.jsonl'


def reader(dataset: datasets.Dataset, settings: Settings) -> first_look.Read:
  """How this job reads completions."""
  return lambda example, one: parsing.read(one, example, dataset, settings.reading)


def _failed(rows, completions: Sequence[_Samples], read: first_look.Read):
  return [i for i, samples in enumerate(completions)
          if samples and not any(read(rows[i], one).ok for one in samples)]


def _write(spec, rows, completions, dataset, model, settings, staging_dir) -> Result:
  made: list[list[records.RationaleRecord]] = []  # of each input
  quarantine, agreeing, weighed = [], 0, collections.Counter[bool]()
  for example, samples in zip(rows, completions, strict=True):
    readings = [reader(dataset, settings)(example, one) for one in samples]
    chosen, votes = voting.choose(readings, dataset)
    agreeing += votes
    empty = records.RationaleRecord(
        id=example.id, input=example.input, label=example.label, dataset=spec.dataset,
        split=spec.split, parse_status=parsing.NO_TEACHER, extra=example.extra)
    found = [_filled(empty, _keep(one, example, dataset, settings.keep), sample, model)
             for one, sample in zip(readings, samples, strict=True)]
    record = found.pop(chosen) if found else empty
    if record.parse_status not in _NOT_QUARANTINED:
      quarantine.append(_quarantined(record, samples[chosen], dataset))
    more = [one for one in found if one.parse_status == records.PARSED and settings.keep_samples]
    made.append([record, *more])
    if settings.keep_samples or settings.label_logprobs:
      divided = _divided(example, samples, readings, dataset, settings)
      weighed.update(one is not None for one, reading in zip(divided, readings) if reading.ok)
      made[-1] = records.numbered(made[-1], voting.counts(readings, dataset, divided))
  shard = records.stage_shard(staging_dir, spec.name, itertools.chain.from_iterable(made))
  files.write(os.path.join(staging_dir, quarantine_name(spec)), ''.join(quarantine))
  summary = summary_lib.of(dataset, [one for one, *_ in made], completions, agreeing)
  if settings.keep_samples:
    summary.records = shard.records
  if settings.keep_samples or settings.label_logprobs:
    summary.max_samples = max(map(len, made), default=1)
  summary.weighed, summary.unweighed = weighed[True], weighed[False]
  return Result(spec, shard, summary)


def _divided(
    example: datasets.Example, samples: _Samples, readings: Sequence[parsed_lib.Parsed],
    dataset: datasets.Dataset, settings: Settings,
) -> list[dict[str, float] | None]:
  """How the vote of each sample is divided, with --label_logprobs."""
  if not settings.label_logprobs:
    return []
  read = functools.partial(reader(dataset, settings), example)
  return [shares.of(sample, reading.label, example, dataset, read) if reading.ok else None
          for sample, reading in zip(samples, readings, strict=True)]


def _keep(
    reading: parsed_lib.Parsed, example: datasets.Example, dataset: datasets.Dataset, keep: str
) -> parsed_lib.Parsed:
  """--keep=agree: a rationale for another label than the gold one is no explanation of it."""
  if keep == 'agree' and reading.ok and example.label:
    (share, *_) = metrics.for_dataset(dataset)[0]([example.label], [reading.label]).values()
    if not share:
      return parsed_lib.failed(parsing.DISAGREES)
  return reading


def _filled(
    record: records.RationaleRecord, reading: parsed_lib.Parsed, completion: protocol.Completion,
    model: str,
) -> records.RationaleRecord:
  return dataclasses.replace(
      record,
      # Of a failed row nothing is kept, not even half: it must never become an empty target.
      teacher_label=reading.label if reading.ok else '',
      rationale=reading.rationale if reading.ok else '',
      teacher_model=completion.model or model,
      prompt_sha256=completion.prompt_sha256,
      request_key=request_key(record.id, completion),
      finish_reason=protocol.clean(completion.finish_reason),
      parse_status=reading.status)


def request_key(example_id: str, completion: protocol.Completion) -> str:
  """The client's own key, or SHA-256 of the JSON list [id, completion text]."""
  if completion.request_key:
    return completion.request_key
  return hashlib.sha256(json.dumps([example_id, completion.text]).encode()).hexdigest()


def _quarantined(
    record: records.RationaleRecord, completion: protocol.Completion, dataset: datasets.Dataset
) -> str:
  """A line of the quarantine file; the journal has the thoughts at full length."""
  thought, answer = parsing.divide(completion, dataset)
  return json.dumps({
      'id': record.id, 'reason': record.parse_status, 'why': parsing.REASONS[record.parse_status],
      'finish_reason': record.finish_reason, 'completion': answer,
      **({'thoughts': thoughts.shortened(thought, _SHOWN_THOUGHTS)} if thought else {}),
      **({'error': completion.error} if completion.error else {}),
      'input': record.input, 'label': record.label, 'request_key': record.request_key,
  }, ensure_ascii=False) + '\n'


def collect_quarantine(records_dir: str, specs: Sequence[Spec], staging_dir: str) -> str | None:
  """Joins the shards' failed rows of one set; returns the file's path, None if none failed."""
  lines = [(epath.Path(staging_dir) / quarantine_name(spec)).read_text() for spec in specs]
  folder = epath.Path(records_dir) / 'quarantine'
  path = folder / f'{specs[0].dataset}-{specs[0].split}.jsonl'
  if not any(lines):
    path.unlink(missing_ok=True)
    return None
  folder.mkdir(parents=True, exist_ok=True)
  files.write(str(path), ''.join(lines))
  return str(path)
