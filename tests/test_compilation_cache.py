"""Compiled programs on disk: a second process reads them, and nobody else's are run."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from dss_jax import compilation_cache
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition('/')[2]))
jnp.ones(3).sum()  # JAX has decided about its cache before it is asked for.
compilation_cache.use()
@jax.jit
def program(x):
  for i in range(40):
    x = jnp.tanh(x @ x) + jnp.sin(x) * i
  return x
program(jnp.ones((64, 64))).block_until_ready()
print(events.count('cache_hits'), jax.config.jax_compilation_cache_dir)
"""


def run(home, **settings):
  environment = {name: value for name, value in os.environ.items()
                 if not name.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT', 'XDG_'))}
  done = subprocess.run(
      [sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True,
      env=environment | {'XDG_CACHE_HOME': str(home)} | settings)
  hits, _, folder = done.stdout.strip().partition(' ')
  return int(hits), folder, done.stderr


def test_a_second_process_does_not_compile_and_says_nothing(tmp_path):
  hits, folder, said = run(tmp_path)
  assert hits == 0 and folder.startswith(str(tmp_path / 'dss_jax')) and folder in said
  hits, again, said = run(tmp_path)
  assert hits > 0 and again == folder and 'kept' not in said


@pytest.mark.skipif(os.name != 'posix', reason='modes of files')
def test_a_folder_that_others_can_write_is_not_used(tmp_path):
  _, folder, _ = run(tmp_path)
  os.chmod(folder, 0o777)
  assert run(tmp_path)[:2] == (0, 'None')


def test_what_the_user_chose_stands(tmp_path):
  assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'own'))[1] == str(tmp_path / 'own')
  assert run(tmp_path, JAX_ENABLE_COMPILATION_CACHE='false')[1] == 'None'
  assert not (tmp_path / 'dss_jax').exists()


def test_without_a_home_it_goes_without(tmp_path):
  (tmp_path / 'file').write_text('')
  assert run(tmp_path / 'file')[:2] == (0, 'None')


def test_the_oldest_go_first(tmp_path, monkeypatch):
  from dss_jax import compilation_cache
  for age in range(5):
    path = tmp_path / f'program-{age}'
    path.write_bytes(bytes(10))
    os.utime(path, (1_000_000 - age,) * 2)
  monkeypatch.setattr(compilation_cache, '_MOST_BYTES', 30)
  compilation_cache._remove_oldest(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      'program-0', 'program-1', 'program-2']
