"""From the command line and the environment to an endpoint."""

import argparse
import subprocess
import sys

import pytest

from dss_jax import errors
from dss_jax.teacher import flags as flag_lib
from dss_jax.teacher.ask import clients, openai_client

KEY = 'sk-proj-0123456789abcdef'
LOCAL = 'http://127.0.0.1:1/v1'


def flags(**changes):
  return argparse.Namespace(**{
      'model': 'teacher', 'base_url': None, 'endpoint': 'chat', 'api_key_env': 'MY_KEY',
      'timeout': 5.0, 'in_flight': 4, 'header': [], 'thinking_room': 9, 'reasoning_effort': '',
      'batch': None, 'label_logprobs': 0,
      **{name: [value] if name == 'base_url' and value else value
         for name, value in changes.items()}})


@pytest.fixture
def clean(monkeypatch):
  for name in ('MY_KEY', 'OPENAI_API_KEY', 'OPENAI_BASE_URL'):
    monkeypatch.delenv(name, raising=False)
  return monkeypatch


def test_from_flags(clean):
  clean.setenv('MY_KEY', f' {KEY}\n')
  made = openai_client.OpenAIEndpoint.from_flags(flags(endpoint='completions'))
  assert (made.name, made.model) == ('openai', 'teacher')
  assert made.provenance()['endpoint'] == 'completions'


def test_a_local_server_needs_no_key(clean):
  made = openai_client.OpenAIEndpoint.from_flags(flags(base_url=LOCAL))
  assert made.provenance()['base_url'] == LOCAL
  clean.setenv('OPENAI_BASE_URL', LOCAL)  # As the SDK has it.
  made = openai_client.OpenAIEndpoint.from_flags(flags())
  assert made.provenance()['base_url'] == LOCAL


@pytest.mark.parametrize('changes, key, says', [
    ({'model': None}, KEY, '--model=NAME'),
    ({}, '', 'MY_KEY'),
    ({}, 'sk-\u2019quoted', 'MY_KEY holds'),
    ({'timeout': 0.0}, KEY, '--timeout=0'),
    ({'base_url': 'localhost:8000/v1'}, KEY, '--base_url=localhost:8000/v1'),
    ({'base_url': 'http://me:secret@host:port/v1?key=secret'}, KEY, '--base_url=host:port/v1'),
    ({'base_url': 'http://[::1/v1'}, KEY, '--base_url'),
])
def test_flags_to_mend(clean, changes, key, says):
  clean.setenv('MY_KEY', key)
  with pytest.raises(errors.UserError, match=says) as caught:
    openai_client.OpenAIEndpoint.from_flags(flags(**changes))
  assert 'secret' not in str(caught.value) and 'quoted' not in str(caught.value)


def test_without_the_library(clean):
  clean.setitem(sys.modules, 'aiohttp', None)
  with pytest.raises(errors.UserError, match='pip install aiohttp'):
    openai_client.OpenAIEndpoint('teacher', LOCAL, KEY, 'chat', 10.0, 8)


def test_the_library_is_imported_late():
  code = ("import sys, dss_jax.teacher.ask.openai_client; "
          "print([one for one in ('aiohttp',) if one in sys.modules])")
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout == '[]\n'


@pytest.mark.parametrize('params', ['{"max_tokens": "300"}', '{"max_completion_tokens": [9]}',
                                    '{"max_tokens": true}', '{"max_completion_tokens": 0}'])
def test_a_limit_of_tokens_is_a_number(params):
  chosen = flag_lib.parser().parse_args(['--dataset=cqa', '--split=train', f'--params={params}'])
  with pytest.raises(errors.UserError, match='--params: max_.*_?tokens=.*whole number'):
    clients._options(chosen)
