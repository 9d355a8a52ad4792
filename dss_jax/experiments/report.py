"""`dss report DIR`: a sweep's tables and figures, and one page."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dss_jax import arguments, cli
from dss_jax.experiments import results

if TYPE_CHECKING:
  from dss_jax.experiments import write_report

_DESCRIPTION = """\
Report on a sweep, finished or not: report.html, report.md and figures/ (PNG and SVG) in DIR.
"""
_EPILOG = """\
report.html is one file that opens without a server or a network: figures, tables with
significance, training curves, cost, and a browser of test examples with the gold label, the
teacher's and the students' labels and rationales. What is missing or damaged is listed there.

examples:
  dss report toy
  dss report sweeps/cqa --title='CommonsenseQA, T5 v1.1 base'
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Reads, draws, writes."""
  args = arguments.parse(parser(), argv)
  found, written = write(args.dir, args.title)
  for problem in written.problems:
    print(f'note: {problem}', file=sys.stderr)
  print('test accuracy (%)\n', *written.accuracies, '', *written.findings, sep='\n')
  print(f'\n{len(found.rows)} runs, {len(written.figures)} figures')
  print(f'page: {os.path.join(args.dir, "report.html")}')
  return 0


def write(folder: str, title: str | None = None) -> 'tuple[results.Found, write_report.Written]':
  """Writes the report into a sweep's folder; UserError if there are no results."""
  found = results.read(folder)
  cli.import_quietly('dss_jax.experiments.write_report')
  from dss_jax.experiments import write_report
  return found, write_report.write(folder, found, title or _title(folder))


def _title(folder: str) -> str:
  return f'Distilling Step-by-Step: {os.path.basename(os.path.abspath(folder))}'


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('report'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('dir', metavar='DIR', help='the --out of a sweep')
  parser.add_argument('--title', help='of the page (default: the name of the folder)')
  return parser


if __name__ == '__main__':
  cli.run(main)
