"""A plan: one cell after another, and what each comes to."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

from dss_jax.models import flops
from dss_jax.precompile import compiled, jobs, search
from dss_jax.precompile import journal as journal_lib
from dss_jax.precompile.cells import Cell, Row, Settings
from dss_jax.precompile.memory import gib


def run(
    cells: Sequence[Cell], settings: Settings, journal: journal_lib.Journal) -> Iterator[Row]:
  """Works on the cells in order; says on stderr what it does."""
  for number, cell in enumerate(cells, 1):
    yield _Work(cell, settings, journal, f'[{number}/{len(cells)}]').row()


class _Work:
  """One cell."""

  def __init__(
      self, cell: Cell, settings: Settings, journal: journal_lib.Journal, where: str):
    mesh = cell.shape.mesh
    self._cell, self._settings, self._journal = cell, settings, journal
    self._name = f'{where} {cell.label} {cell.topology.name} {cell.shape.name}'
    self._left = settings.timeout
    self._parameters = compiled.num_parameters(cell.config.model)
    self._shards, self._parts = mesh.data * mesh.fsdp, mesh.fsdp * mesh.model

  def row(self) -> Row:
    row = self._blank()
    if self._cell.shape.problem:
      _say(f'{self._name}: {self._cell.shape.problem}')
      return dataclasses.replace(row, reason=self._cell.shape.problem)
    config, room = self._cell.config, self._cell.topology.chip.hbm
    numbers = (search.candidates(config.data.batch_size, self._shards)
               if self._settings.search else [config.microbatches])
    found = search.smallest_fit(
        numbers, self._train, room, 4 * self._parameters // self._parts, self._settings.most)
    return self._with_decode(self._filled(row, found))

  def _blank(self) -> Row:
    config, topology = self._cell.config, self._cell.topology
    lengths = dict(config.data.feature_lengths)
    rows = config.data.batch_size
    needed = flops.training_flops(
        config.model, [lengths['inputs']] * rows, [lengths['targets']] * rows)
    return Row(
        model=self._cell.label, topology=topology.name, mesh=self._cell.shape.name,
        remat=config.model.remat, dtype=config.model.dtype.name, rows=rows, lengths=lengths,
        parameters=self._parameters, hbm=topology.chip.hbm, flops=needed,
        least_seconds=needed / topology.num_devices / topology.chip.peak)

  def _filled(self, row: Row, found: search.Found) -> Row:
    tried = {k: self._verdict(outcome) for k, outcome in found.tried.items()
             if outcome.status != jobs.MISSING}
    row = dataclasses.replace(row, tried=tried, proven=found.proven)
    shown = found.microbatches or max(
        (k for k, one in found.tried.items() if one.status == jobs.COMPILED), default=None)
    if shown is not None:
      facts = found.tried[shown].facts
      row = dataclasses.replace(row, microbatches=shown, memory=facts['memory'],
                                collectives=facts['collectives'], seconds=facts['seconds'],
                                cpu_seconds=facts['cpu_seconds'])
    bad = [one for one in found.tried.values()
           if one.status not in (jobs.COMPILED, jobs.NO_ROOM)]
    if found.microbatches is not None:
      return dataclasses.replace(row, fits=True)
    if bad:
      left_out = '' if bad[-1].status == jobs.MISSING else 'left out: '
      return dataclasses.replace(row, reason=f'{left_out}{_why(bad[-1])}')
    return dataclasses.replace(
        row, fits=False if found.proven else None,
        reason='' if found.proven else f'left out: no fit in {len(tried)} compilations')

  def _with_decode(self, row: Row) -> Row:
    if not self._settings.decode or not row.fits:
      return row
    outcome = self._compile(compiled.DECODE, 1)
    if outcome.status != jobs.COMPILED:
      return dataclasses.replace(row, decode={'reason': self._verdict(outcome)})
    config, facts = self._cell.config, outcome.facts
    rows = compiled.decode_rows(config, self._shards)
    lengths = config.data.feature_lengths
    beside = max(0, row.memory['arguments'] - facts['memory']['arguments'])
    return dataclasses.replace(row, decode=facts | {
        'rows': rows, 'total': search.total(outcome) + beside,
        'fits': search.total(outcome) + beside <= row.hbm,
        'flops': flops.forward_flops(
            config.model, [lengths['inputs']] * rows, [lengths['targets']] * rows)})

  def _train(self, microbatches: int) -> jobs.Outcome:
    return self._compile(compiled.TRAIN, microbatches)

  def _compile(self, kind: str, microbatches: int) -> jobs.Outcome:
    """From the journal, or anew within what is left of the cell's time."""
    config = dataclasses.replace(
        self._cell.config, mesh=self._cell.shape.mesh, microbatches=microbatches)
    job = jobs.Job(kind, self._cell.topology.name, config)
    outcome = self._journal.get(job)
    again = outcome is None or (
        outcome.status == jobs.TIMEOUT and outcome.wall < self._left - 1)
    what = 'decoding' if kind == compiled.DECODE else f'{microbatches} microbatches'
    if again and self._settings.known_only:
      return outcome or jobs.Outcome(jobs.MISSING, 0.0)
    if outcome is None or again:
      _say(f'{self._name}: compiling {what} ({time.strftime("%H:%M:%S")})')
      outcome = jobs.run(job, max(self._left, 1.0))
      self._journal.add(job, outcome)
    self._left -= outcome.wall
    _say(f'{self._name}: {what}: {self._verdict(outcome)}'
         + (f' after {outcome.wall:.0f} s' if again else ' (known)'))
    return outcome

  def _verdict(self, outcome: jobs.Outcome) -> str:
    if outcome.status == jobs.COMPILED:
      total, room = search.total(outcome), self._cell.topology.chip.hbm
      return f'{gib(total)} GiB, {"fits" if total <= room else "too much"}'
    if outcome.status == jobs.NO_ROOM:
      what = 'arguments' if 'arguments' in outcome.facts else 'temporaries'
      return f'too much: {gib(outcome.facts[what])} GiB of {what} alone'
    return _why(outcome)


def _why(outcome: jobs.Outcome) -> str:
  """'timeout: over 15 min'."""
  return ': '.join(part for part in (outcome.status, outcome.reason) if part)


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
