"""One compilation in a process of its own, and what came of it.

libtpu allows one user per process, keeps its memory, and ends the process where it fails badly:
none of that may end a plan. JAX there has the CPU as its backend, whatever the machine has.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from dss_jax.precompile import topologies
from dss_jax.train import config as config_lib

COMPILED, NO_ROOM, CRASHED = 'compiled', 'no room', 'crashed'
TIMEOUT, REFUSED, MISSING = 'timeout', 'refused', 'not compiled yet'
MARK = 'RESULT '
ENVIRONMENT = {  # of a process that compiles
    'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # No chip is touched, so nobody is disturbed.
    'TF_CPP_MIN_LOG_LEVEL': '2',
}
# Fields that change no compiled program; all others, also new ones, are in the key.
_IRRELEVANT = ('model_dir', 'initial_checkpoint_path', 'log_every', 'checkpoints')
_IRRELEVANT_DATA = (
    'mixture_or_task', 'vocabulary', 'records_dir', 'label_prefix', 'rationale_prefix',
    'train_fraction', 'train_fraction_seed', 'seed', 'verify_records')


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
    if self.kind == 'decode':
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


def run(job: Job, timeout: float) -> Outcome:
  """Compiles in a new process; kills it after `timeout` seconds."""
  began = time.monotonic()
  try:
    with deep_stack():
      done = subprocess.run(
          [sys.executable, '-m', 'dss_jax.precompile.child'], input=pickle.dumps(job),
          capture_output=True, timeout=timeout, env={**os.environ, **ENVIRONMENT})
  except subprocess.TimeoutExpired:
    return Outcome(TIMEOUT, time.monotonic() - began, f'over {timeout / 60:.3g} min')
  wall = time.monotonic() - began
  for line in done.stdout.decode(errors='replace').splitlines():
    if line.startswith(MARK):
      return _outcome(json.loads(line.removeprefix(MARK)), wall)
  return Outcome(CRASHED, wall, _last_words(done.returncode, done.stderr.decode(errors='replace')))


def _outcome(answer: dict[str, Any], wall: float) -> Outcome:
  if 'refused' in answer:
    return Outcome(REFUSED, wall, answer['refused'])
  return Outcome(COMPILED if 'memory' in answer else NO_ROOM, wall, facts=answer)


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
