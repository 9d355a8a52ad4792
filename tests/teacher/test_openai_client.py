"""OpenAIEndpoint against a real server over sockets: what goes wrong, and no key leaks."""

import asyncio
import dataclasses
import email.utils
import json
import logging
import subprocess
import sys
import time
import traceback

import pytest
import server
from asked import KEY, PROMPT, ask, chat, failure, make

from dss_jax import errors
from dss_jax.teacher.ask import endpoint

pytest.importorskip('aiohttp')

TOO_MANY = server.error('Rate limit reached', 'requests', 'rate_limit_exceeded')


# What is asked and what is answered.


def test_chat(teacher):
  response, answer = ask(teacher.base_url)
  body, headers = teacher.last
  assert body == {'model': 'teacher', 'messages': PROMPT.as_messages('Why?'), 'max_tokens': 256,
                  'temperature': 0.0}  # A stop string would cut a thinking model's thoughts.
  assert headers['Authorization'] == f'Bearer {KEY}'
  assert answer.text == server.ANSWER and answer.finish_reason == 'stop'
  assert (answer.prompt_tokens, answer.completion_tokens) == (16, 18)
  assert json.loads(json.dumps(response)) == response and response['object'] == 'chat.completion'


def test_completions(teacher):
  response, answer = ask(teacher.base_url, kind='completions')
  body, _ = teacher.last
  assert body == {'model': 'teacher', 'prompt': PROMPT.as_text('Why?'), 'max_tokens': 256,
                  'temperature': 0.0, 'stop': ['Q:']}
  assert answer.text == server.ANSWER and response['object'] == 'text_completion'
  assert teacher.questions['Q: Why?']  # In both kinds of prompt.


def test_extra_fields_are_merged_last():
  made = make('http://127.0.0.1:1/v1')
  plain = made.request(PROMPT, 'Why?', endpoint.Decoding(
      extra={'max_tokens': None, 'max_completion_tokens': 9, 'temperature': 1, 'top_p': 0.5}))
  assert 'max_tokens' not in plain and plain['max_completion_tokens'] == 9
  assert plain['temperature'] == 1 and plain['top_p'] == 0.5
  for name, value in {'stream': True, 'n': 3, 'model': 'other', 'messages': None,
                      'prompt': 'Why?'}.items():
    with pytest.raises(errors.UserError, match=f"--params: '{name}'"):
      made.request(PROMPT, 'Why?', endpoint.Decoding(extra={name: value}))
  made.request(PROMPT, 'Why?', endpoint.Decoding(extra={'stream': False, 'n': 1}))


def test_no_stop_strings_no_field():
  bare = dataclasses.replace(PROMPT, stop=())
  assert 'stop' not in make('http://127.0.0.1:1/v1').request(bare, 'Why?', endpoint.Decoding())


def test_length(teacher):
  _, answer = ask(teacher.base_url, decoding=endpoint.Decoding(max_tokens=2))
  assert (answer.text, answer.finish_reason, answer.completion_tokens) == (
      'Birds make', 'length', 2)


# What goes wrong.


@pytest.mark.parametrize('made, kind, says', [
    (server.status(401, server.error('No such key')), endpoint.Fatal, 'API key.*No such key'),
    (server.status(402, 'Insufficient Balance'), endpoint.Fatal, '402: Insufficient Balance'),
    (server.status(403, server.error('Country')), endpoint.Fatal, '403: Country'),
    (server.unknown_model(), endpoint.Fatal, "model 'teacher'.*base_url=http.*`x` does not exist"),
    (server.status(429, server.error('Pay', 'insufficient_quota', 'insufficient_quota')),
     endpoint.Fatal, 'Pay'),
    (server.status(429, server.error('Pay', 'insufficient_quota')), endpoint.Fatal, 'Pay'),
    (server.too_long(), endpoint.Rejected, '400: .*maximum context length'),
    (server.status(413, 'Too large'), endpoint.Rejected, '413: Too large'),
    (server.status(422, {'detail': [{'msg': 'no such field'}]}), endpoint.Rejected, 'such field'),
    (server.status(400, {'object': 'error', 'message': 'bad\n\nvalue'}), endpoint.Rejected,
     '400: bad value'),
    (server.status(400, 'x' * 1000), endpoint.Rejected, r'400: x+\.\.\.$'),
    (server.status(418, 'I am a teapot'), endpoint.Rejected, '418: I am a teapot'),
])
def test_errors_that_stay(teacher, fault, made, kind, says):
  fault(made)
  with pytest.raises(kind, match=says):
    raise failure(teacher.base_url)


