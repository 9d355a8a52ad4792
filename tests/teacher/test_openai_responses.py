"""OpenAIEndpoint: what a response may be, whatever a server makes of it."""

import contextlib
import json

import pytest
import server
from asked import ask, chat, failure, make
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax import records
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint, servers

pytest.importorskip('aiohttp')


@pytest.mark.parametrize('response, text, reason', [
    (chat(content='Hm.'), 'Hm.', ''),
    ({**chat(content='Hm.'), 'usage': None}, 'Hm.', ''),
    ({**chat(content='Hm.'), 'usage': [3]}, 'Hm.', ''),
    (chat(content='Hm.', reasoning_content='Well.'), 'Hm.', ''),
    (chat(content=None, reasoning_content='Well.'), '', ''),
    (chat(content=None, refusal='I cannot.'), '', 'refusal'),
    (chat(content='', refusal='I cannot.'), '', 'refusal'),
    (chat(content=None, tool_calls=[{'id': '1'}]), '', ''),
    (chat(content=[{'type': 'text', 'text': 'A '}, {'type': 'image'},
                   {'type': 'text', 'text': 'bird.'}]), 'A bird.', ''),
    ({'choices': [{'message': {'content': None}, 'finish_reason': 'content_filter'}]}, '',
     'content_filter'),
    ({'choices': [{'message': {'content': None}, 'finish_reason': 'length'}]}, '', 'length'),
])
def test_answers(teacher, fault, response, text, reason):
  fault(server.reply(json.dumps(response)))
  got, answer = ask(teacher.base_url)
  assert got == response
  thoughts = response['choices'][0]['message'].get('reasoning_content', '')
  assert answer == endpoint.Answer(text, reason, thoughts=thoughts)


def counted(usage, reason='stop'):
  return {**chat(content='Hm.'), 'usage': usage,
          'choices': [{'message': {'content': 'Hm.'}, 'finish_reason': reason}]}


@pytest.mark.parametrize('usage, tokens', [
    ({'prompt_tokens': '500', 'completion_tokens': '30'}, (500, 30)),
    ({'prompt_tokens': 500.0, 'completion_tokens': 30.7}, (500, 30)),
    ({'prompt_tokens': -5, 'completion_tokens': None}, (0, 0)),
    ({'prompt_tokens': [500], 'completion_tokens': {'text': 30}}, (0, 0)),
    ({'prompt_tokens': float('nan'), 'completion_tokens': float('inf')}, (0, 0)),
    ({'prompt_tokens': 10 ** 400, 'completion_tokens': True}, (0, 0)),
    ({'prompt_tokens': 'many', 'completion_tokens': ''}, (0, 0)),
    ('500', (0, 0)),
])
def test_usage_of_any_type(usage, tokens):
  answer = make('http://127.0.0.1:9/v1').read(counted(usage))
  assert answer == endpoint.Answer('Hm.', 'stop', *tokens)


@pytest.mark.parametrize('given, reason', [
    (3, '3'), (None, ''), (True, 'True'), (['stop'], ''), ({'type': 'stop'}, ''),
    ('MAX_TOKENS', 'length'), ('SAFETY', 'content_filter'), ('eos_token', 'eos_token'),
    ('\ud83d', '\N{REPLACEMENT CHARACTER}'),
])
def test_finish_reason_of_any_type(given, reason):
  assert make('http://127.0.0.1:9/v1').read(counted(None, given)).finish_reason == reason


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(['text', 'type', 'content', 'message', 'refusal', 'x']), inner, max_size=3),
    max_leaves=6)
_FIELDS = [('id',), ('created',), ('model',), ('usage',), ('usage', 'prompt_tokens'),
           ('usage', 'completion_tokens'), ('choices',), ('choices', 0), ('error',),
           ('choices', 0, 'finish_reason'), ('choices', 0, 'message'),
           *[('choices', 0, 'message', name)
             for name in ('content', 'refusal', 'tool_calls', 'reasoning', 'reasoning_content')]]


