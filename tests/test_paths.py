"""Folders and files that cannot be written, pipes that nobody reads, and what an error leaves."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from dss_jax import cli, errors, files
from dss_jax import rows as rows_lib
from dss_jax.convert import __main__ as convert_main
from dss_jax.predict import stream

RUN = ['--gin_file=gin/native/dss.gin', '--gin.DATASET=toy']


def main(verb, *words):
  return importlib.import_module(cli.VERBS[verb][0]).main(list(words))


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('x')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'in.jsonl').write_text('{"id": "a", "input": "x", "label": "left"}\n')
  return tmp_path


COMMANDS = {  # flag or macro: a command that would write there
    'MODEL_DIR': ['train', *RUN, '--gin.VOCABULARY=bytes', '--gin.RECORDS_DIR={records}',
                  '--gin.MODEL_DIR={path}'],
    '--out': ['sweep', '--gin_file=gin/sweeps/toy.gin', '--gin.RECORDS_DIR={records}',
              '--gin.VOCABULARY=bytes', '--out={path}'],
    '--records_dir': ['teacher', '--dataset=toy', '--split=train', '--client=none',
                      '--inputs=in.jsonl', '--records_dir={path}'],
    '--output': ['convert', '--input=none', '--to=hf', '--output={path}'],
}
MORE = [['export', '--model_dir=none', '--output={path}'],
        ['predict', '--model_dir=none', '--input=in.jsonl', '--output={path}'],
        ['vocab', '--records_dir={records}', '--output={path}'],
        ['precompile', *RUN, '--topology=v5e:2x2', '--output={path}']]
CASES = [*COMMANDS.items(), *(('--output', one) for one in MORE),
         ('--html', ['inspect', '--html={path}', '--records_dir={records}']),
         ('--out', ['quickstart', '--data_only', '--out={path}'])]


@pytest.mark.parametrize('name, command', CASES, ids=[command[0] for _, command in CASES])
@pytest.mark.parametrize('path, why', [
    ('file/x', 'file is a file'), ('/proc/x', os.strerror(2)), ('/dev/null/x', os.strerror(20))])
def test_what_cannot_be_written_is_named_at_once(here, toy_records, name, command, path, why):
  words = [word.format(path=path, records=toy_records) for word in command]
  with pytest.raises(errors.UserError, match=f'^{name}={path}: cannot be written .*{why}'):
    main(*words)
  assert sorted(p.name for p in here.iterdir()) == ['file', 'folder', 'in.jsonl']


def test_a_folder_is_no_file_and_looking_makes_nothing(here):
  with pytest.raises(errors.UserError, match='^--output=folder is a folder: name a file'):
    files.check_writable_file('--output', 'folder')
  files.check_writable('X', 'new/deep')
  files.check_writable_file('X', 'new/deep/file')
  files.check_writable('X', 'gs://bucket/x')
  assert not (here / 'new').exists() and not list((here / 'folder').iterdir())


@pytest.mark.parametrize('error, says', [
    (PermissionError(13, 'Permission denied', '/x/y'), '/x/y: Permission denied: check the path'),
    (IsADirectoryError(21, 'Is a directory', 'x'), 'x: Is a directory: check the path'),
    (OSError(28, 'No space left on device'), 'No space left on device: make room'),
    (ValueError('{{node x}} ' + 'a' * 300 + ': No space left on device'),
     '^No space left on device: a+...: make room'),
    (FileNotFoundError('no number'), None), (ValueError('a bug'), None), (KeyError('x'), None),
])
def test_what_the_system_says_is_one_line(error, says):
  found = cli._outside(error)
  assert found is None if says is None else re.search(says, found) and '\n' not in found


def _rows():
  return rows_lib.Rows('in.jsonl', '--input')


def test_an_error_before_the_first_part_leaves_no_folder(here):
  def refuse(rows, first):
    raise errors.UserError('these rows are none')
  with pytest.raises(errors.UserError, match='are none'):
    stream.run(_rows(), 'out', refuse, settings={}, window=1)
  assert not (here / 'out.parts').exists()
  rows = [{'input': 'x'}, {'input': 'y'}]
  pathlib.Path('in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))

  def once(rows, first):
    return refuse(rows, first) if first else rows
  with pytest.raises(errors.UserError, match='are none'):
    stream.run(_rows(), 'out', once, settings={}, window=1)
  assert (here / 'out.parts').exists()  # The next start goes on with it.
  assert stream.run(_rows(), 'out', lambda rows, first: rows, settings={}, window=1) == 2
  assert not (here / 'out.parts').exists()


@pytest.mark.parametrize('words, says', [
    (['--sets', 'toy-trian'], "no record set 'toy-trian'; did you mean 'toy-train'"),
    (['--objectives=(1,'], r'--objectives=\(1,: write rows'),
    (['--vocab_size=2'], '--vocab_size=2: use a whole number of at least 4'),
])
def test_a_vocabulary_of_what_is_not_there(toy_records, tmp_path, words, says):
  with pytest.raises(errors.UserError, match=f'{says}'):
    main('vocab', f'--records_dir={toy_records}', f'--output={tmp_path}/v.model', *words)
  assert not list(tmp_path.iterdir())


def test_objectives_that_are_none_are_one_line(toy_records, tmp_path):
  done = subprocess.run([sys.executable, '-m', 'dss_jax.vocab', f'--records_dir={toy_records}',
                         f'--output={tmp_path}/v.model', '--objectives=3'], text=True,
                        capture_output=True, timeout=600, check=False)
  assert done.returncode == 2
  assert re.fullmatch(r'error: .*3 is no row.*\n', done.stderr), done.stderr


def test_records_are_no_run(toy_records, tmp_path):
  from dss_jax.train import checkpoints
  with pytest.raises(errors.UserError, match='manifest.json exists but .*run.json does not'):
    checkpoints.check_model_dir(str(toy_records))
  checkpoints.check_model_dir(str(tmp_path))


@pytest.mark.parametrize('path, says', [
    ('folder', '--gin_file=folder is a folder: name a file'),
    ('binary', '--gin_file=binary: not a gin file: it is no text in UTF-8'),
    ('empty', 'give one such as gin/native/dss.gin')])
def test_what_is_no_gin_file(here, path, says):
  (here / 'binary').write_bytes(b'\xa6\xff\x00')
  (here / 'empty').write_text('')
  with pytest.raises(errors.UserError, match=says):
    main('train', f'--gin_file={path}', '--gin.DATASET=toy')


@pytest.mark.slow
def test_output_that_nobody_reads_to_its_end(toy_records):
  """`dss inspect | head -1`, `dss train --print_config | head -1`."""
  for command in (f'inspect --task=dss_toy --records_dir={toy_records} --vocabulary=bytes --rows=9',
                  f'train {" ".join(RUN)} --print_config'):
    done = subprocess.run(
        ['bash', '-c', f'{sys.executable} -m dss_jax.cli {command} | head -1'], text=True,
        capture_output=True, timeout=600, check=False)
    assert done.stdout.count('\n') == 1
    assert done.stderr in ('', 'loading JAX and TensorFlow\n')


def test_a_mesh_of_more_devices_names_the_flag(here, random_weights):
  from dss_jax import models, student_info
  config = models.T5Config(vocab_size=259, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16,
                           num_encoder_layers=1, num_decoder_layers=1)
  convert_main.convert(random_weights(config), 'student', 'native', info=student_info.StudentInfo(
      model=config, vocabulary='bytes'))
  for count in (0, 3, 64):
    with pytest.raises(errors.UserError, match=f'^--mesh_model={count}: '):
      main('predict', '--model_dir=student', '--input=in.jsonl', '--output=o',
           f'--mesh_model={count}')
