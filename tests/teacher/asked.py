"""Single requests to an OpenAIEndpoint, and what they end in."""

import asyncio
import traceback

import pytest

from dss_jax import datasets
from dss_jax.teacher.ask import endpoint, openai_client, prompts

KEY = 'sk-proj-0123456789abcdef'
PROMPT = prompts.Prompt(
    dataset='mine', version=1, instruction='Explain.', question='Q: {input}',
    answer='A: {rationale} So the answer is {label}.', stop=('Q:',), parts=(),
    completion=datasets.CompletionFormat(label_kind='class'),
    demonstrations=(prompts.Demonstration('Is ice cold?', 'It is frozen.', 'yes'),))


def make(url, key=KEY, kind='chat', timeout=10.0, in_flight=8):
  return openai_client.OpenAIEndpoint('teacher', url, key, kind, timeout, in_flight)


def ask(url, text='Why?', kind='chat', decoding=endpoint.Decoding(), **settings):  # noqa: B008
  """(response, answer) to one request."""
  async def main():
    made = make(url, kind=kind, **settings)
    try:
      response = await made.ask(made.request(PROMPT, text, decoding))
      return response, made.read(response)
    finally:
      await made.close()
  return asyncio.run(main())


def failure(url, **settings):
  """The exception that one request ends in; it shows no key, wherever one looks."""
  with pytest.raises((endpoint.TryLater, endpoint.Rejected, endpoint.Fatal)) as caught:
    ask(url, **settings)
  error = caught.value
  shown = ''.join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
  assert settings.get('key', KEY) not in shown
  assert error.__cause__ is None and error.__context__ is None  # They would hold the request.
  assert len(str(error)) <= 300 and '\n' not in str(error)
  return error


def chat(**message):
  """A response with this message."""
  return {'choices': [{'message': {'role': 'assistant', **message}, 'finish_reason': None}]}
