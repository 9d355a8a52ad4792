"""A plan: every run on every slice with every mesh, and what each of these cells comes to."""

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dss_jax.models import flops
from dss_jax.precompile import compiled, jobs, search, shapes, topologies
from dss_jax.train import config as config_lib


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run on a slice with the mesh of its config, or why that cannot be (`problem`, else '')."""

  label: str  # names the run's model
  config: config_lib.TrainConfig
  topology: topologies.Topology
  problem: str


@dataclasses.dataclass(frozen=True)
class Settings:
  """How cells are worked on."""

  search: bool = True  # for the largest microbatch; else the config's is taken
  decode: bool = True  # compile decoding, too
  timeout: float = 900.0  # seconds of compiling per cell
  most: int = 4  # compilations of the train step per cell; see `search.smallest_fit`
  known_only: bool = False  # take only what the journal has


@dataclasses.dataclass
class Row:
  """What a cell came to; bytes and operations are per device unless said otherwise.

  Attributes:
    model, topology, mesh, remat, dtype, rows, lengths, parameters, hbm: what was planned.
    flops: of a whole step over all devices, for rows full of tokens; see `models.flops`.
    least_seconds: flops / devices / the chip's peak. A bound, not a forecast.
    fits: None if it is not known (`reason` says why).
    proven: whether the next larger microbatch was seen not to fit.
    microbatches: of the figures below; the fewest that fit, else the most that were tried.
    memory, collectives, seconds, cpu_seconds: of that program; see `compiled.run`.
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


def cells(
    runs: Iterable[tuple[str, config_lib.TrainConfig]], slices: Sequence[topologies.Topology],
    wanted: Sequence[config_lib.MeshConfig] | None) -> list[Cell]:
  """Every run on every slice with every mesh; `wanted` None stands for `shapes.sweep`."""
  found = []
  for label, config in runs:
    for topology in slices:
      for mesh in (shapes.sweep(topology) if wanted is None
                   else [shapes.resolve(mesh, topology) for mesh in wanted]):
        placed = dataclasses.replace(config, mesh=mesh)
        found.append(Cell(label, placed, topology, shapes.problem(placed)))
  return found


def run(cells: Sequence[Cell], settings: Settings, journal: jobs.Journal) -> Iterator[Row]:
  """Works on the cells in order; says on stderr what it does."""
  for number, cell in enumerate(cells, 1):
    yield _Work(cell, settings, journal, f'[{number}/{len(cells)}]').row()


class _Work:
  """One cell, and what is left of its time."""

  def __init__(self, cell: Cell, settings: Settings, journal: jobs.Journal, where: str):
    self._cell, self._settings, self._journal = cell, settings, journal
    self._name = f'{where} {cell.label} {cell.topology.name} {cell.config.mesh.name}'
    self._left = settings.timeout

  def row(self) -> Row:
    cell, settings, row = self._cell, self._settings, self._planned()
    if cell.problem:
      _say(f'{self._name}: {cell.problem}')
      row.reason = cell.problem
      return row
    config, mesh = cell.config, cell.config.mesh
    shards = mesh.data * mesh.fsdp
    numbers = shapes.divisors(row.rows // shards) if settings.search else [config.microbatches]
    found = search.smallest_fit(
        numbers, lambda k: self._compile(compiled.TRAIN, k), row.hbm,
        fixed=4 * row.parameters // (mesh.fsdp * mesh.model), most=settings.most)
    _fill(row, found)
    if settings.decode and row.fits:
      row.decode = self._decoding(row, compiled.decode_rows(config, shards))
    return row

  def _planned(self) -> Row:
    config, topology = self._cell.config, self._cell.topology
    rows, lengths = config.data.batch_size, dict(config.data.feature_lengths)
    needed = flops.training_flops(
        config.model, [lengths['inputs']] * rows, [lengths['targets']] * rows)
    return Row(
        model=self._cell.label, topology=topology.name, mesh=config.mesh.name,
        remat=config.model.remat, dtype=config.model.dtype.name, rows=rows, lengths=lengths,
        parameters=compiled.num_parameters(config.model), hbm=topology.chip.hbm, flops=needed,
        least_seconds=needed / topology.num_devices / topology.chip.peak)

  def _decoding(self, row: Row, rows: int) -> dict[str, Any]:
    outcome = self._compile(compiled.DECODE, 1)
    if outcome.status != jobs.COMPILED:
      return {'reason': outcome.verdict(row.hbm)}
    beside = max(0, row.memory['arguments'] - outcome.facts['memory']['arguments'])
    total = outcome.total + beside
    needed = flops.forward_flops(
        self._cell.config.model, [row.lengths['inputs']] * rows, [row.lengths['targets']] * rows)
    return outcome.facts | {
        'rows': rows, 'total': total, 'fits': total <= row.hbm, 'flops': needed}

  def _compile(self, kind: str, microbatches: int) -> jobs.Outcome:
    """From the journal, or anew within what is left of the cell's time."""
    topology = self._cell.topology
    job = jobs.Job(
        kind, topology.name, dataclasses.replace(self._cell.config, microbatches=microbatches))
    outcome = self._journal.get(job)
    known = outcome is not None and (
        outcome.status != jobs.TIMEOUT or outcome.wall >= self._left - 1)
    what = 'decoding' if kind == compiled.DECODE else f'{microbatches} microbatches'
    if not known and self._settings.known_only:
      return outcome or jobs.Outcome(jobs.MISSING, 0.0)
    if outcome is None or not known:
      _say(f'{self._name}: compiling {what} ({time.strftime("%H:%M:%S")})')
      outcome = jobs.run(job, max(self._left, 1.0))
      self._journal.add(job, outcome)
    self._left -= outcome.wall
    _say(f'{self._name}: {what}: {outcome.verdict(topology.chip.hbm)}'
         + (' (known)' if known else f' after {outcome.wall:.0f} s'))
    return outcome


def _fill(row: Row, found: search.Found) -> None:
  """What a search came to; the figures are those of the program that is shown."""
  row.proven = found.proven
  row.tried = {k: one.verdict(row.hbm) for k, one in found.tried.items()
               if one.status != jobs.MISSING}
  built = [k for k, one in found.tried.items() if one.status == jobs.COMPILED]
  if built:
    row.microbatches = found.microbatches or max(built)
    facts = found.tried[row.microbatches].facts
    row.memory, row.collectives = facts['memory'], facts['collectives']
    row.seconds, row.cpu_seconds = facts['seconds'], facts['cpu_seconds']
  bad = [one for one in found.tried.values() if one.status not in (jobs.COMPILED, jobs.NO_ROOM)]
  if found.microbatches is not None:
    row.fits = True
  elif bad:
    left_out = '' if bad[-1].status == jobs.MISSING else 'left out: '
    row.reason = left_out + bad[-1].verdict(row.hbm)
  elif found.proven:
    row.fits = False
  else:
    row.reason = f'left out: no fit in {len(row.tried)} compilations'


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
