"""What is known of TPU slices, and their devices as the compiler sees them."""

import dataclasses
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
  """One generation of TPU.

  Attributes:
    hbm: bytes that a program may use on one device, as libtpu 0.0.42 says when a program needs
      more. The chip's own figure is a little larger; see the comments.
    peak: bfloat16 operations per second of one device, from the chip's page.
    devices: JAX devices per chip.
    sizes: the usual slices.
    options: for `get_topology_desc`, so that devices are counted as on the real slice.
  """

  hbm: int
  peak: float
  devices: int
  sizes: tuple[str, ...]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


# Peaks and capacities: cloud.google.com/tpu/docs/ v4, v5e, v5p, v6e and tpu7x, "key
# specifications". Two TensorCores of a v4 or v5p chip are one device (megacore), those of a
# tpu7x chip are two.
CHIPS = {
    'v4': Chip(int(30.75 * GIB), 275e12, 1, _3D, {'chip_config_name': 'megacore'}),  # 32 GiB
    'v5e': Chip(int(15.75 * GIB), 197e12, 1, _2D),  # 16 GB
    'v5p': Chip(int(95.74 * GIB), 459e12, 1, _3D, {'chip_config_name': 'megacore'}),  # 95 GB
    'v6e': Chip(int(31.25 * GIB), 918e12, 1, _2D),  # 32 GB
    'tpu7x': Chip(int(94.75 * GIB), 2307e12 / 2, 2, _3D),  # 192 GB, two devices
}
_NAME = re.compile(r'([a-z0-9]+):(\d+(?:x\d+){1,2})')


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice: `name` such as 'v5e:4x4', its chip, and how many devices it has."""

  name: str
  chip: Chip
  num_devices: int


def parse(name: str) -> Topology:
  """'v5e:4x4' -> its Topology; nothing is loaded.

  Raises:
    UserError: no such chip, or a size that no slice of it has.
  """
  kind, _, size = name.partition(':')
  if kind in ('cuda', 'gpu', 'rocm'):
    raise errors.UserError(
        f'--topology={name}: only TPU slices can be planned. XLA compiles for a GPU only with '
        'its driver library present; on that machine, training itself compiles in a minute')
  if kind not in CHIPS:
    raise errors.UserError(f'--topology={name}: {errors.did_you_mean(kind, CHIPS)}; '
                           'write v5e:4x4, chips along each side')
  chip = CHIPS[kind]
  matched = _NAME.fullmatch(name)
  sides = [int(side) for side in size.split('x')] if matched else []
  whole = len(sides) == len(chip.sizes[0].split('x')) and all(sides)
  if not whole or any(side > 1 and side % 2 for side in sides[:2]):
    raise errors.UserError(
        f'--topology={name}: {kind} has {", ".join(f"{kind}:{one}" for one in chip.sizes)} and '
        'others whose first two sides are even')
  return Topology(name, chip, math.prod(sides) * chip.devices)


def devices(topology: Topology) -> Sequence[jax.Device]:
  """The slice's devices, to compile for. JAX must have started on the CPU.

  Raises:
    UserError: libtpu is not there, or refuses the size.
  """
  from jax.experimental import topologies
  sides = [int(side) for side in topology.name.partition(':')[2].split('x')]
  hosts = [min(2, sides[0]), min(2, sides[1]), 1]  # v5e:1x1 is not divisible by the default.
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=topology.name, chips_per_host_bounds=hosts,
        **topology.chip.options).devices
  except Exception as error:  # libtpu's and jaxlib's own kinds
    reason = ' '.join(str(error).split())
    raise errors.UserError(f'{topology.name}: {reason}') from error
  if len(found) != topology.num_devices:
    raise errors.UserError(f'{topology.name}: libtpu counts {len(found)} devices, this program '
                           f'{topology.num_devices}; report it')
  return found
