"""Every file under gin/ parses into a run; every method, data set and overlay trains a step.

Those for T5X are in test_t5x_runs.py.
"""

import os
import re

import jax
import pytest

import dss_jax.tasks  # noqa: F401
from dss_jax import datasets, errors, gin_files, models, records
from dss_jax.experiments import grid
from dss_jax.tasks import toy
from dss_jax.train import config as config_lib
from dss_jax.train import gin_config, loop

FILES = [file for file in gin_files.known_files()
         if not gin_files.is_for_t5x(file) and not file.startswith('gin/sweeps/')]
OVERRIDES = {'TRAIN_STEPS': 1, 'WARMUP_STEPS': 0, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 1,
             'BATCH_SIZE': 8, 'TASK_FEATURE_LENGTHS': "{'inputs': 128, 'targets': 64}",
             'VOCABULARY': 'bytes'}
TASKS = {'dss': 'dss_{}', 'dss_teacher': 'dss_{}_teacher', 'dss_shuffled': 'dss_{}_shuffled',
         'finetune': '{}_finetune', 'distill': '{}_distill',
         'rationale_then_label': '{}_rationale_then_label'}
# Tokens of a row; rows of a batch of DSS, which has all inputs twice, and of the others.
ROWS = {**dict.fromkeys(('esnli', 'anli', 'cqa', 'svamp', 'asdiv'), ('auto', 'auto', 'auto')),
        'toy': ({'inputs': 32, 'targets': 16}, 64, 32)}
METHOD = re.compile(rf'gin/native/({"|".join(TASKS)})\.gin')


def command(file):
  """The gin files of a run in which `file` takes part, in the order a user gives them."""
  if re.fullmatch(r'gin/native/(models/\w+|tiny)\.gin', file):  # An overlay.
    return ['gin/native/dss.gin', file]
  if file == 'gin/native/run.gin':
    return [file, 'gin/recipes/cqa.gin']
  if file in ('gin/recipes/paper.gin', 'gin/recipes/single_task.gin', 'gin/recipes/unpacked.gin'):
    return ['gin/native/dss.gin', file]
  if file.startswith('gin/recipes/'):
    return ['gin/native/run.gin', file]
  return [file]


def bindings(file, tmp_path, folder='records'):
  chosen = {**OVERRIDES, 'MODEL_DIR': tmp_path / 'run', 'RECORDS_DIR': folder}
  if METHOD.fullmatch(command(file)[0]):
    chosen['DATASET'] = 'cqa'
  return [f'{name}={value}' for name, value in chosen.items()]


def plain(files, *bindings):
  return config_lib.as_dict(gin_config.parse(files, ['MODEL_DIR=run', *bindings]))


@pytest.mark.parametrize('name', ROWS)
@pytest.mark.parametrize('method', TASKS)
def test_what_a_method_and_a_dataset_make(method, name):
  run = gin_config.parse([f'gin/native/{method}.gin'], [f'DATASET={name}', 'MODEL_DIR=run'])
  two_tasks = method.startswith('dss')
  lengths, dss_rows, rows = ROWS[name]
  assert run.data.mixture_or_task == TASKS[method].format(name)
  assert run.alpha == (0.5 if two_tasks else 1.0)
  assert run.data.feature_lengths == lengths and run.data.batch_inputs == 64
  assert run.data.limits == ({'inputs': 1024, 'targets': 256} if lengths == 'auto' else lengths)
  assert run.data.batch_size == (dss_rows if two_tasks else rows)
  assert run.data.pack == (name != 'toy') and run.steps == (300 if name == 'toy' else 10_000)
  assert run.model.emb_dim == (32 if name == 'toy' else 768)
  assert plain([f'gin/native/{method}_{name}.gin']) == config_lib.as_dict(run)  # Its old name.


def test_a_method_is_a_file():
  assert gin_files.methods() == {
      name: task.format('{DATASET}') for name, task in sorted(TASKS.items())}
  assert {file for labels in grid.METHODS.values() for file in labels.values()} == set(TASKS)
  assert grid.METHODS['dss'] == {'gold': 'dss', 'teacher': 'dss_teacher'}
  assert grid.METHODS['distill'] == {'teacher': 'distill'}
  assert grid.WEIGHTED == ('dss', 'dss_shuffled')


