"""What a server takes is learned once: parameters, roles, thinking room, addresses, time limits."""

import asyncio
import json

import pytest
import server
from asked import PROMPT, make

from dss_jax import errors
from dss_jax.teacher.ask import dialect, endpoint, openai_client, servers

pytest.importorskip('aiohttp')

REFUSALS = {
    'max_tokens': "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                  "'max_completion_tokens' instead.",
    'temperature': "Unsupported value: 'temperature' does not support 0 with this model. Only the "
                   'default (1) value is supported.',
    'stop': "Unsupported parameter: 'stop' is not supported with this model.",
    'response_format': "'response_format' of type 'json_schema' is not supported with this model",
}


def answers(made, requests=8, **extra):
  """All answers of some requests at once, and what was said."""
  said = []
  made.say = said.append

  async def main():
    asked = [made.request(PROMPT, f'Why {i}?', endpoint.Decoding(extra=extra))
             for i in range(requests)]
    first = await made.ask(asked[0])
    try:
      return [made.read(one) for one in
              [first, *await asyncio.gather(*(made.ask(one) for one in asked[1:]))]]
    finally:
      await made.close()
  return asyncio.run(main()), said


def refusing(*names):
  """Refuses requests with these fields, one at a time, as hosted thinking models do."""
  def faults(number, body):
    for name in names:
      if name in body:
        return server.status(400, {'error': {
            'message': REFUSALS[name], 'param': name, 'code': 'unsupported_parameter'}})
    return None
  return faults


@pytest.mark.parametrize('kind, names, extra', [
    ('chat', ['max_tokens', 'temperature'], {}),
    ('chat', ['temperature'], {}),
    ('completions', ['stop', 'temperature'], {}),
    ('chat', ['response_format'], {'response_format': {'type': 'json_schema', 'json_schema': {}}}),
])
def test_each_refusal_is_met_once(kind, names, extra):
  with server.Server(faults=refusing(*names)) as teacher:
    found, said = answers(make(teacher.base_url, kind=kind), **extra)
    steps = len(names) + (names == ['response_format'])  # Any JSON first, then none.
    assert [one.text for one in found] == [server.ANSWER] * 8
    assert teacher.requests == 8 + steps and len(said) == steps
    body, _ = teacher.last
  assert not set(names) & set(body)
  assert ('max_completion_tokens' in body) == ('max_tokens' in names)


@pytest.mark.parametrize('says', [
    'System role not supported', 'Conversation roles must alternate user/assistant/user/...',
    "Unsupported value: 'messages[0].role' does not support 'system' with this model."])
def test_the_instruction_goes_where_it_is_taken(says):
  def faults(number, body):
    return server.status(400, server.error(says)) if body['messages'][0]['role'] == 'system' else (
        None)
  with server.Server(faults=faults) as teacher:
    found, said = answers(make(teacher.base_url))
    assert teacher.requests == 9 and len(said) == 1 and len(found) == 8
    messages = teacher.last[0]['messages']
  assert [one['role'] for one in messages] == ['user', 'assistant', 'user']
  assert messages[0]['content'] == 'Explain.\n\nQ: Is ice cold?'


@pytest.mark.parametrize('says', [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4744 "
    'in the messages, 256 in the completion). Please reduce max_tokens.',
    'Your prompt was flagged: the temperature of this debate is not allowed to rise',
    "top_p: extra fields not permitted", 'bad request'])
def test_what_is_not_about_a_field_of_ours_is_a_rejection(says):
  def faults(number, body):
    return server.status(400, server.error(says))
  with server.Server(faults=faults) as teacher:
    with pytest.raises(endpoint.Rejected):
      answers(make(teacher.base_url))
    assert teacher.requests == 1


def test_fastapis_words():
  learned = dialect.Dialect()
  says = "[{'loc': ['body', 'stop'], 'msg': 'extra fields not permitted'}]"
  assert learned.learn(says, {'stop': ['Q:']}) and learned.body({'stop': ['Q:']}) == {}
  assert not learned.learn(says, {'stop': ['Q:']})


