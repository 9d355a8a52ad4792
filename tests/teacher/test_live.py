"""The whole job against a server: records, resuming, kills, secrets, the same as recorded ones."""

import asyncio
import collections
import dataclasses
import json
import random
import time

import live
import pytest
import server

import dss_jax.tasks  # noqa: F401  Registers the datasets.
from dss_jax import datasets, records
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import journal, prompts

PROVENANCE = ('teacher_model', 'prompt_sha256', 'request_key', 'finish_reason')


@pytest.fixture
def teacher():
  with server.Server(live.answer) as running:
    yield running


# --- One run -------------------------------------------------------------------------------------


@pytest.mark.parametrize('endpoint', ['chat', 'completions'])
def test_answers_become_records_once(teacher, tmp_path, endpoint):
  live.write_inputs(tmp_path, 40)
  done = live.run(teacher, tmp_path, f'--endpoint={endpoint}')
  assert done.returncode == 0, done.stderr
  rows = live.read(tmp_path)
  assert len(rows) == 40 == teacher.requests
  assert rows['q7'].rationale == 'Number 7 is a number.' and rows['q7'].teacher_label == 'many'
  assert (rows['q7'].finish_reason, rows['q7'].teacher_model) == ('stop', 'teacher')
  assert rows['q7'].prompt_sha256 == live.PROMPT.sha256()
  teacher_said = records.find_set(f'{tmp_path}/records', 'cqa', 'train').entry['teacher']
  assert teacher_said['endpoint'] == endpoint and teacher_said['client'] == 'openai'
  assert teacher_said['base_url'] == teacher.base_url
  assert teacher_said['usage']['completions'] == 36
  before = live.output(tmp_path)
  again = live.run(teacher, tmp_path, f'--endpoint={endpoint}')
  assert again.returncode == 0 and teacher.requests == 40 and live.output(tmp_path) == before
  assert 'tokens: ' in done.stdout and done.stdout == again.stdout


def test_a_better_parser_and_more_samples_cost_only_what_is_new(teacher, tmp_path):
  live.write_inputs(tmp_path, 20)
  live.run(teacher, tmp_path, '--temperature=0.7')
  live.run(teacher, tmp_path, '--temperature=0.7', '--parser=released', '--num_shards=2',
           '--keep=agree')
  assert teacher.requests == 20
  live.run(teacher, tmp_path, '--samples=3', '--temperature=0.7')
  assert teacher.requests == 60
  assert '3.00 completions a row' in live.run(
      teacher, tmp_path, '--samples=3', '--temperature=0.7').stdout


def test_dry_run_sends_nothing(teacher, tmp_path):
  live.write_inputs(tmp_path, 20)
  done = live.run(teacher, tmp_path, '--dry_run', '--prompt_price=1', '--completion_price=2',
                  '--rpm=10')
  assert '20, of which 0 are answered in the journal: 20 to send' in done.stdout
  assert ' USD, at most ' in done.stdout and 'at least 2.0 minutes' in done.stdout
  assert teacher.requests == 0 and not (tmp_path / 'records').exists()


@pytest.mark.parametrize('endpoint, field', [('chat', 'messages'), ('completions', 'prompt')])
def test_show_prompt_prints_the_request_as_it_is_sent(teacher, tmp_path, endpoint, field):
  live.write_inputs(tmp_path, 1)
  shown = live.run(teacher, tmp_path, f'--endpoint={endpoint}', '--show_prompt',
                   '--params={"top_p": 0.9, "temperature": null}').stdout
  body, _, note = shown.rpartition('\n\n# ')
  assert teacher.requests == 0 and live.PROMPT.sha256() in note
  live.run(teacher, tmp_path, f'--endpoint={endpoint}', '--split=test',
           '--params={"top_p": 0.9, "temperature": null}')
  assert teacher.last[0] == json.loads(body) and field in teacher.last[0]
  assert teacher.last[0]['top_p'] == 0.9 and 'temperature' not in teacher.last[0]


def test_max_requests_stops_with_its_own_exit_code_and_goes_on(teacher, tmp_path):
  live.write_inputs(tmp_path, 20)
  for left in (20, 12, 4):
    done = live.run(teacher, tmp_path, '--max_requests=8')
    assert done.returncode == (3 if left > 8 else 0), done.stderr
    assert teacher.requests == min(20, 28 - left)
    assert ('stopped: --max_requests=8 are sent' in done.stderr) == (left > 8)
  assert len(live.read(tmp_path)) == 20


def test_the_key_is_nowhere_even_if_the_server_repeats_it(tmp_path):
  live.write_inputs(tmp_path, 20)
  with server.Server(lambda asked: f'{live.KEY} {live.answer(asked)}') as echo:
    assert live.run(echo, tmp_path).returncode == 0  # `run` looks for the key.
    assert echo.last[1]['Authorization'] == f'Bearer {live.KEY}'
  assert '***' in next(iter(live.read(tmp_path).values())).rationale


def test_ctrl_c_waits_for_what_is_in_flight(tmp_path):
  live.write_inputs(tmp_path, 60)
  with server.Server(live.answer, latency=1.0) as slow:
    process = live.start(slow, tmp_path, '--in_flight=10')
    _wait_for(lambda: slow.requests >= 20)
    process.terminate()
    text, _ = process.communicate(timeout=30)
  assert process.returncode == 3 and 'SIGTERM: waiting for the requests in flight' in text
  assert 'Nothing is lost' in text and 'Traceback' not in text
  assert _answered(tmp_path) == slow.requests < 60


