"""What goes wrong between a job and its server, and what the job then does: one table.

Every row runs the command line as a process of its own on 20 inputs, then once more against a
healthy server, which must finish the job and be asked only for what is missing.
"""

import json
import re
import time

import live
import pytest
import server
from faults import N, finish, note, run, table  # noqa: F401


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


@pytest.mark.parametrize('name', _some_slow(TRANSIENT, '20 % connection resets'))
def test_what_passes_is_waited_out(tmp_path, name):
  done, requests, seconds = run(tmp_path, TRANSIENT[name], '--timeout=2')
  assert done.returncode == 0, done.stderr
  assert requests > N
  finish(tmp_path, 0)
  note(name, f'finished, {requests - N} asked again; then nothing asked', requests, seconds)


def test_usage_as_text_and_a_numeric_finish_reason(tmp_path):
  """The journal keeps them as they came, and is read back."""
  response = server.completion('Hm. So the answer is (c) many.', 3, {'model': 'm', 'messages': []})
  response['usage'] = {'prompt_tokens': '500', 'completion_tokens': '30'}
  fault = _always(server.reply(json.dumps(response)))
  for requests in (N, 0):
    done, asked, seconds = run(tmp_path, fault)
    assert done.returncode == 0, done.stderr
    assert asked == requests and 'tokens: 10,000 read by the teacher, 600 written' in done.stdout
  assert {row.finish_reason for row in live.read(tmp_path).values()} == {'3'}
  note('usage as text, numeric finish_reason', 'finished; then nothing asked', N, seconds)


@pytest.mark.slow
def test_a_storm_of_429_with_a_long_retry_after(tmp_path):
  """The first is told to wait 15 s, then another: none is sent before, and it is no failure."""
  done, requests, seconds = run(
      tmp_path, _first(2, server.status(429, headers={'Retry-After': '15'})), '--max_retries=0')
  assert done.returncode == 0 and 30 < seconds < 45, done.stderr
  assert requests == N + 2
  note('429 storm, Retry-After: 15', 'finished, 2 asked again; then nothing asked', requests,
       seconds)


@pytest.mark.parametrize('name', _some_slow(FATAL, '401, the key echoed'))
def test_what_does_not_pass_stops_at_once_with_one_message(tmp_path, name):
  fault, message = FATAL[name]
  done, requests, seconds = run(tmp_path, fault)
  assert done.returncode == 2 and 'Answers so far are in the journal: mend that' in done.stderr
  assert message in done.stderr and done.stderr.count('\n') <= 2, done.stderr
  assert requests <= 5 + 8 + 1 and not (tmp_path / 'records' / 'manifest.json').exists()
  finish(tmp_path, N)
  note(name, f'stopped: ...{message}; then {N} asked', requests, seconds)


def test_one_rejected_input_is_quarantined_and_the_rest_written(tmp_path):
  done, requests, seconds = run(tmp_path, _one('What is 3?', server.too_long()))
  assert done.returncode == 0 and requests == N
  rows = live.read(tmp_path)
  assert rows['q3'].parse_status == 'rejected' and len(rows) == N
  (line,) = [json.loads(text) for path in (tmp_path / 'records/quarantine').iterdir()
             for text in path.read_text().splitlines()]
  assert line['id'] == 'q3' and line['reason'] == 'rejected'
  done, again, _ = run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 1
  assert live.read(tmp_path)['q3'].parse_status == 'ok'
  note('one input rejected (400, too long)', 'finished, it is in quarantine; '
       '--retry_failed=1 asks for it alone', requests, seconds)