@pytest.mark.parametrize('code, headers, after, limited', [
    (429, {}, None, True),
    (429, {'Retry-After': '2'}, 2.0, True),
    (429, {'Retry-After': '0.25'}, 0.25, True),
    (429, {'Retry-After': '9', 'retry-after-ms': '1500'}, 1.5, True),
    (429, {'Retry-After': '3600'}, 3600.0, True),
    (429, {'Retry-After': '-5'}, 0.0, True),
    (429, {'Retry-After': 'soon'}, None, True),
    (429, {'Retry-After': 'nan'}, None, True),
    (429, {'Retry-After': 'inf'}, None, True),
    (429, {'Retry-After': 'Mon, 01 Jan 2001 00:00:00 GMT'}, 0.0, True),
    (503, {'Retry-After': '4'}, 4.0, True),
    (503, {}, None, False),
    (500, {'Retry-After': '4'}, 4.0, False),
    (502, {}, None, False),
    (529, {}, None, False),
    (408, {}, None, False),
    (409, {}, None, False),
])
def test_try_later(teacher, fault, code, headers, after, limited):
  fault(server.status(code, TOO_MANY, headers))
  before = teacher.requests
  error = failure(teacher.base_url)
  assert teacher.requests == before + 1  # Nobody retries behind the job's back.
  assert isinstance(error, endpoint.TryLater)
  assert str(error) == f'{code}: Rate limit reached'
  assert (error.after, error.limited) == (after, limited)


@pytest.mark.parametrize('skew', [0, -86400])
def test_retry_after_a_date_is_by_the_servers_clock(teacher, fault, skew):
  now = time.time() + skew
  until, date = (email.utils.formatdate(at, usegmt=True) for at in (now + 30, now))
  fault(server.status(429, TOO_MANY, {'Retry-After': until, 'Date': date}))
  assert failure(teacher.base_url).after == pytest.approx(30, abs=2)


def test_no_answer_in_time(teacher, fault):
  fault(server.hang())
  began = time.monotonic()
  error = failure(teacher.base_url, timeout=0.2)
  assert isinstance(error, endpoint.TryLater) and 'no answer within 0.2 s' in str(error)
  assert time.monotonic() - began < 2


def test_a_trickle_of_bytes_is_no_answer(teacher, fault):
  async def trickle(request):
    response = server.web.StreamResponse()
    await response.prepare(request)
    while True:
      await response.write(b' ')
      await asyncio.sleep(0.05)
  fault(trickle)
  assert 'no answer within' in str(failure(teacher.base_url, timeout=0.3))


def test_nobody_there():
  error = failure('http://127.0.0.1:9/v1')
  assert isinstance(error, endpoint.TryLater) and 'connect' in str(error)


def test_not_http():
  async def main():
    async def talk(reader, writer):
      await reader.read(100)
      writer.write(b'220 mail.example.com ESMTP\r\n\r\n')
      writer.close()
    other = await asyncio.start_server(talk, '127.0.0.1', 0)
    made = make(f'http://127.0.0.1:{other.sockets[0].getsockname()[1]}/v1')
    with pytest.raises(endpoint.TryLater) as caught:
      await made.ask(made.request(PROMPT, 'Why?', endpoint.Decoding()))
    await made.close()
    other.close()
    return caught.value
  error = asyncio.run(main())
  assert KEY not in ''.join(traceback.format_exception(error)) and error.__context__ is None


def test_a_wrong_path_says_so(teacher):
  error = failure(teacher.base_url.removesuffix('/v1'))
  assert isinstance(error, endpoint.Fatal) and '/v1' in str(error) and 'Not Found' in str(error)


