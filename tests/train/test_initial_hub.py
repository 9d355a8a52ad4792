"""INITIAL_CHECKPOINT_PATH=google/t5-v1_1-base: which revision a run is of, and stays of."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import programs
import pytest

from dss_jax import errors, sharding, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, hub
from dss_jax.predict import __main__ as predict_main
from dss_jax.teacher.ask import t5_client
from dss_jax.train import gin_config, processes, run_info, student_files

NAME = 'google/t5-v1_1-base'
SETTINGS = {'TRAIN_STEPS': 2, 'CHECKPOINT_PERIOD': 2, 'LEARNING_RATE': 0.0,
            'EvalConfig.test_at_end': False, 'INITIAL_CHECKPOINT_PATH': NAME}


@pytest.fixture(scope='module')
def models(random_weights, toy_vocabulary, tmp_path_factory):
  """Two Hugging Face folders of the toy network, with its vocabulary."""
  config = gin_config.parse(
      ['gin/native/dss.gin'],
      ['DATASET=toy', 'MODEL_DIR=x', 'RECORDS_DIR=x', 'VOCABULARY=bytes']).model
  made = [tmp_path_factory.mktemp('models') / 'hf' for _ in range(2)]
  for seed, folder in enumerate(made):
    convert_main.convert(random_weights(config, seed=seed), str(folder), 'hf',
                         info=student_info.StudentInfo(model=config))
    (folder / 'student.json').unlink()
    shutil.copy(toy_vocabulary, folder / 'spiece.model')
  return made


@pytest.fixture
def claim(toy_data, tmp_path):
  """Claims a MODEL_DIR as the trainer does; returns whether it is new, and its run.json."""
  def claimed(path, folder='run'):
    config = gin_config.parse(['gin/native/dss.gin'], [f'{name}={value}' for name, value in {
        'DATASET': 'toy', 'MODEL_DIR': tmp_path / folder, 'VOCABULARY': toy_data.vocabulary,
        'WARMUP_STEPS': 0, 'TRAIN_STEPS': 6, 'INITIAL_CHECKPOINT_PATH': path}.items()])
    pinned = run_info.pin(config)
    new = run_info.claim(config.model_dir, run_info.describe(pinned, given=str(path)))
    if new:
      student_files.write(pinned)
    return new, run_json(tmp_path / folder)
  return claimed


def run_json(folder):
  return json.loads((folder / 'run.json').read_text())


def assert_started_from(run, folder):
  found, expected = (formats.open_weights(str(path)) for path in (run, folder))
  for name in expected.specs:
    assert np.array_equal(found.read(name), expected.read(name)), name


@pytest.mark.slow
def test_a_run_goes_on_with_the_revision_that_it_began_with(
    served, models, toy_records, toy_vocabulary, tmp_path):
  """Also one that was killed before its first checkpoint, when the branch has moved on."""
  train = programs.trainer(toy_records, toy_vocabulary, **SETTINGS)
  served.add(NAME, models[0])
  assert train(tmp_path / 'run') == 0
  assert_started_from(tmp_path / 'run', models[0])
  before = run_json(tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints')
  served.add(NAME, models[1])
  hub._fetch.cache_clear()
  assert train(tmp_path / 'run') == 0
  assert_started_from(tmp_path / 'run', models[0])
  assert run_json(tmp_path / 'run') == before


def test_network_and_vocabulary_are_those_of_the_name(served, models, toy_vocabulary):
  commit = served.add(NAME, models[0])
  config = gin_config.parse(['gin/native/dss.gin'], [
      'DATASET=toy', 'MODEL_DIR=x', f'INITIAL_CHECKPOINT_PATH={NAME}', 'WARMUP_STEPS=0'])
  assert config.model == dataclasses.replace(
      formats.open_weights(str(models[0])).config, dropout_rate=config.model.dropout_rate)
  assert config.data.vocabulary == str(served.cache / 'snapshots' / commit / 'spiece.model')


def test_a_plan_needs_no_weights(served, models):
  served.add(NAME, models[0])
  gin_config.parse(['gin/native/dss.gin'], [
      'DATASET=toy', 'MODEL_DIR=x', f'INITIAL_CHECKPOINT_PATH={NAME}', 'WARMUP_STEPS=0'])
  assert 'config.json' in served.downloads() and 'spiece.model' in served.downloads()
  assert 'model.safetensors' not in served.downloads()


def test_the_revision_and_the_hashes_of_its_files_are_kept(served, models, claim):
  commit = served.add(NAME, models[0])
  new, run = claim(NAME)
  assert new and run['identity']['initial_checkpoint_path'] == f'hf://{NAME}@{commit}'
  kept = run['initial_checkpoint']
  assert (kept['given'], kept['name'], kept['revision']) == (NAME, NAME, commit)
  assert set(kept['files']) == {
      'config.json', 'generation_config.json', 'spiece.model', 'model.safetensors'}
  assert all(len(sha256) == 64 for sha256 in kept['files'].values())


def test_a_branch_that_has_moved_on(served, models, claim):
  first = served.add(NAME, models[0])
  _, run = claim(NAME)
  second = served.add(NAME, models[1])
  hub._fetch.cache_clear()
  assert claim(NAME) == (False, run)
  assert claim(NAME, 'new')[1]['initial_checkpoint']['revision'] == second
  with pytest.raises(errors.UserError, match=f'initial_checkpoint_path was .*{first}.*{second}'):
    claim(f'{NAME}@{second}')
  shutil.rmtree(served.home)  # A claimed run needs the hub no more.
  hub._fetch.cache_clear()
  asked = len(served.asked)
  assert claim(NAME) == (False, run) and len(served.asked) == asked


def test_the_same_weights_under_another_path(served, models, claim):
  commit = served.add(NAME, models[0])
  assert claim(NAME)[0]
  for path in (f'hf://{NAME}@{commit}', models[0], served.cache,
               served.cache / 'snapshots' / commit):
    assert not claim(path)[0]
  _, run = claim(served.cache, 'another')
  kept = run['initial_checkpoint']
  assert (kept['name'], kept['revision']) == (NAME, commit)
  assert claim(models[0], 'local')[1]['initial_checkpoint'] is None


def test_a_relative_folder_that_is_gone_is_no_name(served, models, claim, tmp_path):
  shutil.copytree(models[0], tmp_path / 'weights' / 't5')
  assert claim('weights/t5')[0]
  shutil.rmtree(tmp_path / 'weights')
  assert not claim('weights/t5')[0]
  assert served.asked == []


def test_the_error_names_the_field(served, claim, tmp_path):
  for path, message in (('google/none', 'google/none: no folder'), ('hf://t5', 'hf://t5: give hf')):
    with pytest.raises(errors.UserError, match=f'initial_checkpoint_path={path}: {message}'):
      claim(path)
  assert not (tmp_path / 'run').exists()


def test_what_the_main_process_makes():
  assert processes.from_main(lambda: 'a') == 'a'


TWO = '''
import sys
from dss_jax import errors
from dss_jax.train import processes
processes.start(processes.Start(False, sys.argv[1], 2, int(sys.argv[2])))
def fail():
  raise errors.UserError('no such model')
print('found', processes.from_main(lambda: 'of ' + sys.argv[2] + 'é'))
try:
  processes.from_main(fail)
except errors.UserError as error:
  print('error', error)
'''


def test_two_processes_have_one_revision():
  address = programs.free_address()
  started = [programs.start([sys.executable, '-c', TWO, address, str(i)]) for i in range(2)]
  for process in started:
    code, output = programs.finish(process)
    assert code == 0 and 'found of 0é\nerror no such model' in output, output


def test_students_and_teachers_by_name(served, models, tmp_path, capsys):
  commit = served.add(NAME, models[0])
  where = str(served.cache / 'snapshots' / commit)
  assert t5_client._look(NAME, sharding.MeshConfig()) == where
  (tmp_path / 'in').write_text('{"input": "a"}\n')
  assert predict_main.main([
      f'--model_dir={NAME}', f'--input={tmp_path / "in"}', f'--output={tmp_path / "out"}',
      '--max_target_length=2', '--batch_size=8']) == 0
  assert where in capsys.readouterr().out
