"""The Beam runner writes the bytes that the local one does, pays for no answer twice, and stops."""

import collections
import importlib
import inspect
import json
import os
import shutil
import signal
import threading
import time

import live
import pytest
import server

pytest.importorskip('apache_beam', reason="needs Apache Beam: pip install -e '.[test,beam]'")

from apache_beam.options import pipeline_options

import dss_jax.tasks  # noqa: F401  Registers the datasets.
from dss_jax import datasets, errors, records
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher import beam, flags, job, protocol, shard, worker
from dss_jax.teacher import plan as plan_lib
from dss_jax.teacher.ask import clients
from dss_jax.teacher.inputs import reading

BEAM = ('--runner=beam', '--workers=2')
PROCESSES = (*BEAM, '--', '--direct_num_workers=2', '--direct_running_mode=multi_processing')


def answer(asked):
  """One in nine does not parse."""
  text = live.answer(asked)
  return text.replace('So the answer is', 'Perhaps') if '7?' in asked else text


@pytest.fixture
def teacher():
  with server.Server(answer, latency=0.02) as running:
    yield running


@pytest.fixture
def folders(tmp_path):
  """Two folders with the same 60 inputs."""
  made = [tmp_path / 'local', tmp_path / 'beam']
  for folder in made:
    folder.mkdir()
    live.write_inputs(folder, 60)
  return made


def same(local, other):
  wanted = live.output(local)
  assert {name.split('/')[0].split('.')[0] for name in wanted} == {
      'cqa-train', 'cqa-validation', 'manifest', 'quarantine'}
  assert live.output(other) == wanted
  left = [path.name for path in (other / 'records').iterdir() if path.name.endswith('.pending')]
  assert not left


# --- The same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize('how', [('--runner=beam',), BEAM, PROCESSES],
                         ids=['one', 'threads', 'processes'])
def test_live_answers(teacher, folders, how):
  local, other = folders
  assert live.run(teacher, local, '--in_flight=6').returncode == 0
  assert teacher.requests == 60
  teacher.peak = 0
  done = live.run(teacher, other, '--in_flight=6', *how)
  assert done.returncode == 0, done.stderr
  assert 'teacher: 8 shards go to ' in done.stderr
  same(local, other)
  assert set(teacher.questions.values()) == {2}  # Once by each job.
  assert 3 <= teacher.peak <= 6
  rows = live.read(other)
  assert len(rows) == 60 and rows['q7'].parse_status == 'no_answer_phrase'


def test_processes_divide_the_limit_evenly(teacher, folders):
  live.run(teacher, folders[1], '--in_flight=7', *PROCESSES)
  assert 3 < teacher.peak <= 6  # Three each.


def recorded(folder, *more):
  return teacher_main.main([
      '--dataset=cqa', '--split=train', f'--inputs={folder}/in.jsonl', '--num_shards=3',
      f'--records_dir={folder}/records', *more])


@pytest.mark.parametrize('client', ['recorded', 'none'])
def test_without_asking(folders, client):
  local, other = folders
  more = ['--client=none']
  if client == 'recorded':
    for folder in folders:
      (folder / 'said.json').write_text(
          str([answer(f'What is {i}?') for i in range(60)]).replace("'", '"'))
  for folder, how in ((local, ()), (other, BEAM)):
    if client == 'recorded':
      more = [f'--completions={folder}/said.json']
    assert recorded(folder, *more, *how) == 0
  if client == 'recorded':
    same(local, other)
  else:
    assert live.output(local) == live.output(other)


def test_nothing_parsed(folders):
  folder = folders[1]
  said = folder / 'said.json'
  said.write_text(json.dumps(['It is. So the answer is (c) many.'] * 60))
  assert recorded(folder, f'--completions={said}', *BEAM) == 0
  before = live.output(folder)
  said.write_text(json.dumps(['Hm.'] * 60))
  with pytest.raises(errors.UserError, match='none of 60 rows parsed'):
    recorded(folder, f'--completions={said}', *BEAM)
  assert live.output(folder) == before


