"""Real sweeps of real runs: killed, stopped, failing, shared among machines."""

import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

import dss_jax.tasks  # noqa: F401
from dss_jax import errors
from dss_jax.experiments import confidences, plan, results, sweep, sweep_config

TINY = ['--gin.TRAIN_STEPS=6', '--gin.WARMUP_STEPS=0', '--gin.EVAL_PERIOD=6',
        '--gin.CHECKPOINT_PERIOD=2', '--gin.BATCH_SIZE=8', '--gin.FRACTIONS=(1.0,)',
        '--gin.RATIONALES=3']


@pytest.fixture
def flags(toy_records, toy_vocabulary, tmp_path):
  settings_for = {'toy': {'RECORDS_DIR': str(toy_records), 'VOCABULARY': toy_vocabulary}}
  return ['--gin_file=gin/sweeps/toy.gin', f'--out={tmp_path / "out"}',
          f'--gin.SETTINGS_FOR={settings_for}', *TINY]


def program(flags):
  environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}
  return subprocess.Popen([sys.executable, '-m', 'dss_jax.experiments.sweep', *flags], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def run(flags, code=0):
  process = program(flags)
  said, _ = process.communicate(timeout=600)
  assert process.returncode == code, said
  return said


def wait_for(condition, process, seconds=300):
  for _ in range(seconds * 20):
    if condition():
      return
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.05)
  raise AssertionError('it did not come to that')


def lines(out):
  path = out / 'results.jsonl'
  return results.read_lines(str(path)) if path.exists() else []


def finished(out):
  """Modification times of what finished runs have written last."""
  return {path.parent: path.stat().st_mtime_ns for path in out.rglob('test_metrics.json')}


def test_a_dry_run_prints_commands_that_train_takes(flags, capsys, tmp_path):
  assert sweep.main([*flags, '--dry_run', '--gin.SEEDS=(3,)']) == 0
  commands = capsys.readouterr().out.splitlines()
  assert len(commands) == 3 and not (tmp_path / 'out').exists()
  assert all(command.startswith('python -m dss_jax.train --gin_file=gin/native/')
             and '--gin.SEED=3' in command and '--gin.TRAIN_STEPS=6' in command
             for command in commands)


@pytest.mark.slow
def test_data_of_ones_own_is_swept_as_the_page_shows(tmp_path):
  """Under its own name, on its own task."""
  page = (pathlib.Path(__file__).parents[2] / 'docs' / 'experiments.md').read_text()
  command, = (block for block in re.findall(r'```sh\n(.*?)```', page, re.DOTALL)
              if 'tickets' in block)
  (tmp_path / 'my_tasks.py').write_text(
      "from dss_jax import data\ndata.register('tickets', labels=('billing', 'bug'))\n")
  done = subprocess.run(
      [sys.executable, '-m', 'dss_jax.cli', *shlex.split(command.replace('\\\n', ''))[1:]],
      cwd=tmp_path, text=True, capture_output=True, check=True, timeout=600)
  runs = done.stdout.splitlines()
  assert len(runs) == 2 * 3 and all('--gin.DATASET=tickets' in run and '/tickets/' in run
                                    and '--import=my_tasks' in run for run in runs)


@pytest.mark.slow
def test_what_goes_beyond_the_paper_is_measured_as_its_page_shows(tmp_path):
  """The records are made; the sweeps say what they would train."""
  page = (pathlib.Path(__file__).parents[2] / 'docs' / 'methods.md').read_text()
  block, = (block for block in re.findall(r'```sh\n(.*?)```', page, re.DOTALL)
            if 'dss sweep' in block)
  runs = []
  for words in map(shlex.split, block.splitlines()):
    if words[:2] == ['dss', 'report']:
      continue
    program = words[1:] if words[0] == 'python' else ['-m', 'dss_jax.cli', *words[1:], '--dry_run']
    done = subprocess.run([sys.executable, *program], cwd=tmp_path, text=True, capture_output=True,
                          check=True, timeout=600)
    runs.append(len(done.stdout.splitlines()) if words[0] == 'dss' else 0)
  assert [count for count in runs if count] == [9 * 3 * 5, 6 * 3 * 5, 4 * 3 * 5]


def test_machines_share_the_runs_of_a_sweep(flags, capsys):
  def commands(*more):
    assert sweep.main([*flags, '--dry_run', *more]) == 0
    return capsys.readouterr().out.splitlines()
  shares = [commands(f'--shard={i}/4') for i in range(4)]
  assert sorted(map(len, shares)) == [2, 2, 2, 3]
  assert sorted(sum(shares, [])) == sorted(commands())


@pytest.mark.parametrize('more, message', [
    (['--out=gs://bucket/out'], 'local'), (['--env=HOME'], 'NAME=VALUE'),
    (['--gin.TRAIN_STEP=3'], "TRAIN_STEP: did you mean 'TRAIN_STEPS'|no gin file given defines"),
    (['--gin.SEEDS=3'], 'SEEDS=3: write a tuple')])
