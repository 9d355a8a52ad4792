"""All that is to be known of one GPU or TPU, in one command of at most nine minutes.

  python benchmarks/accelerator.py                     accelerator.json and accelerator.md
  python benchmarks/accelerator.py                     again: what is missing or failed
  python benchmarks/accelerator.py --parts=correct     one part; see below
  python benchmarks/accelerator.py --tiny              a toy network, to try it on a CPU

{parts}

Every part is a process of its own, whose figures are kept in the JSON file as soon as it ends; the
Markdown file is made of them. A part begins only if the time left suffices for it. PyTorch is
compared with where torch and transformers can be imported. Needs jax, flax, optax and numpy.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import timing

from dss_jax import cli, errors, files

HERE = pathlib.Path(__file__).parent
_TRAIN = ['train_step.py', '--steps=4', '--repeats=3', '--torch_compile']
_DECODE = ['decode.py', '--steps=2', '--repeats=3']


@dataclasses.dataclass(frozen=True)
class Part:
  """A process: its script and flags, the seconds that it may take, and what it finds."""

  command: list[str]
  seconds: int
  what: str
  beside_pytorch: bool = True


PARTS = {
    'correct': Part(['on_card.py', 'correct'], 60, 'loss, gradient and tokens against the CPU',
                    beside_pytorch=False),
    'attention': Part(['on_card.py', 'attention', '--dtype=bfloat16'], 60,
                      'each way to attend, forward and backward', beside_pytorch=False),
    'train-base': Part([*_TRAIN, '--size=base', '--settings=dss-packed,dss-padded'], 140,
                       'training T5 v1.1 base, packed and padded'),
    'train-large': Part([*_TRAIN, '--size=large', '--settings=dss-packed'], 140,
                        'training T5 v1.1 large, packed'),
    'greedy': Part([*_DECODE, '--size=base', '--batch_size=64'], 70, 'greedy, 64 tokens'),
    'labels': Part([*_DECODE, '--size=base', '--batch_size=64', '--max_decode_length=6'], 50,
                   'greedy, 6 tokens, as a label has'),
    'beam': Part([*_DECODE, '--size=base', '--batch_size=64', '--beams=4'], 70, 'four beams'),
}


def main() -> int:
  """Runs the parts that the file has not, and writes both files after each."""
  args = _arguments()
  ends = time.monotonic() + 60 * args.minutes
  found = _read(args.json)
  if found.get('tiny', args.tiny) != args.tiny:
    raise errors.UserError(f'--json={args.json} holds figures '
                           f'{"of" if args.tiny else "with"}out --tiny: name another file')
  for name in args.parts:
    if 'figures' in found.get('parts', {}).get(name, {}):
      print(f'{name}: done before', file=sys.stderr, flush=True)
      continue
    part, left = PARTS[name], ends - time.monotonic()
    if left < part.seconds:
      print(f'{name}: not begun, {left:.0f} s are left of --minutes={args.minutes:g}; the same '
            'command goes on', file=sys.stderr, flush=True)
      continue
    print(f'{name}: {part.what}, at most {part.seconds} s', file=sys.stderr, flush=True)
    outcome = _run(part, args.tiny, left if args.tiny else min(left, 2 * part.seconds))
    found = {'tiny': args.tiny, 'parts': {**found.get('parts', {}), name: outcome}}
    files.write(args.json, json.dumps(found, indent=2) + '\n')
    if 'failed' in outcome:
      print(f'{name}: {outcome["failed"]}', file=sys.stderr, flush=True)
  text = markdown(found)
  files.write(str(pathlib.Path(args.json).with_suffix('.md')), text)
  print(text)
  return int(not all('figures' in found.get('parts', {}).get(name, {}) for name in args.parts))


def _run(part: Part, tiny: bool, timeout: float) -> dict[str, Any]:
  """{'figures': what the script's --json holds, 'seconds'}, or {'failed': its last line}."""
  script, *given = part.command
  if '--dtype' not in ' '.join(given) and part.beside_pytorch:
    given.append('--dtype=bfloat16')
  if part.beside_pytorch and all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    given.append('--peer=transformers')
  else:
    given = [flag for flag in given if flag != '--torch_compile']
  if tiny:  # It would compile for minutes.
    given = [flag for flag in given if flag != '--torch_compile']
    given += ['--tiny', *(['--batch_size=8', '--repeats=1'] if part.beside_pytorch else [])]
  saved = HERE / f'.accelerator-{os.getpid()}.json'
  began = time.monotonic()
  try:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *given, f'--json={saved}'], timeout=timeout,
        capture_output=True, text=True, errors='replace')
    if done.returncode:
      lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
      return {'failed': lines[-1]}
    figures = json.loads(saved.read_text())
  except subprocess.TimeoutExpired:
    return {'failed': f'not done after {timeout:.0f} s'}
  finally:
    saved.unlink(missing_ok=True)
  return {'figures': figures, 'seconds': round(time.monotonic() - began)}


