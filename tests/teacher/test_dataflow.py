"""What Dataflow needs: the launch script, and the API key out of Secret Manager."""

import os
import pathlib
import subprocess
import sys
import types

import live
import pytest
import server

import dss_jax
from dss_jax import errors
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher import flags
from dss_jax.teacher.ask import secrets

REPO = pathlib.Path(__file__).parents[2]
NAME = 'projects/p/secrets/s/versions/latest'
CLOUD = ('--project=p', '--region=r', '--bucket=gs://b/')


# --- The script ----------------------------------------------------------------------------------


def launch(*flags, **more):
  return subprocess.run(['bash', str(REPO / 'launch/teacher_dataflow.sh'), *flags], text=True,
                        capture_output=True, timeout=600, env={**os.environ, **more})


def test_a_dry_run_prints_the_commands_and_does_nothing():
  before = (REPO / 'dist').exists()
  done = launch(*CLOUD, '--workers=3', '--secret=key', '--dry_run', '--', '--client=openai',
                '--dataset=cqa', '--', '--subnetwork=net', OPENAI_API_KEY=live.KEY)
  assert done.returncode == 0, done.stderr
  *_, wheel, job = done.stdout.splitlines()
  assert wheel == ('.venv/bin/python -m pip wheel --quiet --no-deps -w dist/dataflow '
                   'dist/dataflow/tree')
  assert job == (
      '.venv/bin/python -m dss_jax.teacher --client=openai --dataset=cqa --runner=beam '
      '--workers=3 --api_key_secret=projects/p/secrets/key/versions/latest -- '
      '--runner=DataflowRunner --project=p --region=r --temp_location=gs://b/temp '
      '--staging_location=gs://b/staging '
      f'--extra_package=dist/dataflow/dss_jax-{dss_jax.__version__}-py3-none-any.whl '
      '--subnetwork=net')
  assert (REPO / 'dist').exists() == before and live.KEY not in done.stdout


def test_the_command_is_one_that_the_teacher_reads():
  done = launch(*CLOUD, '--secret=key', '--dry_run', '--', '--client=openai', '--dataset=cqa',
                '--split=train', '--inputs=gs://b/in.jsonl')
  words, beams = teacher_main._split(done.stdout.splitlines()[-1].split()[3:])
  chosen = flags.parser().parse_args(words)
  assert (chosen.runner, chosen.workers) == ('beam', 1)
  assert chosen.api_key_secret == 'projects/p/secrets/key/versions/latest'
  assert beams[0] == '--runner=DataflowRunner'


def test_help_is_the_head_of_the_script():
  text = launch('--help').stdout
  assert text.startswith('Ask a teacher') and text.rstrip().endswith('--num_shards=64')


@pytest.mark.parametrize('flags, message', [
    (CLOUD[1:], 'give --project='),
    (['--project=p', '--region=r', '--bucket=b', '--', 'x'], '--bucket=b: give gs://NAME'),
    (['--fast'], 'unknown flag --fast'),
    ([*CLOUD, '--dry_run'], 'nothing to ask')])
def test_wrong_flags_are_named(flags, message):
  done = launch(*flags)
  assert done.returncode == 2 and message in done.stderr


# --- The key -------------------------------------------------------------------------------------


@pytest.fixture
def manager(monkeypatch):
  """Google's library, with one secret; `asked` are the names that were read."""
  class SecretManagerServiceClient:
    payload = b' the-key-0123456789\n'
    asked: list[str] = []

    def access_secret_version(self, *, name):
      self.asked.append(name)
      if isinstance(self.payload, Exception):
        raise self.payload
      return types.SimpleNamespace(payload=types.SimpleNamespace(data=self.payload))

  monkeypatch.setitem(sys.modules, 'google.cloud.secretmanager', types.SimpleNamespace(
      SecretManagerServiceClient=SecretManagerServiceClient))
  monkeypatch.setenv('TEACHER_KEY', 'of the environment')
  return SecretManagerServiceClient


def parsed(*more):
  return flags.parser().parse_args([
      '--client=openai', '--dataset=cqa', '--split=train', '--api_key_env=TEACHER_KEY', *more])


def test_the_secret_becomes_the_key(manager):
  secrets.provide(parsed(f'--api_key_secret={NAME}'))
  assert os.environ['TEACHER_KEY'] == 'the-key-0123456789' and manager.asked == [NAME]


def test_without_a_secret_the_environment_stays(manager):
  secrets.provide(parsed())
  assert os.environ['TEACHER_KEY'] == 'of the environment' and not manager.asked


def test_the_server_gets_it_and_no_file_does(manager, tmp_path, capsys):
  live.write_inputs(tmp_path, 10)
  with server.Server(live.answer) as teacher:
    assert teacher_main.main([
        *live.command(teacher, tmp_path)[3:], '--api_key_env=TEACHER_KEY',
        f'--api_key_secret={NAME}']) == 0
    assert teacher.last[1]['Authorization'] == 'Bearer the-key-0123456789'
  assert not live.files_with('the-key-0123456789', tmp_path)
  assert 'the-key' not in ''.join(capsys.readouterr())


@pytest.mark.parametrize('name, payload, message', [
    ('key', b'x', r'--api_key_secret=key: give its full name, projects/PROJECT/'),
    (NAME, PermissionError('denied on p'), 'PermissionError: denied on p.*Secret Accessor'),
    (NAME, b'', 'is empty')])
def test_a_secret_that_cannot_be_had(manager, name, payload, message):
  manager.payload = payload
  with pytest.raises(errors.UserError, match=message):
    secrets.provide(parsed(f'--api_key_secret={name}'))
  assert os.environ['TEACHER_KEY'] == 'of the environment'


def test_without_the_library(monkeypatch):
  monkeypatch.setitem(sys.modules, 'google.cloud.secretmanager', None)
  with pytest.raises(errors.UserError, match='pip install google-cloud-secret-manager'):
    secrets.provide(parsed(f'--api_key_secret={NAME}'))


# --- Without Beam --------------------------------------------------------------------------------


def test_a_job_on_beam_says_what_to_install(tmp_path, monkeypatch):
  live.write_inputs(tmp_path, 10)
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  monkeypatch.delitem(sys.modules, 'dss_jax.teacher.beam', raising=False)
  monkeypatch.delattr('dss_jax.teacher.beam', raising=False)
  with pytest.raises(errors.UserError, match=r"Apache Beam .*pip install 'dss_jax\[beam\]'"):
    teacher_main.main(['--client=none', '--dataset=cqa', '--split=train', '--runner=beam',
                       f'--inputs={tmp_path}/in.jsonl', f'--records_dir={tmp_path}/records'])
  assert not (tmp_path / 'records').exists()
