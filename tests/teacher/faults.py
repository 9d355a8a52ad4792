"""Jobs that meet a fault, and the table of what became of them."""

import time

import live
import pytest
import server

N = 20
TABLE = []


def note(fault, outcome, requests, seconds):
  TABLE.append((fault, outcome, str(requests), f'{seconds:.1f} s'))


@pytest.fixture(scope='module', autouse=True)
def table():
  yield
  header = ('fault', 'outcome of the run, then of the next one', 'requests', 'time')
  widths = [max(len(row[i]) for row in [header, *TABLE]) for i in range(4)]
  print()
  for row in [header, *TABLE]:
    print('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
  TABLE.clear()


def run(tmp_path, faults, *flags, **kwargs):
  """(process, requests, seconds)."""
  live.write_inputs(tmp_path, N)
  with server.Server(live.answer, latency=0.02, faults=faults) as teacher:
    begun = time.monotonic()
    done = live.run(teacher, tmp_path, '--in_flight=8', *flags, **kwargs)
    return done, teacher.requests, time.monotonic() - begun


def finish(tmp_path, missing, *flags):
  """The next run against a healthy server asks for what is missing."""
  done, requests, _ = run(tmp_path, lambda number, body: None, *flags)
  assert done.returncode == 0, done.stderr
  assert requests == missing
  rows = live.read(tmp_path, splits=('train',) if flags else ('train', 'validation'))
  assert len(rows) == N and {row.parse_status for row in rows.values()} == {'ok'}
