"""Which meshes a slice is planned with."""

import dataclasses
from collections.abc import Sequence

from dss_jax import errors, sharding
from dss_jax.precompile import topologies
from dss_jax.train import config as config_lib


@dataclasses.dataclass(frozen=True)
class Shape:
  """A mesh, or why the run does not go onto it (`problem`, else '')."""

  mesh: config_lib.MeshConfig
  problem: str = ''

  @property
  def name(self) -> str:
    return name(self.mesh)


def name(mesh: config_lib.MeshConfig) -> str:
  """'1x16x1': devices along data, fsdp and model."""
  return f'{mesh.data}x{mesh.fsdp}x{mesh.model}'


def parse(text: str) -> config_lib.MeshConfig:
  """'1x-1x4' -> a mesh; -1 takes what the others leave.

  Raises:
    UserError: it is none.
  """
  try:
    data, fsdp, model = (int(size) for size in text.split('x'))
  except ValueError as error:
    raise errors.UserError(
        f'--mesh={text}: give devices along data, fsdp and model, such as 1x16x1; one may be '
        '-1 and takes what the others leave') from error
  return config_lib.MeshConfig(data, fsdp, model)


def resolve(mesh: config_lib.MeshConfig, topology: topologies.Topology) -> config_lib.MeshConfig:
  """The mesh with its -1 replaced.

  Raises:
    UserError: it is not one of so many devices.
  """
  sizes, count = [mesh.data, mesh.fsdp, mesh.model], topology.num_devices
  fixed = 1
  for size in sizes:
    fixed *= size if size != -1 else 1
  if sizes.count(-1) == 1 and fixed > 0 and count % fixed == 0:
    sizes[sizes.index(-1)] = count // fixed
  found = config_lib.MeshConfig(*sizes)
  if min(sizes) < 1 or found.data * found.fsdp * found.model != count:
    raise errors.UserError(
        f'--mesh={name(mesh)}: the product must be the devices of {topology.name}, {count} '
        '(one axis may be -1)')
  return found


def sweep(topology: topologies.Topology) -> list[config_lib.MeshConfig]:
  """All meshes of the slice with data or fsdp at 1, few model devices first.

  Inside one slice fsdp does what data does, in less memory; both at once only make sense over
  several slices. `--mesh` takes any.
  """
  count = topology.num_devices
  found = []
  for model in (size for size in range(1, count + 1) if count % size == 0):
    rest = count // model
    found += [config_lib.MeshConfig(rest, 1, model)]
    found += [config_lib.MeshConfig(1, rest, model)] if rest > 1 else []
  return found


def check(config: config_lib.TrainConfig, wanted: Sequence[config_lib.MeshConfig]) -> list[Shape]:
  """Each mesh with what is wrong with it for this run: heads, widths, rows of the batch."""
  return [Shape(mesh, _problem(config, mesh)) for mesh in wanted]


def _problem(config: config_lib.TrainConfig, mesh: config_lib.MeshConfig) -> str:
  try:
    sharding.check_network(config.model, mesh)
  except errors.UserError as error:
    return str(error)
  rows, shards = config.data.batch_size, mesh.data * mesh.fsdp
  if rows % shards:
    good = [str(n) for n in range(1, shards) if rows % n == 0]
    return (f'--mesh={name(mesh)}: BATCH_SIZE={rows} rows cannot be divided among {shards} '
            f'devices (data x fsdp): multiples of {shards} can, or meshes with data x fsdp of '
            f'{", ".join(good)}')
  if config.microbatches > 1 and rows % (shards * config.microbatches):
    good = [str(k) for k in range(1, rows // shards + 1) if rows // shards % k == 0]
    return (f'--mesh={name(mesh)}: {rows} rows cannot be divided into {config.microbatches} '
            f'microbatches of whole rows on {shards} devices: {", ".join(good)} can')
  return ''