def test_a_pipe_is_read_once(folders):
  read, write = os.pipe()
  os.write(write, (folders[1] / 'in.jsonl').read_bytes())
  os.close(write)
  with pytest.raises(errors.UserError, match='--inputs=/dev/fd/.*: every worker reads it'):
    recorded(folders[1], '--client=none', f'--inputs=/dev/fd/{read}', *BEAM)
  os.close(read)


def test_real_inputs(real_data, tmp_path):
  for folder, how in ((tmp_path / 'local', ()), (tmp_path / 'beam', BEAM)):
    assert teacher_main.main([
        '--dataset=svamp', '--split=train', f'--inputs={real_data}/svamp/svamp_train.json',
        f'--completions={real_data}/svamp/palm/train_CoT_*.json',
        f'--records_dir={folder}/records', *how]) == 0
  assert live.output(tmp_path / 'local') == live.output(tmp_path / 'beam')
  rows = live.read(tmp_path / 'beam', 'svamp')
  assert len(rows) == 800
  assert collections.Counter(row.parse_status for row in rows.values())[records.PARSED] == 769


# --- Never paid twice ----------------------------------------------------------------------------


def test_the_runners_share_a_journal(teacher, folders):
  local, other = folders
  live.run(teacher, local)
  live.run(teacher, other, f'--journal={local}/records/journal', *BEAM)
  assert teacher.requests == 60
  same(local, other)
  shutil.rmtree(local / 'records')
  shutil.copytree(other / 'records', local / 'records')
  live.run(teacher, other, *BEAM)  # Its own journal is empty.
  live.run(teacher, local, f'--journal={other}/records/journal')
  assert teacher.requests == 120
  same(local, other)


@pytest.mark.parametrize('how', [('--runner=beam',), PROCESSES], ids=['one', 'processes'])
def test_killed_and_run_again(teacher, folders, how):
  local, other = folders
  live.run(teacher, local)
  asked, teacher.questions = teacher.requests, collections.Counter()
  teacher._latency = lambda question: 0.2
  job_there = live.start(teacher, other, '--in_flight=4', *how)
  while teacher.requests < asked + 25:
    time.sleep(0.01)
  job_there.send_signal(signal.SIGKILL)
  job_there.communicate()  # Ends when its workers have: they hold the pipe.
  before = sum(teacher.questions.values())
  assert before < 40
  assert live.run(teacher, other, '--in_flight=4', *how).returncode == 0
  same(local, other)
  assert len(teacher.questions) == 60
  twice = [count for count in teacher.questions.values() if count > 1]
  assert len(twice) <= 4 and set(twice) <= {2}  # Those in flight at the kill.


@pytest.mark.parametrize('how, number', [(BEAM, signal.SIGINT), (PROCESSES, signal.SIGTERM)],
                         ids=['threads', 'processes'])
def test_a_signal_lets_come_in_what_is_in_flight(teacher, folders, how, number):
  other = folders[1]
  teacher._latency = lambda question: 0.2
  job_there = live.start(teacher, other, '--in_flight=4', *how)
  while teacher.requests < 20:
    time.sleep(0.01)
  job_there.send_signal(number)
  text, _ = job_there.communicate(timeout=30)
  assert job_there.returncode == 3, text
  assert f'interrupted by {number.name}' in text
  assert teacher.requests < 40
  assert live.run(teacher, other, *how).returncode == 0
  assert teacher.requests == 60 and len(live.read(other)) == 60


# --- Stops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('how', [BEAM, PROCESSES], ids=['threads', 'processes'])
def test_a_wrong_key_stops_the_job_with_one_message(teacher, folders, how):
  teacher.faults = lambda number, body: server.echo_key()
  done = live.run(teacher, folders[1], '--in_flight=4', *how)
  assert done.returncode == 2
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert 'are missing: 5 request(s) in a row had no answer' in line and '401' in line
  assert teacher.requests <= 2 * (5 + 4 + 1)
  assert not (folders[1] / 'records/manifest.json').exists()
  teacher.faults = lambda number, body: None
  assert live.run(teacher, folders[1], *how).returncode == 0


