"""The machine: how much of it is used, what it is, and the fastest matrix product on it."""

import os
import platform
import resource
import time
from typing import Any

from dss_jax import errors

PEER = 'transformers'  # its place in the facts about the machine


def limit_threads(threads: int | None) -> int:
  """Keeps this process to so many CPUs and returns how many; call it before importing JAX.

  XLA makes as many threads as the process may use CPUs, and asks once, when it starts.
  PyTorch is told separately (`peer.py`).

  Raises:
    UserError: more threads than CPUs, or no CPU affinity on this system.
  """
  if not hasattr(os, 'sched_setaffinity'):
    if threads is None:
      return os.cpu_count() or 1
    raise errors.UserError('--threads needs CPU affinity, which this system lacks; leave it out')
  allowed = sorted(os.sched_getaffinity(0))
  chosen = len(allowed) if threads is None else threads
  if not 1 <= chosen <= len(allowed):
    raise errors.UserError(f'--threads={threads}: this process may use 1 to {len(allowed)} CPUs')
  os.sched_setaffinity(0, set(allowed[:chosen]))
  os.environ['OMP_NUM_THREADS'] = str(chosen)
  # Both frameworks must fit on one accelerator, and JAX would take most of its memory.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  return chosen


def describe(threads: int) -> dict[str, Any]:
  """Processor, device, threads and versions."""
  import flax
  import jax
  import optax
  device = jax.devices()[0]
  settings = {name: os.environ[name] for name in _SETTINGS if os.environ.get(name)}
  return {'processor': _processor(), 'cpus': os.cpu_count(), 'threads': threads,
          'device': device.device_kind, 'platform': device.platform,
          'python': platform.python_version(), 'jax': jax.__version__,
          'flax': flax.__version__, 'optax': optax.__version__, 'environment': settings}


_SETTINGS = ('XLA_FLAGS', 'GLIBC_TUNABLES')  # environment variables that change the speed


def in_words(facts: dict[str, Any]) -> str:
  """A line of `describe`; more for environment variables and the peer, where there are any."""
  line = (f'{facts["processor"]}, {facts["threads"]} of {facts["cpus"]} CPUs; {facts["platform"]} '
          f'({facts["device"]}); Python {facts["python"]}, jax {facts["jax"]}, '
          f'flax {facts["flax"]}, optax {facts["optax"]}')
  lines = [line, *(f'{name}={value}' for name, value in facts['environment'].items())]
  if PEER in facts:
    lines.append(f'{PEER}: {facts[PEER]}')
  return '\n'.join(lines)


def _processor() -> str:
  try:
    with open('/proc/cpuinfo') as f:
      return next(line.partition(':')[2].strip() for line in f if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor() or 'unknown processor'


def matmul_peak(dtype: str, tiny: bool = False) -> float:
  """FLOP/s of XLA's fastest square matrix product, best of five runs of each size."""
  import jax
  import jax.numpy as jnp
  multiply = jax.jit(jnp.matmul)
  best = 0.0
  for size in matmul_sizes(jax.default_backend() != 'cpu', tiny):
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype)
    best = max(best, best_rate(lambda m=matrix: multiply(m, m).block_until_ready(), size))
  return best


def matmul_sizes(accelerated: bool, tiny: bool) -> tuple[int, ...]:
  """Sizes that are large for the device and done in a second."""
  return (128,) if tiny else (4096, 8192) if accelerated else (1024, 2048)


def best_rate(run, size: int, runs: int = 5) -> float:
  """FLOP/s of the fastest of `runs` products of this size; `run` waits for the result."""
  run()
  seconds = []
  for _ in range(runs):
    began = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - began)
  return 2 * size**3 / min(seconds)


def step_memory(compiled) -> int | None:
  """Bytes that a compiled function needs: arguments, results and temporaries; None if unknown."""
  analysis = compiled.memory_analysis()
  if analysis is None:
    return None
  return (analysis.argument_size_in_bytes + analysis.output_size_in_bytes
          + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes)


def process_peak() -> str:
  """Peak memory of this process so far, on the host and, where JAX knows it, on the device."""
  import jax
  unit = 1 if platform.system() == 'Darwin' else 1024
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  stats = jax.devices()[0].memory_stats() or {}
  device = stats.get('peak_bytes_in_use')
  text = f'host {host / 1e9:.2f} GB'
  return text if device is None else f'{text}, device {device / 1e9:.2f} GB (JAX alone)'
