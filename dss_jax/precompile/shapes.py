"""Which meshes a slice is planned with."""

import math

from dss_jax import errors
from dss_jax.precompile import topologies
from dss_jax.predict import meshes
from dss_jax.train import config as config_lib


def name(mesh: config_lib.MeshConfig) -> str:
  """'1x16x1': devices along data, fsdp and model."""
  return f'{mesh.data}x{mesh.fsdp}x{mesh.model}'


def parse(text: str) -> config_lib.MeshConfig:
  """'1x-1x4' -> a mesh; -1 takes what the others leave. UserError if it is none."""
  try:
    data, fsdp, model = (int(size) for size in text.split('x'))
  except ValueError as error:
    raise errors.UserError(
        f'--mesh={text}: give devices along data, fsdp and model, such as 1x16x1; one may be '
        '-1 and takes what the others leave') from error
  return config_lib.MeshConfig(data, fsdp, model)


def resolve(mesh: config_lib.MeshConfig, topology: topologies.Topology) -> config_lib.MeshConfig:
  """The mesh with its -1 replaced. UserError: it is not one of so many devices."""
  sizes, count = [mesh.data, mesh.fsdp, mesh.model], topology.num_devices
  if sizes.count(-1) == 1:
    sizes[sizes.index(-1)] = max(1, count // -math.prod(sizes))
  if math.prod(sizes) != count or min(sizes) < 1:
    raise errors.UserError(
        f'--mesh={name(mesh)}: the product must be the devices of {topology.name}, {count} '
        '(one axis may be -1)')
  return config_lib.MeshConfig(*sizes)


def sweep(topology: topologies.Topology) -> list[config_lib.MeshConfig]:
  """All meshes of the slice with data or fsdp at 1, few model devices first.

  Inside one slice fsdp does what data does, in less memory; both at once only make sense over
  several slices. `--mesh` takes any.
  """
  found = []
  for model in divisors(topology.num_devices):
    rest = topology.num_devices // model
    found += [config_lib.MeshConfig(rest, 1, model)]
    found += [config_lib.MeshConfig(1, rest, model)] if rest > 1 else []
  return found


def divisors(number: int) -> list[int]:
  return [one for one in range(1, number + 1) if number % one == 0]


def problem(config: config_lib.TrainConfig) -> str:
  """What of a run cannot be divided over its mesh: heads, widths, rows; '' if all can."""
  mesh, rows = config.mesh, config.data.batch_size
  try:
    meshes.check(config.model, mesh)
  except errors.UserError as error:
    return str(error)
  shards = mesh.data * mesh.fsdp
  if rows % shards:
    good = ', '.join(str(n) for n in divisors(rows) if n < shards)
    return (f'--mesh={name(mesh)}: BATCH_SIZE={rows} rows cannot be divided among {shards} '
            f'devices (data x fsdp): multiples of {shards} can, or meshes with data x fsdp of '
            f'{good}')
  if config.microbatches > 1 and rows % (shards * config.microbatches):
    good = ', '.join(map(str, divisors(rows // shards)))
    return (f'--mesh={name(mesh)}: {rows} rows cannot be divided into {config.microbatches} '
            f'microbatches of whole rows on {shards} devices: {good} can')
  return ''
