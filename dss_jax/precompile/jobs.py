"""Compilations, each in a process of its own, and what came of them, kept in a file.

libtpu allows one user per process, keeps its memory, and ends the process where it fails badly:
none of that may end a plan. JAX there has the CPU as its backend, whatever the machine has.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from dss_jax import cli, errors
from dss_jax.precompile import compiled, topologies
from dss_jax.train import config as config_lib

COMPILED, NO_ROOM, CRASHED = 'compiled', 'no room', 'crashed'
TIMEOUT, REFUSED, MISSING = 'timeout', 'refused', 'not compiled yet'
ENVIRONMENT = {  # of a process that compiles
    'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # No chip is touched, so nobody is disturbed.
    'TF_CPP_MIN_LOG_LEVEL': '2',
}
_MARK = 'RESULT '  # of the child's line with what came of it
_BEGINNING = '{"key": '  # of every line of a journal
# Fields that change no compiled program; all others, also new ones, are in the key.
_IRRELEVANT = ('model_dir', 'initial_checkpoint_path', 'log_every', 'checkpoints')
_IRRELEVANT_DATA = (
    'mixture_or_task', 'vocabulary', 'records_dir', 'label_prefix', 'rationale_prefix',
    'batch_inputs', 'train_fraction', 'train_fraction_seed', 'seed', 'verify_records')


@dataclasses.dataclass(frozen=True)
class Job:
  """What to compile: `kind` of `compiled.py` for a slice named as in `topologies.parse`.

  The mesh and the microbatches are those of `config`.
  """

  kind: str
  topology: str
  config: config_lib.TrainConfig

  def key(self) -> str:
    """The same for jobs that compile the same program with the same compiler."""
    settings = config_lib.as_dict(self.config)
    for name in _IRRELEVANT:
      settings.pop(name, None)
    for name in _IRRELEVANT_DATA:
      settings['data'].pop(name, None)
    settings['evaluation'] = self.config.evaluation.batch_size
    if self.kind == compiled.DECODE:
      settings.pop('microbatches')
    compiler = 'jax-cuda13-plugin' if topologies.parse(self.topology).chip.gpu else 'libtpu'
    versions = [_version(name) for name in ('jax', 'jaxlib', 'flax', compiler, 'dss_jax')]
    text = json.dumps([self.kind, self.topology, settings, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a job.

  Attributes:
    status: COMPILED; NO_ROOM (arguments or temporaries alone exceed the device); CRASHED,
      TIMEOUT, REFUSED or MISSING (it was not to be compiled now), with a `reason`.
    wall: seconds, the start of the process included.
    facts: of `compiled.run`, where it came to that.
  """

  status: str
  wall: float
  reason: str = ''
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def total(self) -> int:
    """Bytes per device; 0 of what did not compile."""
    return sum(self.facts.get('memory', {}).values())

  def fits(self, room: int) -> bool:
    """Whether it compiled, and all of it has room. A crash counts as no."""
    return self.status == COMPILED and self.total <= room

  def verdict(self, room: int) -> str:
    """'18.10 GiB, too much', or why there is no such figure."""
    if self.status == COMPILED:
      return f'{compiled.gib(self.total)} GiB, {"fits" if self.fits(room) else "too much"}'
    if self.status == NO_ROOM:
      what = 'arguments' if 'arguments' in self.facts else 'temporaries'
      return f'too much: {compiled.gib(self.facts[what])} GiB of {what} alone'
    return f'{self.status}: {self.reason}' if self.reason else self.status


def run(job: Job, timeout: float) -> Outcome:
  """Compiles in a new process; kills it after `timeout` seconds."""
  began = time.monotonic()
  try:
    with deep_stack():
      done = subprocess.run(
          [sys.executable, '-m', 'dss_jax.precompile.jobs'], input=pickle.dumps(job),
          capture_output=True, timeout=timeout, env={**os.environ, **ENVIRONMENT})
  except subprocess.TimeoutExpired:
    return Outcome(TIMEOUT, time.monotonic() - began, f'over {timeout / 60:.3g} min')
  wall = time.monotonic() - began
  for line in done.stdout.decode(errors='replace').splitlines():
    if line.startswith(_MARK):
      return Outcome(wall=wall, **json.loads(line.removeprefix(_MARK)))
  return Outcome(CRASHED, wall, _last_words(done.returncode, done.stderr.decode(errors='replace')))


def main() -> None:
  """The process that compiles: a pickled job on stdin, a line of JSON on stdout."""
  cli.end_with_parent()
  job: Job = pickle.load(sys.stdin.buffer)
  try:
    topology = topologies.parse(job.topology)
    facts = compiled.run(job.kind, job.config, topologies.devices(topology), topology.chip.hbm)
    answer = {'status': COMPILED if 'memory' in facts else NO_ROOM, 'facts': facts}
  except errors.UserError as error:
    answer = {'status': REFUSED, 'reason': str(error)}
  print(f'{_MARK}{json.dumps(answer)}', flush=True)


@contextlib.contextmanager
def deep_stack() -> Iterator[None]:
  """For processes started inside: libtpu was seen to overflow the usual stack of 8 MiB."""
  soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
  resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def _last_words(code: int, stderr: str) -> str:
  """One line on why the compiler's process ended."""
  ended = signal.Signals(-code).name if code < 0 else f'exit code {code}'
  lines = [line.strip() for line in stderr.splitlines() if line.strip()]
  telling = [line for line in lines if 'Error' in line or line.startswith(('***', 'F0', 'F1'))]
  return ' '.join([f'the compiler ended with {ended}:', *(telling or lines)[-1:]])[:300]


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return ''


class Journal:
  """Outcomes by job, a JSON line each, so that a killed plan goes on; in memory without a path."""

  def __init__(self, path: str = ''):
    """Reads what is there. A torn last line, of a killed program, is cut off.

    Raises:
      UserError: the file holds something else.
    """
    self._path = pathlib.Path(path) if path else None
    self._outcomes: dict[str, Outcome] = {}
    if not self._path or not self._path.exists():
      return
    try:
      text = self._path.read_text()
    except (OSError, UnicodeDecodeError) as error:
      raise errors.UserError(f'--output={path} cannot be read ({error}); give a file') from error
    whole = text[:text.rfind('\n') + 1]
    if text != whole and _BEGINNING.startswith(text[len(whole):][:len(_BEGINNING)]):
      os.truncate(path, len(whole.encode()))
      text = whole  # Else it is no file of ours, and left as it is.
    for number, line in enumerate(text.splitlines(), 1):
      try:
        row = json.loads(line)
        self._outcomes[row['key']] = Outcome(**row['outcome'])
      except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f'--output={path}: line {number} is not of a plan; give another file') from error

  def get(self, job: Job) -> Outcome | None:
    return self._outcomes.get(job.key())

  def add(self, job: Job, outcome: Outcome) -> None:
    """Remembers it; on disk when this returns."""
    self._outcomes[job.key()] = outcome
    if not self._path:
      return
    mesh = job.config.mesh
    line = json.dumps({
        'key': job.key(), 'kind': job.kind, 'topology': job.topology,
        'mesh': f'{mesh.data}x{mesh.fsdp}x{mesh.model}', 'microbatches': job.config.microbatches,
        'outcome': dataclasses.asdict(outcome)})
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('a') as f:
      f.write(line + '\n')
      f.flush()
      os.fsync(f.fileno())


if __name__ == '__main__':
  main()
