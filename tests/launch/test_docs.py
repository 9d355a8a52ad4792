"""docs/tpu.md: its commands of launch/ run dry, with flags that the trainer knows."""

import pathlib
import re
import shlex

import pytest

from dss_jax import arguments, gin_files
from dss_jax.train import __main__ as train_main

REPO = pathlib.Path(__file__).parents[2]
PAGE = (REPO / 'docs' / 'tpu.md').read_text()
OTHERS = {'gcloud', 'ssh-add', 'docker'}  # Programs of others, which are not here.


def commands():
  text = '\n'.join(re.findall(r'```sh\n(.*?)```', PAGE, re.DOTALL)).replace('\\\n', ' ')
  return [' '.join(line.split()) for line in text.splitlines() if line.strip()]


def ours():
  return [command for command in commands() if command.partition(' ')[0] not in OTHERS]


def test_all_commands_are_known():
  assert len(ours()) == 8
  assert {command.split()[1] for command in ours() if 'tpu_vm.sh' in command} == {
      'up', 'create', 'install', 'run', 'watch', 'stop', 'delete'}


@pytest.mark.parametrize('command', ours())
def test_a_dry_run_of_every_command(cloud, command):
  program, *words = shlex.split(command)
  flags = words.index('--') if '--' in words else len(words)
  assert program.startswith('launch/')
  done = cloud.run(program.removeprefix('launch/'), *words[:flags], '--dry_run', *words[flags:],
                   check=0)
  assert done.stdout and not cloud.lines('calls')
  if words[flags:]:
    rest, bindings = arguments.split_bindings(words[flags + 1:])
    parsed = train_main.parser().parse_args(['--distributed', *rest])  # As the scripts do.
    assert set(parsed.gin_file) <= set(gin_files.known_files()) and bindings


def test_the_image_is_built_and_run_with_what_it_knows():
  build, run = (command for command in commands() if command.startswith('docker'))
  assert '--build-arg=ACCELERATOR=gpu' in build
  parsed = train_main.parser().parse_args(
      arguments.split_bindings(shlex.split(run.partition(' dss train ')[2]))[0])
  assert set(parsed.gin_file) <= set(gin_files.known_files())


def test_every_path_of_the_page_exists():
  named = re.findall(r'`((?:gin|dss_jax|launch|docs)/[\w./]+)', PAGE)
  assert len(named) >= 4
  for path in named:
    assert (REPO / path).exists(), path


def test_every_flag_of_a_script_that_the_page_names_is_in_its_help(cloud):
  helps = ''.join(cloud.run(script, '--help').stdout
                  for script in ('train.sh', 'tpu_vm.sh', 'slurm.sh'))
  text = re.sub(r'--(?:create|ssh|sbatch)_option=\S+|`(?:docker|gcloud)[^`]*`', '', PAGE)
  prose = re.sub(r'```sh\n.*?```', '', text, flags=re.DOTALL)
  for flag in set(re.findall(r'(?<![\w-])--[a-z][\w-]*', prose)) - {'--requeue', '--import'}:
    assert flag in helps or flag == '--help', flag