def markdown(found: Mapping[str, Any]) -> str:
  """The tables, of what there is."""
  parts = found.get('parts', {})
  done = {name: part['figures'] for name, part in parts.items() if 'figures' in part}
  lines = list(_machines(done.values()))
  if found.get('tiny'):
    lines += ['', 'A toy network: the figures say nothing.']
  lines += _table('Against the CPU', [
      {'what': row['what'], 'loss': f'{row["loss"]:.1e}', 'gradient': f'{row["gradient"]:.1e}',
       'tokens of greedy': f'{row["tokens"]:.1%}'}
      for row in done.get('correct', {}).get('rows', [])])
  lines += _table('Attention', [
      {'attention': row['attention'], 'shape': row['shape'],
       'forward ms': timing.digits(1e3 * row['forward']),
       'and backward ms': timing.digits(1e3 * row['both']),
       'memory MB': timing.digits(row['memory'], 1e6)}
      for row in done.get('attention', {}).get('rows', [])])
  lines += _table('Training', [
      {'network': _network(figures), 'what': row['setting'],
       'examples/s': timing.digits(row['examples_per_second'][0]),
       'tokens/s': timing.digits(row['tokens_per_second'][0]),
       'of matmul peak': f'{row["share_of_peak"][0]:.0%}',
       'memory GB': timing.digits(row['memory_bytes'], 1e9),
       'times PyTorch': _ratio(figures['ratios'].get(row['setting']))}
      for name, figures in done.items() if name.startswith('train-') for row in figures['rows']])
  lines += _table('Decoding', [
      {'network': _network(figures), 'how': PARTS[name].what, 'what': row['setting'],
       'examples/s': timing.digits(row['examples_per_second'][0]),
       'tokens/s': timing.digits(row['tokens_per_second'][0]),
       'memory GB': timing.digits(row.get('memory_bytes'), 1e9),
       'times PyTorch': _ratio(figures['ratios'].get('transformers')
                                if row['setting'] == 'dss_jax' else None)}
      for name, figures in done.items() if name in ('greedy', 'labels', 'beam')
      for row in figures['rows']])
  missing = [f'{name} ({part["failed"]})' for name, part in parts.items() if 'failed' in part]
  missing += [name for name in PARTS if name not in parts]
  if missing:
    lines += ['', f'Not run: {"; ".join(missing)}.']
  return '\n'.join(lines) + '\n'


def _machines(figures: Iterable[Mapping[str, Any]]) -> list[str]:
  """One line for each machine that the figures come from: more than one is a warning in itself."""
  lines: dict[str, None] = {}
  for one in figures:
    facts = one['machine']
    line = (f'{facts["device"]} ({facts["processor"]}, {facts["threads"]} CPUs), Python '
            f'{facts["python"]}, jax {facts["jax"]}, flax {facts["flax"]}')
    if peer := facts.get('transformers'):
      line += f'; {peer}'
    peaks = one.get('matmul_peak')
    if peaks:
      line += '; matmul peak ' + ', '.join(
          f'{name} {peak / 1e12:.3g} TFLOP/s' for name, peak in peaks.items())
    lines[line] = None
  return list(lines)


def _network(figures: Mapping[str, Any]) -> str:
  return f'T5 v{figures["flags"]["version"]} {figures["flags"]["size"]}'


def _ratio(values: list[float] | None) -> str:
  return f'{timing.spread(values).median:.2f}' if values else ''


def _table(title: str, rows: list[dict[str, str]]) -> list[str]:
  if not rows:
    return []
  cells = [list(rows[0]), ['---'] * len(rows[0]), *(list(row.values()) for row in rows)]
  return ['', f'## {title}', '', *('| ' + ' | '.join(row) + ' |' for row in cells)]


def _read(path: str) -> dict[str, Any]:
  try:
    return json.loads(pathlib.Path(path).read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise errors.UserError(f'--json={path} is no JSON ({error}): name another file') from error


def _arguments() -> argparse.Namespace:
  listed = '\n'.join(f'  {name:<12} {part.what}' for name, part in PARTS.items())
  parser = argparse.ArgumentParser(
      description=(__doc__ or '').format(parts=listed),
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--parts', default=','.join(PARTS), metavar='A,B',
                      help='which ones, in this order (default: all)')
  parser.add_argument('--minutes', type=float, default=9, help='at most (default: 9)')
  parser.add_argument('--json', default='accelerator.json', metavar='FILE',
                      help='the figures; the tables are beside it (default: accelerator.json)')
  parser.add_argument('--tiny', action='store_true', help='a toy network, to try it')
  args = parser.parse_args()
  args.parts = args.parts.split(',')
  for name in args.parts:
    if name not in PARTS:
      raise errors.UserError(f'--parts={name}: {errors.did_you_mean(name, PARTS)}')
  return args


if __name__ == '__main__':
  cli.run(lambda _: main())
