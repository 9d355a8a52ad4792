"""The Dockerfile as far as it can be checked without Docker: it was never built here."""

import fnmatch
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[2]
TEXT = re.sub(r'\\\n\s*', '', re.sub(r'^#.*\n', '', (REPO / 'Dockerfile').read_text(), flags=re.M))
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]


def copies():
  """[(source, destination)] of every COPY, in order."""
  found = []
  for name, rest in LINES:
    if name == 'COPY':
      *sources, destination = rest.split()
      found += [(source, destination) for source in sources]
  return found


def test_what_is_copied_exists_and_is_in_the_build_context():
  kept = {line[1:] for line in (REPO / '.dockerignore').read_text().splitlines()
          if line.startswith('!')}
  for source, _ in copies():
    assert (REPO / source).exists(), source
    assert any(fnmatch.fnmatch(source, name) or source.startswith(f'{name}/') for name in kept)
  assert kept == {source.partition('/')[0] for source, _ in copies()}


@pytest.mark.parametrize(('accelerator', 'package'), [
    ('cpu', '.'), ('gpu', '.[gpu]'), ('tpu', '.[tpu]'), ('abacus', None)])
def test_an_accelerator_is_an_extra(tmp_path, accelerator, package):
  """The commands of the layer with the dependencies, with a pip that only says what it got."""
  first, *_ = [rest for name, rest in LINES if name == 'RUN']
  (tmp_path / 'pip').write_text('#!/bin/sh\necho "$@"\n')
  (tmp_path / 'pip').chmod(0o755)
  done = subprocess.run(['sh', '-c', first], cwd=tmp_path, text=True, capture_output=True, env={
      'ACCELERATOR': accelerator, 'PATH': f'{tmp_path}:/usr/bin:/bin'})
  if package is None:
    assert done.returncode == 1 and 'use cpu, gpu or tpu' in done.stderr
    return
  assert done.stdout.splitlines() == [f'install {package}', 'uninstall --yes dss_jax']
  extras = importlib.metadata.metadata('dss_jax').get_all('Provides-Extra')
  assert package == '.' or accelerator in extras


def test_it_is_dss_and_not_root():
  last = dict(LINES)
  assert last['ENTRYPOINT'] == '["dss"]' and last['USER'] == 'dss' and last['WORKDIR'] == '/work'
  assert last['FROM'].startswith('python:3.12-slim') and last['ARG'] == 'ACCELERATOR=cpu'


def test_both_layers_install(tmp_path):
  """The package without content, for the dependencies, and then the whole one."""
  names = []
  for whole in (False, True):
    tree = tmp_path / str(whole)
    tree.mkdir()
    for source, destination in copies()[:None if whole else 3]:
      target = tree / destination
      if (REPO / source).is_dir():
        shutil.copytree(REPO / source, target, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns('__pycache__'))
      else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / source, target)
    if not whole:
      made = re.search(r'mkdir ([\w ]+) && touch ([\w. ]+) &&', TEXT)
      for folder in made[1].split():
        (tree / folder).mkdir()
      for file in made[2].split():
        (tree / file).touch()
    subprocess.run([sys.executable, 'setup.py', '--quiet', 'build', '--build-lib=built'], cwd=tree,
                   check=True, capture_output=True)
    names.append({path.relative_to(tree / 'built').as_posix()
                  for path in (tree / 'built').rglob('*.py')})
  assert names[0] == {'dss_jax/__init__.py'}
  assert {'dss_jax/cli.py', 'dss_jax/tasks/anli.py', 'dss_jax/train/__main__.py'} <= names[1]
