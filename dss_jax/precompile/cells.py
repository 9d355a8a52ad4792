"""What a plan asks, cell by cell, and the rows that it answers with."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dss_jax.precompile import shapes, topologies
from dss_jax.train import config as config_lib


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run on a slice with a mesh; `label` names the run's model."""

  label: str
  config: config_lib.TrainConfig
  topology: topologies.Topology
  shape: shapes.Shape


@dataclasses.dataclass(frozen=True)
class Settings:
  """How cells are worked on.

  Attributes:
    search: whether to look for the largest microbatch; else the config's is taken.
    decode: whether to compile decoding, too.
    timeout: seconds of compiling per cell.
    most: compilations of the train step per cell; see `search.smallest_fit`.
    known_only: whether to take only what the journal has.
  """

  search: bool = True
  decode: bool = True
  timeout: float = 900.0
  most: int = 4
  known_only: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
  """What a cell came to; bytes and operations are per device unless said otherwise.

  Attributes:
    model, topology, mesh, remat, dtype, rows, lengths, parameters, hbm: what was planned.
    fits: None if it is not known (`reason` says why).
    proven: whether the next larger microbatch was seen not to fit.
    microbatches: of the figures below; the fewest that fit, else the most that were tried.
    memory, collectives, seconds, cpu_seconds: of that program; see `compiled.run`.
    flops: of a whole step over all devices, for rows full of tokens; see `models.flops`.
    least_seconds: flops / devices / the chip's peak. A bound, not a forecast.
    tried: what became of every number of microbatches that was compiled.
    decode: {'rows', 'memory', 'total', 'flops', 'seconds', ...} of decoding, or {}. `total`
      counts the optimizer's state, which stays there meanwhile.
  """

  model: str
  topology: str
  mesh: str
  remat: str
  dtype: str
  rows: int
  lengths: dict[str, int]
  parameters: int
  hbm: int
  flops: float
  least_seconds: float
  fits: bool | None = None
  reason: str = ''
  proven: bool = False
  microbatches: int | None = None
  memory: dict[str, int] = dataclasses.field(default_factory=dict)
  collectives: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: float | None = None
  cpu_seconds: float | None = None
  tried: dict[int, str] = dataclasses.field(default_factory=dict)
  decode: dict[str, Any] = dataclasses.field(default_factory=dict)


def every(
    runs: Iterable[tuple[str, config_lib.TrainConfig]],
    slices: Sequence[topologies.Topology],
    wanted: Sequence[config_lib.MeshConfig] | None,
) -> list[Cell]:
  """Every run on every slice with every mesh; `wanted` None stands for `shapes.sweep`."""
  found = []
  for label, config in runs:
    for topology in slices:
      meshes = (shapes.sweep(topology) if wanted is None
                else [shapes.resolve(mesh, topology) for mesh in wanted])
      found += [Cell(label, config, topology, shape) for shape in shapes.check(config, meshes)]
  return found