# --- Kills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(tmp_path, kills):
  """Final files byte for byte, and nothing asked twice but what was in flight at a kill."""
  n, in_flight, rng = 25 * kills, 8, random.Random(kills)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  for folder in (whole, killed):
    folder.mkdir()
    live.write_inputs(folder, n)
  with server.Server(live.answer, latency=0.05) as teacher:
    assert live.run(teacher, whole).returncode == 0
  with server.Server(live.answer, latency=0.05) as teacher:
    lost = []
    for kill in range(kills):
      before = teacher.requests - _answered(killed)
      process = live.start(teacher, killed, f'--in_flight={in_flight}')
      if kill % 5 == 4:  # At any moment of the start, too.
        time.sleep(rng.uniform(0, 1))
      else:
        _wait_for_requests(teacher, teacher.requests + 1, process)
        time.sleep(rng.uniform(0, 0.15))
      process.kill()
      process.wait()
      _wait_for_quiet(teacher)
      lost.append(teacher.requests - _answered(killed) - before)
    assert max(lost) <= in_flight
    paid = teacher.requests
    done = live.run(teacher, killed)
    assert done.returncode == 0, done.stderr
    print(f'{kills} kills, {n} inputs: {teacher.requests} requests served, {paid} of them before '
          f'the last run; {sum(lost)} were in flight at a kill, {max(lost)} at most')
    assert teacher.requests == n + sum(lost)
    assert set(teacher.questions) == {live.question(i) for i in range(n)}
  assert _without_address(live.output(killed)) == _without_address(live.output(whole))


def _answered(folder):
  """Answers in the journal."""
  found = journal.Journal(f'{folder}/records/journal')
  found.refresh()
  return found.usage().requests


def _without_address(files):
  """Two servers have two ports, which the manifest names."""
  manifest = json.loads(files['manifest.json'])
  for entry in manifest['sets'].values():
    entry['teacher'].pop('base_url')
  return {**files, 'manifest.json': manifest}


def _wait_for_requests(teacher, count, process):
  _wait_for(lambda: teacher.requests >= count or process.poll() is not None)


def _wait_for_quiet(teacher):
  """What a killed program had sent may reach a busy server only after it is gone."""
  while True:
    _wait_for(lambda: teacher.in_flight == 0)
    seen = teacher.requests
    time.sleep(0.3)
    if teacher.requests == seen and teacher.in_flight == 0:
      return


def _wait_for(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'timeout'
    time.sleep(0.002)


# --- The same records as the recorded client's ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name, source, completions, n', [
    ('svamp', 'svamp/svamp_train.json', 'svamp/palm/train_CoT_*.json', 800),
    ('cqa', 'cqa/cqa_train.json', 'cqa/palm/train_CoT_*.json', 9741)])
def test_the_server_gives_the_records_of_the_recorded_client(
    tmp_path, real_data, name, source, completions, n):
  from dss_jax.teacher.ask import recorded
  from dss_jax.teacher.inputs import reading
  dataset = datasets.get(name)
  prompt = prompts.load(prompts.path_of(name))
  examples = reading.read_inputs(str(real_data / source), dataset)
  known = recorded.RecordedClient(str(real_data / completions))
  known.prepare(examples.ids)
  texts = [c.text for (c,) in asyncio.run(known.complete(examples))]
  answers = {}
  for example, text in zip(examples, texts):
    ended = any(stop in text for stop in prompt.stop)
    answers[prompt.ask(example.input)] = [text, 'stop' if ended else 'length']
  common = [f'--dataset={name}', '--split=train', f'--inputs={real_data / source}']
  with server.Server(answers) as teacher:
    begun = time.monotonic()
    teacher_main.main([*common, '--client=openai', '--model=palm', '--max_tokens=2000',
                       f'--base_url={teacher.base_url}', f'--records_dir={tmp_path}/asked'])
    seconds = time.monotonic() - begun
    assert teacher.requests == n
  teacher_main.main([*common, f'--completions={real_data / completions}',
                     f'--records_dir={tmp_path}/recorded'])
  status, told = collections.Counter(), []
  for split in ('train', 'validation'):
    pairs = zip(records.read_records(f'{tmp_path}/asked', name, split),
                records.read_records(f'{tmp_path}/recorded', name, split), strict=True)
    for asked, wanted in pairs:
      blank = dict.fromkeys(PROVENANCE, '')
      if asked.parse_status != wanted.parse_status:  # It knows that the text was cut.
        assert (asked.finish_reason, asked.parse_status, wanted.parse_status) == (
            'length', 'truncated', 'no_answer_phrase')
        told.append(asked.id)
        blank['parse_status'] = ''
      assert dataclasses.replace(asked, **blank) == dataclasses.replace(wanted, **blank)
      assert asked.prompt_sha256 == prompt.sha256() and asked.teacher_model == 'palm'
      status[asked.parse_status] += 1
  assert status.total() == n and len(told) <= 1
  print(f'{name}: {n} requests in {seconds:.1f} s, {n - len(told)} records equal, {len(told)} '
        f'truncated instead of no_answer_phrase: {dict(status)}')
