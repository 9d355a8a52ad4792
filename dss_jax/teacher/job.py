"""The job: examples and a teacher in, finished record sets out.

Everything that can be wrong is found before the first byte is written. Shards are the unit: they
are asked about one after the other, staged, and published together when all are there.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from dss_jax import datasets, errors, files, records
from dss_jax.records import manifest
from dss_jax.teacher import plan as plan_lib
from dss_jax.teacher import protocol
from dss_jax.teacher import shard as shard_lib
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.read import parsing

# So many shards are open that the slow last answers of one leave no connection idle, and so few
# that a large job's rows stay on the disk.
_SHARDS_AT_ONCE, _ROWS_AT_ONCE = 2, 4096
_SHOWN = 120  # characters of a completion in a message


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run wrote.

  Attributes:
    splits: for each split, counts and the teacher's accuracy.
    shards: for each split, its number of files.
    quarantine: for each split with failed rows, the file that lists them.
    replaced: for each split that was there before, how many of its rows had parsed.
    paid: what the client says of money.
    doubts: what is odd about the answers, for the user.
  """

  dataset: datasets.Dataset
  teacher_model: str
  parser: str
  records_dir: str
  splits: Mapping[str, summary_lib.Summary]
  shards: Mapping[str, int]
  quarantine: Mapping[str, str]
  replaced: Mapping[str, int]
  paid: str = ''
  doubts: Sequence[str] = ()


_T = TypeVar('_T')
Runner = Callable[[plan_lib.Plan, Sequence[datasets.Example], protocol.Client],
                  Awaitable[Sequence[shard_lib.Result]]]


def run(
    dataset: datasets.Dataset,
    split: str,
    examples: Sequence[datasets.Example],
    client: protocol.Client,
    parser: str,
    records_dir: str,
    *,
    num_shards: int | None = None,
    holdout: str = 'auto',
    keep: str = 'all',
    retry_failed: int = 0,
    rationale_from: str = 'answer',
    max_thinking: int = 0,
    keep_samples: bool = False,
    label_logprobs: bool = False,
    max_failed: float = 0.02,
    allow_unparsed: bool = False,
    provenance: Mapping[str, Any] | None = None,
    runner: Runner | None = None,
) -> Outcome:
  """Asks the teacher about every example and writes `<dataset>-<split>`.

  A row that does not parse keeps its gold label and the reason as `parse_status`; its rationale
  and teacher label are ''. Where the dataset names a holdout, 10 % of 'train' is written as
  'validation' instead.

  Args:
    dataset: how inputs are labelled and completions laid out.
    split: 'train', 'validation' or 'test'.
    examples: with unique ids; `inputs.Inputs` are read shard by shard.
    client: e.g. `recorded.RecordedClient(...)` or `clients.ScriptedClient(fn)`.
    parser: 'strict' or 'released'.
    records_dir: where the sets go; other sets there stay.
    num_shards: files per set; None as `records.write_records` has it.
    holdout: 'auto' as the dataset says, or 'none' to keep all of train.
    keep: 'all', or 'agree' to drop rationales for another label than the gold one.
    retry_failed: further attempts at rows that did not parse.
    rationale_from: 'answer', or 'thinking': what the model thought before it answered.
    max_thinking: words of a rationale from thinking at most; 0 for any.
    keep_samples: write all samples that parsed, not only the one that the vote chose.
    label_logprobs: write how probable each label of the closed set was, where completions have
      `logprobs`.
    max_failed: the share of rows to which the server gave no answer above which nothing is
      written; one row never is.
    allow_unparsed: write sets in which no row parsed, too.
    provenance: more for the manifest, e.g. the inputs' checksum.
    runner: who does the shards; by default this process.

  Raises:
    UserError: see `inputs.check_examples`, the client, and `publish`.
    Unfinished: the client stopped early; no set is written yet.
  """
  settings = shard_lib.Settings(
      parser, keep, retry_failed, rationale_from, max_thinking, keep_samples, label_logprobs)
  plan = plan_lib.make(dataset, split, examples, client, settings, records_dir, num_shards, holdout,
                       provenance or {})
  with _alone(plan, client):
    for name in plan.splits:
      epath.Path(plan.staging(name)).rmtree(missing_ok=True)  # Of a killed job; cheap to redo.
    client.watch(shard_lib.reader(dataset, settings))
    results = _wait(_run(runner or run_here, plan, examples, client))
    outcome = publish(plan, client, results, allow_unparsed, max_failed)
  whole = summary_lib.total(list(outcome.splits.values()))
  return dataclasses.replace(outcome, doubts=client.doubts(dataset, examples, whole))


