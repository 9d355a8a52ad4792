"""--client=vllm and --client=litellm: against stand-ins, and the libraries where they are there."""

import importlib.util
import json
import os
import sys
import types

import live
import openai
import pytest
import server

from dss_jax import errors

ANSWER = 'It is a number. So the answer is (c) many.'


@pytest.fixture
def folder(tmp_path, monkeypatch):
  for name in [name for name in os.environ if name.endswith('_API_KEY')]:
    monkeypatch.delenv(name)
  monkeypatch.setenv('ANTHROPIC_API_KEY', live.KEY)
  live.write_inputs(tmp_path, 20)
  return tmp_path


def rows(folder):
  return live.read(folder, splits=('test',))


@pytest.mark.parametrize('client', ['vllm', 'litellm'])
def test_a_library_that_is_missing(folder, monkeypatch, client):
  monkeypatch.setitem(sys.modules, client, None)
  with pytest.raises(errors.UserError, match=rf"pip install 'dss_jax\[{client}\]'"):
    live.here(folder, f'--client={client}', '--model=a/b')


# --- LiteLLM -------------------------------------------------------------------------------------


class Response:

  def __init__(self, values):
    self.values = values

  def model_dump(self, mode):
    assert mode == 'json'
    return self.values


@pytest.fixture
def litellm(monkeypatch):
  """A stand-in: row 3 meets 429 once, row 4 is too long."""
  made = types.ModuleType('litellm')
  made.asked = []

  async def acompletion(*, api_base, num_retries, max_retries, drop_params, **body):
    asked = server._question(body)
    made.asked.append(asked)
    if asked == live.question(3) and made.asked.count(asked) == 1:
      error = openai.RateLimitError.__new__(openai.RateLimitError)
      error.status_code, error.response, error.message = 429, None, f'slow down, {live.KEY}'
      raise error
    if asked == live.question(4):
      error = openai.BadRequestError.__new__(openai.BadRequestError)
      error.status_code, error.response, error.message = 400, None, f'too long, {live.KEY}'
      raise error
    return Response(server.completion(f'{live.answer(asked)} {live.KEY}', 'stop', body))
  made.acompletion = acompletion
  monkeypatch.setitem(sys.modules, 'litellm', made)
  return made


def test_litellm(folder, litellm, capsys):
  flags = ['--client=litellm', '--model=anthropic/x', '--max_failed=0.1']
  assert live.here(folder, *flags) == 0
  assert len(litellm.asked) == 21
  found = rows(folder)
  assert found['q4'].parse_status == 'rejected' and found['q3'].parse_status == 'ok'
  assert found['q7'].teacher_model == 'anthropic/x'
  said = capsys.readouterr()
  assert live.KEY not in said.out + said.err and not live.files_with(live.KEY, folder)
  assert live.here(folder, *flags) == 0 and len(litellm.asked) == 21


@pytest.mark.skipif(not importlib.util.find_spec('litellm'), reason='LiteLLM is not installed')
def test_litellm_itself(folder):
  says = json.dumps({'mock_response': ANSWER})
  assert live.here(folder, '--client=litellm', '--model=anthropic/claude', f'--params={says}') == 0
  assert {row.teacher_label for row in rows(folder).values()} == {'many'}


# --- vLLM ----------------------------------------------------------------------------------------


@pytest.fixture
def vllm(monkeypatch):
  """A stand-in, for which the prompt of row 4 is too long."""
  made = types.ModuleType('vllm')
  made.__version__ = '0'
  made.calls = []

  class SamplingParams:

    def __init__(self, max_tokens, temperature, seed, top_p=1.0, stop=None, logprobs=None):
      self.max_tokens, self.logprobs = max_tokens, logprobs

  class LLM:

    def __init__(self, model, tensor_parallel_size=1):
      self.size = tensor_parallel_size

    def chat(self, conversations, params, use_tqdm, chat_template_kwargs):
      asked = [server._question({'messages': one}) for one in conversations]
      made.calls.append(len(asked))
      if live.question(4) in asked:
        raise LookupError('The prompt is longer than the maximum model length')  # As they name it.
      return [types.SimpleNamespace(
          prompt_token_ids=[1] * 9, outputs=[types.SimpleNamespace(
              text=live.answer(one), finish_reason='stop', token_ids=[1, 2], logprobs=None)])
              for one in asked]

    def generate(self, prompts, params, use_tqdm):
      return self.chat([[{'role': 'user', 'content': server._question({'prompt': one})}]
                        for one in prompts], params, use_tqdm, None)
  made.SamplingParams, made.LLM = SamplingParams, LLM
  monkeypatch.setitem(sys.modules, 'vllm', made)
  return made


@pytest.mark.parametrize('endpoint', ['chat', 'completions'])
def test_vllm(folder, vllm, endpoint):
  flags = ['--client=vllm', '--model=some/model', '--batch_size=10', f'--endpoint={endpoint}',
           '--engine={"tensor_parallel_size": 2}', '--max_failed=0.1']
  assert live.here(folder, *flags) == 0
  found = rows(folder)
  assert {key for key, row in found.items() if row.parse_status != 'ok'} == {'q4'}
  assert found['q4'].parse_status == 'rejected' and found['q7'].teacher_model == 'some/model'
  assert max(vllm.calls) == 10
  calls = len(vllm.calls)
  assert live.here(folder, *flags) == 0 and len(vllm.calls) == calls


def test_vllm_whose_engine_dies(folder, vllm, monkeypatch):
  class EngineDeadError(Exception):
    pass

  def chat(self, *args, **settings):
    raise EngineDeadError('see the trace')
  monkeypatch.setattr(vllm.LLM, 'chat', chat)
  with pytest.raises(errors.UserError, match='the engine failed: see the trace'):
    live.here(folder, '--client=vllm', '--model=some/model')


@pytest.mark.parametrize('flag, says', [
    ('--engine=[]', '--engine=.*: give an object'), ('--engine={', '--engine={: not JSON'),
    ('--engine={"size": 3}', '--engine=.*vLLM does not load it'),
    ('--params={"best": 3}', '--params: vLLM does not take them')])
def test_vllm_flags(folder, vllm, flag, says):
  with pytest.raises(errors.UserError, match=says):
    live.here(folder, '--client=vllm', '--model=some/model', flag)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('vllm') or 'VLLM_TEST_MODEL' not in os.environ,
                    reason='vLLM is not installed, or VLLM_TEST_MODEL names no model for it')
def test_vllm_itself(folder):
  assert live.here(folder, '--client=vllm', f'--model={os.environ["VLLM_TEST_MODEL"]}',
             '--max_tokens=16', '--allow_unparsed', '--go_on',
             '--engine={"enforce_eager": true, "max_model_len": 4096}') == 0
  assert len(rows(folder)) == 20
