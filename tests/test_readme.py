"""The README runs as it is read, in one shell; docs/steps.md on small files with its names."""

import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import hub_server
import pytest
import sentencepiece

from dss_jax import gin_files

REPO = pathlib.Path(__file__).parents[1]

# What a machine without network, accelerator and time adds to a command of docs/steps.md.
SMALL = ['--gin.TRAIN_STEPS=2', '--gin.WARMUP_STEPS=2', '--gin.EVAL_PERIOD=2',
         '--gin.CHECKPOINT_PERIOD=2']
ADAPTED = {
    'dss inspect --task=dss_cqa': ['--vocabulary=bytes', '--rows=1'],
    'dss inspect --html': ['--vocabulary=bytes'],
    'dss vocab': ['--vocab_size=300'],
    'dss train --gin_file=gin/native/dss.gin --gin.DATASET=cqa --gin.INITIAL': ['--print_config'],
    'dss train --gin_file=gin/native/dss.gin --gin.DATASET=cqa --gin_file': SMALL,
    'dss teacher --client=openai': ['--base_url={base_url}'],
    'dss teacher': [],
    'dss predict': ['--max_target_length=8'],
    'dss convert': [],
    'dss export': ['--platforms=cpu'],
    'dss quickstart --data_only': [],
    'dss sweep': [*SMALL, '--gin.SEEDS=(0,)', '--gin.FRACTIONS=(1.0,)'],
    'dss report': [],
}
INSTALL = '.venv/bin/pip install'  # The two commands of `## Start` are .ci/run's own.


def blocks(language, page='docs/steps.md'):
  return re.findall(rf'```{language}\n(.*?)```', (REPO / page).read_text(), re.DOTALL)


def commands(page='docs/steps.md'):
  """All shell commands of the page, one string each."""
  text = '\n'.join(blocks('sh', page)).replace('\\\n', ' ')
  return [' '.join(line.split()) for line in text.splitlines() if line.strip()]


