"""What train_step.py does: prepare the work of all sides, time it in turns, print."""

import argparse
import dataclasses
import statistics
from typing import Any

import batches as batches_lib
import flags
import machine
import ours
import timing

from dss_jax.models import flops

COMPILED = '-compiled'
SAMPLE = 2048  # examples that the lengths of packed rows are chosen on


@dataclasses.dataclass
class Work:
  """One side of one objective: what a repeat runs, and what the table says about it."""

  name: str
  run: Any  # run(steps), or run() for all
  shape: str
  filled: tuple[float, float]
  compile_seconds: float | None = None
  executables: int = 0
  memory: int | None = None


def run(args: argparse.Namespace, threads: int) -> None:
  """The whole benchmark."""
  config = flags.model_config(args, remat=args.remat)
  arrays = flags.read_tokens(args, config.vocab_size)
  trainer, other = ours.Trainer(config, args.microbatches), _peer(args, config, threads)
  facts = machine.describe(threads)
  peaks = {'XLA': machine.matmul_peak(args.dtype, args.tiny)}
  if other:
    facts[machine.PEER] = other.description
    peaks['PyTorch'] = other.matmul_peak(args.dtype, args.tiny)
  _print_head(args, trainer, facts, peaks, arrays)

  rows: list[dict[str, Any]] = []
  ratios: dict[str, list[float]] = {}
  for kind in ('dss', 'standard'):
    settings = [name for name in args.settings if name.startswith(f'{kind}-')]
    if not settings:
      continue
    steps = batches_lib.draw(arrays, kind, args.batch_size, args.steps, args.seed)
    lengths = _row_lengths(args, config, arrays, kind)
    works = [_our_work(trainer, setting, steps, lengths, args.microbatches)
             for setting in settings]
    if other:
      works += [_peer_work(other, kind, steps, compiled)
                for compiled in ([False, True] if args.torch_compile else [False])]
    for work in works:
      # All batches of what compiles as it goes.
      work.run(None if work.name.endswith(COMPILED) else min(args.warmup, args.steps))
      if work in works[len(settings):]:
        work.memory = other.peak_memory()
    seconds = timing.in_turns({work.name: work.run for work in works}, args.repeats)
    rows += [_figures(work, seconds[work.name], steps, args, config, max(peaks.values()))
             for work in works]
    if other:  # The faster of the two.
      theirs = min((seconds[work.name] for work in works[len(settings):]), key=statistics.median)
      ratios |= {name: timing.ratios(seconds[name], theirs) for name in settings}
  _print_results(rows, ratios)
  flags.save_json(args, {'machine': facts, 'matmul_peak': peaks, 'rows': rows, 'ratios': ratios})


def _peer(args, config, threads):
  if not args.peer:
    return None
  import peer
  return peer.Peer(config, threads)


def _row_lengths(args, config, arrays, kind: str) -> tuple[int, int]:
  """Of packed rows: given, or chosen on more data than what is timed."""
  sample, = batches_lib.draw(arrays, kind, SAMPLE, 1, args.seed)
  return batches_lib.row_lengths(config, sample, args.inputs_length, args.targets_length)


def _our_work(
    trainer: ours.Trainer, setting: str, steps, lengths: tuple[int, int], microbatches: int
) -> Work:
  kind, _, layout = setting.partition('-')
  if layout == 'packed':
    batches = batches_lib.pack(batches_lib.join(steps), len(steps), lengths, microbatches)
  else:
    batches = [batches_lib.pad(rows) for rows in steps]
  done = trainer.prepare(kind, batches)
  return Work(setting, done.run, batches_lib.shapes(batches), batches_lib.filled(batches),
              done.compile_seconds, done.executables, done.memory)


def _peer_work(other, kind: str, steps, compiled: bool) -> Work:
  tasks = sorted(set(steps[0].tasks))
  multiple = batches_lib.WIDTHS if compiled else 1
  padded = [batches_lib.pad(rows.of_task(task), multiple) for rows in steps for task in tasks]
  return Work(f'{kind}-{machine.PEER}{COMPILED if compiled else ""}',
              other.trainer(kind, ours.ALPHA[kind], steps, compiled),
              'longest of the batch', batches_lib.filled(padded))


def _figures(work: Work, seconds, steps, args, config, peak: float) -> dict[str, Any]:
  """The row of --json: rates per repeat and what they come from."""
  examples = args.batch_size * len(steps)
  sources, targets = batches_lib.join(steps).lengths()
  tokens = int(sources.sum() + targets.sum())
  operations = flops.training_flops(config, sources, targets)
  return {
      'setting': work.name, 'rows': work.shape, 'filled': work.filled, 'seconds': seconds,
      'step_seconds': timing.spread([s / len(steps) for s in seconds]),
      'examples_per_second': timing.spread([examples / s for s in seconds]),
      'tokens_per_second': timing.spread([tokens / s for s in seconds]),
      'flops_per_second': timing.spread([operations / s for s in seconds]),
      'share_of_peak': timing.spread([operations / s / peak for s in seconds]),
      'compile_seconds': work.compile_seconds, 'executables': work.executables,
      'memory_bytes': work.memory}


def _print_head(args, trainer, facts, peaks, arrays) -> None:
  layers = 'scanned' if args.scan_layers else 'unrolled'
  print(f'{flags.model_name(args)}, {trainer.parameters() / 1e6:.3g}M parameters, random weights; '
        f'{args.dtype}; {layers} layers, remat {args.remat}, {args.microbatches} microbatches; '
        'dropout on')
  print(machine.in_words(facts))
  print('; '.join(f'{name} matmul peak {peak / 1e9:,.1f} GFLOP/s' for name, peak in peaks.items())
        + f' ({args.dtype}, best of five; the larger is 100 %)')
  print(f'{args.tokens or "synthetic tokens"}: {arrays.describe()}')
  print(f'{args.batch_size} examples of each task a step, {args.steps} steps a repeat, '
        f'{args.repeats} repeats, all settings in turn\n', flush=True)


def _print_results(rows: list[dict[str, Any]], ratios: dict[str, list[float]]) -> None:
  print(timing.table([{
      'setting': row['setting'],
      'examples/s': str(row['examples_per_second']),
      'tokens/s': timing.digits(row['tokens_per_second'].median),
      'GFLOP/s': timing.digits(row['flops_per_second'].median / 1e9),
      'of peak': f'{row["share_of_peak"].median:.1%}',
      's/step': timing.digits(row['step_seconds'].median),
      'compile s': timing.digits(row['compile_seconds']),
      'memory GB': timing.digits(row['memory_bytes'], 1e9),
  } for row in rows]))
  print('median (lowest-highest) of the repeats; memory of one compiled step; '
        f'peak of this process: {machine.process_peak()}')
  for row in rows:
    print('{}: {:.0%} of inputs and {:.0%} of targets are tokens; '.format(
        row['setting'], *row['filled']) + f'rows x inputs / targets {row["rows"]}')
  for name, values in ratios.items():
    listed = ' '.join(f'{value:.2f}' for value in values)
    print(f'{name} / {machine.PEER}: {timing.spread(values).median:.2f} times the examples/s '
          f'(by repeat: {listed})')
