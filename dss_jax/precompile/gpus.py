"""What XLA must know of an NVIDIA GPU to compile for one that is not there."""

from typing import Any

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
MEMORY = {'a100': 85_100_068_864, 'h100': 84_942_979_072, 'h200': 151_397_597_184}
PEAK = {'a100': 312e12, 'h100': 989.4e12, 'h200': 989.4e12}  # bfloat16, dense, per second
_DEVICES = {
    'a100': ('NVIDIA A100-SXM4-80GB', _AMPERE),
    'h100': ('NVIDIA H100 80GB HBM3', _HOPPER),
    'h200': ('NVIDIA H200', _HOPPER | {'memory_bandwidth': 4_800_000_000_000}),
}


def target_config(name: str) -> str:
  """XLA's GpuTargetConfigProto of a GPU in MEMORY, as text."""
  description, facts = _DEVICES[name]
  return _as_text({
      'gpu_device_info': _LIMITS | facts | {'device_memory_size': MEMORY[name]},
      'platform_name': 'CUDA', 'dnn_version_info': {'major': 9, 'minor': 10},
      'runtime_version': {'major': 13}, 'device_description_str': description})


def _as_text(message: dict[str, Any]) -> str:
  """{'a': {'b': 1}, 'c': 'x'} -> 'a { b: 1 } c: "x"'."""
  return ' '.join(
      f'{name} {{ {_as_text(value)} }}' if isinstance(value, dict)
      else f'{name}: "{value}"' if isinstance(value, str) else f'{name}: {value}'
      for name, value in message.items())
