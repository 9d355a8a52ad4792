"""launch/tpu_vm.sh against a fake gcloud with two hosts: what it runs, in which order, and that a
preempted slice comes back. The scripts for the hosts run for real; no cloud was involved."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

WHERE = ('--name=dss', '--zone=us-west4-a', '--project=my-project')
TYPE = '--accelerator_type=v5litepod-16'
ODD = """--gin.TASK_FEATURE_LENGTHS={'inputs': 64, "targets": $HOME & \\ * ;}"""
FLAGS = ('--', '--gin_file=gin/native/dss.gin', '--gin.MODEL_DIR=gs://b/runs/x', ODD)
UP = ('tpu_vm.sh', 'up', *WHERE, TYPE, '--spot', *FLAGS)
FIRST_TIME = ['queued-resources describe', 'queued-resources create', 'queued-resources describe',
              'tpu-vm ssh', 'tpu-vm scp', 'tpu-vm ssh']


def trainer_words(cloud, host=0):
  words = cloud.words(f'arguments-{host}')
  assert words[:3] == ['-m', 'dss_jax.train', '--distributed']
  return words[3:]


# --- Dry runs ------------------------------------------------------------------------------------


def dry(cloud, command, *flags):
  done = cloud.run('tpu_vm.sh', command, *WHERE, '--dry_run', *flags, check=0)
  assert not cloud.lines('calls') and not (cloud.checkout / 'dist').exists()
  return done.stdout.splitlines()


GCLOUD = 'gcloud compute tpus'
END = '--zone=us-west4-a --quiet --project=my-project'


def test_a_dry_run_of_create(cloud):
  assert dry(cloud, 'create', TYPE, '--spot', '--create_option=--network=a b') == [
      f'{GCLOUD} queued-resources create dss --node-id=dss --accelerator-type=v5litepod-16 '
      f'--runtime-version=v2-alpha-tpuv5-lite --spot \'--network=a b\' {END}',
      f'{GCLOUD} queued-resources describe dss \'--format=value(state.state)\' {END}']


@pytest.mark.parametrize(('kind', 'runtime'), [
    ('v6e-8', 'v2-alpha-tpuv6e'), ('v5p-16', 'v2-alpha-tpuv5'), ('v4-8', 'tpu-ubuntu2204-base')])
def test_runtime_versions(cloud, kind, runtime):
  request, _ = dry(cloud, 'create', f'--accelerator_type={kind}')
  assert f' --runtime-version={runtime} ' in request and '--spot' not in request
  request, _ = dry(cloud, 'create', f'--accelerator_type={kind}', '--runtime_version=mine')
  assert ' --runtime-version=mine ' in request


def test_a_dry_run_of_up_is_all_of_them_in_order(cloud):
  lines = dry(cloud, 'up', TYPE, '--delete_when_done', '--ssh_option=--internal-ip', *FLAGS)
  comments = [line for line in lines if line.startswith('#')]
  assert len(comments) == 2
  assert [' '.join(shlex.split(line)[3:5]) if line.startswith(GCLOUD) else line.split(' --')[0]
          for line in lines] == [
      'queued-resources create', 'queued-resources describe', 'tpu-vm ssh', 'mkdir -p dist/tpu',
      'git archive', 'tpu-vm scp', 'tpu-vm ssh', 'tpu-vm ssh', 'tpu-vm ssh', 'tpu-vm ssh',
      comments[0], 'queued-resources delete', comments[1], 'queued-resources delete']
  for line in lines:
    assert (' tpu-vm s' in line) == ('--internal-ip' in line)
  start = next(shlex.split(line)[-4] for line in lines if 'start' in line)
  assert start.startswith('--command=')
  assert shlex.split(start.removeprefix('--command='))[:5] == [
      'bash', 'dss_jax/launch/tpu_worker.sh', 'start', '--restarts=5', '--']


@pytest.mark.parametrize('command', ['install', 'run', 'watch', 'stop', 'delete'])
def test_the_other_dry_runs(cloud, command):
  lines = dry(cloud, command, *(FLAGS if command == 'run' else ()))
  whole = dry(cloud, 'up', TYPE, *FLAGS)
  assert lines and (command == 'stop' or set(lines) <= set(whole))


def test_no_key_of_the_environment_is_printed_or_passed_on(cloud):
  cloud.environment['OPENAI_API_KEY'] = 'the-key-0123456789'
  cloud.plan(0)
  done = cloud.run(*UP, check=0)
  everything = done.stdout + done.stderr + '\n'.join(cloud.lines('calls'))
  assert 'the-key' not in everything


# --- Wrong flags ---------------------------------------------------------------------------------


@pytest.mark.parametrize(('flags', 'message'), [
    ([], 'give a command: create, install,'),
    (['start'], 'unknown command start: use create'),
    (['delete', '--name=x'], 'give --zone='),
    (['delete', '--zone=x'], 'give --name='),
    (['delete', '--name=X_', '--zone=x'], '--name=X_: use small letters'),
    (['delete', *WHERE, '--fast'], 'unknown flag --fast'),
    (['delete', *WHERE, '--', 'x'], 'delete takes no flags of the trainer'),
    (['watch', *WHERE, '--worker=all'], '--worker=all: give a whole number'),
    (['create', *WHERE], 'create needs --accelerator_type='),
    (['create', *WHERE, '--accelerator_type=h100'], 'give --runtime_version='),
    (['run', *WHERE], 'nothing to train'),
    (['run', *WHERE, '--', '--gin_file=a'], 'give --gin.MODEL_DIR=gs://'),
    (['run', *WHERE, '--', '--gin.MODEL_DIR=gs://a', '--gin.MODEL_DIR=b'],
     '--gin.MODEL_DIR=b: hosts share no disk, give gs://BUCKET/...; on a single host'),
    (['run', *WHERE, TYPE, '--', '--gin.MODEL_DIR=b'], 'hosts share no disk'),
    (['up', *WHERE, '--accelerator_type=v6e-8', '--', '--gin.MODEL_DIR=b'],
     'hosts share no disk, give gs://BUCKET/...\n')])
def test_wrong_flags_are_named(cloud, flags, message):
  done = cloud.run('tpu_vm.sh', *flags)
  assert done.returncode == 2 and done.stderr.startswith('error: ')
  assert message in done.stderr and not cloud.lines('calls')


def test_a_single_host_may_keep_its_runs(cloud):
  assert dry(cloud, 'run', '--accelerator_type=v6e-8', '--', '--gin.MODEL_DIR=/home/me/run')
  assert dry(cloud, 'run', TYPE, '--', """--gin.MODEL_DIR='gs://b/run'""")


# --- Runs ----------------------------------------------------------------------------------------


def test_each_command_by_itself(cloud):
  cloud.plan(0)
  cloud.run('tpu_vm.sh', 'create', *WHERE, TYPE, check=0)
  assert 'training was not started' in cloud.run('tpu_vm.sh', 'watch', *WHERE, check=2).stderr
  cloud.run('tpu_vm.sh', 'install', *WHERE, check=0)
  cloud.run('tpu_vm.sh', 'run', *WHERE, *FLAGS, check=0)
  done = cloud.run('tpu_vm.sh', 'watch', *WHERE, check=0)
  assert 'plan: 0' in done.stdout and 'training is done' in done.stderr
  cloud.wait_for('host-1/dss_run/exit')
  for host in range(2):
    assert trainer_words(cloud, host) == list(FLAGS[1:])
    assert (cloud.folder / f'host-{host}/dss_jax/launch/train.sh').exists()
  cloud.run('tpu_vm.sh', 'delete', *WHERE, check=0)
  assert not (cloud.folder / 'state').exists()
  assert 'was deleted' in cloud.run('tpu_vm.sh', 'watch', *WHERE, check=1).stderr


def test_up_trains_to_the_end(cloud):
  cloud.plan(0)
  two_lines = '--gin.X="""one\n# two"""'
  done = cloud.run(*UP, two_lines, check=0)
  assert cloud.calls() == FIRST_TIME
  assert trainer_words(cloud) == [*FLAGS[1:], two_lines]
  assert 'still there, and charged: launch/tpu_vm.sh delete --name=dss' in done.stderr