def cqa_row(i):
  return {'id': f'q{i}', 'question': f'What is {i}?', 'choices': ['one', 'two', 'many'],
          'answer': 'many'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A working folder with the files that the commands name."""
  folder = tmp_path_factory.mktemp('readme')
  (folder / 'palm').mkdir()
  (folder / 'cqa_train.json').write_text(
      '\n'.join(json.dumps(cqa_row(i)) for i in range(40)) + '\n')
  for part in range(2):
    (folder / 'palm' / f'train_CoT_{part}.json').write_text(json.dumps(
        [f'{i} is a number. So the answer is (c) many.\n\nQ: next' for i in range(20)]))
  (folder / 'new.jsonl').write_text(''.join(
      json.dumps({'input': f'What is {i}?'}) + '\n' for i in range(3)))
  return folder


def test_the_two_commands_are_those_of_ci():
  install = [c for c in commands('README.md') if INSTALL in c]
  assert len(install) == 2
  ci = (REPO / '.ci' / 'run').read_text()
  assert install[0].endswith('python -m dss_jax.quickstart') and '-m dss_jax.quickstart' in ci
  assert install[1].endswith('python -m pytest') and '"$py" -m pytest\n' in ci
  assert "pip install -e '.[test]'" in install[1] and "install --quiet -e '.[test]'" in ci


@pytest.fixture(scope='module')
def teacher():
  """A server for the command that asks one."""
  sys.path.insert(0, str(REPO / 'tests' / 'teacher'))
  server = importlib.import_module('server')
  with server.Server('A: It is a number. So the answer is (c) many.') as running:
    yield running


@pytest.fixture(scope='module')
def hub(folder):
  """The address of a hub that has the checkpoint, small."""
  files = folder / 'published'
  files.mkdir()
  (files / 'config.json').write_text(json.dumps({
      'model_type': 't5', 'd_model': 16, 'd_ff': 32, 'd_kv': 8, 'num_heads': 2, 'num_layers': 1,
      'num_decoder_layers': 1, 'vocab_size': 384, 'feed_forward_proj': 'gated-gelu',
      'tie_word_embeddings': False}))
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['What is it? Many. So the answer is (c) many.'] * 20),
      model_prefix=str(files / 'spiece'), vocab_size=40, hard_vocab_limit=False, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, minloglevel=2)
  with hub_server.running() as (found, address):
    found.add('google/t5-v1_1-base', files)
    yield address


@pytest.mark.slow
def test_the_readme_runs_as_it_is_read(tmp_path):
  """In one shell, from its top to its bottom, but for the two commands that CI runs itself."""
  (tmp_path / '.venv').symlink_to(sys.prefix)
  lines = [line for line in commands('README.md') if INSTALL not in line]
  done = subprocess.run(
      ['bash', '-ec', '\n'.join(lines)], cwd=tmp_path, text=True, capture_output=True, timeout=1200,
      env={**os.environ, 'XLA_FLAGS': '', 'HF_HUB_OFFLINE': '1', 'https_proxy': 'http://127.0.0.1:9'})
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
  accuracy, = re.findall(r'^test: accuracy ([\d.]+) %', done.stdout, re.MULTILINE)
  assert float(accuracy) > 80, done.stdout
  folder = tmp_path / 'tickets'
  assert len((folder / 'predictions.jsonl').read_text().splitlines()) == 90
  assert (folder / 'records.html').exists() and (folder / 'for_jax' / 'student.py').exists()
  api, = blocks('python', 'README.md')
  done = subprocess.run([sys.executable, '-c', api], cwd=folder, text=True, capture_output=True,
                        timeout=600)
  assert done.returncode == 0 and done.stdout.startswith('bug 0.'), f'{done.stdout}\n{done.stderr}'


@pytest.mark.slow
def test_every_command_of_the_steps_runs(folder, teacher, hub):
  ran = 0
  for command in commands():
    extra = next((flags for start, flags in ADAPTED.items() if command.startswith(start)), None)
    assert extra is not None, f'a command that is not tested: {command}'
    words = shlex.split(command)
    assert words[0] == 'dss'
    done = subprocess.run(
        [sys.executable, '-m', 'dss_jax.cli', *words[1:],
         *(flag.format(base_url=teacher.base_url) for flag in extra)],
        cwd=folder, text=True, capture_output=True, timeout=600,
        env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
             'HF_ENDPOINT': hub, 'HF_HOME': str(folder / 'hub')})
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    ran += 1
  assert ran == 13
  assert teacher.requests == 40 and (folder / 'records' / 'journal').is_dir()
  assert json.loads((folder / 'runs' / 'tiny' / 'run.json').read_text())
  assert len((folder / 'predictions.jsonl').read_text().splitlines()) == 3
  assert len((folder / 'toy' / 'results.jsonl').read_text().splitlines()) == 3
  assert (folder / 'toy' / 'report.html').exists() and (folder / 'records.html').exists()
  assert (folder / 'for_transformers' / 'model.safetensors').exists()
  api = next(block for block in blocks('python') if 'dss_jax.load' in block)
  done = subprocess.run([sys.executable, '-c', api], cwd=folder, text=True, capture_output=True,
                        timeout=600)
  assert done.returncode == 0, done.stderr


def test_every_gin_file_and_path_that_the_docs_name_exists():
  for name in ('README.md', *(f'docs/{page.name}' for page in (REPO / 'docs').glob('*.md'))):
    text = (REPO / name).read_text()
    for path in re.findall(r'`((?:gin|dss_jax|tasks|docs)/[\w./]+\.(?:gin|py|md))`', text):
      path = re.sub(r'\bD\.gin|(?<=_)D\.gin', 'cqa.gin', path).replace('SIZE.gin', 'base.gin')
      assert (REPO / path).exists() or gin_files.exists(path), f'{name} names {path}'
