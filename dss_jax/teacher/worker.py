"""One process of a job that several share: it does shards, and says so in files.

What became of a shard lies beside it, `<shard>.result.json` or `<shard>.stopped.json`: the
process that launched the job may see none of the others but through the records' folder.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax import cli, datasets, errors, files, rows
from dss_jax.records import manifest
from dss_jax.teacher import protocol
from dss_jax.teacher import shard as shard_lib
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.ask import asking, clients
from dss_jax.teacher.inputs import reading


@dataclasses.dataclass(frozen=True)
class Task:
  """All that a worker must know of a job; plain values, sent to every worker.

  Attributes:
    run: a name that no other run has, so that no result of an earlier one is taken for ours.
    flags: of the command line, see `flags.parser`.
    prompt: the text of --prompt, which workers elsewhere could not open; '' for the package's.
    dataset: its name.
    completion: how the teacher's completions are laid out.
    records_dir: where the sets go.
    inputs: the file, with `inputs_sha256` of its bytes.
    settings: how completions become records.
    staging: for each split, where its shards wait.
    describe_only: whether the launcher did without SeqIO tasks.
    share: among how many processes the limits are divided.
    lease: a file that the launcher keeps locked while it waits; '' if workers are its threads,
      or on other machines.
  """

  run: str
  flags: argparse.Namespace
  prompt: str
  dataset: str
  completion: datasets.CompletionFormat
  records_dir: str
  inputs: str
  inputs_sha256: str
  settings: shard_lib.Settings
  staging: Mapping[str, str]
  describe_only: bool
  share: int
  lease: str


class Worker:
  """A process's client and inputs, made once, however many threads hand it shards.

  The client's event loop runs in a thread of its own: connections live as long as the worker,
  and all threads' requests are counted together.
  """

  def __init__(self, task: Task):
    self._task = task
    self._client: protocol.Client | None = None
    self._broken = ''  # Why no shard can be done; it would be the same for all.
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name='teacher', daemon=True)
    self._thread.start()
    try:
      self._prepare()
    except errors.UserError as error:
      self._broken = str(error)

  def do(self, spec: shard_lib.Spec) -> summary_lib.Summary | None:
    """Stages a shard and its result; None, and a note for the launcher, if it cannot be done.

    What else goes wrong is raised.
    """
    if self._broken or self._client is None:
      self._stopped(spec, errors.UserError(self._broken))
      return None
    try:
      result = self._call(shard_lib.run(
          spec, self._examples, self._dataset, self._client, self._task.settings,
          self._task.staging[spec.split]))
    except protocol.Unfinished as error:
      self._stopped(spec, error)
      return None
    except errors.UserError as error:
      self._give_up(spec, str(error))
      return None
    except OSError as error:
      if files.is_remote(self._task.records_dir):
        raise  # It may pass: whoever runs the workers tries again.
      self._give_up(spec, f'{error.filename or self._task.records_dir}: cannot be written '
                    f'({error.strerror or error}); mend that and run the same command again')
      return None
    _put(self._task, spec, 'result', {'shard': dataclasses.asdict(result.shard),
                                      'summary': result.summary.to_json()})
    return result.summary

  def stop(self, why: str) -> None:
    """Sends nothing more; what is in flight is waited for."""
    if isinstance(self._client, asking.AskingClient):
      self._loop.call_soon_threadsafe(self._client.stop, why)

  def close(self) -> None:
    """Gives connections back."""
    try:
      if self._client is not None:
        self._call(self._client.close())
    finally:
      self._loop.call_soon_threadsafe(self._loop.stop)
      self._thread.join()
      self._loop.close()

  def _prepare(self) -> None:
    task = self._task
    if task.describe_only:
      datasets.describe_only()
    cli.import_quietly('dss_jax.tasks', *task.flags.imports)
    self._dataset = dataclasses.replace(datasets.get(task.dataset), completion=task.completion)
    self._examples = reading.read_inputs(
        task.inputs, self._dataset, rows.parse_columns(task.flags.columns))
    if self._examples.sha256 != task.inputs_sha256:
      raise errors.UserError(f'--inputs={task.inputs}: changed since the job began, or another '
                             'file on the workers; run it again')
    self._client = _client(task)
    self._client.prepare(self._examples.ids)
    self._client.watch(shard_lib.reader(self._dataset, task.settings))
    _divide_budget(self._client, task.share)

  def _give_up(self, spec: shard_lib.Spec, why: str) -> None:
    """All other shards would meet the same."""
    self._broken = why
    self.stop(why)
    self._stopped(spec, errors.UserError(why))

  def _stopped(self, spec: shard_lib.Spec, error: Exception) -> None:
    _put(self._task, spec, 'stopped', {'why': str(error), 'mend': getattr(error, 'mend', False),
                                       'user_error': isinstance(error, errors.UserError)})

  def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_WORKERS: dict[str, Worker] = {}
_STOPPED: dict[str, str] = {}
_LOCK = threading.Lock()


def of(task: Task) -> Worker:
  """This process's worker of that job."""
  with _LOCK:
    if task.run not in _WORKERS:
      _WORKERS[task.run] = Worker(task)
      if task.run in _STOPPED:  # Meanwhile.
        _WORKERS[task.run].stop(_STOPPED[task.run])
      if task.lease:
        threading.Thread(target=_stop_without, args=(task.lease, task.run), daemon=True).start()
    return _WORKERS[task.run]


