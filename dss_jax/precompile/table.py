"""Rows of a plan as text, Markdown or JSON."""

import dataclasses
import json
from collections.abc import Sequence

from dss_jax.precompile import collectives
from dss_jax.precompile.compiled import gib
from dss_jax.precompile.plan import Row

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
  """All rows; `style` is 'text', 'markdown' or 'json'."""
  if style == 'json':
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
  header = ['model', 'slice', 'mesh', 'fits', 'microbatches', 'arguments', 'temporaries', 'total',
            'of HBM', 'PFLOP', 'bound s', *_KINDS.values(), 'decode', 'compile s', 'CPU s', 'tried']
  lines = [header, *(_cells(row) for row in rows)]
  if style == 'markdown':
    table = [f'| {" | ".join(line)} |' for line in lines]
    table.insert(1, '|' + '---|' * len(header))
  else:
    widths = [max(map(len, column)) for column in zip(*lines)]
    table = ['  '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
  programs = dict.fromkeys(
      f'{row.rows} rows of {row.lengths["inputs"]} input and {row.lengths["targets"]} target '
      f'tokens, {row.dtype}, remat {row.remat}' for row in rows)
  legend = _LEGEND.format(kinds=', '.join(_KINDS.values()), programs='; '.join(programs))
  return '\n'.join([*table, '', legend.rstrip()])


def _cells(row: Row) -> list[str]:
  fits = {None: row.reason, False: 'no', True: 'yes'}[row.fits]
  memory = [gib(row.memory[part]) for part in ('arguments', 'temporaries')] if row.memory else []
  decode = row.decode.get('reason', '-')
  if 'total' in row.decode:
    decode = gib(row.decode['total']) + ('' if row.decode['fits'] else ' (too much)')
  return [
      row.model, row.topology, row.mesh,
      fits + (', fewer microbatches not tried' if row.fits and not row.proven else ''),
      f'{row.microbatches} of {row.rows // row.microbatches} rows' if row.microbatches else '-',
      *(memory or ['-', '-']), gib(sum(row.memory.values())) if memory else '-', gib(row.hbm),
      f'{row.flops / 1e15:.3g}', f'{row.least_seconds:.3g}',
      *(_moved(row, kind) for kind in _KINDS), decode,
      *('-' if one is None else f'{one:.0f}' for one in (row.seconds, row.cpu_seconds)),
      ', '.join(f'{k}: {_short(verdict)}' for k, verdict in sorted(row.tried.items())) or '-']


def _moved(row: Row, kind: str) -> str:
  if not row.collectives:
    return '-'
  size = row.collectives['whole'][kind]
  more = row.collectives['per_pass'][kind]
  return (gib(size) if size else '0') + (f' + {gib(more)} a pass' if more else '')


def _short(verdict: str) -> str:
  """'18.1 GiB, too much' -> '18.1'; a lower bound where only temporaries are known."""
  if verdict.startswith('too much: '):
    return 'over ' + verdict.removeprefix('too much: ').split()[0]
  return verdict.partition(' GiB')[0]
