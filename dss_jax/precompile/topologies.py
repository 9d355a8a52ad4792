"""What is known of TPU slices and GPU hosts, and their devices as the compiler sees them."""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from dss_jax import errors

GIB = 2**30
_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_3D = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation of TPU, or one GPU.

  Attributes:
    hbm: bytes that a program may use on one device: as libtpu 0.0.42 says when a program needs
      more, a little below the chip's own figure in the comment; of a GPU, the share that JAX
      takes.
    peak: bfloat16 operations per second of one device, from the chip's page.
    devices: JAX devices per chip.
    sizes: the usual slices.
    options: for `get_topology_desc`, so that devices are counted as on the real slice; of a GPU,
      what it is.
    gpu: whether it is one, and compiled for by JAX's CUDA plugin.
  """

  hbm: int
  peak: float
  devices: int
  sizes: tuple[str, ...]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  gpu: bool = False


def _gpu(description: str, memory: int, peak: float, facts: dict[str, Any]) -> Chip:
  """With what XLA must know of an NVIDIA GPU to compile for one that is not there.

  JAX takes three quarters of its memory (XLA_PYTHON_CLIENT_MEM_FRACTION).
  """
  target = {  # XLA's GpuTargetConfigProto
      'gpu_device_info': _LIMITS | facts | {'device_memory_size': memory},
      'platform_name': 'CUDA', 'dnn_version_info': {'major': 9, 'minor': 10},
      'runtime_version': {'major': 13}, 'device_description_str': description}
  return Chip(memory * 3 // 4, peak, 1, ('1', '8', '2x8'), {'target_config': _proto(target)}, True)


def _proto(message: dict[str, Any]) -> str:
  """{'a': {'b': 1}, 'c': 'x'} -> 'a { b: 1 } c: "x"'."""
  return ' '.join(
      f'{name} {{ {_proto(value)} }}' if isinstance(value, dict)
      else f'{name}: "{value}"' if isinstance(value, str) else f'{name}: {value}'
      for name, value in message.items())


# Limits by compute capability: CUDA C++ programming guide, "compute capabilities". Cores, clock,
# cache and bandwidth: NVIDIA's data sheets of the SXM modules. Bytes of memory: what the driver
# reports of them.
_LIMITS = {
    'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'threads_per_core_limit': 2048,
    'thread_dim_limit_x': 1024, 'thread_dim_limit_y': 1024, 'thread_dim_limit_z': 64,
    'block_dim_limit_x': 2**31 - 1, 'block_dim_limit_y': 2**16 - 1,
    'block_dim_limit_z': 2**16 - 1, 'registers_per_core_limit': 2**16,
    'registers_per_block_limit': 2**16, 'shared_memory_per_block': 48 * 1024,
}
_AMPERE = {
    'cuda_compute_capability': {'major': 8}, 'core_count': 108, 'fpus_per_core': 64,
    'clock_rate_ghz': 1.41, 'l2_cache_size': 40 * 2**20, 'shared_memory_per_core': 164 * 1024,
    'shared_memory_per_block_optin': 163 * 1024, 'memory_bandwidth': 2_039_000_000_000,
}
_HOPPER = {
    'cuda_compute_capability': {'major': 9}, 'core_count': 132, 'fpus_per_core': 128,
    'clock_rate_ghz': 1.98, 'l2_cache_size': 50 * 2**20, 'shared_memory_per_core': 228 * 1024,
    'shared_memory_per_block_optin': 227 * 1024, 'memory_bandwidth': 3_352_000_000_000,
}
# Peaks and capacities: cloud.google.com/tpu/docs/ v4, v5e, v5p, v6e and tpu7x, "key
# specifications". Two TensorCores of a v4 or v5p chip are one device (megacore), those of a
# tpu7x chip are two. Peaks of GPUs: bfloat16, dense.
CHIPS = {
    'v4': Chip(int(30.75 * GIB), 275e12, 1, _3D, {'chip_config_name': 'megacore'}),  # 32 GiB
    'v5e': Chip(int(15.75 * GIB), 197e12, 1, _2D),  # 16 GB
    'v5p': Chip(int(95.74 * GIB), 459e12, 1, _3D, {'chip_config_name': 'megacore'}),  # 95 GB
    'v6e': Chip(int(31.25 * GIB), 918e12, 1, _2D),  # 32 GB
    'tpu7x': Chip(int(94.75 * GIB), 2307e12 / 2, 2, _3D),  # 192 GB, two devices
    'a100': _gpu('NVIDIA A100-SXM4-80GB', 85_100_068_864, 312e12, _AMPERE),
    'h100': _gpu('NVIDIA H100 80GB HBM3', 84_942_979_072, 989.4e12, _HOPPER),
    'h200': _gpu('NVIDIA H200', 151_397_597_184, 989.4e12,
                 _HOPPER | {'memory_bandwidth': 4_800_000_000_000}),
}
_NAME = re.compile(r'([a-z0-9]+):(\d+(?:x\d+){0,2})')


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice: `name` such as 'v5e:4x4' or 'h100:2x8', its chip, and how many devices it has."""

  name: str
  chip: Chip
  num_devices: int