def test_up_deletes_the_slice_when_done(cloud):
  cloud.plan(0)
  cloud.run('tpu_vm.sh', 'up', '--delete_when_done', *UP[2:], check=0)
  assert cloud.calls() == [*FIRST_TIME, 'queued-resources delete']
  assert '--force' in cloud.lines('calls')[-1]


@pytest.mark.parametrize('event', ['preempt', 'late'])
def test_a_preempted_slice_is_created_again_and_training_resumes(cloud, event):
  cloud.plan('wait', 0)
  cloud.write('events', [event])
  done = cloud.run(*UP, check=0)
  deleted = cloud.calls().index('queued-resources delete')
  assert cloud.calls()[deleted:] == [
      'queued-resources delete', 'queued-resources create', *FIRST_TIME[2:]]
  assert cloud.lines('calls').count(next(c for c in cloud.lines('calls') if ' create ' in c)) == 2
  assert cloud.starts() == 2
  assert trainer_words(cloud) == list(FLAGS[1:])
  assert 'was preempted' in done.stderr and 'training is done' in done.stderr


def test_an_outage_while_a_slice_is_replaced(cloud):
  cloud.plan(0)
  cloud.write('state', ['SUSPENDED'])
  cloud.write('outages', ['503', '503'])
  cloud.run(*UP, check=0)
  assert cloud.calls()[1:7] == ['queued-resources delete', 'queued-resources create'] * 3