@settings(max_examples=300, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(_FIELDS), _VALUES, min_size=1, max_size=3))
def test_a_response_of_any_shape_is_an_answer_or_asked_for_again(fields):
  response = {'id': 'x', 'created': 1, 'model': 'm', 'usage': {'prompt_tokens': 1},
              'choices': [{'finish_reason': 'stop', 'message': {'content': 'Hm.'}}]}
  for path, value in fields.items():
    place = response
    with contextlib.suppress(TypeError, KeyError, IndexError):  # Another value took its place.
      for step in path[:-1]:
        place = place[step]
      place[path[-1]] = value
  made = make('http://127.0.0.1:9/v1')
  try:
    got = made._parsed(servers.Reply(200, {}, json.dumps(response)))
  except endpoint.TryLater as error:
    assert '\n' not in str(error)
    return
  answer = made.read(got)
  assert answer.prompt_tokens >= 0 and answer.completion_tokens >= 0
  records.to_bytes(records.RationaleRecord(
      'q', 'x', rationale=protocol.clean(answer.text), finish_reason=answer.finish_reason))


def test_a_byte_order_mark_before_the_response(teacher, fault):
  fault(server.reply('\ufeff' + json.dumps(chat(content='Hm.'))))
  assert ask(teacher.base_url)[1].text == 'Hm.'


@pytest.mark.parametrize('made, says', [
    (server.without_choices(), 'empty choices'),
    (server.html(), 'web page: <!DOCTYPE html>.*Log in first'),
    (server.reply(''), 'not JSON'),
    (server.reply('{"choices": [{"mess'), 'not JSON: {"choices": '),
    (server.reply('[' * 100_000), 'not JSON'),
    (server.reply('data: {"choices": []}\n\n', 'text/event-stream'), 'not JSON: data:'),
    (server.reply('null'), 'no JSON object'),
    (server.reply('[1]'), 'no JSON object'),
    (server.reply('{"error": {"message": "Upstream is away"}}'), 'choices: Upstream is away'),
    (server.reply('{"choices": [3]}'), 'empty choices'),
    (server.reply('{"choices": [{"text": "Hm."}]}'), 'no message'),
    (server.reply(json.dumps(chat(content=None))), 'no content'),
    (server.reply(json.dumps(chat(content=3))), 'content is int'),
    (server.reply(json.dumps(chat(content=[{'text': 3}]))), 'content is list'),
    (server.reply(json.dumps(chat(content=['Hm.']))), 'content is list'),
    (server.reply('{"choices": [{"message": {"content": "Bi"}, "finish_reason": "abort"}]}'),
     'finish_reason abort'),
    (server.reset(), 'connection: .*reset'),
    (server.truncated(), 'connection: '),
])
def test_half_a_response(teacher, fault, made, says):
  fault(made)
  with pytest.raises(endpoint.TryLater, match=says) as caught:
    raise failure(teacher.base_url)
  assert not caught.value.limited


def test_tokens_of_a_response_that_is_no_answer_are_paid(teacher, fault):
  for response in (chat(content=None), chat(content=3), {'choices': []}):
    fault(server.reply(json.dumps(response)))
    assert failure(teacher.base_url).paid is None
    fault(server.reply(json.dumps({**response, 'usage': {'prompt_tokens': 5, 'total_tokens': 7}})))
    assert failure(teacher.base_url).paid == (5, 2)


@pytest.mark.parametrize('code, kind', [(429, endpoint.TryLater), (401, endpoint.Fatal),
                                        (400, endpoint.Rejected), (502, endpoint.TryLater)])
def test_an_error_with_status_200(teacher, fault, code, kind):
  fault(server.reply(json.dumps({'error': {'message': 'Provider said no', 'code': code}})))
  error = failure(teacher.base_url)
  assert type(error) is kind and f'{code}' in str(error) and 'Provider said no' in str(error)


def test_completions_want_text(teacher, fault):
  fault(server.reply(json.dumps(chat(content='Hm.'))))
  assert 'no text' in str(failure(teacher.base_url, kind='completions'))


def test_json_of_another_content_type(teacher, fault):
  fault(server.reply(json.dumps(chat(content='Hm.')), 'text/plain'))
  assert ask(teacher.base_url)[1].text == 'Hm.'


@pytest.mark.parametrize('thinking', ['Hm.', [{'type': 'text', 'text': 'Hm.'}]])
def test_thoughts_as_a_part_of_the_content(thinking):
  response = chat(content=[{'type': 'thinking', 'thinking': thinking},
                           {'type': 'text', 'text': 'So.'}])
  assert make('http://127.0.0.1:9/v1').read(response) == endpoint.Answer('So.', thoughts='Hm.')
