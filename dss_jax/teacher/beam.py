"""Shards on Apache Beam: workers on this machine, or on Dataflow.

The pipeline is as small as can be: its elements are shards, each done by the function that the
local runner calls too, and its results are files (see `worker`). So it makes the same bytes.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dss_jax import datasets, errors, files, records
from dss_jax.teacher import plan as plan_lib
from dss_jax.teacher import protocol, worker
from dss_jax.teacher import shard as shard_lib
from dss_jax.teacher import summary as summary_lib
from dss_jax.teacher.ask import clients
from dss_jax.teacher.inputs import reading

try:
  import apache_beam as beam
  from apache_beam.options import pipeline_options
  from apache_beam.runners.portability import fn_api_runner

  from dss_jax.teacher import beam_options
except ImportError as missing:
  raise errors.UserError(
      f"--runner=beam needs Apache Beam ({missing}): pip install 'dss_jax[beam]', or "
      "pip install -e '.[beam]' in a checkout") from missing

_LOCAL = ('', 'direct', 'directrunner')
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Runner:
  """A `job.Runner`: shards as the elements of a Beam pipeline.

  Attributes:
    result: Beam's, once the pipeline runs (on this machine: has run); it has the counters.
  """

  def __init__(self, flags: argparse.Namespace, options: Sequence[str]):
    """Checks what can be checked before there is a plan.

    Args:
      flags: of the command line, see `flags.parser`.
      options: Beam's own, `--runner=DataflowRunner`, ...; without them, workers on this machine.

    Raises:
      UserError: options that Beam does not know, or more workers than --workers.
    """
    self._flags = flags
    self._options = pipeline_options.PipelineOptions(list(options))
    self._name = self._options.view_as(pipeline_options.StandardOptions).runner or ''
    self._local = self._name.lower() in _LOCAL
    self._dataflow = 'dataflow' in self._name.lower()
    self.result: Any = None
    if self._local or self._dataflow:
      beam_options.refuse_unknown(self._options)
    self._apart = not self._local or beam_options.set_local_workers(self._options, flags.workers)
    self._share = flags.workers if self._apart else 1  # Threads have one client together.
    if flags.client in clients.ENDPOINTS:
      beam_options.check_divisible(flags, self._share)
    if self._dataflow:
      beam_options.set_dataflow_workers(self._options, flags.workers)
      beam_options.check_reach(flags)
      logging.getLogger('apache_beam.runners.dataflow').setLevel(logging.INFO)  # Its progress.

  async def __call__(
      self, plan: plan_lib.Plan, examples: Sequence[datasets.Example], client: protocol.Client
  ) -> list[shard_lib.Result]:
    """See `job.Runner`; `client` asks nothing here: every worker makes its own."""
    if not isinstance(examples, reading.Inputs):
      raise TypeError('the Beam runner reads its inputs from a file: see inputs.read_inputs')
    if not all(files.is_remote(path) or os.path.isfile(path) or os.path.isdir(path)
               for path in examples.paths):
      raise errors.UserError(f'--inputs={examples.path}: every worker reads it, and a pipe can be '
                             'read once; write it to a file')
    if self._dataflow:
      beam_options.check_shared({
          '--inputs': examples.path, '--records_dir': plan.records_dir,
          '--journal': self._flags.journal, '--completions': self._flags.completions})
    with contextlib.ExitStack() as stack:
      lease = stack.enter_context(worker.Lease()).path if self._local and self._apart else ''
      task = self._task(plan, examples, lease)
      stack.callback(worker.close, task.run)  # There is one here if Beam made no processes.
      await self._until_done(plan, task)
    return worker.collect(task, plan.specs)

  async def _until_done(self, plan: plan_lib.Plan, task: worker.Task) -> None:
    """Runs the pipeline to its end, which comes soon after a signal."""
    with _signals() as signalled:  # Before the thread: a signal at its start would kill.
      done = _in_a_thread(lambda: self._run(plan, task))
      first: set[asyncio.Future[Any]] = {done, signalled}
      await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not done.done():
      why = f'interrupted by {signalled.result()}'
      if self._apart:
        if self.result is not None:
          self.result.cancel()
        raise protocol.Unfinished(why)
      print(f'teacher: {signalled.result()}: waiting for the requests in flight; once more to '
            'kill', file=sys.stderr)
      worker.stop(task.run, why)
    await done

  def _run(self, plan: plan_lib.Plan, task: worker.Task) -> None:
    made = self._pipeline(plan, task)
    print(f'teacher: {len(plan.specs)} shards go to {self._flags.workers} worker(s) of '
          f'{self._name or "DirectRunner"}; records are written when all are done',
          file=sys.stderr)
    self.result = made.run()  # DirectRunner is done when this returns.
    try:
      self.result.wait_until_finish()
    except Exception as error:  # Each runner has its own for a job that failed or was cancelled.
      if self._local:
        raise
      raise protocol.Unfinished(str(error)) from error

  def _pipeline(self, plan: plan_lib.Plan, task: worker.Task) -> beam.Pipeline:
    # DirectRunner by its inner name: under its own it first looks for Prism on the network.
    runner = fn_api_runner.FnApiRunner() if self._local else self._name
    try:
      made = beam.Pipeline(runner, self._options)
    except ValueError as error:  # No such runner, or options that it lacks.
      raise errors.UserError(f'--runner=beam: {" ".join(str(error).split())}') from error
    _ = (made
         | 'shards' >> beam.Create([_pack(spec) for spec in plan.specs], reshuffle=False)
         | 'spread' >> beam.Reshuffle()
         | 'ask' >> beam.ParDo(_DoShard(task)))
    return made

  def _task(self, plan: plan_lib.Plan, examples: reading.Inputs, lease: str) -> worker.Task:
    flags = argparse.Namespace(**vars(self._flags))
    prompt = ''
    if flags.client in clients.ENDPOINTS:
      own = os.environ.get('OPENAI_BASE_URL')  # Not the workers'.
      flags.base_url = flags.base_url or ([own] if own else [])
      if flags.prompt:
        with open(flags.prompt, encoding='utf-8') as file:
          prompt = file.read()
    return worker.Task(
        uuid.uuid4().hex, flags, prompt, plan.dataset.name, plan.dataset.completion,
        plan.records_dir, examples.path, examples.sha256, plan.settings,
        {split: plan.staging(split) for split in plan.splits}, datasets.only_described(),
        self._share, lease)


class _DoShard(beam.DoFn):
  """One shard; Beam shows the counters while the job runs."""

  def __init__(self, task: worker.Task):
    self._task = task

  def setup(self):
    worker.of(self._task)

  def process(self, packed: tuple[str, int, int, bytes]):
    spec = _unpack(self._task.dataset, packed)
    summary = worker.of(self._task).do(spec)
    for name, count in _counts(summary).items():
      beam.metrics.Metrics.counter('teacher', name).inc(count)


def _counts(summary: summary_lib.Summary | None) -> dict[str, int]:
  if summary is None:
    return {'shards_stopped': 1}
  parsed = summary.status.get(records.PARSED, 0)
  return {'shards': 1, 'rows': summary.rows, 'rows_parsed': parsed,
          'rows_failed': summary.asked - parsed, 'answers': summary.samples,
          'prompt_tokens': summary.prompt_tokens, 'completion_tokens': summary.completion_tokens}


def _pack(spec: shard_lib.Spec) -> tuple[str, int, int, bytes]:
  """A shard as plain values, small: steps from row to row, mostly 1, compress well."""
  steps = np.diff(np.asarray(spec.rows, '<i8'), prepend=0).astype('<i4')
  return spec.split, spec.index, spec.count, zlib.compress(steps.tobytes())


def _unpack(dataset: str, packed: tuple[str, int, int, bytes]) -> shard_lib.Spec:
  split, index, count, steps = packed
  rows = np.cumsum(np.frombuffer(zlib.decompress(steps), '<i4'), dtype=np.int64).tolist()
  return shard_lib.Spec(dataset, split, index, count, rows)


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Future[str]]:
  """A future that is the name of the first SIGINT or SIGTERM in the block; the next kills."""
  loop = asyncio.get_running_loop()
  signalled = loop.create_future()
  if threading.current_thread() is not threading.main_thread():
    yield signalled
    return

  def settle(number: signal.Signals) -> None:
    if not signalled.done():
      signalled.set_result(number.name)

  for number in _SIGNALS:
    loop.add_signal_handler(number, settle, number)
  try:
    yield signalled
  finally:
    for number in _SIGNALS:
      loop.remove_signal_handler(number)


def _in_a_thread(work: Callable[[], None]) -> asyncio.Future[None]:
  """Not `asyncio.to_thread`, whose threads the program would wait for when it is interrupted."""
  loop = asyncio.get_running_loop()
  done: asyncio.Future[None] = loop.create_future()

  def settle(error: BaseException | None) -> None:
    if done.done():
      return
    if error is None:
      done.set_result(None)
    else:
      done.set_exception(error)

  def run() -> None:
    error = None
    try:
      work()
    except BaseException as raised:
      error = raised
    with contextlib.suppress(RuntimeError):  # Nobody waits any more.
      loop.call_soon_threadsafe(settle, error)

  threading.Thread(target=run, name='beam', daemon=True).start()
  return done