def stop(run: str, why: str) -> None:
  """Sends nothing more for that job from this process."""
  _STOPPED[run] = why
  if worker := _WORKERS.get(run):
    worker.stop(why)


def close(run: str) -> None:
  """Closes this process's worker of a job, if it has one."""
  with _LOCK:
    _STOPPED.setdefault(run, 'the job has ended')  # For a thread that is late.
    worker = _WORKERS.pop(run, None)
  if worker:
    worker.close()


def collect(task: Task, specs: Sequence[shard_lib.Spec]) -> list[shard_lib.Result]:
  """The results of all shards, once no worker is at work any more.

  Raises:
    UserError: a worker met one.
    Unfinished: shards are missing.
  """
  results, missing, reasons, mend = [], 0, [], False
  for spec in specs:
    if found := _get(task, spec, 'result'):
      results.append(shard_lib.Result(spec, manifest.Shard(**found['shard']),
                                      summary_lib.from_json(found['summary'])))
      continue
    missing += 1
    if found := _get(task, spec, 'stopped'):
      if found['user_error']:
        raise errors.UserError(found['why'])
      reasons.append(found['why'])
      mend = mend or found['mend']
  if missing:
    why = '; '.join(dict.fromkeys(reasons)) or 'the workers ended before they were done'
    share = f' (limits are divided among {task.share} workers)' if task.share > 1 else ''
    raise protocol.Unfinished(f'{missing} of {len(specs)} shards are missing: {why}{share}', mend)
  return results


def _client(task: Task) -> protocol.Client:
  """This worker's own client, with its share of the limits."""
  flags = argparse.Namespace(**vars(task.flags))
  flags.max_requests //= task.share
  with tempfile.TemporaryDirectory() as folder:
    if task.prompt:
      flags.prompt = os.path.join(folder, os.path.basename(flags.prompt))
      epath.Path(flags.prompt).write_text(task.prompt)
    return clients.from_flags(flags, task.records_dir, share=task.share)


def _divide_budget(client: protocol.Client, share: int) -> None:
  """What is left to be spent, shared out; a worker that takes another's place gets a new share."""
  if isinstance(client, asking.AskingClient) and client.budget.max_usd:
    budget = client.budget
    budget.max_usd = budget.spent + max(0.0, budget.max_usd - budget.spent) / share


def _put(task: Task, spec: shard_lib.Spec, kind: str, values: Mapping[str, Any]) -> None:
  folder = epath.Path(task.staging[spec.split])
  folder.mkdir(parents=True, exist_ok=True)
  files.write(str(folder / f'{spec.name}.{kind}.json'),
               json.dumps({'run': task.run, **values}, sort_keys=True))


def _get(task: Task, spec: shard_lib.Spec, kind: str) -> dict[str, Any] | None:
  path = epath.Path(task.staging[spec.split]) / f'{spec.name}.{kind}.json'
  found = json.loads(path.read_text()) if path.exists() else {}
  return found if found.get('run') == task.run else None


class Lease:
  """A file that is locked until the block ends or this process dies, however it does."""

  def __enter__(self) -> 'Lease':
    import fcntl  # Not on every platform.
    self._file = tempfile.NamedTemporaryFile(prefix='dss-lease-')
    self.path = self._file.name
    fcntl.flock(self._file, fcntl.LOCK_EX)
    return self

  def __exit__(self, *error: object) -> None:
    with contextlib.suppress(FileNotFoundError):
      self._file.close()  # Removes it.


def _stop_without(lease: str, run: str) -> None:
  """Nobody would collect what is asked for after the launcher has ended."""
  import fcntl
  with contextlib.suppress(FileNotFoundError), open(lease) as file:
    fcntl.flock(file, fcntl.LOCK_SH)
  with contextlib.suppress(FileNotFoundError):
    os.unlink(lease)  # A killed launcher left it.
  stop(run, 'interrupted')
