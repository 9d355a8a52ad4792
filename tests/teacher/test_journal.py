"""The journal: what was written down comes back, whatever happened to the files."""

import asyncio
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax import errors
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.teacher.ask import journal_lines

TEXT = st.text(st.characters(codec=None), max_size=40)  # Half surrogate pairs too.
ENTRIES = st.dictionaries(st.integers(0, 50), TEXT, min_size=1, max_size=12)


def key(i) -> str:
  return hashlib.sha256(str(i).encode()).hexdigest()


def write(folder, entries, writer=None) -> journal_lib.Journal:
  """A journal into which the entries were written, closed."""
  made = journal_lib.Journal(str(folder))
  if writer:
    made._writer = writer(str(folder), '0')

  async def run():
    for i, text in entries.items():
      await made.add(key(i), {'id': f'q{i}', 'response': {'text': text}}, i, 2)
    await made.close()
  asyncio.run(run())
  return made


def old_line(entry) -> bytes:
  """As versions before compression wrote it."""
  body = json.dumps(entry).encode('ascii')
  return b'{"crc32": "%08x", "entry": %s}\n' % (zlib.crc32(body), body)


def read(folder) -> tuple[dict[int, str], journal_lib.Journal]:
  made = journal_lib.Journal(str(folder))
  made.refresh()
  found = made.read(map(key, range(60)))
  return {i: found[key(i)]['response']['text'] for i in range(60) if key(i) in found}, made


@pytest.mark.parametrize('writer', [journal_lib._Segment, journal_lib._Parts])
@settings(max_examples=30, deadline=None)
@given(first=ENTRIES, second=ENTRIES)
def test_what_was_written_comes_back(writer, first, second):
  with tempfile.TemporaryDirectory() as folder:
    made = write(folder, first, writer)
    assert read(folder)[0] == first == {i: e['response']['text'] for i in first
                                        for e in [made.read([key(i)])[key(i)]]}
    write(folder, second)
    found, again = read(folder)
    assert found == {**second, **first}  # The first answer stays.
    assert again.usage() == journal_lib.Usage(len(found), sum(found), 2 * len(found))
    assert again.has(map(key, range(60))) == set(map(key, found))
    assert len(list(journal_lib.entries(folder))) == len(first) + len(second)


@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, cut=st.integers(1, 400))
def test_a_torn_tail_costs_only_what_it_held(entries, cut):
  with tempfile.TemporaryDirectory() as folder:
    write(folder, entries)
    (path,) = pathlib.Path(folder).glob('*.jsonl')
    data = path.read_bytes()[:-cut]
    path.write_bytes(data)
    whole = data.count(b'\n')
    found, made = read(folder)
    assert list(found.items()) == sorted(list(entries.items())[:whole])
    assert made.torn == ([str(path)] if data and not data.endswith(b'\n') else [])
    assert not made.damaged
    write(folder, entries)  # A later run writes a file of its own: nothing hides behind the tail.
    assert read(folder)[0] == entries


@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_middle_costs_only_its_line(entries, at, bit):
  with tempfile.TemporaryDirectory() as folder:
    write(folder, entries)
    (path,) = pathlib.Path(folder).glob('*.jsonl')
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    found, made = read(folder)
    assert len(found) >= len(entries) - 2  # A line break that is gone joins two.
    assert set(found.items()) <= set(entries.items())
    if len(found) < len(entries):
      assert made.damaged or made.torn


def test_zeros_of_a_power_cut_are_passed_over(tmp_path):
  write(tmp_path, {1: 'one'})
  (path,) = tmp_path.glob('*.jsonl')
  path.write_bytes(path.read_bytes() + b'\0' * 4096)
  found, made = read(tmp_path)
  assert found == {1: 'one'} and made.torn == [str(path)]


