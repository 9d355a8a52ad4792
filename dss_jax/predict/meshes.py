"""A mesh from a flag, and whether a network can be divided over it."""

import math

import jax

from dss_jax import errors, models
from dss_jax.train import config as config_lib
from dss_jax.train import sharding

MeshConfig = config_lib.MeshConfig


def parse(text: str) -> config_lib.MeshConfig | None:
  """'1x1x8' as a mesh; None for ''.

  Raises:
    UserError: it is none, or not of as many devices as there are.
  """
  if not text:
    return None
  try:
    data, fsdp, model = (int(size) for size in text.split('x'))
    mesh = sharding.make_mesh(config_lib.MeshConfig(data, fsdp, model))
  except (ValueError, ArithmeticError, errors.UserError) as error:
    count = jax.device_count()
    raise errors.UserError(
        f'--mesh={text}: give devices along data, fsdp and model, such as 1x1x{count}; their '
        f'product is the number of devices, {count} ({jax.default_backend()})') from error
  return config_lib.MeshConfig(**mesh.shape)


def check(network: models.T5Config, mesh: config_lib.MeshConfig) -> None:
  """UserError if the network's sizes cannot be divided among the mesh's devices."""
  for size, what, axis in (
      (network.num_heads, 'attention heads', 'model'), (network.mlp_dim, 'MLP units', 'model'),
      (network.vocab_size, 'vocabulary entries', 'model'), (network.emb_dim, 'features', 'fsdp')):
    devices = getattr(mesh, axis)
    if size % devices:
      raise errors.UserError(
          f'--mesh={mesh.data}x{mesh.fsdp}x{mesh.model}: {size} {what} cannot be divided among '
          f'{devices} devices along {axis}; {math.gcd(size, devices)} would do')


def shape(mesh: config_lib.MeshConfig) -> dict[str, int]:
  """Devices along each axis, e.g. {'data': 1, 'fsdp': 1, 'model': 8}."""
  return dict(sharding.make_mesh(mesh).shape)