def test_max_requests(teacher, folders):
  other = folders[1]
  for sent in (20, 40):
    done = live.run(teacher, other, '--max_requests=20', *BEAM)
    assert done.returncode == 3 and '--max_requests=20 are sent' in done.stderr
    assert teacher.requests == sent
  done = live.run(teacher, other, '--max_requests=14', *PROCESSES)
  assert done.returncode == 3 and '(limits are divided among 2 workers)' in done.stderr
  assert 47 <= teacher.requests <= 54
  assert live.run(teacher, other, *BEAM).returncode == 0 and teacher.requests == 60


def test_a_workers_user_error_is_the_jobs(teacher, folders):
  other = folders[1]
  (other / 'only_once.py').write_text('import os\nos.remove(__file__)\n')
  done = live.run(teacher, other, '--import=only_once', *PROCESSES, PYTHONPATH=str(other))
  assert done.returncode == 2, done.stderr
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert "--import=only_once: no module 'only_once'" in line
  assert teacher.requests == 0


# --- The runner ----------------------------------------------------------------------------------


def parsed(folder, *more):
  return flags.parser().parse_args([
      '--client=openai', '--model=m', '--base_url=http://10.0.0.1/v1', '--dataset=cqa',
      '--split=train', f'--inputs={folder}/in.jsonl', f'--records_dir={folder}/records', *more])


def made(folder, chosen, options=()):
  """(runner, plan, examples, client) of a job that is not run."""
  dataset = datasets.get('cqa')
  examples = reading.read_inputs(chosen.inputs, dataset)
  client = clients.from_flags(chosen, chosen.records_dir)
  plan = plan_lib.make(dataset, 'train', examples, client, shard.Settings(),
                       chosen.records_dir, 4, 'auto', {})
  return beam.Runner(chosen, options), plan, examples, client


def test_counters(folders):
  folder = folders[1]
  chosen = parsed(folder, '--client=none')
  runner, plan, examples, client = made(folder, chosen)
  job.run(plan.dataset, 'train', examples, client, 'strict', plan.records_dir, num_shards=4,
          runner=runner)
  counters = {metric.key.metric.name: metric.committed
              for metric in runner.result.metrics().query()['counters']
              if metric.key.metric.namespace == 'teacher'}
  assert counters == {'shards': 8, 'rows': 60, 'rows_parsed': 0, 'rows_failed': 0, 'answers': 0,
                      'prompt_tokens': 0, 'completion_tokens': 0}