def test_files_then_overlays_then_bindings():
  files = ['gin/native/distill.gin', 'gin/native/tiny.gin', 'gin/native/models/t5_1_0_small.gin']
  run = gin_config.parse(files, ['MODEL_DIR=run', 'DATASET=anli', 'BATCH_SIZE=5'])
  assert run.data.mixture_or_task == 'anli_distill' and run.data.batch_size == 5
  assert run.data.feature_lengths == {'inputs': 256, 'targets': 128} and run.alpha == 1.0
  assert run.model.emb_dim == 512 and run.model.logits_via_embedding
  assert plain(files[:1], 'DATASET=anli', 'MIXTURE_OR_TASK_NAME=mine')[
      'data']['mixture_or_task'] == 'mine'


def test_a_dataset_of_ones_own_has_the_papers_settings(monkeypatch, tmp_path):
  files = [f'gin/native/{method}.gin' for method in ('dss_teacher', 'finetune')]
  with pytest.raises(errors.UserError, match='DATASET=tickets_2: known: anli, .*--import=MODULE'):
    plain(files[:1], 'DATASET=tickets_2')
  datasets.add(datasets.Dataset('tickets_2', datasets.read_plain_row))
  for file, task in zip(files, ('dss_tickets_2_teacher', 'tickets_2_finetune')):
    ours, papers = plain([file], 'DATASET=tickets_2'), plain([file], 'DATASET=cqa')
    assert ours['data'].pop('mixture_or_task') == task and papers['data'].pop('mixture_or_task')
    assert ours == papers
  assert plain(['gin/native/dss_teacher_tickets_2.gin']) == plain(files[:1], 'DATASET=tickets_2')
  monkeypatch.chdir(tmp_path)  # A recipe of one's own: found, and known by it.
  (tmp_path / 'gin/recipes').mkdir(parents=True)
  (tmp_path / 'gin/recipes/mine.gin').write_text("include 'gin/recipes/paper.gin'\nBATCH_SIZE = 3")
  assert plain(files[:1], 'DATASET=mine')['data']['batch_size'] == 3


