"""A T5 as the teacher: meshes, batches, sampling, limits, and the whole job."""

import asyncio
import dataclasses
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5_teacher import (  # noqa: F401
  DRAWN,
  GREEDY,
  MODEL,
  PROMPT,
  TEXTS,
  ask,
  fixture_of_folder,
  fixture_of_greedy,
  fixture_of_teacher,
  fixture_of_vocabulary,
  fixture_of_write,
  make,
  written,
)

import dss_jax
from dss_jax import datasets, errors, records
from dss_jax.teacher import job
from dss_jax.teacher.ask import asking, endpoint, sender
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.train import config as config_lib


@pytest.fixture
def sizes(teacher, monkeypatch):
  """Rows of each batch that the network gets."""
  found = []
  generate = teacher.student.generate

  def counted(ids, **options):
    found.append(len(ids))
    return generate(ids, **options)
  monkeypatch.setattr(teacher.student, 'generate', counted)
  return found


# --- Devices -------------------------------------------------------------------------------------

ONE_DEVICE = """
import asyncio, json, sys, jax
from dss_jax.teacher.ask import t5_client
assert jax.device_count() == 1
folder, requests = json.load(sys.stdin)
teacher = t5_client.T5Endpoint(folder, batch_size=24, dtype='float32')
async def main():
  return await asyncio.gather(*map(teacher.ask, requests))
print(json.dumps(asyncio.run(main())))
"""


def on_one_device(folder, asked):
  environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}
  done = subprocess.run(
      [sys.executable, '-c', ONE_DEVICE], input=json.dumps([folder, asked]), env=environment,
      capture_output=True, text=True, timeout=600, check=True)
  return json.loads(done.stdout)


@pytest.mark.slow
def test_every_mesh_writes_what_one_device_writes(folder, teacher, greedy):
  asked = [teacher.request(PROMPT, text, GREEDY) for text in TEXTS]
  assert greedy == on_one_device(folder, asked)
  assert greedy == ask(make(folder, config_lib.MeshConfig(2, 2, 2), batch_size=24), TEXTS)
  student = dss_jax.load(folder, label_prefix='')
  assert written(greedy) == [p.label for p in student.predict(
      [PROMPT.as_text(text) for text in TEXTS], max_input_length=4096, max_target_length=12)]
  assert len(set(written(greedy))) > 12
  assert {response['finish_reason'] for response in greedy} == {'stop', 'length'}


def test_the_parameters_are_split_over_all_devices(teacher):
  params = teacher.student.params
  embedding = params['token_embedder']['embedding']
  assert len({str(shard.index) for shard in embedding.addressable_shards}) == 8
  assert {shard.data.shape for shard in embedding.addressable_shards} == {(32, 32)}
  large = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
  assert len(large) > 12
  assert not any(leaf.sharding.is_fully_replicated for leaf in large)


def test_provenance(teacher):
  assert teacher.provenance() == {
      'weights': teacher.weights, 'dtype': 'float32', 'platform': 'cpu',
      'mesh': {'data': 1, 'fsdp': 1, 'model': 8}}


# --- Batches -------------------------------------------------------------------------------------


def test_requests_share_batches(teacher, greedy, sizes):
  assert ask(teacher, TEXTS[:20]) == greedy[:20]
  assert sizes == [8, 8, 4]


def test_only_requests_with_the_same_decoding_share_one(teacher, greedy, sizes):
  async def main():
    decodings = [GREEDY, DRAWN, dataclasses.replace(GREEDY, max_tokens=5)]
    return await asyncio.gather(*(
        teacher.ask(teacher.request(PROMPT, text, decodings[i % 3]), i)
        for i, text in enumerate(TEXTS[:12])))
  found = asyncio.run(main())
  assert sizes == [4, 4, 4]
  assert found[::3] == greedy[:12:3]
  assert {one['usage']['completion_tokens'] <= 5 for one in found[2::3]} == {True}


def test_what_is_drawn_depends_on_prompt_and_seed_alone(teacher):
  seeds = [2 ** 32 - 1 - i for i in range(24)]
  together = ask(teacher, TEXTS, DRAWN, seeds)
  assert ask(teacher, TEXTS[5:8], DRAWN, seeds[5:8]) == together[5:8]
  others = ask(teacher, TEXTS, DRAWN, [seed - 24 for seed in seeds])
  assert sum(one == other for one, other in zip(written(together), written(others))) < 6
  assert len(set(written(ask(teacher, TEXTS[:1] * 8, DRAWN)))) > 4


def test_the_likeliest_token_alone_is_the_greedy_one(teacher, greedy):
  drawn = dataclasses.replace(DRAWN, extra={'top_k': 1, 'top_p': None})
  assert ask(teacher, TEXTS[:8], drawn) == greedy[:8]


# --- What an answer is ---------------------------------------------------------------------------


def test_length_and_end(teacher, greedy):
  for text, response in zip(TEXTS, greedy):
    answer = teacher.read(response)
    assert answer.text == response['text']
    assert answer.prompt_tokens == len(teacher.student.encode(PROMPT.as_text(text)))
    assert answer.finish_reason == 'stop' or answer.completion_tokens == 12
    assert 1 <= answer.completion_tokens <= 12
  assert len({response['usage']['completion_tokens'] for response in greedy}) > 3


