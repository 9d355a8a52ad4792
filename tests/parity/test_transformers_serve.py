"""The teacher job against an OpenAI-compatible server that is not ours: `transformers serve`.

The teacher is a Llama of random weights, made here, so its answers do not parse; what is tested
is that every answer arrives, is journaled, and is paid for once.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from dss_jax import records
from dss_jax.teacher.ask import journal

pytest.importorskip('torch', reason="PyTorch is not installed: pip install -e '.[parity]'")
pytest.importorskip('fastapi', reason="transformers serve needs pip install -e '.[parity]'")
pytestmark = pytest.mark.slow

N = 6
TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> pathlib.Path:
  """A folder with a tiny random Llama and a tokenizer trained on a few words."""
  import tokenizers
  import torch
  import transformers
  folder = tmp_path_factory.mktemp('llama')
  core = tokenizers.Tokenizer(tokenizers.models.BPE())
  core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  core.decoder = tokenizers.decoders.ByteLevel()
  core.train_from_iterator(
      ['So the answer is (a) one. What is it? Answer Choices:'],
      tokenizers.trainers.BpeTrainer(
          vocab_size=400, special_tokens=['<s>', '</s>'],
          initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  tokenizer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=core, bos_token='<s>', eos_token='</s>', pad_token='</s>',
      chat_template=TEMPLATE)
  tokenizer.save_pretrained(folder)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
      vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
      num_attention_heads=2, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1,
      pad_token_id=1)
  transformers.LlamaForCausalLM(config).save_pretrained(folder)
  return folder


@pytest.fixture(scope='module')
def base_url(model, tmp_path_factory):
  """The server, as its own command line starts it."""
  cache = tmp_path_factory.mktemp('cache')
  (cache / 'hub').mkdir()
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  program = pathlib.Path(sys.executable).with_name('transformers')
  with open(cache / 'log', 'w') as log:
    server = subprocess.Popen(
        [program, 'serve', str(model), '--host', '127.0.0.1', '--port', str(port),
         '--device', 'cpu'], stdout=log, stderr=subprocess.STDOUT,
        env={**os.environ, 'HF_HOME': str(cache), 'HF_HUB_OFFLINE': '1'})
  try:
    _wait(f'http://127.0.0.1:{port}/health', server, cache / 'log')
    yield f'http://127.0.0.1:{port}/v1'
  finally:
    server.terminate()
    server.wait(30)


def _wait(url, server, log):
  end = time.monotonic() + 180
  while time.monotonic() < end:
    assert server.poll() is None, log.read_text()[-3000:]
    try:
      with urllib.request.urlopen(url, timeout=5) as response:
        if response.status == 200:
          return
    except OSError:
      time.sleep(0.5)
  raise AssertionError(log.read_text()[-3000:])


def _job(folder, base_url, model, *flags):
  rows = [{'id': f'q{i}', 'question': f'What is {i}?', 'choices': ['one', 'two'], 'answer': 'one'}
          for i in range(N)]
  (folder / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  done = subprocess.run(
      [sys.executable, '-m', 'dss_jax.teacher', '--client=openai', f'--base_url={base_url}',
       f'--model={model}', '--dataset=cqa', '--split=test', f'--inputs={folder}/in.jsonl',
       f'--records_dir={folder}/records', '--max_tokens=16', '--in_flight=2', '--allow_unparsed',
       *flags],
      capture_output=True, text=True, check=False, timeout=600)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize('endpoint', ['chat', 'completions'])
def test_every_answer_arrives_and_is_paid_for_once(tmp_path, base_url, model, endpoint):
  out = _job(tmp_path, base_url, model, f'--endpoint={endpoint}')
  entries = list(journal.entries(f'{tmp_path}/records/journal'))
  assert len(entries) == N
  rows = list(records.read_records(f'{tmp_path}/records', 'cqa', 'test', verify=True))
  assert len(rows) == N and {row.teacher_model for row in rows} == {str(model)}
  assert {row.request_key for row in rows} == {entry['key'] for entry in entries}
  assert all(0 < entry['usage'][1] <= 16 < entry['usage'][0] for entry in entries)
  assert 'length' in {row.finish_reason for row in rows}  # Random text seldom ends by itself.
  failed = [row for row in rows if row.parse_status != 'ok']
  quarantine = tmp_path / 'records' / 'quarantine' / 'cqa-test.jsonl'
  assert len(quarantine.read_text().splitlines()) == len(failed) > 0
  assert _job(tmp_path, base_url, model, f'--endpoint={endpoint}') == out
  assert len(list(journal.entries(f'{tmp_path}/records/journal'))) == N


def test_an_address_without_v1_is_one_message(tmp_path, base_url):
  (tmp_path / 'in.jsonl').write_text(
      '{"id": 1, "question": "Q?", "choices": ["a"], "answer": "a"}')
  address = base_url.removesuffix('/v1')
  done = subprocess.run(
      [sys.executable, '-m', 'dss_jax.teacher', '--client=openai', f'--base_url={address}',
       '--model=m', '--dataset=cqa', '--split=test', f'--inputs={tmp_path}/in.jsonl',
       f'--records_dir={tmp_path}/records'],
      capture_output=True, text=True, check=False, timeout=600)
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  assert f'404: no model \'m\', or a wrong --base_url={address}' in done.stderr
  assert not (tmp_path / 'records/manifest.json').exists()
