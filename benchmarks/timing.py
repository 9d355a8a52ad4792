"""Timing in turns, and what is said about the times."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
  """Median, smallest and largest of the repeats."""

  median: float
  low: float
  high: float

  def __str__(self):
    return f'{digits(self.median)} ({digits(self.low)}-{digits(self.high)})'


def digits(value: float | None, unit: float = 1.0) -> str:
  """Three digits, without an exponent: 0.0123, 1.23, 1,234; '-' for what is not known."""
  if value is None:
    return '-'
  scaled = value / unit
  return f'{scaled:,.0f}' if scaled >= 100 else f'{scaled:.3g}' if scaled >= 1e-4 else '0'


def spread(values: Sequence[float]) -> Spread:
  """The spread of at least one value."""
  return Spread(statistics.median(values), min(values), max(values))


def in_turns(sides: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
  """Runs the sides one after the other, over and over; seconds of each, [repeats] per side.

  What slows the machine down for a while then slows all sides down. Each side must return
  only when its work is done. Progress goes to stderr.
  """
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for repeat in range(1, repeats + 1):
    for name, run in sides.items():
      began = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - began)
      print(f'  repeat {repeat}/{repeats}: {name} {seconds[name][-1]:.2f} s', file=sys.stderr)
  return seconds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
  """How many times as fast we were, repeat by repeat, from the seconds of both."""
  return [b / a for a, b in zip(ours, theirs, strict=True)]


def table(rows: Sequence[Mapping[str, str]]) -> str:
  """Rows of one set of columns, aligned; the first column to the left."""
  columns = list(rows[0])
  widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
  lines = []
  for cells in (columns, *([row[column] for column in columns] for row in rows)):
    first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    lines.append('  '.join([first.strip().ljust(widths[0]), *rest]).rstrip())
  return '\n'.join(lines)