def test_the_text_ends_before_the_first_stop_string(teacher, greedy):
  whole = max(written(greedy), key=len)
  at = written(greedy).index(whole)
  stops = ('\n', whole[9:11], '', whole[4:7])
  (found,) = ask(teacher, [TEXTS[at]], prompt=dataclasses.replace(PROMPT, stop=stops))
  assert found['text'] == whole[:min(whole.index(one) for one in (whole[9:11], whole[4:7]))]
  assert found['finish_reason'] == 'stop' and found['usage'] == greedy[at]['usage']


def test_a_prompt_is_never_cut(teacher, greedy, monkeypatch):
  lengths = [response['usage']['prompt_tokens'] for response in greedy]
  limit = sorted(lengths)[12]
  monkeypatch.setattr(teacher, 'max_input_tokens', limit)
  for length, found, before in zip(lengths, ask(teacher, TEXTS), greedy):
    if length <= limit:
      assert found == before
    else:
      assert isinstance(found, endpoint.Rejected)
      assert str(length) in str(found) and str(limit) in str(found)
  assert max(lengths) > limit


def test_half_a_surrogate_pair_in_the_input(teacher):
  (found,) = ask(teacher, ['a\ud83d b'])
  assert isinstance(found['text'], str)


def out_of_memory():
  jax.jit(lambda: jnp.ones(1 << 46))().block_until_ready()


def broken():
  raise jax.errors.JaxRuntimeError('INTERNAL: no such\nluck')


@pytest.mark.parametrize('fault, said', [
    (out_of_memory, 'out of memory with .*: lower --batch_size, or .*: RESOURCE_EXHAUSTED'),
    (lambda: np.zeros(1 << 55), 'out of memory with .*: lower --batch_size, or .*: Unable'),
    (broken, 'devices failed with .*: INTERNAL: no such luck')])
def test_failures_of_the_devices_are_fatal(teacher, monkeypatch, fault, said):
  monkeypatch.setattr(teacher.student, 'generate', lambda *args, **options: fault())
  for found in ask(teacher, TEXTS[:2]):
    assert isinstance(found, endpoint.Fatal)
    assert '--batch_size=8, --mesh=1x1x8, --dtype=float32' in str(found)
    assert re.search(said, str(found)) and '\n' not in str(found)


def test_a_checkpoint_that_is_damaged_meanwhile(folder, tmp_path):
  shutil.copytree(folder, tmp_path / 'tiny')
  made = make(str(tmp_path / 'tiny'))
  (tmp_path / 'tiny' / 'model.safetensors').write_bytes(b'')
  assert all(isinstance(one, errors.UserError) for one in ask(made, TEXTS[:2]))


# --- The job -------------------------------------------------------------------------------------


def test_a_job_asks_once(folder, tmp_path):
  dataset = datasets.Dataset('mine', datasets.read_plain_row, labels=('yes', 'no'),
                             completion=datasets.CompletionFormat(label_kind='class'))
  examples = [datasets.Example(f'q{i}', text, 'yes') for i, text in enumerate(TEXTS[:20])]

  def run():
    teacher = make(folder, MODEL)
    client = asking.AskingClient(
        teacher, PROMPT, journal_lib.Journal(str(tmp_path / 'journal')),
        sender.Options(decoding=GREEDY, retry_decoding=DRAWN, in_flight=16))
    outcome = job.run(dataset, 'test', examples, client, 'strict', str(tmp_path), num_shards=2,
                      retry_failed=1, allow_unparsed=True)
    return teacher, outcome

  teacher, outcome = run()
  rows = list(records.read_records(str(tmp_path), 'mine', 'test', verify=True))
  assert [row.id for row in rows] == [one.id for one in examples]
  assert {row.teacher_model for row in rows} == {'tiny'}
  assert len({row.request_key for row in rows}) == 20
  assert not any(row.parse_status == 'ok' for row in rows)  # It babbles.
  with open(outcome.quarantine['test']) as quarantine:
    assert len(list(quarantine)) == 20
  entry = records.find_set(str(tmp_path), 'mine', 'test').entry['teacher']
  assert (entry['client'], entry['weights']) == ('t5', teacher.weights)
  again, _ = run()
  assert 'student' not in vars(again)  # Nothing was asked, so nothing was loaded.
  assert list(records.read_records(str(tmp_path), 'mine', 'test', verify=True)) == rows


def test_closing_frees_thread_and_devices(folder):
  made = make(folder)
  ask(made, TEXTS[:1])
  embedding = weakref.ref(made.student.params['token_embedder']['embedding'])
  asyncio.run(made.close())
  gc.collect()
  assert embedding() is None
  assert all(isinstance(one, RuntimeError) for one in ask(made, TEXTS[:1]))


def test_importing_it_is_cheap():
  code = ('import sys, dss_jax.teacher.ask.t5_client; '
          "assert not {'jax', 'tensorflow', 'flax', 'orbax'} & set(sys.modules)")
  subprocess.run([sys.executable, '-c', code], check=True, timeout=600)
