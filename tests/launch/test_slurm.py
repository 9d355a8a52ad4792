"""launch/slurm.sh and its batch script, with a fake sbatch, srun and scontrol."""

import pathlib
import shlex

import pytest

FLAGS = ('--', '--gin_file=gin/native/dss.gin', '--gin.MODEL_DIR=runs/x',
         """--gin.TASK_FEATURE_LENGTHS={'inputs': 64, "targets": $HOME & \\ * ;}""")


def test_a_dry_run_prints_the_commands(cloud):
  done = cloud.run('slurm.sh', '--nodes=2', '--gpus_per_node=4', '--time=1:00:00',
                   '--partition=gpu', '--account=me', '--sbatch_option=--comment=a b',
                   '--dry_run', *FLAGS, check=0)
  *_, install, folder, submit = [shlex.split(line) for line in done.stdout.splitlines()]
  python = f'{cloud.checkout}/.venv/bin/python'
  assert install == [python, '-m', 'pip', 'install', '--quiet', '-e', '.[gpu]']
  assert folder == ['mkdir', '-p', 'runs/slurm']
  assert submit == [
      'sbatch', '--job-name=dss', '--nodes=2', '--ntasks-per-node=4', '--gpus-per-node=4',
      '--requeue', '--signal=TERM@120', '--open-mode=append', f'--chdir={cloud.checkout}',
      f'--output={cloud.checkout}/runs/slurm/%j.log', '--time=1:00:00', '--partition=gpu',
      '--account=me', '--comment=a b', 'launch/slurm_job.sh', python, '5', *FLAGS[1:]]
  assert not (cloud.checkout / 'runs').exists() and not (cloud.folder / 'sbatch').exists()


def submit(cloud, *flags, check):
  trainer = pathlib.Path(__file__).parent / 'fakes/trainer'
  return cloud.run('slurm.sh', f'--python={trainer}', *flags, *FLAGS, check=check)


@pytest.mark.parametrize(('plan', 'restarts', 'code', 'starts'), [
    ([0], 5, 0, 1), ([75, 75, 0], 5, 0, 3), ([75, 1], 5, 1, 2), ([75] * 9, 2, 75, 3)])
def test_75_goes_back_into_the_queue_and_nothing_else_does(cloud, plan, restarts, code, starts):
  cloud.plan(*plan)
  done = submit(cloud, f'--restarts={restarts}', check=code)
  assert cloud.starts() == starts
  assert cloud.lines('scontrol') == ['requeue 42'] * (starts - 1)
  assert cloud.words('arguments-0') == ['-m', 'dss_jax.train', '--distributed', *FLAGS[1:]]
  assert set(cloud.lines('srun')) == {'--kill-on-bad-exit=0', '--wait=600', '--gpu-bind=none'}
  assert ('not requeued' in done.stderr) == (starts > restarts)


@pytest.mark.parametrize(('flags', 'message'), [
    (['--nodes=two', *FLAGS], '--nodes=two: give a whole number'),
    (['--mem=64G', *FLAGS], '--sbatch_option=--mem=64G'),
    ([], 'nothing to train'),
    (['--', '--gin_file=a'], 'give --gin.MODEL_DIR=')])
def test_wrong_flags_are_named(cloud, flags, message):
  done = cloud.run('slurm.sh', *flags)
  assert done.returncode == 2 and message in done.stderr


def test_jax_detects_one_process_per_gpu(monkeypatch):
  """Why there is one task per GPU: read from jax itself."""
  from jax._src.clusters import cluster, slurm_cluster
  for name, value in {'JOB_ID': '42', 'STEP_NODELIST': 'node[1-2]', 'NTASKS': '8', 'PROCID': '5',
                      'LOCALID': '1'}.items():
    monkeypatch.setenv(f'SLURM_{name}', value)
  assert slurm_cluster.SlurmCluster.is_env_present()
  address, processes, process, devices = cluster.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, 1)
  assert (address.partition(':')[0], processes, process, devices) == ('node1', 8, 5, [1])
