"""--batch: nothing is asked twice, whatever happens to the run or to the batch."""

import collections
import json
import shutil
import signal
import subprocess
import time

import batch_server
import live
import pytest
import server

from dss_jax import errors
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import journal
from dss_jax.teacher.ask.batch import lines

N = 24


@pytest.fixture
def teacher():
  with batch_server.Server(live.answer) as running:
    yield running


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', live.KEY)
  live.write_inputs(tmp_path, N)
  return tmp_path


def run(teacher, folder, *flags):
  """The exit code, in this process."""
  return teacher_main.main(live.command(teacher, folder, '--batch', *flags)[3:])


def without_address(folder):
  files = live.output(folder)
  manifest = json.loads(files['manifest.json'])
  for entry in manifest['sets'].values():
    entry['teacher'].pop('base_url')
  return {**files, 'manifest.json': manifest}


def status(folder):
  return collections.Counter(row.parse_status for row in live.read(folder).values())


# --- Kills ---------------------------------------------------------------------------------------

STAGES = ('probe', 'uploading', 'uploaded', 'creating', 'created', 'looking', 'half of output',
          'half of error')


TOO_LONG = server.error("This model's maximum context length is 4096 tokens",
                        code='context_length_exceeded')


def flaky(asked, before):
  """Row 5 is answered the second time, row 9 never."""
  if asked == live.question(5) and not before:
    return 500, server.error('try later', 'server_error')
  return (400, TOO_LONG) if asked == live.question(9) else None


@pytest.fixture(scope='module')
def asked_live(tmp_path_factory):
  """What a live job writes."""
  folder = tmp_path_factory.mktemp('live')
  live.write_inputs(folder, N)
  with server.Server(live.answer) as teacher:
    teacher.faults = lambda number, body: (
        server.too_long() if server._question(body) == live.question(9) else None)
    assert live.run(teacher, folder).returncode == 0
  return without_address(folder)


@pytest.mark.parametrize('stage', STAGES)
def test_a_kill_at_any_stage(teacher, folder, stage, asked_live):
  """SIGKILL; then the same command, from another machine, as it were."""
  teacher.line, teacher.hold = flaky, {stage}
  process = live.start(teacher, folder, '--batch')
  wait_for(lambda: stage in teacher.reached)
  process.kill()
  process.wait()
  teacher.hold = set()
  elsewhere = folder / 'elsewhere'
  shutil.copytree(folder / 'records', elsewhere / 'records')
  shutil.copy(folder / 'in.jsonl', elsewhere)
  done = live.run(teacher, elsewhere, '--batch')
  assert done.returncode == 0, done.stderr
  asked = {live.question(i): 1 + (i == 5) for i in range(N)}
  assert teacher.questions == asked
  assert len(teacher.keys) >= N - 2  # The others were the first questions of the two runs.
  assert without_address(elsewhere) == asked_live
  print(f'{stage}: {sum(teacher.questions.values())} requests, {len(teacher.batches)} batches')


def test_a_batch_that_may_have_been_made_where_none_are_listed(teacher, folder, capsys):
  teacher.hold, teacher.lists = {'created'}, False
  process = live.start(teacher, folder, '--batch')
  wait_for(lambda: 'created' in teacher.reached)
  process.kill()
  process.wait()
  teacher.hold = set()
  with pytest.raises(errors.UserError, match=r'batches/.*json: a batch of 23 requests may have '):
    run(teacher, folder)
  assert len(teacher.batches) == 1