def test_a_request_is_not_changed():
  learned = dialect.Dialect()
  request = make('http://127.0.0.1:9/v1').request(PROMPT, 'Why?', endpoint.Decoding())
  before = json.dumps(request)
  learned.learn('system role not supported', request)
  learned.learn(REFUSALS['max_tokens'], request)
  assert learned.body(request, room=100)['max_completion_tokens'] == 356
  assert json.dumps(request) == before


# Thinking models.


def thinking(number, body, cut=200, **message):
  """Thinks for 500 tokens, which are all that it writes if it may write no more."""
  limit = body.get('max_tokens') or body['max_completion_tokens']
  if limit < cut + 256:
    answer = {'content': None, **message}
    return server.reply(json.dumps({
        'choices': [{'message': answer, 'finish_reason': 'length'}],
        'usage': {'prompt_tokens': 10, 'completion_tokens': limit}}))
  answer = {'content': 'So the answer is yes.', **message}
  return server.reply(json.dumps({
      'choices': [{'message': answer, 'finish_reason': 'stop'}],
      'usage': {'prompt_tokens': 10, 'completion_tokens': 30, 'total_tokens': 540}}))


def roomy(url, room=1000, **settings):
  return openai_client.OpenAIEndpoint('teacher', url, 'none', 'chat', 10.0, 8, room=room,
                                      **settings)


def test_a_model_that_thinks_gets_room():
  with server.Server(faults=lambda n, body: thinking(n, body, reasoning='Hm.')) as teacher:
    made = roomy(teacher.base_url)
    request = made.request(PROMPT, 'Why?', endpoint.Decoding())

    async def main():
      with pytest.raises(endpoint.TryLater, match='cut while it thought') as caught:
        await made.ask(request)
      assert caught.value.paid == (10, 256)
      response = await made.ask(request)
      await made.close()
      return made.read(response)
    answer = asyncio.run(main())
    assert answer.text == 'So the answer is yes.' and answer.thoughts == 'Hm.'
    assert answer.completion_tokens == 530  # What is billed, not what is shown.
    assert teacher.last[0]['max_tokens'] == 1256 and made.room == 1000


@pytest.mark.parametrize('content, usage', [
    ('<think>Hm.</think> So the answer is yes.', {}),
    ('Hm.</think> So the answer is yes.', {}),
    ('So the answer is yes.', {'completion_tokens_details': {'reasoning_tokens': 9}})])
def test_ways_to_see_that_it_thinks(content, usage):
  response = {'choices': [{'message': {'content': content}, 'finish_reason': 'stop'}],
              'usage': usage}
  with server.Server(faults=lambda n, body: server.reply(json.dumps(response))) as teacher:
    made = roomy(teacher.base_url)
    answers(made, 2)
    assert made.room == 1000


@pytest.mark.parametrize('words', [
    "'max_tokens' is too large: {}. This model's maximum context length is 1024 tokens",
    'max_tokens={} cannot be greater than max_model_len=1024. Please request fewer output tokens. '
    '(parameter=max_tokens, value={0})'.replace('{}', '{0}')])
def test_room_that_the_server_has_not(words):
  def faults(number, body):
    if body['max_tokens'] > 700:
      return server.status(400, server.error(
          words.format(body['max_tokens'])))
    return thinking(number, body, reasoning='Hm.')
  with server.Server(faults=faults) as teacher:
    made = roomy(teacher.base_url, room=1500)
    made._thinks = True
    found, said = answers(made, 2)
    assert found[0].text == 'So the answer is yes.' and not said
    assert teacher.last[0]['max_tokens'] == 256 + 375 and made.room == 375
    assert teacher.requests == 3 + 1  # The second need not find it out again.