def test_a_slice_that_fails_at_first_is_asked_for_again(cloud):
  cloud.plan(0)
  cloud.write('allocations', ['FAILED', 'SUSPENDED'])
  cloud.run(*UP, check=0)
  assert cloud.calls().count('queued-resources create') == 3


def test_a_slice_that_fails_always_is_given_up(cloud):
  cloud.write('allocations', ['FAILED'] * 9)
  done = cloud.run(*UP, check=1)
  assert 'failed three times' in done.stderr


def test_a_broken_connection_is_made_again(cloud):
  cloud.plan('wait')
  cloud.write('events', ['drop', 'drop', 'late'])
  cloud.run(*UP)
  assert cloud.starts() == 2  # The second one is after the preemption.
  assert cloud.calls().count('queued-resources create') == 2


def test_restarted_hosts_start_training_again(cloud):
  cloud.plan('wait', 0)
  cloud.write('events', ['restart'])
  done = cloud.run(*UP, check=0)
  assert 'lost: training is started again' in done.stderr
  assert cloud.calls().count('queued-resources create') == 1
  assert cloud.starts() == 2


def test_75_is_started_again_on_its_host(cloud):
  cloud.plan(75, 75, 0)
  cloud.run(*UP, check=0)
  assert cloud.calls() == FIRST_TIME
  assert cloud.starts() == 3


# A first process that reaps nothing, as in most containers: what it adopts stays a zombie.
NO_REAPER = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER
sys.exit(subprocess.call(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='subreapers are Linux\'s')
def test_watch_ends_where_nobody_reaps_the_trainer(cloud):
  cloud.plan('wait')
  cloud.run('tpu_vm.sh', 'create', *WHERE, TYPE, check=0)
  cloud.run('tpu_vm.sh', 'install', *WHERE, check=0)
  script = ('bash', str(cloud.checkout / 'launch/tpu_vm.sh'))
  both = ' && '.join(shlex.join((*script, *words))
                     for words in (('run', *WHERE, *FLAGS), ('watch', *WHERE)))
  with subprocess.Popen([sys.executable, '-c', NO_REAPER, 'bash', '-c', both], text=True,
                        env=cloud.environment, stdout=subprocess.PIPE) as watching:
    while 'plan: wait' not in watching.stdout.readline():
      assert watching.poll() is None
    cloud.wait_for('host-0/training')
    os.kill(int((cloud.folder / 'host-0/dss_run/pid').read_text()), signal.SIGTERM)
    try:
      watching.communicate(timeout=20)
    finally:
      watching.kill()
  assert watching.returncode == 75


def test_another_code_ends_it_with_the_log(cloud):
  cloud.plan(3)
  done = cloud.run(*UP, check=3)
  assert 'the trainer exited with 3' in done.stderr
  assert done.stdout.count('plan: 3') >= 3  # Followed on one host, then the end of both logs.
  assert cloud.starts() == 1


def test_stop_is_the_end_and_up_again_resumes(cloud):
  cloud.plan('wait', 0)
  cloud.run('tpu_vm.sh', 'create', *WHERE, TYPE, check=0)
  cloud.run('tpu_vm.sh', 'install', *WHERE, check=0)
  cloud.run('tpu_vm.sh', 'run', *WHERE, *FLAGS, check=0)
  cloud.wait_for('host-0/training', 'host-1/training')
  done = cloud.run('tpu_vm.sh', 'run', *WHERE, *FLAGS)
  assert done.returncode and 'runs here already' in done.stderr
  done = cloud.run('tpu_vm.sh', 'install', *WHERE)
  assert done.returncode and 'first stop it' in done.stderr
  cloud.run('tpu_vm.sh', 'stop', *WHERE, check=0)
  assert 'training was stopped' in cloud.run('tpu_vm.sh', 'watch', *WHERE, check=75).stderr
  cloud.run(*UP, check=0)
  assert cloud.calls().count('queued-resources create') == 1
  assert cloud.starts() == 2


def test_up_finds_what_is_under_way(cloud):
  cloud.plan('wait', 0)
  cloud.run('tpu_vm.sh', 'create', *WHERE, TYPE, check=0)
  cloud.run('tpu_vm.sh', 'install', *WHERE, check=0)
  cloud.run('tpu_vm.sh', 'run', *WHERE, *FLAGS, check=0)
  cloud.write('events', ['preempt'])
  done = cloud.run(*UP, check=0)
  assert 'training is under way' in done.stderr
  assert cloud.starts() == 2