def test_a_file_of_ones_own_includes_a_method(tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text("include 'gin/native/dss.gin'\nTRAIN_STEPS = 7")
  assert plain([str(path)], 'DATASET=svamp')['steps'] == 7
  for first in ("DATASET = 'svamp'\ninclude 'gin/native/dss.gin'",
                "include 'gin/native/dss_svamp.gin'"):
    path.write_text(first)
    assert plain([str(path)]) == plain(['gin/native/dss.gin'], 'DATASET=svamp')
    with pytest.raises(errors.UserError, match='--gin.DATASET=cqa: the gin files .* are of svamp'):
      plain([str(path)], 'DATASET=cqa')


@pytest.mark.parametrize(('file', 'given', 'message'), [
    ('dss', [], 'dss.gin: give --gin.DATASET=NAME; known: anli, asdiv, cqa, esnli, svamp, toy'),
    ('dss', ['DATASET=esnil'], "DATASET=esnil: did you mean 'esnli'"),
    ('dss', ['DATASET=paper'], 'DATASET=paper: known: anli'),
    ('distill_svmap', [], "DATASET=svmap: did you mean 'svamp'"),
    ('run', ['DATASET=cqa'], '--gin.DATASET: no gin file given defines the macro DATASET'),
    ('models/t5_1_1_larg', [], "did you mean .*'gin/native/models/t5_1_1_large.gin'")])
def test_a_dataset_or_model_that_is_not_there(file, given, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    plain([f'gin/native/{file}.gin'], *given)
  assert '\n' not in str(caught.value)


def test_a_file_for_t5x_is_told_apart():
  with pytest.raises(errors.UserError, match='gin/dss_cqa.gin is for t5x/train.py: this engine has '
                                             'gin/native/dss.gin --gin.DATASET=cqa'):
    gin_config.parse(['gin/dss_cqa.gin'], [])
  assert gin_files.is_for_t5x('gin/t5x/run.gin') and not gin_files.is_for_t5x('gin/native/run.gin')


@pytest.mark.parametrize('file', FILES)
def test_parses_into_a_run(file, tmp_path):
  config = gin_config.parse(command(file), bindings(file, tmp_path))
  assert config.steps == 1 and config.data.batch_size == 8


@pytest.mark.parametrize('file', [f for f in FILES if '/models/t5' in f])
def test_sizes_are_those_of_the_models_package(file, tmp_path):
  version, size = re.search(r't5_1_(\d)_(\w+)\.gin', file).groups()
  config = gin_config.parse(
      command(file), [*bindings(file, tmp_path), 'VOCAB_SIZE=32128']).model
  expected = models.t5_config(f'1.{version}', size, dtype='bfloat16', scan_layers=True)
  assert dict(vars(config)) == dict(vars(expected))


def test_what_no_file_sets_is_the_fields_default():
  lengths = {'inputs': 9, 'targets': 8}
  run = gin_config.parse(['gin/native/run.gin'], [
      'MODEL_DIR=run', 'DataConfig.mixture_or_task=x', 'DataConfig.batch_size=3',
      f'DataConfig.feature_lengths={lengths}'])
  data = config_lib.DataConfig(mixture_or_task='x', batch_size=3, feature_lengths=lengths)
  base = models.t5_config('1.1', 'base', dtype='bfloat16', scan_layers=True)
  assert run == config_lib.TrainConfig('run', data, model=base, microbatches='auto')


def test_the_papers_batch_without_packing(tmp_path):
  config = gin_config.parse(['gin/native/dss.gin', 'gin/recipes/unpacked.gin'],
                            ['DATASET=anli', f'MODEL_DIR={tmp_path}']).data
  assert (config.pack, config.batch_size) == (False, 128)
  assert config.feature_lengths == {'inputs': 1024, 'targets': 256}


def test_the_papers_settings(monkeypatch, tmp_path):
  config = gin_config.parse(['gin/native/dss.gin'], ['DATASET=cqa', f'MODEL_DIR={tmp_path}'])
  assert config.data.cut == config.data.limits == {'inputs': 1024, 'targets': 256}
  assert config.data.batch_inputs == 64 and not config.data.is_measured
  assert (config.steps, config.alpha) == (10_000, 0.5)
  optimizer = config.optimizer
  assert (optimizer.name, optimizer.learning_rate, optimizer.schedule) == (
      'adamw_transformers4', 5e-5, 'linear')
  assert (optimizer.clip_norm, optimizer.weight_decay, optimizer.warmup_steps) == (1.0, 0.0, 0)


@pytest.fixture(scope='module')
def all_records(tmp_path_factory):
  """A few rows for every dataset, under its name."""
  folder = str(tmp_path_factory.mktemp('all') / 'records')
  rows = [records.RationaleRecord(
      id=e.id, input=e.input[:60], label=e.label, teacher_label=e.label, rationale='foreign right')
      for e in toy.make_examples(32, 5, 12)]
  for name in ('esnli', 'anli', 'cqa', 'svamp', 'asdiv', 'toy'):
    records.write_records(folder, name, 'train', rows, num_shards=1)
  return folder


@pytest.fixture(scope='module', autouse=True)
def compilation_cache(tmp_path_factory):
  """Most files give the same tiny computation: compile it once."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path_factory.mktemp('compiled')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


TINY = ['T5Config.emb_dim=16', 'T5Config.num_heads=2', 'T5Config.head_dim=8',
        'T5Config.num_encoder_layers=1', 'T5Config.num_decoder_layers=1', 'T5Config.mlp_dim=16',
        'VOCAB_SIZE=384', 'LOG_PERIOD=1']
QUICK = 'gin/native/dss_cqa.gin'
TRAINED = ['gin/native/distill_svamp.gin', *(f'gin/native/dss_{name}.gin' for name in ROWS), *(
    file for file in FILES if METHOD.fullmatch(file) or re.fullmatch(
        r'gin/(native/(tiny|models/t5_1_[01]_small)|recipes/unpacked)\.gin', file))]


@pytest.mark.parametrize('file', [
    pytest.param(f, marks=() if f == QUICK else pytest.mark.slow) for f in TRAINED])
def test_trains_a_step_with_a_tiny_overlay(file, tmp_path, all_records):
  config = gin_config.parse(command(file), [*bindings(file, tmp_path, all_records), *TINY])
  result = loop.train(config)
  assert result.step == 1
  assert os.listdir(tmp_path / 'run' / 'checkpoints') == ['1']
