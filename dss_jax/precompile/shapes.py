"""Which meshes a slice is planned with."""

from dss_jax import errors, sharding
from dss_jax.precompile import topologies
from dss_jax.train import config as config_lib


def resolve(mesh: sharding.MeshConfig, topology: topologies.Topology) -> sharding.MeshConfig:
  """The mesh with its -1 replaced. UserError: it is not one of so many devices."""
  found = mesh.of(topology.num_devices)
  if found is None:
    raise errors.UserError(
        f'--mesh={mesh.name}: the product must be the devices of {topology.name}, '
        f'{topology.num_devices} (one axis may be -1)')
  return found


def sweep(topology: topologies.Topology) -> list[sharding.MeshConfig]:
  """All meshes of the slice with data or fsdp at 1, few model devices first.

  Inside one slice fsdp does what data does, in less memory; both at once only make sense over
  several slices. `--mesh` takes any.
  """
  found = []
  for model in divisors(topology.num_devices):
    rest = topology.num_devices // model
    found += [sharding.MeshConfig(rest, 1, model)]
    found += [sharding.MeshConfig(1, rest, model)] if rest > 1 else []
  return found


def divisors(number: int) -> list[int]:
  return [one for one in range(1, number + 1) if number % one == 0]


def problem(config: config_lib.TrainConfig) -> str:
  """What of a run cannot be divided over its mesh: heads, widths, rows; '' if all can."""
  mesh, rows = config.mesh, config.data.batch_size
  try:
    sharding.check_network(config.model, mesh)
  except errors.UserError as error:
    return f'--{error}'
  shards = mesh.shards
  if rows % shards:
    good = ', '.join(str(n) for n in divisors(rows) if n < shards)
    return (f'--mesh={mesh.name}: BATCH_SIZE={rows} rows cannot be divided among {shards} '
            f'devices (data x fsdp): multiples of {shards} can, or meshes with data x fsdp of '
            f'{good}')
  if config.microbatches > 1 and rows % (shards * config.microbatches):
    good = ', '.join(map(str, divisors(rows // shards)))
    return (f'--mesh={mesh.name}: {rows} rows cannot be divided into {config.microbatches} '
            f'microbatches of whole rows on {shards} devices: {good} can')
  return ''