def wait_for(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'timeout'
    time.sleep(0.01)


# --- How batches end -----------------------------------------------------------------------------


def test_what_expired_is_asked_again(teacher, folder, capsys):
  teacher.plan = lambda number: {'end': 'expired', 'after': 7} if number < 3 else None
  assert run(teacher, folder) == 0
  assert set(teacher.questions.values()) == {1} and len(teacher.questions) == N
  assert [one['request_counts']['total'] for one in teacher.batches.values()] == [23, 16, 9]
  assert 'batch batch-1 expired: 7 of 23 requests are done' in capsys.readouterr().err


def test_what_was_cancelled_is_asked_again_by_the_next_run(teacher, folder, capsys):
  teacher.plan = lambda number: {'end': 'cancelled', 'after': 7} if number == 1 else None
  assert run(teacher, folder) == 3
  assert 'was cancelled at the server when 7 of its 23 requests were done' in (
      capsys.readouterr().err)
  assert run(teacher, folder) == 0 and set(teacher.questions.values()) == {1}


def test_nothing_of_a_batch_was_done(teacher, folder, capsys):
  teacher.plan = lambda number: {'end': 'expired', 'after': 0}
  assert run(teacher, folder) == 3 and len(teacher.batches) == 1
  assert 'the batches brought no answer' in capsys.readouterr().err


def test_a_file_that_the_server_refuses(teacher, folder):
  teacher.plan = lambda number: {'end': 'failed', 'errors': [
      {'code': 'invalid_json_line', 'line': 3, 'message': 'no model', 'param': None}]}
  with pytest.raises(errors.UserError, match='batch-1 of 23 requests was refused.*line 3: no mode'):
    run(teacher, folder)
  teacher.plan = lambda number: None
  assert run(teacher, folder) == 0 and len(teacher.batches) == 2


def test_too_much_at_once(teacher, folder, capsys):
  teacher.plan = lambda number: {'end': 'failed', 'errors': [
      {'code': 'token_limit_exceeded', 'line': None, 'message': 'Enqueued', 'param': None}]} if (
          number == 1) else None
  assert run(teacher, folder) == 0
  assert [one['request_counts']['total'] for one in teacher.batches.values()] == [23, 11, 11, 1]
  assert 'going on with batches of 11 requests' in capsys.readouterr().err


def test_a_server_that_answers_nothing(teacher, folder):
  teacher.faults = lambda number, body: server.unknown_model()
  with pytest.raises(errors.UserError, match='404: no model'):
    run(teacher, folder)
  assert not teacher.files  # One request has told.


def test_a_batch_of_which_nothing_is_taken(teacher, folder):
  teacher.line = lambda asked, before: (400, server.error('this model has no batches'))
  with pytest.raises(errors.UserError, match=r'no request was answered \(23 times 400: this mod'):
    run(teacher, folder)
  teacher.line = lambda asked, before: None
  assert run(teacher, folder) == 0 and status(folder) == {'ok': N}


def test_what_the_first_request_learns_goes_for_the_batch(teacher, folder):
  teacher.faults = lambda number, body: server.status(400, server.error(
      "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
      "'max_completion_tokens' instead.", code='unsupported_parameter')) if (
          'max_tokens' in body) else None
  assert run(teacher, folder) == 0 and teacher.requests == 2
  bodies = [json.loads(line)['body'] for line in teacher.files['file-0'].splitlines()]
  assert all(body['max_completion_tokens'] == 256 and 'max_tokens' not in body for body in bodies)


def test_files_of_many_requests_are_divided(teacher, folder, monkeypatch):
  monkeypatch.setattr(lines, 'MOST_BYTES', 20_000)
  assert run(teacher, folder) == 0
  assert len(teacher.batches) > 3 and set(teacher.questions.values()) == {1}
  assert max(len(data) for name, data in teacher.files.items() if 'file' in name) <= 20_000


def test_rows_that_are_never_answered(teacher, folder):
  stubborn = {live.question(i) for i in range(N) if i % 6 == 0}
  teacher.line = lambda asked, before: (
      (500, server.error('boom')) if asked in stubborn else None)
  assert run(teacher, folder, '--max_failed=0.2') == 0
  failed = status(folder)['unanswered']
  assert failed in (3, 4)  # One may have been the first question, which is asked at once.
  assert len(teacher.keys) == N - 1 + 2 * failed and len(teacher.batches) == 3
  assert run(teacher, folder, '--max_failed=0.2') == 0 and len(teacher.batches) == 3


# --- What a live job has too ---------------------------------------------------------------------


def test_samples_and_retries_are_further_requests(folder):
  wrong = {live.question(i) for i in (3, 8)}
  with batch_server.Server(lambda asked: 'No idea.' if asked in wrong else live.answer(asked)) as (
      teacher):
    assert run(teacher, folder, '--samples=2', '--retry_failed=1') == 0
    assert [one['request_counts']['total'] for one in teacher.batches.values()] == [47, 4]


def test_limits(teacher, folder, capsys):
  assert run(teacher, folder, '--max_requests=10') == 3 and len(teacher.keys) == 9
  assert '--max_requests=10 are sent' in capsys.readouterr().err
  prices = ['--prompt_price=1', '--completion_price=10']
  with pytest.raises(errors.UserError, match='--budget_usd=0.02 would be exceeded'):
    run(teacher, folder, '--budget_usd=0.02', *prices)
  assert 9 < len(teacher.keys) < N - 2 and set(teacher.questions.values()) == {1}
  assert run(teacher, folder, '--budget_usd=1', *prices) == 0
  assert set(teacher.questions.values()) == {1} and len(teacher.questions) == N


def test_no_wait_and_ctrl_c(folder, capsys):
  with batch_server.Server(live.answer, seconds=1) as teacher:
    assert run(teacher, folder, '--no_wait') == 3
    assert '1 batch(es) with 23 requests are at work at' in capsys.readouterr().err
    looks = len(teacher.reached)
    process = live.start(teacher, folder, '--batch')
    wait_for(lambda: len(teacher.reached) > looks + 1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    teacher.seconds = 0
    assert process.returncode == 3, text
    assert 'stopped: interrupted; 1 batch(es) with 23 requests' in text
    assert run(teacher, folder) == 0 and set(teacher.questions.values()) == {1}


def test_another_server_than_the_one_that_has_the_batch(teacher, folder):
  with batch_server.Server(live.answer, seconds=1) as first:
    assert run(first, folder, '--no_wait') == 3
  with pytest.raises(errors.UserError, match='go on with the --base_url'):
    run(teacher, folder)


def test_flags_that_do_not_go_together(teacher, folder):
  for flags, says in ((['--client=recorded'], '--client=recorded has no batches'),
                      (['--runner=beam'], 'drop --runner'),
                      (['--batch=x', '--no_wait'], '--no_wait')):
    with pytest.raises(errors.UserError, match=says):
      run(teacher, folder, *flags)


# --- Files ---------------------------------------------------------------------------------------


def test_files_that_another_program_answers(teacher, folder, capsys):
  work = folder / 'work'

  def answer_them(lacking=(), refused=()):
    """As `vllm run-batch` lays it out."""
    for path in work.glob('requests-*.jsonl'):
      output = []
      for line in path.read_bytes().splitlines():
        one = json.loads(line)
        asked = server._question(one['body'])
        if asked in lacking:
          continue
        response = {'status_code': 200, 'request_id': 'r',
                    'body': server.completion(live.answer(asked), 'stop', one['body'])}
        if asked in refused:
          response = {'status_code': 400, 'request_id': 'r', 'body': server.error('too long')}
        output.append({'id': 'x', 'custom_id': one['custom_id'], 'response': response,
                       'error': None})
      out = path.with_name(path.name.replace('requests', 'results'))
      out.write_text(''.join(json.dumps(one) + '\n' for one in reversed(output)))

  assert run(teacher, folder, f'--batch={work}') == 3
  said = capsys.readouterr().err
  (first,) = work.glob('requests-*.jsonl')
  assert f'-i {first} -o {work}/results-' in said and '24 requests are in' in said
  assert run(teacher, folder, f'--batch={work}') == 3 and list(work.iterdir()) == [first]
  answer_them(lacking={live.question(2)}, refused={live.question(3)})
  assert run(teacher, folder, f'--batch={work}') == 3
  (second,) = work.glob('requests-*.jsonl')
  assert second != first and len(second.read_bytes().splitlines()) == 1
  answer_them()
  assert run(teacher, folder, f'--batch={work}') == 0
  assert status(folder) == {'ok': N - 1, 'rejected': 1}
  assert teacher.requests == 0 and not teacher.batches


def test_files_need_no_server(folder):
  command = live.command(batch_server.Server(), folder, f'--batch={folder}/work')
  words = [word for word in command if not word.startswith('--base_url')]
  done = subprocess.run(words, capture_output=True, text=True, check=False,
                        env={**live.environment(), 'OPENAI_API_KEY': ''})
  assert done.returncode == 3 and 'vllm run-batch --model=teacher' in done.stderr


@pytest.mark.parametrize('line', [
    b'not json', b'[]', b'{"response": {}}', b'{"custom_id": 3, "response": {"status_code": 200}}',
    b'{"custom_id": "k", "response": []}'])
def test_lines_that_are_no_results(tmp_path, line):
  (tmp_path / 'r.jsonl').write_bytes(line + b'\n\n')
  assert list(lines.results(tmp_path / 'r.jsonl')) == [None] or line.endswith(b'[]}')


def test_keys_are_those_of_the_live_client(teacher, folder):
  """What was asked one by one is not asked again in a batch, and the other way round."""
  assert live.run(teacher, folder, '--max_requests=9').returncode == 3
  assert run(teacher, folder) == 0 and len(teacher.keys) == N - 10
  assert live.run(teacher, folder).returncode == 0 and teacher.requests == 10
  found = journal.Journal(f'{folder}/records/journal')
  found.refresh()
  assert found.usage().requests == N
