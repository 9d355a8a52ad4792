"""What goes wrong between a job and its server, and what the job then does: one table.

Every row runs the command line as a process of its own on 20 inputs, then once more against a
healthy server, which must finish the job and be asked only for what is missing.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import live
import pytest
import server

N = 20
TABLE = []


def _some(share, fault):
  """One request in `share` meets the fault."""
  return lambda number, body: fault if number % share == 0 else None


def _first(count, fault):
  return lambda number, body: fault if number <= count else None


def _always(fault):
  return lambda number, body: fault


def _one(text, fault):
  """The request about one input meets the fault, always."""
  return lambda number, body: fault if f'Q: {text}\n' in body['messages'][-1]['content'] else None


TRANSIENT = {
    '10 % status 500': _some(10, server.status(500)),
    '20 % connection resets': _some(5, server.reset()),
    '20 % cut JSON': _some(5, server.truncated()),
    '20 % empty choices': _some(5, server.without_choices()),
    '20 % web pages (wrong content type)': _some(5, server.html()),
    '10 % hung connections, --timeout=2': _some(10, server.hang()),
    '429, Retry-After: 2, to the first 16': _first(
        16, server.status(429, headers={'Retry-After': '2'})),
    'status 503 to the first 10': _first(10, server.status(503)),
}
FATAL = {
    '401, the key echoed': (_always(server.echo_key()), '401 (a wrong API key?)'),
    'unknown model': (_always(server.unknown_model()), "404: no model 'teacher', or a wrong "),
    'no credit (429 insufficient_quota)': (_always(server.status(
        429, server.error('You exceeded your current quota', 'insufficient_quota',
                          'insufficient_quota'))), 'You exceeded your current quota'),
    'every request rejected (400)': (_always(server.too_long()), 'maximum context length'),
}


def _some_slow(names, quick):
  """Each is seconds; one of them stands for all in the fast tests."""
  return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def _note(fault, outcome, requests, seconds):
  TABLE.append((fault, outcome, str(requests), f'{seconds:.1f} s'))


@pytest.fixture(scope='module', autouse=True)
def table():
  yield
  header = ('fault', 'outcome of the run, then of the next one', 'requests', 'time')
  widths = [max(len(row[i]) for row in [header, *TABLE]) for i in range(4)]
  print()
  for row in [header, *TABLE]:
    print('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _run(tmp_path, faults, *flags, **kwargs):
  """(process, requests, seconds)."""
  live.write_inputs(tmp_path, N)
  with server.Server(live.answer, latency=0.02, faults=faults) as teacher:
    begun = time.monotonic()
    done = live.run(teacher, tmp_path, '--in_flight=8', *flags, **kwargs)
    return done, teacher.requests, time.monotonic() - begun


def _finish(tmp_path, missing, *flags):
  """The next run against a healthy server asks for what is missing."""
  done, requests, _ = _run(tmp_path, lambda number, body: None, *flags)
  assert done.returncode == 0, done.stderr
  assert requests == missing
  rows = live.read(tmp_path, splits=('train',) if flags else ('train', 'validation'))
  assert len(rows) == N and {row.parse_status for row in rows.values()} == {'ok'}


@pytest.mark.parametrize('name', _some_slow(TRANSIENT, '20 % connection resets'))
def test_what_passes_is_waited_out(tmp_path, name):
  done, requests, seconds = _run(tmp_path, TRANSIENT[name], '--timeout=2')
  assert done.returncode == 0, done.stderr
  assert requests > N
  _finish(tmp_path, 0)
  _note(name, f'finished, {requests - N} asked again; then nothing asked', requests, seconds)


def test_usage_as_text_and_a_numeric_finish_reason(tmp_path):
  """The journal keeps them as they came, and is read back."""
  response = server.completion('Hm. So the answer is (c) many.', 3, {'model': 'm', 'messages': []})
  response['usage'] = {'prompt_tokens': '500', 'completion_tokens': '30'}
  fault = _always(server.reply(json.dumps(response)))
  for requests in (N, 0):
    done, asked, seconds = _run(tmp_path, fault)
    assert done.returncode == 0, done.stderr
    assert asked == requests and 'tokens: 10,000 read by the teacher, 600 written' in done.stdout
  assert {row.finish_reason for row in live.read(tmp_path).values()} == {'3'}
  _note('usage as text, numeric finish_reason', 'finished; then nothing asked', N, seconds)


@pytest.mark.slow
def test_a_storm_of_429_with_a_long_retry_after(tmp_path):
  """The first is told to wait 15 s, then another: none is sent before, and it is no failure."""
  done, requests, seconds = _run(
      tmp_path, _first(2, server.status(429, headers={'Retry-After': '15'})), '--max_retries=0')
  assert done.returncode == 0 and 30 < seconds < 45, done.stderr
  assert requests == N + 2
  _note('429 storm, Retry-After: 15', 'finished, 2 asked again; then nothing asked', requests,
        seconds)


@pytest.mark.parametrize('name', _some_slow(FATAL, '401, the key echoed'))
def test_what_does_not_pass_stops_at_once_with_one_message(tmp_path, name):
  fault, message = FATAL[name]
  done, requests, seconds = _run(tmp_path, fault)
  assert done.returncode == 2 and 'Answers so far are in the journal: mend that' in done.stderr
  assert message in done.stderr and done.stderr.count('\n') <= 2, done.stderr
  assert requests <= 5 + 8 + 1 and not (tmp_path / 'records' / 'manifest.json').exists()
  _finish(tmp_path, N)
  _note(name, f'stopped: ...{message}; then {N} asked', requests, seconds)


def test_one_rejected_input_is_quarantined_and_the_rest_written(tmp_path):
  done, requests, seconds = _run(tmp_path, _one('What is 3?', server.too_long()))
  assert done.returncode == 0 and requests == N
  rows = live.read(tmp_path)
  assert rows['q3'].parse_status == 'rejected' and len(rows) == N
  (line,) = [json.loads(text) for path in (tmp_path / 'records/quarantine').iterdir()
             for text in path.read_text().splitlines()]
  assert line['id'] == 'q3' and line['reason'] == 'rejected'
  done, again, _ = _run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 1
  assert live.read(tmp_path)['q3'].parse_status == 'ok'
  _note('one input rejected (400, too long)', 'finished, it is in quarantine; '
        '--retry_failed=1 asks for it alone', requests, seconds)


@pytest.mark.slow
def test_one_input_that_always_fails_keeps_the_others(tmp_path):
  done, requests, seconds = _run(tmp_path, _one('What is 3?', server.status(500)),
                                 '--max_retries=1')
  assert done.returncode == 0 and requests == N - 1 + 2, done.stderr
  assert live.read(tmp_path)['q3'].parse_status == 'unanswered'
  (line,) = [json.loads(text) for path in (tmp_path / 'records/quarantine').iterdir()
             for text in path.read_text().splitlines()]
  assert line['reason'] == 'unanswered' and line['error'] == '500: status 500'
  done, again, _ = _run(tmp_path, lambda number, body: None)
  assert done.returncode == 0 and not again
  done, again, _ = _run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 1
  assert live.read(tmp_path)['q3'].parse_status == 'ok'
  _note('one input always 500, --max_retries=1', 'finished, it is in quarantine; then nothing '
        'asked; --retry_failed=1 asks for it alone', requests, seconds)


# --- Rows that have no answer, and what is paid for -----------------------------------------------


def _rejected_below(number):
  """The first inputs are not taken; a demonstration is."""
  def faults(_, body):
    found = re.search(r'What is (\d+)\?', body['messages'][-1]['content'])
    return server.too_long() if found and int(found[1]) < number else None
  return faults


def test_a_cluster_of_rejected_rows(tmp_path):
  done, requests, seconds = _run(tmp_path, _rejected_below(8))
  assert done.returncode == 2 and '8 of 20 rows have no answer (8 rejected)' in done.stderr
  assert 'maximum context length' in done.stderr and '--max_failed=0.4 writes' in done.stderr
  assert N <= requests <= N + 2
  done, again, _ = _run(tmp_path, lambda number, body: None, '--max_failed=0.4')
  assert done.returncode == 0 and not again, done.stderr
  rows = live.read(tmp_path)
  assert [rows[f'q{i}'].parse_status for i in range(N)] == ['rejected'] * 8 + ['ok'] * 12
  done, again, _ = _run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 8
  _note('a cluster of 8 rejected rows', 'not written, says why; --max_failed=0.4 writes without '
        'asking; --retry_failed=1 asks 8', requests, seconds)


def test_nobody_listens(tmp_path):
  live.write_inputs(tmp_path, N)
  with server.Server(live.answer) as teacher:
    pass
  begun = time.monotonic()
  done = live.run(teacher, tmp_path)
  seconds = time.monotonic() - begun
  assert done.returncode == 2 and 'nobody answers there; start the server' in done.stderr
  assert seconds < 15
  _note('closed port', 'error in seconds', 0, seconds)


def _thinking(usage, limit=200):
  """Thinks for that many tokens, and is cut if it may not."""
  def faults(number, body):
    asked = body['messages'][-1]['content']
    cut = body['max_tokens'] < limit + 256
    message = {'content': None if cut else live.answer(asked), 'reasoning_content': 'Hm. ' * 20}
    return server.reply(json.dumps({
        'choices': [{'message': message, 'finish_reason': 'length' if cut else 'stop'}],
        'usage': usage}))
  return faults


def test_a_model_that_thinks_is_cut_once(tmp_path):
  done, requests, seconds = _run(tmp_path, _thinking(None))
  assert done.returncode == 0 and requests == N + 1, done.stderr
  assert '(--thinking_room)' in done.stderr and 'they are guessed' in done.stderr
  rows = live.read(tmp_path)
  assert {row.parse_status for row in rows.values()} == {'ok'}
  assert not any('Hm.' in row.rationale for row in rows.values())
  _note('thoughts cut at --max_tokens', 'finished, one asked again with room', requests, seconds)


@pytest.mark.parametrize('name, most, usage, tokens', [
    ('no usage', 0.5, None, None),
    ('thoughts in the total alone', 20, {'prompt_tokens': 100, 'completion_tokens': 10,
                                         'total_tokens': 2110}, 2010),
])
def test_a_budget_holds_whatever_the_server_counts(tmp_path, name, most, usage, tokens):
  done, requests, seconds = _run(
      tmp_path, _thinking(usage, limit=0), f'--budget_usd={most}', '--prompt_price=0',
      '--completion_price=1000')
  assert done.returncode == 2, done.stderr
  assert f'--budget_usd={most} would be exceeded' in done.stderr, done.stderr
  spent = float(re.search(r'([0-9.]+) USD are spent', done.stderr)[1])
  assert 0 < spent <= most and requests < N
  if tokens:
    assert spent == pytest.approx(tokens / 1000 * requests)
  _note(f'{name}, --budget_usd={most}', f'stopped at {spent:g} USD', requests, seconds)


def test_no_system_role(tmp_path):
  def faults(number, body):
    return server.status(400, server.error('System role not supported')) if (
        body['messages'][0]['role'] == 'system') else None
  done, requests, seconds = _run(tmp_path, faults)
  assert done.returncode == 0 and requests == N + 1, done.stderr
  assert done.stderr.count("the instruction goes into the first user's turn") == 1
  _finish(tmp_path, 0)
  _note('no system role', 'finished, learned from one request', requests, seconds)


def test_answers_that_cannot_be_read_are_seen_early(tmp_path):
  live.write_inputs(tmp_path, 200)
  with server.Server('I would rather not say.', latency=0.02) as teacher:
    done = live.run(teacher, tmp_path, '--in_flight=8')
    assert done.returncode == 2 and 'the first 50 answers: 50 no_answer_phrase' in done.stderr
    assert "'I would rather not say.'" in done.stderr and '--go_on' in done.stderr
    assert teacher.requests <= 50 + 8
    done = live.run(teacher, tmp_path, '--in_flight=8')
    assert done.returncode == 2 and teacher.requests <= 50 + 8  # Those of before are enough.
    done = live.run(teacher, tmp_path, '--go_on', '--allow_unparsed')
    assert done.returncode == 0 and teacher.requests == 200
  _note('answers without a label', 'stopped after 50, with one of them; --go_on goes on', 200, 0.0)


# --- The disk ------------------------------------------------------------------------------------


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
                          timeout=60)
    seconds = time.monotonic() - begun
    requests = teacher.requests
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert 'could not be written down (File too large); make room' in done.stderr
  kept = sum(path.read_bytes().count(b'\n')
             for path in (tmp_path / 'records/journal').glob('*.jsonl'))
  assert requests - 8 <= kept < requests
  _finish(tmp_path, N - kept)
  _note('disk full', f'error names the journal, {kept} kept; then {N - kept} asked', requests,
        seconds)


def test_a_disk_that_fills_up_costs_nothing_that_was_paid(tmp_path, small_disk):
  """Another program fills it while 8 requests are in flight."""
  live.write_inputs(tmp_path, N)
  folder, filler = small_disk(4096), tmp_path / 'disk' / 'filler'
  begun = time.monotonic()

  def fill(number, body):
    if number == 12:
      with open(filler, 'wb', buffering=0) as f, contextlib.suppress(OSError):
        while True:
          f.write(bytes(4096))

  def long_answer(asked):  # A page of the disk takes four.
    return live.answer(asked).replace('is a', f'is {os.urandom(1000).hex()} a', 1)
  with server.Server(long_answer, latency=0.05, faults=fill) as teacher:
    done = live.run(teacher, tmp_path, '--in_flight=8', f'--records_dir={folder}')
    requests = teacher.requests
  assert done.returncode == 2 and 'No space left on device' in done.stderr
  kept = sum(path.read_bytes().count(b'\n') for path in (folder / 'journal').glob('*.jsonl'))
  assert kept == requests < N
  filler.unlink()
  with server.Server(live.answer) as teacher:
    again = live.run(teacher, tmp_path, f'--records_dir={folder}')
    assert again.returncode == 0 and teacher.requests == N - kept
  _note('disk filled by another program', f'all {kept} answers kept; then {N - kept} asked',
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
  _note('disk with too little room', 'told before the first request', 0, 0)


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
        capture_output=True, text=True, check=False, env=live.environment(), timeout=60)
    seconds = time.monotonic() - begun
    requests = teacher.requests
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  assert 'File too large' in done.stderr and requests == N
  assert not (tmp_path / 'records' / 'manifest.json').exists()
  _finish(tmp_path, 0, '--holdout=none')
  _note('disk full while writing records', 'error names it; then nothing asked', requests, seconds)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere; /proc is below')
def test_read_only_directory(tmp_path):
  (tmp_path / 'records').mkdir(mode=0o500)
  done, requests, _ = _run(tmp_path, lambda number, body: None)
  assert done.returncode == 2 and 'cannot be written' in done.stderr and not requests


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='no /proc, where nobody may write')
def test_a_directory_where_nobody_may_write(tmp_path):
  done, requests, seconds = _run(tmp_path, lambda number, body: None, '--records_dir=/proc/records')
  assert done.returncode == 2 and '/proc/records: cannot be written' in done.stderr
  assert not requests
  _note('read-only directory', 'error names it; nothing asked', requests, seconds)


@pytest.mark.slow
def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / 'records').write_text('a file')
  done, requests, seconds = _run(tmp_path, lambda number, body: None)
  assert done.returncode == 2 and not requests
  assert f'{tmp_path}/records' in done.stderr and 'cannot be' in done.stderr
  _note('a file in the place of the directory', 'error names it; nothing asked', requests, seconds)


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
  _finish(tmp_path, 0)
  _note('two jobs on one directory', 'the second refuses and names the first, which finishes', N,
        seconds)


# --- The journal ---------------------------------------------------------------------------------


def _damage(tmp_path, change):
  """A finished job whose journal is then changed; and the next run."""
  _run(tmp_path, lambda number, body: None)
  (path,) = (tmp_path / 'records' / 'journal').glob('*.jsonl')
  path.write_bytes(change(path.read_bytes()))
  done, requests, seconds = _run(tmp_path, lambda number, body: None)
  assert done.returncode == 0 and str(path) in done.stderr
  _finish(tmp_path, 0)
  return done, requests, seconds


def test_a_journal_with_a_torn_tail(tmp_path):
  done, requests, seconds = _damage(tmp_path, lambda data: data[:-30])
  assert requests == 1 and 'cut off by a kill or a power cut' in done.stderr
  _note('journal with a torn tail', 'told, that answer asked again; then nothing', requests,
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
  _note('journal with a corrupt middle', 'told which lines, asked again; then nothing', requests,
        seconds)