@contextlib.contextmanager
def _alone(plan: plan_lib.Plan, client: protocol.Client) -> Iterator[None]:
  """No other job on the same sets, meanwhile."""
  with contextlib.ExitStack() as stack:
    for name in plan.splits:
      for folder in (plan.records_dir, *client.folders):
        stack.enter_context(files.lock(folder, f'{plan.dataset.name}-{name}'))
    yield


async def run_here(
    plan: plan_lib.Plan, examples: Sequence[datasets.Example], client: protocol.Client
) -> list[shard_lib.Result]:
  """The local runner: shards in order, some at a time."""
  most = max(len(spec.rows) for spec in plan.specs)
  turn = asyncio.Semaphore(max(_SHARDS_AT_ONCE, _ROWS_AT_ONCE // most))
  stopped: list[protocol.Unfinished] = []
  failed: list[Exception] = []

  async def one(spec: shard_lib.Spec) -> shard_lib.Result | None:
    async with turn:
      try:
        return await shard_lib.run(spec, examples, plan.dataset, client, plan.settings,
                                   plan.staging(spec.split))
      except protocol.Unfinished as error:  # The other shards go on as far as they can.
        stopped.append(error)
        return None
      except (OSError, errors.UserError) as error:  # They would meet the same.
        client.stop(str(error))
        failed.append(error)
        return None

  tasks = [asyncio.ensure_future(one(spec)) for spec in plan.specs]
  try:
    results = await asyncio.gather(*tasks)
  finally:
    for task in tasks:
      task.cancel()
  if failed or stopped:  # Now that nothing is in flight that was paid for.
    raise (failed or stopped[-1:])[0]
  return [result for result in results if result is not None]


def publish(
    plan: plan_lib.Plan, client: protocol.Client, results: Sequence[shard_lib.Result],
    allow_unparsed: bool = False, max_failed: float = 0.02,
) -> Outcome:
  """Makes the staged shards the sets that readers see.

  Raises:
    UserError: a teacher was asked and no row parsed, too many have no answer, or see
      `records.publish`; earlier sets stay as they are.
  """
  everything = summary_lib.total([result.summary for result in results])
  _check_answered(plan, everything, max_failed)
  if not allow_unparsed:
    _check_parsed(plan, everything)
  written, quarantine, replaced = {}, {}, {}
  for split, specs in plan.splits.items():
    done = {result.spec.index: result for result in results if result.spec.split == split}
    parts = [done[spec.index] for spec in specs]
    summary = summary_lib.total([part.summary for part in parts])
    path = shard_lib.collect_quarantine(plan.records_dir, specs, plan.staging(split))
    if earlier := manifest.entry_of(plan.records_dir, f'{plan.dataset.name}-{split}'):
      replaced[split] = earlier.get('parse_status', {}).get(records.PARSED, 0)
    records.publish(
        plan.records_dir, plan.dataset.name, split, plan.staging(split),
        [part.shard for part in parts], counts=summary.status,
        max_samples=summary.max_samples or None,
        provenance={**plan.provenance, **_manifest(plan.settings, client, summary)})
    epath.Path(plan.staging(split)).rmtree()
    written[split] = summary
    if path:
      quarantine[split] = path
  return Outcome(
      plan.dataset, client.model, plan.settings.parser, plan.records_dir, written,
      {split: len(specs) for split, specs in plan.splits.items()}, quarantine, replaced,
      client.paid())


def _check_answered(plan: plan_lib.Plan, summary: summary_lib.Summary, max_failed: float) -> None:
  counts = {reason: summary.status.get(reason, 0)
            for reason in (parsing.REJECTED, parsing.UNANSWERED)}
  failed = sum(counts.values())
  if failed <= max(1, max_failed * summary.asked):
    return
  (first, *_) = [entry for entry in _quarantined(plan) if entry['reason'] in counts]
  raise errors.UserError(
      f'{plan.records_dir}: {failed} of {summary.asked} rows have no answer '
      f'({", ".join(f"{count} {reason}" for reason, count in counts.items() if count)}), more than '
      f'--max_failed={max_failed:g}, so nothing is written. The first, {first["id"]}: '
      f'{first["error"]}. --retry_failed=1 asks for these alone; --max_failed='
      f'{math.ceil(1000 * failed / summary.asked) / 1000:g} writes the set without them')


def _check_parsed(plan: plan_lib.Plan, summary: summary_lib.Summary) -> None:
  """No set is better than one that looks finished and holds nothing to train on."""
  if not summary.asked or summary.status.get(records.PARSED):
    return
  counts = ', '.join(f'{count} {reason}' for reason, count in sorted(
      summary.status.items(), key=lambda item: -item[1]) if reason != parsing.NO_TEACHER)
  shown = [repr(text) for text in _first_failed(plan, 2)]
  begin = f' Completions begin: {" and ".join(shown)}.' if shown else ''
  sets = ', '.join(f'{plan.dataset.name}-{split}' for split in plan.splits)
  for split in plan.splits:
    epath.Path(plan.staging(split)).rmtree(missing_ok=True)
  raise errors.UserError(
      f'{plan.records_dir}: none of {summary.asked} rows parsed ({counts}), so {sets} is not '
      f'written, and what was there stays.{begin} Compare them with how an answer is to end '
      '(answer_phrase, label_kind, labels); --allow_unparsed writes such a set all the same')


def _first_failed(plan: plan_lib.Plan, count: int) -> list[str]:
  """Beginnings of the first completions that did not parse."""
  texts = (entry['completion'] or entry.get('thoughts', '') for entry in _quarantined(plan))
  return [text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
          for text in itertools.islice(filter(str.strip, texts), count)]


def _quarantined(plan: plan_lib.Plan) -> Iterator[dict[str, Any]]:
  """The staged rows that failed."""
  for spec in plan.specs:
    path = epath.Path(plan.staging(spec.split)) / shard_lib.quarantine_name(spec)
    yield from map(json.loads, path.read_bytes().splitlines())  # Of bytes: a text may hold U+2028.


def _wait(work: Coroutine[Any, Any, _T]) -> _T:
  """`asyncio.run`, also inside a notebook, whose own event loop runs in this thread."""
  try:
    asyncio.get_running_loop()
  except RuntimeError:
    return asyncio.run(work)
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    return thread.submit(asyncio.run, work).result()


async def _run(
    runner: Runner, plan: plan_lib.Plan, examples: Sequence[datasets.Example],
    client: protocol.Client,
) -> Sequence[shard_lib.Result]:
  try:
    return await runner(plan, examples, client)
  finally:
    await client.close()


def _manifest(
    settings: shard_lib.Settings, client: protocol.Client, summary: summary_lib.Summary
) -> dict[str, Any]:
  """What the manifest says of how a set came about."""
  teacher = {'client': client.name, 'model': client.model,
             'prompt_sha256': summary.prompts[0] if len(summary.prompts) == 1 else '',
             **client.provenance()}
  if summary.prompt_tokens or summary.completion_tokens:
    teacher['usage'] = {'completions': summary.samples, 'prompt_tokens': summary.prompt_tokens,
                        'completion_tokens': summary.completion_tokens}
  how: dict[str, Any] = {'teacher': teacher, 'parser': settings.parser}
  if not client.model:
    return how
  if settings.rationale_from == 'thinking':
    how['max_thinking'] = settings.max_thinking
  if settings.keep_samples:
    how['keep_samples'] = True
  if settings.label_logprobs:
    how['label_logprobs'] = {'samples': summary.weighed, 'whole': summary.unweighed}
  return {**how, 'keep': settings.keep, 'retry_failed': settings.retry_failed,
          'rationale_from': settings.rationale_from}
