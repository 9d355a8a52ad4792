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
  dss report toy --latency --confidences
  dss report sweeps/cqa --title='CommonsenseQA, T5 v1.1 base'
  dss report sweeps/cqa --prompt_price=2.5 --completion_price=10
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Reads, draws, writes."""
  args = arguments.parse(parser(), argv)
  with cli.flags_named(vars(args)):
    found, written = write(
        args.dir, args.title, latency=args.latency, confidences=args.confidences,
        prompt_price=args.prompt_price, completion_price=args.completion_price)
  for problem in written.problems:
    print(f'note: {problem}', file=sys.stderr)
  print('test accuracy (%)\n', *written.accuracies, '', *written.findings, sep='\n')
  print(f'\n{len(found.rows)} runs, {len(written.figures)} figures')
  print(f'page: {os.path.join(args.dir, "report.html")}')
  return 0


def write(
    folder: str, title: str | None = None, *, latency: bool = False, confidences: bool = False,
    prompt_price: float | None = None, completion_price: float | None = None,
) -> 'tuple[results.Found, write_report.Written]':
  """Writes the report into a sweep's folder.

  Args:
    folder: of the sweep.
    title: of the page.
    latency, confidences: first measure, and rank test with, the students that are there.
    prompt_price, completion_price: USD for a million tokens of the teacher; None for those that
      were given before.

  Raises:
    UserError: there are no results; a price below 0.
  """
  found = results.read(folder)
  cli.import_quietly('dss_jax.experiments.write_report')
  from dss_jax.experiments import write_report
  if prompt_price is not None or completion_price is not None:
    from dss_jax.experiments import teacher_cost
    teacher_cost.keep(folder, teacher_cost.Prices(prompt_price or 0.0, completion_price or 0.0))
  problems = write_report.ask_students(
      folder, list(found.rows.values()), latency, confidences) if latency or confidences else []
  found.problems.extend(problems)
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
  add = parser.add_argument
  add('--prompt_price', type=float, metavar='USD',
      help='for a million tokens that the teacher read: accuracy is drawn against USD, not tokens')
  add('--completion_price', type=float, metavar='USD',
      help='for a million tokens that it wrote; both are kept for later reports')
  add('--latency', action='store_true',
      help='first measure how long the students of this sweep take to answer, on this machine')
  add('--confidences', action='store_true',
      help='first let those of closed label sets rank the labels of test, for the figure of how '
           'sure and how often right they are; a sweep with CONFIDENCES=True has done so')
  return parser


if __name__ == '__main__':
  cli.run(main)