def test_what_cannot_be_is_told_before_anything_trains(flags, tmp_path, more, message):
  with pytest.raises(errors.UserError, match=message):
    sweep.main([*flags, *more])
  assert not (tmp_path / 'out').exists()


def test_two_sweeps_do_not_share_a_folder(flags, tmp_path):
  (tmp_path / 'out').mkdir()
  with open(tmp_path / 'out' / '.sweep-0-of-1.lock', 'w') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(errors.UserError, match='another job is at work on sweep-0-of-1'):
      sweep.main(flags)


def test_results_of_other_settings_are_refused(flags, tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  chosen = sweep_config.parse(
      ['gin/sweeps/toy.gin'], [flag.removeprefix('--gin.') for flag in flags[2:]])
  made = plan.make(chosen, str(out), [])
  row = made[0].row({'step': 6, 'parameters': 1, 'best_step': 6, 'seconds': 1.0, 'compiling': 0.5,
                     'test': {}, 'validation': {}})
  results.append(str(out / 'results.jsonl'), row)
  with pytest.raises(errors.UserError, match=r'other settings \(steps: 6, now 7\)'):
    sweep.main([*flags, '--gin.TRAIN_STEPS=7'])
  assert not (out / 'sweep.json').exists()


@pytest.mark.slow
def test_killed_in_the_middle_no_finished_run_is_done_again(flags, tmp_path):
  out = tmp_path / 'out'
  flags = [*flags, "--gin.SEEDS=(0,1)", "--gin.METHODS=('dss','finetune')", '--slots=2']
  process = program(flags)
  wait_for(lambda: len(lines(out)) >= 1, process)
  process.kill()
  process.communicate()
  before, had = finished(out), len(lines(out))
  assert had < 4
  with (out / 'results.jsonl').open('a') as f:
    f.write('{"key": "toy/ds')  # As if killed while writing.
  time.sleep(3)  # Its workers notice, and end.
  said = run(flags)
  assert f'4 runs, {had} finished before' in said and '4 of 4 runs are finished' in said
  rows = lines(out)
  assert len(rows) == len({row['key'] for row in rows}) == 4
  after = finished(out)
  assert all(after[folder] == when for folder, when in before.items())
  assert '4 runs, 4 finished before' in run(flags) and finished(out) == after
  # The same as without a kill, to the digit.
  whole = tmp_path / 'whole'
  run([*flags, f'--out={whole}'])
  figures = {row['key']: (row['test'], row['validation']) for row in lines(whole)}
  assert {row['key']: (row['test'], row['validation']) for row in rows} == figures
  students = list(out.rglob('rationales.jsonl'))
  assert len(students) == 1 and 'dss-gold' in str(students[0])  # Of the first seed's DSS.
  assert len(students[0].read_text().splitlines()) == 3
  sure = [results.read_lines(str(out / 'runs' / row['key'] / confidences.FILE)) for row in rows]
  assert all(len(one) == 16 and {line['prediction'] for line in one} <= {'left', 'right'}
             for one in sure)  # gin/sweeps/toy.gin asks for them.


@pytest.mark.slow
def test_what_fails_is_listed_and_the_others_finish(flags, tmp_path):
  out = tmp_path / 'out'
  settings_for = flags[2].replace("'toy'", "'finetune': {'INITIAL_CHECKPOINT_PATH': "
                                  "'/no/weights'}, 'toy'")
  flags = [*flags[:2], *flags[3:], settings_for, '--gin.SEEDS=(0,)']
  said = run(flags, code=1)
  key = 'toy/finetune-gold/recipe/fraction-1/seed-0'
  assert f'failed: {key}:' in said and '2 of 3 runs are finished' in said
  failed = json.loads((out / 'failed.json').read_text())
  assert list(failed) == [key] and '/no/weights' in failed[key]
  assert '/no/weights' in (out / 'logs' / f'{key.replace("/", "_")}.log').read_text()


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_run_alone_and_sigterm_saves(flags, tmp_path):
  out = tmp_path / 'out'
  flags = [*flags, '--gin.SEEDS=(0,)', "--gin.METHODS=('dss','finetune')",
           '--gin.TRAIN_STEPS=4000', '--gin.EVAL_PERIOD=4000', '--gin.CHECKPOINT_PERIOD=500']
  process = program(flags)
  wait_for(lambda: list(out.rglob('checkpoints/*')), process)
  worker, = (int(pid) for pid in children(process.pid))
  os.kill(worker, signal.SIGKILL)
  wait_for(lambda: len(list(out.rglob('checkpoints'))) == 2, process)  # The next one begins.
  time.sleep(3)
  process.send_signal(signal.SIGTERM)
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 75, said
  assert 'its process ended with SIGKILL' in said and 'stopping: the runs save' in said
  assert len(json.loads((out / 'failed.json').read_text())) == 1
  assert not lines(out)


def children(pid):
  """Of all threads of a process."""
  return [child for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children')
          for child in path.read_text().split()]