def test_refresh_finds_what_another_process_added(tmp_path):
  ours = journal_lib.Journal(str(tmp_path))
  ours.refresh()
  write(tmp_path, {1: 'one'})
  (path,) = tmp_path.glob('*.jsonl')
  whole = path.read_bytes()
  path.write_bytes(whole[:20])  # Still being written.
  ours.refresh()
  assert not ours.has([key(1)]) and ours.torn
  path.write_bytes(whole)
  ours.refresh()
  assert ours.has([key(1)]) and not ours.torn
  assert ours.read([key(1)])[key(1)]['id'] == 'q1'


def test_parts_are_immutable_files_of_bounded_size(tmp_path):
  write(tmp_path, dict.fromkeys(range(30), 'x'), journal_lib._Parts)
  (only,) = tmp_path.glob('*.jsonl')
  write(tmp_path / 'more', dict.fromkeys(range(60), 'x') | {i + 100: 'y' for i in range(190)},
        journal_lib._Parts)
  parts = sorted((tmp_path / 'more').glob('*.jsonl'))
  assert [p.read_bytes().count(b'\n') for p in parts] == [100, 100, 50]


def test_parts_go_up_without_being_asked(tmp_path, monkeypatch):
  monkeypatch.setattr(journal_lib, '_PART_SECONDS', 0.05)

  async def run():
    made = journal_lib.Journal(str(tmp_path))
    made._writer = journal_lib._Parts(str(tmp_path), 'w')
    await made.add(key(1), {'id': 'q1', 'response': {'text': 'one'}})
    for _ in range(100):
      await asyncio.sleep(0.02)
      if read(tmp_path)[0]:
        return
    raise AssertionError('no part after two seconds')
  asyncio.run(run())


def test_kill_9_loses_nothing_that_was_added(tmp_path):
  script = '''
      import asyncio, os, signal, sys
      from dss_jax.teacher.ask import journal
      async def run():
        made = journal.Journal(sys.argv[1])
        for i in range(20):
          await made.add(f'{i:064x}', {'id': str(i), 'response': {}})
        os.kill(os.getpid(), signal.SIGKILL)
      asyncio.run(run())
  '''
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), str(tmp_path)],
                        capture_output=True, check=False)
  assert done.returncode == -9, done.stderr.decode()
  made = journal_lib.Journal(str(tmp_path))
  made.refresh()
  assert len(made.has(f'{i:064x}' for i in range(20))) == 20


def test_a_full_disk_is_named_and_leaves_no_half_line(tmp_path):
  """The system refuses to let a file grow past 2,000 bytes, as a full disk does."""
  script = '''
      import asyncio, random, resource, sys
      from dss_jax import errors
      from dss_jax.teacher.ask import journal
      resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
      async def run():
        made = journal.Journal(sys.argv[1])
        for i in range(20):
          text = random.Random(i).randbytes(200).hex()
          await made.add(f'{i:064x}', {'id': str(i), 'response': {'text': text}})
      try:
        asyncio.run(run())
      except errors.UserError as error:
        print(error)
  '''
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), str(tmp_path)],
                        capture_output=True, check=True, text=True)
  assert 'an answer could not be written down (File too large); make room' in done.stdout
  (path,) = tmp_path.glob('*.jsonl')
  assert path.read_bytes().endswith(b'\n') and path.stat().st_size <= 2000
  made = journal_lib.Journal(str(tmp_path))
  made.refresh()
  assert not made.torn and made.usage().requests == path.read_bytes().count(b'\n') > 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file/journal: an answer could not be written'):
    write(tmp_path / 'file' / 'journal', {1: 'one'})


@pytest.mark.parametrize('line', [
    lambda key, entry: old_line({'key': key, **entry, 'usage': [1, 2]}),
    lambda key, entry: journal_lines.encode(key, entry, 1, 2)])