def test_shards_travel_small():
  rows = [i for i in range(550_000) if i % 10 != i // 10 % 10]
  spec = shard.Spec('cqa', 'train', 1, 2, rows)
  packed = beam._pack(spec)
  assert beam._unpack('cqa', packed) == spec
  assert len(packed[-1]) < 50_000
  assert len(beam._pack(shard.Spec('cqa', 'test', 0, 1, range(3, 550_000)))[-1]) < 5_000


def test_no_key_in_the_pipeline(folders, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', live.KEY)
  runner, plan, examples, _ = made(folders[1], parsed(folders[1]))
  task = runner._task(plan, examples, '')
  pipeline = runner._pipeline(plan, task)
  assert live.KEY.encode() not in pipeline.to_runner_api().SerializeToString()
  assert live.KEY not in str(pipeline.options.get_all_options())


@pytest.mark.parametrize('more, options, message', [
    ((), ['--direct_num_worker=2'],
     "--direct_num_worker: Beam has no such option: did you mean 'direct_num_workers'"),
    ((), ['--direct_num_workers=2', '--direct_running_mode=multi_processing'],
     '--direct_num_workers=2, but .* --workers=1: set --workers=2'),
    ((), ['--runner=DataflowRunner', '--max_num_workers=9'], '--max_num_workers=9, but'),
    (('--workers=4', '--max_requests=3'), ['--runner=DataflowRunner'],
     '--max_requests=3 is divided among --workers=4'),
    (('--workers=4', '--in_flight=2'), ['--runner=DataflowRunner'],
     '--in_flight=2 is divided among --workers=4: use 4 or more'),
    (('--base_url=http://localhost:8000/v1',), ['--runner=DataflowRunner'], 'cannot reach it'),
])
def test_options_that_would_go_wrong(tmp_path, monkeypatch, more, options, message):
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  with pytest.raises(errors.UserError, match=message):
    beam.Runner(parsed(tmp_path, *more), options)


def test_a_key_of_this_machine_is_not_dataflows(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', live.KEY)
  with pytest.raises(errors.UserError, match='does not reach .* --api_key_secret') as raised:
    beam.Runner(parsed(tmp_path), ['--runner=DataflowRunner'])
  assert live.KEY not in str(raised.value)
  beam.Runner(parsed(tmp_path, '--api_key_secret=projects/p/secrets/s/versions/1'),
              ['--runner=DataflowRunner'])


def test_dataflow_has_as_many_processes_as_workers(tmp_path, monkeypatch):
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  runner = beam.Runner(parsed(tmp_path, '--workers=5'), ['--runner=DataflowRunner'])
  options = runner._options.view_as(pipeline_options.WorkerOptions)
  assert (options.num_workers, options.max_num_workers) == (5, 5)
  assert options.autoscaling_algorithm == 'NONE'
  experiments = runner._options.view_as(pipeline_options.DebugOptions).experiments
  assert 'no_use_multiple_sdk_containers' in experiments


def test_dataflow_cannot_read_this_disk(folders, monkeypatch):
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  runner, plan, examples, client = made(folders[1], parsed(folders[1]),
                                        ['--runner=DataflowRunner'])
  with pytest.raises(errors.UserError, match=r"--inputs=.*Dataflow's workers cannot read it"):
    job.run(plan.dataset, 'train', examples, client, 'strict', plan.records_dir, runner=runner)


def test_another_runners_complaint_is_one_line(folders):
  runner, plan, examples, client = made(folders[1], parsed(folders[1]), ['--runner=NoSuchRunner'])
  with pytest.raises(errors.UserError, match='--runner=beam: Unexpected pipeline runner: NoSuch'):
    job.run(plan.dataset, 'train', examples, client, 'strict', plan.records_dir, runner=runner)


class Elsewhere:
  """A pipeline that another runner would run; its result too."""

  def __init__(self, error=None):
    self.error = error
    self.cancelled = threading.Event()

  def run(self):
    return self

  def wait_until_finish(self):
    if self.error:
      raise self.error
    signal.raise_signal(signal.SIGTERM)
    self.cancelled.wait()

  def cancel(self):
    self.cancelled.set()


def run_elsewhere(folder, pipeline, monkeypatch):
  runner, plan, examples, client = made(folder, parsed(folder), ['--runner=PortableRunner'])
  monkeypatch.setattr(beam.Runner, '_pipeline', lambda *_: pipeline)
  job.run(plan.dataset, 'train', examples, client, 'strict', plan.records_dir, runner=runner)


def test_a_job_elsewhere_that_failed_can_go_on(folders, monkeypatch):
  with pytest.raises(protocol.Unfinished, match='State: FAILED'):
    run_elsewhere(folders[1], Elsewhere(RuntimeError('State: FAILED, Error: no quota')),
                  monkeypatch)


@pytest.mark.parametrize('seconds', [0, 0.3])
def test_a_signal_cancels_a_job_elsewhere(folders, monkeypatch, seconds):
  catch = beam._signals
  monkeypatch.setattr(beam, '_signals', lambda: time.sleep(seconds) or catch())
  pipeline = Elsewhere()
  with pytest.raises(protocol.Unfinished, match='interrupted by SIGTERM'):
    run_elsewhere(folders[1], pipeline, monkeypatch)
  assert pipeline.cancelled.is_set()


def test_secret_manager_is_called_as_its_library_wants():
  manager = importlib.import_module('google.cloud.secretmanager')
  call = inspect.signature(manager.SecretManagerServiceClient.access_secret_version)
  assert 'name' in call.parameters


def test_inputs_that_changed_meanwhile(folders):
  folder = folders[1]
  runner, plan, examples, client = made(folder, parsed(folder, '--client=none'))
  live.write_inputs(folder, 59)
  with pytest.raises(errors.UserError, match='changed since the job began'):
    job.run(plan.dataset, 'train', examples, client, 'strict', plan.records_dir, runner=runner)


def test_nothing_stays_behind(folders):
  recorded(folders[1], '--client=none', *BEAM)
  assert not worker._WORKERS
  assert 'teacher' not in [thread.name for thread in threading.enumerate()]
