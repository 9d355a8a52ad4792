"""A worker of a shared job, with no Beam: its share of the limits, its notes to the launcher."""

import dataclasses
import errno

import live
import pytest
import server

import dss_jax.tasks  # noqa: F401  Registers the datasets.
from dss_jax import datasets, errors, records
from dss_jax.teacher import flags, protocol, shard, worker
from dss_jax.teacher.ask import journal, prompts
from dss_jax.teacher.inputs import reading


@pytest.fixture
def teacher():
  with server.Server(live.answer) as running:
    yield running


def task(folder, teacher, *more, share=1, **changes):
  live.write_inputs(folder, 20)
  chosen = flags.parser().parse_args([
      '--client=openai', '--model=m', f'--base_url={teacher.base_url}', '--dataset=cqa',
      '--split=test', *more])
  made = worker.Task(
      run='one', flags=chosen, prompt='', dataset='cqa', completion=live.PROMPT.completion,
      records_dir=f'{folder}/records', inputs=f'{folder}/in.jsonl',
      inputs_sha256=reading.read_inputs(f'{folder}/in.jsonl', datasets.get('cqa')).sha256,
      settings=shard.Settings(), staging={'test': f'{folder}/records/staging'},
      describe_only=False, share=share, lease='')
  return dataclasses.replace(made, **changes)


SPECS = [shard.Spec('cqa', 'test', 0, 2, range(12)), shard.Spec('cqa', 'test', 1, 2, range(12, 20))]


def work(given, specs=SPECS):
  """Does shards as a worker of that task."""
  done = worker.Worker(given)
  try:
    return [done.do(spec) for spec in specs]
  finally:
    done.close()


def staged(folder):
  return {path.name: path.read_bytes() for path in (folder / 'records/staging').iterdir()}


def test_results_are_found_by_the_launcher_and_the_same_when_made_twice(teacher, tmp_path):
  given = task(tmp_path, teacher)
  summaries = work(given)
  results = worker.collect(given, SPECS)
  assert [result.summary for result in results] == summaries
  assert [result.summary.rows for result in results] == [12, 8]
  before = staged(tmp_path)
  assert results[1].shard.bytes == len(before[SPECS[1].name])
  work(given)
  assert staged(tmp_path) == before and teacher.requests == 20


def test_kept_samples_are_counted(teacher, tmp_path):
  given = task(tmp_path, teacher, '--samples=3', settings=shard.Settings(keep_samples=True))
  work(given)
  assert [(one.summary.rows, one.summary.records, one.shard.records, one.summary.max_samples)
          for one in worker.collect(given, SPECS)] == [(12, 36, 36, 3), (8, 24, 24, 3)]


def test_the_limits_are_divided(teacher, tmp_path):
  made = worker.Worker(task(
      tmp_path, teacher, '--in_flight=10', '--rpm=90', '--max_requests=9', '--budget_usd=3',
      '--prompt_price=1', '--completion_price=1', share=3))
  client = made._client
  assert client.options.in_flight == 3 and client.budget.max_requests == 3
  assert client.budget.max_usd == 1.0
  assert client.sender.pace._request_seconds == 2.0
  made.close()


def test_of_what_is_left_of_the_budget(teacher, tmp_path):
  prices = ['--prompt_price=100', '--completion_price=100']
  work(task(tmp_path, teacher, *prices), SPECS[:1])
  made = worker.Worker(task(tmp_path, teacher, *prices, '--budget_usd=2', share=2))
  spent = made._client.budget.spent
  assert spent > 0.1
  assert made._client.budget.max_usd == pytest.approx(spent + (2 - spent) / 2)
  made.close()


def test_why_shards_are_missing(teacher, tmp_path):
  given = task(tmp_path, teacher, '--max_requests=14', share=2)
  assert work(given) == [None, None]
  with pytest.raises(protocol.Unfinished) as raised:
    worker.collect(given, SPECS)
  assert str(raised.value) == (
      '2 of 2 shards are missing: --max_requests=7 are sent '
      '(limits are divided among 2 workers)')
  assert teacher.requests == 7
  work(task(tmp_path, teacher))
  assert len(worker.collect(given, SPECS)) == 2 and teacher.requests == 20


def test_results_of_another_run_are_none(teacher, tmp_path):
  given = task(tmp_path, teacher)
  work(given, SPECS[:1])
  with pytest.raises(protocol.Unfinished, match='1 of 2 .*: the workers ended before they were'):
    worker.collect(given, SPECS)
  with pytest.raises(protocol.Unfinished, match='2 of 2 shards are missing'):
    worker.collect(dataclasses.replace(given, run='two'), SPECS)


def test_a_disk_that_cannot_be_written_is_the_users(teacher, tmp_path, monkeypatch):
  def stage(folder, name, rows):
    raise OSError(errno.ENOSPC, 'No space left on device', f'{folder}/{name}')
  given = task(tmp_path, teacher)
  monkeypatch.setattr(records, 'stage_shard', stage)
  assert work(given) == [None, None]
  with pytest.raises(errors.UserError, match='cqa-test.tfrecord-00000-of-00002: cannot be written '
                     r'\(No space left on device\)'):
    worker.collect(given, SPECS)
  elsewhere = worker.Worker(task(tmp_path, teacher))
  elsewhere._task = dataclasses.replace(given, records_dir='gs://bucket/records')
  with pytest.raises(OSError, match='No space'):
    elsewhere.do(SPECS[0])
  elsewhere.close()


@pytest.mark.parametrize('change, message', [
    ({'inputs_sha256': 'another'}, 'changed since the job began'),
    ({'inputs': 'nowhere.jsonl'}, '--inputs=nowhere.jsonl: cannot be read'),
    ({'dataset': 'cqaa'}, "unknown dataset 'cqaa'"),
])
def test_what_the_user_must_mend_is_said_and_not_tried_again(teacher, tmp_path, change, message):
  given = task(tmp_path, teacher, **change)
  assert work(given) == [None, None] and not teacher.requests
  with pytest.raises(errors.UserError, match=message):
    worker.collect(given, SPECS)


def test_a_full_disk_ends_the_other_shards_too(teacher, tmp_path, monkeypatch):
  async def add(*arguments):
    raise errors.UserError('no space left')
  given = task(tmp_path, teacher, '--in_flight=2')
  monkeypatch.setattr(journal.Journal, 'add', add)
  assert work(given) == [None, None]
  assert teacher.requests <= 2
  with pytest.raises(errors.UserError, match='no space left'):
    worker.collect(given, SPECS)


def test_a_prompt_travels_as_text(teacher, tmp_path):
  with open(prompts.path_of('cqa')) as file:
    text = file.read().replace('version = 2', 'version = 77')
  made = worker.Worker(task(tmp_path, teacher, '--prompt=elsewhere/mine.toml', prompt=text))
  assert made._client.prompt.version == 77
  made.close()


def test_a_stop_reaches_a_worker_that_is_still_to_be_made(teacher, tmp_path):
  given = task(tmp_path, teacher, run='stopped')
  worker.stop('stopped', 'interrupted')
  assert worker.of(given).do(SPECS[0]) is None
  worker.close('stopped')
  with pytest.raises(protocol.Unfinished, match='missing: interrupted'):
    worker.collect(given, SPECS)
  assert teacher.requests == 0