def test_a_large_journal_needs_little_memory(tmp_path, line):
  """100,000 answers of 1 KB: the index stays far below the 100 MB of text."""
  script = '''
      import resource, sys
      from dss_jax.teacher.ask import journal
      made = journal.Journal(sys.argv[1])
      before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      made.refresh()
      print(made.usage().requests, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
  '''
  with open(tmp_path / 'a.jsonl', 'wb') as f:
    for i in range(100_000):
      f.write(line(f'{i:064x}', {'response': 'x' * 1000}))
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(script), str(tmp_path)],
                        capture_output=True, check=True, text=True)
  requests, kilobytes = map(int, done.stdout.split())
  assert requests == 100_000 and kilobytes < 20_000, kilobytes


def test_token_counts_of_any_type_are_read_back(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(b''.join(
      old_line({'key': key(i), 'usage': usage, 'response': {'text': ''}}) for i, usage in
      enumerate([['500', '30'], [None, [1]], [{}, -3], [10 ** 400, float('nan')], [2.5, 1]])))
  found, made = read(tmp_path)
  assert len(found) == 5 and not made.damaged
  assert made.usage() == journal_lib.Usage(5, 502, 31)


class _OneAtATime:
  """A connection that tells when a thread comes while another is at work in it."""

  def __init__(self, connection):
    self._connection = connection
    self._busy = threading.Lock()
    self.met = 0

  def __getattr__(self, name):
    def call(*args):
      mine = self._busy.acquire(blocking=False)
      self.met += not mine
      try:
        time.sleep(1e-5)  # The others get a turn here.
        done = getattr(self._connection, name)(*args)
        return done if name == 'executemany' else types.SimpleNamespace(fetchone=done.fetchone)
      finally:
        if mine:
          self._busy.release()
    return call


@pytest.mark.parametrize('watched', [True, False])
def test_threads_take_turns_at_the_index(tmp_path, watched):
  """Unwatched it fails on Python 3.12 and later, where a shared statement is not safe."""
  made = write(tmp_path, {i: str(i) for i in range(100)})
  watch = _OneAtATime(made._index)
  if watched:
    made._index = watch
  failures, ended = [], threading.Event()

  def read_on(start):
    try:
      while not ended.is_set():
        for i in range(start, 100, 4):
          assert made.read([key(i)])[key(i)]['response']['text'] == str(i)
        assert made.has(map(key, range(start, 100))) == set(map(key, range(start, 100)))
        assert made.usage().requests >= 100
    except Exception as error:
      failures.append(error)

  async def add_meanwhile():
    for i in range(100, 400):
      await made.add(key(i), {'id': f'q{i}', 'response': {'text': str(i)}}, i, 2)
    await made.close()

  threads = [threading.Thread(target=read_on, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  asyncio.run(add_meanwhile())
  ended.set()
  for thread in threads:
    thread.join()
  assert not failures and watch.met == 0
  assert made.usage().requests == 400


# --- Lines ---------------------------------------------------------------------------------------


NUMBERS = st.integers(0, 10 ** 15)


@settings(max_examples=200, deadline=None)
@given(text=TEXT, extra=st.dictionaries(TEXT, TEXT, max_size=3), i=st.integers(0, 99), read=NUMBERS,
       written=NUMBERS)
def test_a_line_is_one_line_and_comes_back(text, extra, i, read, written):
  entry = {'id': 'q', 'response': {'text': text, **extra, 'n': [1.5, None, True]}}
  line = journal_lines.encode(key(i), entry, read, written)
  assert line.count(b'\n') == 1 and line.endswith(b'\n')
  assert journal_lines.decode(line) == {'key': key(i), **entry, 'usage': [read, written]}
  assert journal_lines.index(line) == (bytes.fromhex(key(i)), read, written)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=120))
def test_what_is_no_line_is_none(data):
  for line in (data, b'z1 ' + data + b'\n', b'{"crc32": "' + data + b'}\n'):
    assert journal_lines.decode(line) is None and journal_lines.index(line) is None


def test_the_format_of_a_name_never_changes():
  """A journal that was paid for is read by every later version."""
  assert hashlib.sha256(journal_lines._DICTIONARY).hexdigest() == (
      '99027e0b34267f860b353bbd095b2341c975ed8eeddfa3fed4e44c98a3a48932')
  line = bytes.fromhex(
      '7a31209230417d7902699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b652451b0093d83ba'
      'a1d01ccd65c8a6126b96efe16de5c0964e5a4ea55e0cbcc183dac8480706861eb0348cadad05000a')
  message = {'role': 'assistant', 'content': 'Möwen fly.\n So the answer is (a) gull.'}
  assert journal_lines.decode(line) == {
      'key': key(7), 'id': 'q7', 'usage': [1200, 61], 'response': {'choices': [
          {'message': message}]}}


def test_folders_of_both_formats(tmp_path):
  write(tmp_path, {1: 'new one', 2: 'new two'})
  (tmp_path / '20200101-000000.jsonl').write_bytes(b''.join(
      old_line({'key': key(i), 'id': f'q{i}', 'response': {'text': f'old {i}'}, 'usage': [3, 4]})
      for i in (2, 3)) + journal_lines.encode(key(4), {'id': 'q4', 'response': {'text': 'x'}}))
  found, made = read(tmp_path)
  assert found == {1: 'new one', 2: 'old 2', 3: 'old 3', 4: 'x'} and not made.damaged
  assert [entry['id'] for entry in journal_lib.entries(str(tmp_path))] == [
      'q2', 'q3', 'q4', 'q1', 'q2']
  printed = subprocess.run([sys.executable, '-m', 'dss_jax.teacher.ask.journal', str(tmp_path)],
                           capture_output=True, check=True, text=True).stdout.splitlines()
  assert list(map(json.loads, printed)) == list(journal_lib.entries(str(tmp_path)))


def test_usual_answers_take_a_third():
  text = ('A ferry crosses the strait twice a day, once at dawn and once when the shops close. '
          'The question asks how often it is seen from the tower at noon, and at noon it lies in '
          'the harbour on the other side. So the answer is (b) never.')
  entry = {'id': 'q17', 'response': {
      'id': 'chatcmpl-' + key(1)[:29], 'object': 'chat.completion', 'created': 1780012345,
      'model': 'teacher-32b', 'choices': [{'index': 0, 'message': {
          'role': 'assistant', 'content': text, 'refusal': None,
          'tool_calls': [], 'reasoning_content': None}, 'logprobs': None, 'finish_reason': 'stop',
          'stop_reason': None}],
      'usage': {'prompt_tokens': 1100, 'total_tokens': 1200, 'completion_tokens': 100,
                'prompt_tokens_details': None}, 'prompt_logprobs': None}}
  old = old_line({'key': key(1), **entry, 'usage': [1100, 100]})
  assert 3 * len(journal_lines.encode(key(1), entry, 1100, 100)) < len(old)


# --- The disk ------------------------------------------------------------------------------------


def test_what_was_set_aside_takes_the_answers_in_flight(small_disk):
  folder = small_disk(256)
  made = journal_lib.Journal(str(folder))
  made.reserve(50_000)
  made.reserve(10 ** 9)  # Once.
  assert os.listdir(folder) == []

  async def run():
    added = 0
    while not made.full:
      await made.add(key(added), {'id': 'q', 'response': os.urandom(500).hex()})
      added += 1
    for _ in range(40):  # In flight when it was noticed.
      await made.add(key(added), {'id': 'q', 'response': os.urandom(500).hex()})
      added += 1
    with pytest.raises(errors.UserError, match='No space left on device.; make room'):
      while True:
        await made.add(key(added), {'id': 'q', 'response': os.urandom(500).hex()})
        added += 1
    await made.close()
    return added
  added = asyncio.run(run())
  again = journal_lib.Journal(str(folder))
  again.refresh()
  assert again.usage().requests == added > 200 and not again.torn and not again.damaged


def test_a_disk_without_room_for_what_is_in_flight(small_disk):
  made = journal_lib.Journal(str(small_disk(256) / 'journal'))
  with pytest.raises(errors.UserError, match='journal: no room for the answers of the requests in'):
    made.reserve(10 ** 6)
