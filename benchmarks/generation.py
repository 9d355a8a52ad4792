"""What decode.py does: prepare the batches of both sides, time them in turns, print."""

import argparse
from typing import Any

import batches as batches_lib
import flags
import machine
import numpy as np
import ours
import timing
import token_arrays


def run(args: argparse.Namespace, threads: int) -> None:
  """The whole benchmark."""
  config = flags.model_config(args)
  arrays = flags.read_tokens(args, config.vocab_size)
  batches = input_batches(arrays, args.batch_size, args.steps, args.seed)
  done = ours.Decoder(config, args.max_decode_length, args.beams).prepare(batches)
  runs: dict[str, Any] = {'dss_jax': done.run}
  facts = machine.describe(threads)
  if args.peer:
    import peer
    other = peer.Peer(config, threads)
    facts[machine.PEER] = other.description
    runs[machine.PEER] = other.decoder(batches, args.max_decode_length, args.beams)
    if args.ctranslate2:
      runs |= other.ctranslate2_decoders(batches, args.max_decode_length, args.beams, threads)
  _print_head(args, facts, batches)
  for one in runs.values():
    one(min(args.warmup, args.steps))
  seconds = timing.in_turns(runs, args.repeats)
  rows = [_figures(name, seconds[name], args) for name in runs]
  rows[0] |= {'compile_seconds': done.compile_seconds, 'executables': done.executables,
              'memory_bytes': done.memory}
  ratios = {name: timing.ratios(seconds['dss_jax'], seconds[name])
            for name in runs if name != 'dss_jax'}
  _print_results(rows, ratios)
  flags.save_json(args, {'machine': facts, 'rows': rows, 'ratios': ratios})


def input_batches(
    arrays: token_arrays.TokenArrays, batch_size: int, count: int, seed: int
) -> list[np.ndarray]:
  """`count` batches of label inputs, sorted by length: int32 [B, multiple of 32]."""
  rows = batches_lib.join(batches_lib.draw(arrays, 'standard', batch_size, count, seed)).inputs
  rows = sorted(rows, key=len)
  return [batches_lib.pad_rows(rows[first:first + batch_size], batches_lib.WIDTHS)
          for first in range(0, len(rows), batch_size)]


def _figures(name: str, seconds: list[float], args) -> dict[str, Any]:
  examples = args.batch_size * args.steps
  return {'setting': name, 'seconds': seconds,
          'examples_per_second': timing.spread([examples / s for s in seconds]),
          'tokens_per_second': timing.spread(
              [examples * args.max_decode_length / s for s in seconds])}


def _print_head(args, facts, batches) -> None:
  how = 'greedy' if args.beams == 1 else f'{args.beams} beams'
  layers = 'scanned' if args.scan_layers else 'unrolled'
  shapes = ', '.join(' x '.join(map(str, batch.shape)) for batch in batches)
  print(f'{flags.model_name(args)}, random weights; {args.dtype}; {layers} layers; {how}, '
        f'{args.max_decode_length} tokens per row (EOS impossible on both sides)')
  print(machine.in_words(facts))
  print(f'{args.tokens or "synthetic tokens"}; batches {shapes}; {args.repeats} repeats\n',
        flush=True)


def _print_results(rows: list[dict[str, Any]], ratios: dict[str, list[float]]) -> None:
  print(timing.table([{
      'setting': row['setting'],
      'examples/s': str(row['examples_per_second']),
      'tokens/s': str(row['tokens_per_second']),
      'compile s': timing.digits(row.get('compile_seconds')),
      'memory GB': timing.digits(row.get('memory_bytes'), 1e9),
  } for row in rows]))
  print('median (lowest-highest) of the repeats; tokens are the generated ones')
  print(f'peak of this process: {machine.process_peak()}')
  for name, values in ratios.items():
    listed = ' '.join(f'{value:.2f}' for value in values)
    print(f'dss_jax / {name}: {timing.spread(values).median:.2f} times the examples/s '
          f'(by repeat: {listed})')