@pytest.mark.slow
def test_one_input_that_always_fails_keeps_the_others(tmp_path):
  done, requests, seconds = run(tmp_path, _one('What is 3?', server.status(500)),
                                 '--max_retries=1')
  assert done.returncode == 0 and requests == N - 1 + 2, done.stderr
  assert live.read(tmp_path)['q3'].parse_status == 'unanswered'
  (line,) = [json.loads(text) for path in (tmp_path / 'records/quarantine').iterdir()
             for text in path.read_text().splitlines()]
  assert line['reason'] == 'unanswered' and line['error'] == '500: status 500'
  done, again, _ = run(tmp_path, lambda number, body: None)
  assert done.returncode == 0 and not again
  done, again, _ = run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 1
  assert live.read(tmp_path)['q3'].parse_status == 'ok'
  note('one input always 500, --max_retries=1', 'finished, it is in quarantine; then nothing '
       'asked; --retry_failed=1 asks for it alone', requests, seconds)


# --- Rows that have no answer, and what is paid for -----------------------------------------------


def _rejected_below(number):
  """The first inputs are not taken; a demonstration is."""
  def faults(_, body):
    found = re.search(r'What is (\d+)\?', body['messages'][-1]['content'])
    return server.too_long() if found and int(found[1]) < number else None
  return faults


def test_a_cluster_of_rejected_rows(tmp_path):
  done, requests, seconds = run(tmp_path, _rejected_below(8))
  assert done.returncode == 2 and '8 of 20 rows have no answer (8 rejected)' in done.stderr
  assert 'maximum context length' in done.stderr and '--max_failed=0.4 writes' in done.stderr
  assert N <= requests <= N + 2
  done, again, _ = run(tmp_path, lambda number, body: None, '--max_failed=0.4')
  assert done.returncode == 0 and not again, done.stderr
  rows = live.read(tmp_path)
  assert [rows[f'q{i}'].parse_status for i in range(N)] == ['rejected'] * 8 + ['ok'] * 12
  done, again, _ = run(tmp_path, lambda number, body: None, '--retry_failed=1')
  assert done.returncode == 0 and again == 8
  note('a cluster of 8 rejected rows', 'not written, says why; --max_failed=0.4 writes without '
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
  note('closed port', 'error in seconds', 0, seconds)


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
  done, requests, seconds = run(tmp_path, _thinking(None))
  assert done.returncode == 0 and requests == N + 1, done.stderr
  assert '(--thinking_room)' in done.stderr and 'they are guessed' in done.stderr
  rows = live.read(tmp_path)
  assert {row.parse_status for row in rows.values()} == {'ok'}
  assert not any('Hm.' in row.rationale for row in rows.values())
  note('thoughts cut at --max_tokens', 'finished, one asked again with room', requests, seconds)


@pytest.mark.parametrize('name, most, usage, tokens', [
    ('no usage', 0.5, None, None),
    ('thoughts in the total alone', 20, {'prompt_tokens': 100, 'completion_tokens': 10,
                                         'total_tokens': 2110}, 2010),
])
def test_a_budget_holds_whatever_the_server_counts(tmp_path, name, most, usage, tokens):
  done, requests, seconds = run(
      tmp_path, _thinking(usage, limit=0), f'--budget_usd={most}', '--prompt_price=0',
      '--completion_price=1000')
  assert done.returncode == 2, done.stderr
  assert f'--budget_usd={most} would be exceeded' in done.stderr, done.stderr
  spent = float(re.search(r'([0-9.]+) USD are spent', done.stderr)[1])
  assert 0 < spent <= most and requests < N
  if tokens:
    assert spent == pytest.approx(tokens / 1000 * requests)
  note(f'{name}, --budget_usd={most}', f'stopped at {spent:g} USD', requests, seconds)


def test_no_system_role(tmp_path):
  def faults(number, body):
    return server.status(400, server.error('System role not supported')) if (
        body['messages'][0]['role'] == 'system') else None
  done, requests, seconds = run(tmp_path, faults)
  assert done.returncode == 0 and requests == N + 1, done.stderr
  assert done.stderr.count("the instruction goes into the first user's turn") == 1
  finish(tmp_path, 0)
  note('no system role', 'finished, learned from one request', requests, seconds)


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
  note('answers without a label', 'stopped after 50, with one of them; --go_on goes on', 200, 0.0)