def test_reasoning_effort_is_part_of_the_request():
  made = roomy('http://127.0.0.1:9/v1', reasoning_effort='low')
  assert made.request(PROMPT, 'Why?', endpoint.Decoding())['reasoning_effort'] == 'low'


# Addresses, headers, time.


def test_several_servers_take_turns_and_one_that_fails_rests():
  with server.Server() as one, server.Server() as other:
    made = make([one.base_url, other.base_url])
    answers(made, 10)
    assert one.requests == other.requests == 5
    assert made.provenance()['base_url'] == [one.base_url, other.base_url]
  with server.Server() as well, server.Server(
      faults=lambda number, body: server.status(500)) as ill:
    found, _ = answers(make([ill.base_url, well.base_url, 'http://127.0.0.1:9/v1']), 20)
    assert [found.text for found in found] == [server.ANSWER] * 20
    assert well.requests == 20 and ill.requests <= 8


def test_when_all_servers_fail_the_error_is_theirs():
  with server.Server(faults=lambda n, b: server.status(500)) as ill, pytest.raises(
      endpoint.TryLater):
    answers(make([ill.base_url, 'http://127.0.0.1:9/v1']), 1)


def test_headers(monkeypatch):
  monkeypatch.setenv('AZURE_KEY', 'azure-0123456789')
  given = servers.headers(['api-key: $AZURE_KEY', 'X-Team:a b'])
  assert given == {'api-key': 'azure-0123456789', 'X-Team': 'a b'}
  async def echo(request):
    return server.web.json_response(server.error(request.headers['api-key']), status=400)
  with server.Server(faults=lambda n, b: echo) as teacher, pytest.raises(
      endpoint.Rejected, match=r'400: \*\*\*'):
    answers(roomy(teacher.base_url, headers=given), 1)


@pytest.mark.parametrize('header, says', [
    ('no colon', 'NAME: VALUE'), ('api-key: $NOT_SET_ANYWHERE', 'NOT_SET_ANYWHERE is not set'),
    ('a b: c', 'NAME: VALUE'), ('X: \u2019', 'no header has')])
def test_headers_to_mend(header, says):
  with pytest.raises(errors.UserError, match=says):
    servers.headers([header])


def test_a_request_that_was_slow_has_more_time():
  async def slow(request):
    await asyncio.sleep(0.5)
    return await server.reply(json.dumps({'choices': [{'message': {'content': 'So.'}}]}))(request)
  with server.Server(faults=lambda n, b: slow) as teacher:
    made = make(teacher.base_url, timeout=0.2)
    request = made.request(PROMPT, 'Why?', endpoint.Decoding())

    async def main():
      for timeouts in (0, 1):
        with pytest.raises(endpoint.TryLater) as caught:
          await made.ask(request, timeouts=timeouts)
        assert caught.value.timed_out
      response = await made.ask(request, timeouts=2)
      await made.close()
      return response
    assert made.read(asyncio.run(main())).text == 'So.'


def test_a_redirect_names_the_address():
  async def moved(request):
    return server.web.Response(status=307, headers={'Location': 'https://new.example/v1'})
  with server.Server(faults=lambda n, b: moved) as teacher, pytest.raises(
      endpoint.Fatal, match='307: moved to https://new.example/v1: give that'):
    answers(make(teacher.base_url), 1)


def test_the_environments_proxy(monkeypatch):
  """Every request goes through it, but for hosts that it is not for."""
  with server.Server() as proxy:
    monkeypatch.setenv('http_proxy', proxy.base_url.removesuffix('/v1'))
    monkeypatch.delenv('no_proxy', raising=False)
    for url in ('http://teacher.example/v1', 'http://other.example/v1'):
      monkeypatch.setenv('no_proxy', 'other.example')
      try:
        answers(make(url), 1)
      except endpoint.TryLater as error:
        assert url.startswith('http://other') and error.unreachable
    assert proxy.requests == 1 and proxy.last[1]['Host'] == 'teacher.example'
