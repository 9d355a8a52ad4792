"""Several processes as one run: how they find each other, and who writes what is written once."""

import dataclasses
import json
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from dss_jax import errors


@dataclasses.dataclass(frozen=True)
class Start:
  """How this process finds the others; the flags of `dss train`.

  Attributes:
    distributed: ask the machine (TPU pod slice, SLURM, Open MPI, Kubernetes).
    coordinator: HOST:PORT of process 0, where the machine cannot be asked.
    num_processes, process_id: then also how many there are, and which one this is, from 0.
  """

  distributed: bool = False
  coordinator: str = ''
  num_processes: int | None = None
  process_id: int | None = None


def start(how: Start) -> None:
  """Joins the other processes; to be called before anything else asks JAX for devices.

  Raises:
    UserError: flags that do not fit together, or a machine that does not say.
  """
  explicit = (how.num_processes, how.process_id)
  if not how.coordinator:
    if explicit != (None, None):
      raise errors.UserError('--num_processes and --process_id need --coordinator=HOST:PORT')
    if how.distributed:
      _initialize('--distributed')
    return
  num_processes, process_id = explicit
  if num_processes is None or process_id is None:
    raise errors.UserError(
        f'--coordinator={how.coordinator} needs --num_processes=N and --process_id=I, I from 0')
  if not 0 <= process_id < num_processes:
    raise errors.UserError(
        f'--process_id={process_id}: with --num_processes={num_processes} it is 0 to '
        f'{num_processes - 1}')
  if ':' not in how.coordinator:
    raise errors.UserError(f'--coordinator={how.coordinator}: give HOST:PORT of process 0')
  _initialize(f'--coordinator={how.coordinator}', coordinator_address=how.coordinator,
              num_processes=num_processes, process_id=process_id)


def _initialize(flag: str, **arguments) -> None:
  try:
    jax.distributed.initialize(**arguments)
  except (ValueError, RuntimeError) as error:
    raise errors.UserError(
        f'{flag}: the processes did not find each other ({_first_line(error)}); give all of them '
        '--coordinator=HOST:PORT, --num_processes=N and --process_id=I') from error


def _first_line(error: Exception) -> str:
  return str(error).strip().partition('\n')[0]


def is_main() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def wait_for_all(where: str) -> None:
  """Returns once every process is here; `where` names the place in errors."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def from_main(make: Callable[[], str]) -> str:
  """A text that the main process makes, in every process; all must ask.

  Raises:
    UserError: `make` did in the main process.
  """
  if jax.process_count() == 1:
    return make()
  said = {'text': '', 'error': ''}
  if is_main():
    try:
      said['text'] = make()
    except errors.UserError as error:
      said['error'] = str(error)
  data = np.frombuffer(json.dumps(said).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
  data = np.asarray(multihost_utils.broadcast_one_to_all(np.resize(data, length)))
  said = json.loads(data.tobytes())
  if said['error']:
    raise errors.UserError(said['error'])
  return said['text']


def any_process(here: bool) -> bool:
  """Whether it is so in any process; all must ask."""
  if jax.process_count() == 1:
    return here
  return bool(multihost_utils.process_allgather(jax.numpy.array(here)).any())