def parse(name: str) -> Topology:
  """'v5e:4x4' -> its Topology; nothing is loaded.

  Raises:
    UserError: no such chip, or a size that no slice of it has.
  """
  kind = name.partition(':')[0]
  if kind not in CHIPS:
    raise errors.UserError(f'--topology={name}: {errors.did_you_mean(kind, CHIPS)}; write '
                           'v5e:4x4, chips along each side, or h100:2x8, hosts x GPUs')
  chip, size = CHIPS[kind], _sides(name)
  if chip.gpu:
    possible = len(size) in (1, 2) and all(size)
  else:
    possible = (len(size) == len(chip.sizes[0].split('x')) and all(size)
                and not any(side > 1 and side % 2 for side in size[:2]))
  if not possible:
    usual = ', '.join(f'{kind}:{one}' for one in chip.sizes)
    others = 'hosts x GPUs' if chip.gpu else 'others whose first two sides are even'
    raise errors.UserError(f'--topology={name}: {kind} has {usual} and {others}')
  return Topology(name, chip, math.prod(size) * chip.devices)


def _sides(name: str) -> list[int]:
  """'v5e:4x4' -> [4, 4]; [] if it has another form."""
  found = _NAME.fullmatch(name)
  return [int(side) for side in found[2].split('x')] if found else []


def missing(topology: Topology) -> str:
  """What to install to compile for it; '' if that is there."""
  if topology.chip.gpu:
    plugins = ('jax_cuda13_plugin', 'jax_cuda12_plugin')
    return '' if any(map(importlib.util.find_spec, plugins)) else (
        "JAX's CUDA plugin is missing: pip install 'dss_jax[gpu]'")
  return '' if importlib.util.find_spec('libtpu') else (
      "the TPU compiler is missing: pip install 'dss_jax[tpu-plan]'")


def devices(topology: Topology) -> Sequence[jax.Device]:
  """The slice's devices, to compile for. JAX must have started on the CPU.

  Raises:
    UserError: the compiler is not there, or refuses the size.
  """
  from jax.experimental import topologies
  size = _sides(topology.name)
  options: dict[str, Any]
  try:
    if topology.chip.gpu:
      jax.devices()  # Registers the plugin.
      options = {'platform': 'cuda', 'topology': 'x'.join(map(str, [1, 1, *size][-3:]))}
    else:  # v5e:1x1 is not divisible by the default host.
      options = {'platform': 'tpu', 'chips_per_host_bounds': [min(2, size[0]), min(2, size[1]), 1]}
    found = topologies.get_topology_desc(
        topology_name=topology.name, **options, **topology.chip.options).devices
  except Exception as error:  # libtpu's and jaxlib's own kinds
    reason = ' '.join(str(error).split())
    raise errors.UserError(f'{topology.name}: {reason}') from error
  if len(found) != topology.num_devices:
    raise errors.UserError(f'{topology.name}: the compiler counts {len(found)} devices, this '
                           f'program {topology.num_devices}; report it')
  return found