def test_after_a_failure_the_next_answers(teacher, fault):
  async def main():
    made = make(teacher.base_url, in_flight=1, timeout=0.5)  # Its one connection must come back.
    request = made.request(PROMPT, 'Why?', endpoint.Decoding())
    for one in (server.reset(), server.truncated(), server.hang(), server.status(500), None):
      fault(one)
      try:
        return await made.ask(request)
      except endpoint.TryLater:
        continue
      finally:
        if one is None:
          await made.close()
  assert asyncio.run(main())['choices']


# Secrets.


@pytest.mark.parametrize('code', [401, 400, 500, 200])
def test_an_echoed_key(teacher, fault, code):
  fault(server.echo_key(code))
  assert '***' in str(failure(teacher.base_url))


def test_a_key_at_the_cut(teacher, fault):
  for length in range(60, 82):
    fault(server.reply('-' * length + KEY))
    assert KEY[:10] not in str(failure(teacher.base_url))


def test_an_echoed_key_in_a_completion(teacher, fault):
  escaped = ''.join(f'\\u{ord(one):04x}' for one in KEY)
  text = json.dumps({**chat(content='It is ESCAPED.'), KEY: [KEY]})
  fault(server.reply(text.replace('ESCAPED', escaped)))
  response, answer = ask(teacher.base_url)
  assert answer.text == 'It is ***.' and KEY not in json.dumps(response)


def test_a_word_for_a_key_stays_in_the_answer(teacher):
  assert ask(teacher.base_url, key='safe')[1].text == server.ANSWER


def test_the_log_has_no_key(teacher, fault, caplog):
  caplog.set_level(logging.DEBUG)
  ask(teacher.base_url)
  fault(server.echo_key())
  failure(teacher.base_url)
  assert caplog.text and KEY not in caplog.text


def test_secrets_of_the_address(teacher, fault):
  host = teacher.base_url.removeprefix('http://')
  url = f'http://me:pass%40word1@{host}/?code=0123456789abcdef0123&api-version=2025'
  made = make(url)
  assert made.provenance() == {'endpoint': 'chat', 'base_url': teacher.base_url}
  assert ask(url)[1].text == server.ANSWER
  assert teacher.last[1]['Authorization'] == 'Basic bWU6cGFzc0B3b3JkMQ=='
  async def echo(request):
    return server.web.json_response(server.error(
        f'{request.headers["Authorization"]} {request.path_qs} pass@word1 me'), status=400)
  fault(echo)
  assert str(failure(url)) == (
      '400: Basic *** /v1/chat/completions?code=***&api-version=2025 *** me')


def test_provenance_and_repr():
  made = make(None, kind='completions')
  assert made.provenance() == {'endpoint': 'completions', 'base_url': 'https://api.openai.com/v1'}
  assert KEY not in repr(made)


# Many at once.


def test_all_in_flight():
  """256 requests are at the server at once: no limit of the HTTP client is in the way."""
  async def main(url):
    made = make(url, in_flight=256, timeout=30.0)
    requests = [made.request(PROMPT, f'Why {i}?', endpoint.Decoding()) for i in range(256)]
    answers = await asyncio.gather(*(made.ask(one) for one in requests))
    await made.close()
    return [made.read(one).text for one in answers]

  with server.Server() as many:
    async def when_all_are_there(request):
      while many.peak < 256:
        await asyncio.sleep(0.01)
      return await server.reply(json.dumps(chat(content='So.')))(request)
    many.faults = lambda number, body: when_all_are_there
    assert asyncio.run(main(many.base_url)) == ['So.'] * 256
    assert many.requests == 256


def test_the_program(tmp_path):
  answers = tmp_path / 'answers.json'
  answers.write_text(json.dumps({'Q: Why?': 'So.'}))
  command = [sys.executable, server.__file__, '--port=0', f'--answers={answers}', '--latency=0.01']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
    try:
      word, port = running.stdout.readline().split()
      assert word == 'port'
      assert ask(f'http://127.0.0.1:{port}/v1')[1].text == 'So.'
    finally:
      running.terminate()
