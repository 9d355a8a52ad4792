"""`dss precompile --gin_file=... --topology=v5e:4x4`: what fits, and how."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

from dss_jax import arguments, cli, errors, files, valid

_DESCRIPTION = """\
Compile a run's train step and decoding for a TPU slice that is not here, on a CPU, and print the
memory, arithmetic and communication that they need per device. Nothing is trained. Where the run
names its records, they are looked at as before a training: lengths, and what the vocabulary lacks.
"""
_EPILOG = """\
examples:
  # Does the paper's batch of T5 v1.1 large fit on eight v5e chips, and in how many parts?
  dss precompile --gin_file=gin/native/dss.gin --gin.DATASET=anli \\
      --gin_file=gin/recipes/unpacked.gin --models=t5_1_1_large --gin.REMAT=full \\
      --topology=v5e:2x4 --mesh=1x-1x1

  # One table over slices, models and meshes; the same command again goes on where it stopped.
  dss precompile --gin_file=gin/native/dss.gin --gin.DATASET=anli \\
      --models=t5_1_1_xl,t5_1_1_xxl --topology=v5e:4x4,v6e:4x4 --sweep \\
      --output=plan.jsonl --format=markdown

A compilation takes minutes, in a process of its own. docs/tpu_plan.md says what the figures mean.
"""


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('precompile'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--gin_file', action='append', required=True, metavar='FILE', help="as training's")
  add('--gin.NAME', dest='_shown_only', metavar='VALUE', help="as training's")
  add('--import', dest='modules', action='append', default=[], metavar='MODULE',
      help='a module that registers tasks of your own; may be repeated')
  add('--models', default='', metavar='NAME,...',
      help='published sizes such as t5_1_1_xl, one after the other (default: of the gin files)')
  add('--topology', action='append', required=True, metavar='NAME,...',
      help='slices such as v5e:4x4 or v4:2x2x4 (chips), h100:8 (GPUs of a host); may be '
           'repeated')
  meshes = parser.add_mutually_exclusive_group()
  meshes.add_argument('--mesh', default='', metavar='DxFxM,...',
                      help='devices along data, fsdp and model; -1 takes what is left '
                           "(default: the gin files')")
  meshes.add_argument('--sweep', action='store_true',
                      help='all meshes of each slice with data or fsdp at 1')
  add('--microbatches', default='auto', metavar='N',
      help='auto (default) looks for the fewest that fit')
  add('--max_compiles', type=int, default=4, metavar='N',
      help='of the train step, per cell of the table (default: 4)')
  add('--decode', action=argparse.BooleanOptionalAction, default=True,
      help="compile evaluation's decoding, too")
  add('--timeout', type=float, default=15.0, metavar='MINUTES',
      help='of compiling, per cell; what takes longer is left out (default: 15)')
  add('--format', choices=('text', 'markdown', 'json'), default='text')
  add('--output', default='', metavar='FILE',
      help='keep every compilation there (JSON lines), and use what is there')
  add('--known_only', action='store_true',
      help="compile nothing: the table of what --output's file has so far")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, compiles cell by cell, prints the table."""
  os.environ['JAX_PLATFORMS'] = 'cpu'  # Where libtpu is installed, JAX would look for a TPU.
  args, bindings = arguments.parse_with_gin(parser(), argv)
  if args.output and not args.known_only:
    files.check_writable_file('--output', args.output)
  own = ['dss_jax.tasks', *args.modules] if args.modules else []  # Data sets to be named.
  cli.import_quietly('dss_jax.train.gin_config', *own)
  from dss_jax.precompile import jobs, plan, table, topologies
  valid.number(lambda x: x > 0, 'above 0, of minutes', **{'--timeout': args.timeout})
  valid.whole(1, **{'--max_compiles': args.max_compiles})
  runs, said = _look_at_data(_runs(args, bindings))
  cells = _cells(args, runs)
  for topology in {cell.topology.name: cell.topology for cell in cells}.values():
    if not args.known_only and (problem := topologies.missing(topology)):
      raise errors.UserError(f'--topology={topology.name}: {problem}')
  for line in said:
    print(line, file=sys.stderr)
  settings = plan.Settings(
      search=args.microbatches == 'auto', decode=args.decode, timeout=60 * args.timeout,
      most=args.max_compiles, known_only=args.known_only)
  rows = list(plan.run(cells, settings, jobs.Journal(args.output)))
  print(table.render(rows, args.format))
  return 0


def _look_at_data(runs):
  """The runs with rows in numbers, and what training would warn of; UserError for what it refuses.

  All are of one data set. A plan does not need it, but then rows are as long as one example may be.
  """
  config = runs[0][1]
  if config.data.records_dir or os.environ.get('DSS_DATA_DIR'):
    config, said = _with_data(config)
  else:
    config, said = dataclasses.replace(config, data=config.data.unmeasured()), []
  return [(name, dataclasses.replace(one, data=config.data)) for name, one in runs], said


def _with_data(config):
  cli.import_quietly('dss_jax.tasks')
  from dss_jax.train import gin_config, loop
  with gin_config.macros_named():
    config, said = loop.look_at_data(config)
    return config, [gin_config.with_macros(line) for line in said]


def _runs(args: argparse.Namespace, bindings: Sequence[str]):
  """(label, TrainConfig) of each model, or of what the gin files train: 'dss_anli'."""
  from dss_jax.train import gin_config
  models = [(name, [f'gin/native/models/{name}.gin']) for name in _split(args.models)]
  try:
    parts = 1 if args.microbatches == 'auto' else int(args.microbatches)
  except ValueError as error:
    raise errors.UserError(
        f'--microbatches={args.microbatches}: give a number, or auto') from error
  found = []
  for name, sizes in models or [('', [])]:
    config = gin_config.parse([*args.gin_file, *sizes], bindings, model_dir='unused')
    found.append((name or config.data.mixture_or_task,
                  dataclasses.replace(config, microbatches=parts)))
  return found


def _cells(args: argparse.Namespace, runs):
  """All cells of the table, checked before anything is compiled."""
  from dss_jax import sharding
  from dss_jax.precompile import plan, topologies
  slices = [topologies.parse(name) for one in args.topology for name in _split(one) or ['']]
  with cli.flags_named({'mesh'}):
    meshes = [sharding.parse_mesh(text) for text in _split(args.mesh)] or [runs[0][1].mesh]
  found = plan.cells(runs, slices, None if args.sweep else meshes)
  if not args.sweep and len(found) == 1 and found[0].problem:
    raise errors.UserError(found[0].problem)
  return found


def _split(text: str) -> list[str]:
  return [part for part in text.split(',') if part]


if __name__ == '__main__':
  cli.run(main)
