"""Rows of a plan as text, Markdown or JSON."""

import dataclasses
import json
from collections.abc import Sequence

from dss_jax.precompile import collectives
from dss_jax.precompile.compiled import gib
from dss_jax.precompile.plan import Row

FORMATS = ('text', 'markdown', 'json')
_KINDS = {kind: kind.replace('collective-', '') for kind in collectives.KINDS}
_LEGEND = """\
{programs}.
mesh: devices along data, fsdp, model. microbatches: the fewest that fit, and the rows of one over
all devices. Per device, GiB: arguments (train state, batch) + temporaries + program = total, of
the HBM that a program may use. PFLOP: needed by one step over all devices, rows full of tokens;
bound s: that at 100 % of the chips' bfloat16 peak, a lower bound and no forecast.
{kinds}: GiB that a device hands to these in
one step. decode: evaluation's memory, optimizer state included. compile s: of the program shown.
tried: total GiB by number of microbatches.
"""


def render(rows: Sequence[Row], style: str) -> str:
  """All rows; `style` is one of FORMATS."""
  if style == 'json':
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
  header = ['model', 'slice', 'mesh', 'fits', 'microbatches', 'arguments', 'temporaries', 'total',
            'of HBM', 'PFLOP', 'bound s', *_KINDS.values(), 'decode', 'compile s', 'CPU s', 'tried']
  lines = [header, *(_cells(row) for row in rows)]
  legend = _LEGEND.format(
      kinds=', '.join(_KINDS.values()), programs='; '.join(dict.fromkeys(map(_program, rows))))
  if style == 'markdown':
    return '\n'.join([_markdown(lines[0]), '|' + '---|' * len(header),
                      *(_markdown(line) for line in lines[1:]), '', legend.rstrip()])
  widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
  table = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
           for line in lines]
  return '\n'.join([*table, '', legend.rstrip()])


def _program(row: Row) -> str:
  """'128 rows of 1024 input and 256 target tokens, bfloat16, remat full'."""
  inputs, targets = row.lengths['inputs'], row.lengths['targets']
  return (f'{row.rows} rows of {inputs} input and {targets} target tokens, {row.dtype}, '
          f'remat {row.remat}')


def _markdown(line: Sequence[str]) -> str:
  return f'| {" | ".join(line)} |'


def _cells(row: Row) -> list[str]:
  known = bool(row.memory)
  parts = [gib(row.memory[name]) if known else '-' for name in ('arguments', 'temporaries')]
  total = gib(sum(row.memory.values())) if known else '-'
  return [
      row.model, row.topology, row.mesh, _fits(row),
      f'{row.microbatches} of {row.rows // row.microbatches} rows' if row.microbatches else '-',
      *parts, total, gib(row.hbm), f'{row.flops / 1e15:.3g}', f'{row.least_seconds:.3g}',
      *(_moved(row, kind) for kind in _KINDS), _decode(row),
      *('-' if one is None else f'{one:.0f}' for one in (row.seconds, row.cpu_seconds)),
      ', '.join(f'{k}: {_short(verdict)}' for k, verdict in sorted(row.tried.items()))
      or '-']


def _fits(row: Row) -> str:
  if row.fits is None:
    return row.reason
  if not row.fits:
    return 'no'
  return 'yes' if row.proven else 'yes, fewer microbatches not tried'


def _moved(row: Row, kind: str) -> str:
  if not row.collectives:
    return '-'
  size = row.collectives['whole'][kind]
  more = row.collectives['per_pass'][kind]
  return (gib(size) if size else '0') + (f' + {gib(more)} a pass' if more else '')


def _decode(row: Row) -> str:
  if not row.decode:
    return '-'
  if 'total' not in row.decode:
    return row.decode['reason']
  return gib(row.decode['total']) + ('' if row.decode['fits'] else ' (too much)')


def _short(verdict: str) -> str:
  """'18.1 GiB, too much' -> '18.1'; a lower bound where only temporaries are known."""
  if verdict.startswith('too much: '):
    return 'over ' + verdict.removeprefix('too much: ').split()[0]
  return verdict.partition(' GiB')[0]
