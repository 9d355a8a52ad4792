"""A job whose disk or journal fails it; a table, as in test_faults.py."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import live
import pytest
import server
from faults import N, finish, note, run, table  # noqa: F401


def test_disk_full(tmp_path):
  """The system lets no file grow past 2,500 bytes, as a full disk does."""
  live.write_inputs(tmp_path, N)
  script = '''
      import resource, sys
      resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
      from dss_jax import cli, datasets
      from dss_jax.teacher import __main__ as main
      datasets.describe_only()
      cli.run(main.main)
  '''
  with server.Server(live.answer, latency=0.02) as teacher:
    words = live.command(teacher, tmp_path, '--in_flight=4')[3:]
    begun = time.monotonic()
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), *words],
                          capture_output=True, text=True, check=False, env=live.environment(),
                          timeout=600)
    seconds = time.monotonic() - begun
    requests = teacher.requests
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert 'could not be written down (File too large); make room' in done.stderr
  kept = sum(path.read_bytes().count(b'\n')
             for path in (tmp_path / 'records/journal').glob('*.jsonl'))
  assert requests - 8 <= kept < requests
  finish(tmp_path, N - kept)
  note('disk full', f'error names the journal, {kept} kept; then {N - kept} asked', requests,
       seconds)


def test_a_disk_that_fills_up_costs_nothing_that_was_paid(tmp_path, small_disk):
  """Another program fills it while 8 requests are in flight, and nothing else is written."""
  live.write_inputs(tmp_path, N)
  folder, filler = small_disk(4096), tmp_path / 'disk' / 'filler'
  begun, filled = time.monotonic(), asyncio.Event()

  async def once_filled(request):
    await filled.wait()
    return await teacher.answer(json.loads(await request.read()))

  def fill(number, body):
    if number == 12:  # The answers to the first four are written down: a worker asks only then.
      with open(filler, 'wb', buffering=0) as f, contextlib.suppress(OSError):
        while f.write(bytes(4096)):
          pass
      filled.set()
    return once_filled if number > 4 else None

  def long_answer(asked):  # A page of the disk takes four.
    return live.answer(asked).replace('is a', f'is {os.urandom(1000).hex()} a', 1)
  with server.Server(long_answer, faults=fill) as teacher:
    done = live.run(teacher, tmp_path, '--in_flight=8', f'--records_dir={folder}')
    requests = teacher.requests
  assert done.returncode == 2 and 'No space left on device' in done.stderr
  kept = sum(path.read_bytes().count(b'\n') for path in (folder / 'journal').glob('*.jsonl'))
  assert kept == requests < N
  filler.unlink()
  with server.Server(live.answer) as teacher:
    again = live.run(teacher, tmp_path, f'--records_dir={folder}')
    assert again.returncode == 0 and teacher.requests == N - kept
  note('disk filled by another program', f'all {kept} answers kept; then {N - kept} asked',
       requests, time.monotonic() - begun)


def test_a_disk_with_too_little_room_is_told_before_the_first_request(tmp_path, small_disk):
  live.write_inputs(tmp_path, N)
  folder = small_disk(256)
  with server.Server(live.answer) as teacher:
    done = live.run(teacher, tmp_path, f'--records_dir={folder}')
    assert done.returncode == 2 and teacher.requests == 0
    assert 'this job will write about 1.1 MB, and the disk has 262 kB left' in done.stderr
    told = live.run(teacher, tmp_path, f'--records_dir={folder}', '--dry_run').stdout
  assert 'of answers and' in told and 'journal has 262 kB left' in told
  note('disk with too little room', 'told before the first request', 0, 0)


@pytest.mark.slow
def test_disk_full_while_writing_records(tmp_path):
  """The journal holds everything by then: the next run asks nothing."""
  live.write_inputs(tmp_path, N)
  script = '''
      import resource, sys
      from dss_jax import cli, datasets, records
      from dss_jax.teacher import __main__ as main
      def stage(*args, stage_shard=records.stage_shard):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        return stage_shard(*args)
      records.stage_shard = stage
      datasets.describe_only()
      cli.run(main.main)
  '''
  with server.Server(live.answer) as teacher:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script),
         *live.command(teacher, tmp_path, '--num_shards=1', '--holdout=none')[3:]],
        capture_output=True, text=True, check=False, env=live.environment(), timeout=600)
    seconds = time.monotonic() - begun
    requests = teacher.requests
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  assert 'File too large' in done.stderr and requests == N
  assert not (tmp_path / 'records' / 'manifest.json').exists()
  finish(tmp_path, 0, '--holdout=none')
  note('disk full while writing records', 'error names it; then nothing asked', requests, seconds)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere; /proc is below')
def test_read_only_directory(tmp_path):
  (tmp_path / 'records').mkdir(mode=0o500)
  done, requests, _ = run(tmp_path, lambda number, body: None)
  assert done.returncode == 2 and 'cannot be written' in done.stderr and not requests


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='no /proc, where nobody may write')
def test_a_directory_where_nobody_may_write(tmp_path):
  done, requests, seconds = run(tmp_path, lambda number, body: None, '--records_dir=/proc/records')
  assert done.returncode == 2 and '/proc/records: cannot be written' in done.stderr
  assert not requests
  note('read-only directory', 'error names it; nothing asked', requests, seconds)


@pytest.mark.slow
def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / 'records').write_text('a file')
  done, requests, seconds = run(tmp_path, lambda number, body: None)
  assert done.returncode == 2 and not requests
  assert f'{tmp_path}/records' in done.stderr and 'cannot be' in done.stderr
  note('a file in the place of the directory', 'error names it; nothing asked', requests, seconds)


def test_two_jobs_on_one_directory(tmp_path):
  live.write_inputs(tmp_path, N)
  refused = threading.Event()

  def wait(question):  # The first job is at work until the others have been refused.
    refused.wait(120)
    return 0.0

  with server.Server(live.answer, latency=wait) as teacher:
    first = live.start(teacher, tmp_path, '--in_flight=1')
    while not teacher.requests:
      time.sleep(0.01)
    begun = time.monotonic()
    second = live.run(teacher, tmp_path)
    seconds = time.monotonic() - begun
    assert second.returncode == 2
    assert f'another job is at work on cqa-train (process {first.pid}' in second.stderr
    third = live.run(teacher, tmp_path, f'--records_dir={tmp_path}/other',
                     f'--journal={tmp_path}/records/journal')
    assert third.returncode == 2 and 'journal/.cqa-train.lock: another job' in third.stderr
    refused.set()
    assert first.wait(60) == 0 and teacher.requests == N
  finish(tmp_path, 0)
  note('two jobs on one directory', 'the second refuses and names the first, which finishes', N,
       seconds)


# --- The journal ---------------------------------------------------------------------------------


def _damage(tmp_path, change):
  """A finished job whose journal is then changed; and the next run."""
  run(tmp_path, lambda number, body: None)
  (path,) = (tmp_path / 'records' / 'journal').glob('*.jsonl')
  path.write_bytes(change(path.read_bytes()))
  done, requests, seconds = run(tmp_path, lambda number, body: None)
  assert done.returncode == 0 and str(path) in done.stderr
  finish(tmp_path, 0)
  return done, requests, seconds


def test_a_journal_with_a_torn_tail(tmp_path):
  done, requests, seconds = _damage(tmp_path, lambda data: data[:-30])
  assert requests == 1 and 'cut off by a kill or a power cut' in done.stderr
  note('journal with a torn tail', 'told, that answer asked again; then nothing', requests,
       seconds)


def test_a_journal_with_a_corrupt_middle(tmp_path):
  def change(data):
    lines = data.split(b'\n')
    lines[5] = b'\0' * len(lines[5])
    lines[9] = lines[9][:-1] + bytes([lines[9][-1] ^ 64])
    return b'\n'.join(lines)
  done, requests, seconds = _damage(tmp_path, change)
  assert requests == 2 and '2 damaged line(s) in the journal are passed over' in done.stderr
  assert 'line 6' in done.stderr and 'line 10' in done.stderr
  note('journal with a corrupt middle', 'told which lines, asked again; then nothing', requests,
       seconds)
