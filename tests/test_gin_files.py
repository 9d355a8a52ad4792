"""Every file under gin/ parses into a run; every method, data set and overlay trains a step.

Those for T5X are in test_t5x_runs.py.
"""

import os
import re

import jax
import pytest

import dss_jax.tasks  # noqa: F401
from dss_jax import datasets, errors, gin_files, models, records
from dss_jax.tasks import toy
from dss_jax.train import gin_config, loop

FILES = [file for file in gin_files.known_files()
         if not gin_files.is_for_t5x(file) and not file.startswith('gin/sweeps/')]
OVERRIDES = {'TRAIN_STEPS': 1, 'WARMUP_STEPS': 0, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 1,
             'BATCH_SIZE': 8, 'TASK_FEATURE_LENGTHS': "{'inputs': 128, 'targets': 64}",
             'VOCABULARY': 'bytes'}


def command(file):
  """The gin files of a run in which `file` takes part, in the order a user gives them."""
  if re.fullmatch(r'gin/native/(models/\w+|tiny)\.gin', file):  # An overlay.
    return ['gin/native/dss_cqa.gin', file]
  if file == 'gin/native/run.gin':
    return [file, 'gin/recipes/cqa.gin']
  if file in ('gin/recipes/paper.gin', 'gin/recipes/single_task.gin', 'gin/recipes/unpacked.gin'):
    return ['gin/native/dss_cqa.gin', file]
  if file.startswith('gin/recipes/'):
    return ['gin/native/run.gin', file]
  return [file]


def bindings(tmp_path, folder='records'):
  return [f'{name}={value}' for name, value in
          {**OVERRIDES, 'MODEL_DIR': tmp_path / 'run', 'RECORDS_DIR': folder}.items()]


def test_all_runs_are_there():
  for name in datasets.names():
    if name in ('esnli', 'anli', 'cqa', 'svamp', 'asdiv', 'toy'):
      for kind in ('dss', 'dss_teacher', 'dss_shuffled', 'finetune', 'distill',
                   'rationale_then_label'):
        assert f'gin/native/{kind}_{name}.gin' in FILES


def test_a_file_for_t5x_is_told_apart(tmp_path):
  with pytest.raises(errors.UserError, match='gin/dss_cqa.gin is for t5x/train.py: this engine has '
                                             'gin/native/dss_cqa.gin'):
    gin_config.parse(['gin/dss_cqa.gin'], [])
  assert gin_files.is_for_t5x('gin/t5x/run.gin') and not gin_files.is_for_t5x('gin/native/run.gin')


@pytest.mark.parametrize('file', FILES)
def test_parses_into_a_run(file, tmp_path):
  config = gin_config.parse(command(file), bindings(tmp_path))
  assert config.steps == 1 and config.data.batch_size == 8
  match = re.fullmatch(r'gin/native/(dss|dss_teacher|dss_shuffled|finetune|distill|'
                       r'rationale_then_label)_([a-z]+)\.gin', file)
  if match and match[2] in datasets.names():
    kind, name = match.groups()
    expected = {'dss': f'dss_{name}', 'dss_teacher': f'dss_{name}_teacher',
                'dss_shuffled': f'dss_{name}_shuffled'}.get(kind, f'{name}_{kind}')
    assert config.data.mixture_or_task == expected
    assert config.alpha == (0.5 if kind.startswith('dss') else 1.0)


@pytest.mark.parametrize('file', [f for f in FILES if '/models/t5' in f])
def test_sizes_are_those_of_the_models_package(file, tmp_path):
  version, size = re.search(r't5_1_(\d)_(\w+)\.gin', file).groups()
  config = gin_config.parse(command(file), bindings(tmp_path)).model
  expected = models.t5_config(f'1.{version}', size, dtype='bfloat16', scan_layers=True)
  assert dict(vars(config)) == dict(vars(expected))


def test_the_papers_batch_without_packing(tmp_path):
  config = gin_config.parse(['gin/native/dss_anli.gin', 'gin/recipes/unpacked.gin'],
                            [f'MODEL_DIR={tmp_path}']).data
  assert (config.pack, config.batch_size) == (False, 128)
  assert config.feature_lengths == {'inputs': 1024, 'targets': 256}


@pytest.mark.parametrize('file', [
    file for file in FILES if re.search('native/(finetune|distill|rationale_then_label)_', file)])
def test_the_others_have_half_the_input_tokens_of_dss(file, tmp_path):
  dss = re.sub(r'(finetune|distill|rationale_then_label)_', 'dss_', file)
  ours, theirs = [gin_config.parse([name], [f'MODEL_DIR={tmp_path}']).data for name in (dss, file)]
  tokens = [data.batch_size * (data.feature_lengths['inputs'] if data.pack else 1)
            for data in (ours, theirs)]
  assert tokens[0] == 2 * tokens[1]
  assert not theirs.pack or theirs.batch_size == ours.batch_size  # As many devices for both.
  assert theirs.feature_lengths['targets'] == ours.feature_lengths['targets']


def test_the_papers_settings(tmp_path):
  config = gin_config.parse(['gin/native/dss_cqa.gin'], [f'MODEL_DIR={tmp_path}'])
  assert config.data.feature_lengths == {'inputs': 1024, 'targets': 256}
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
QUICK = ('gin/native/dss_cqa.gin', 'gin/native/distill_svamp.gin')
TRAINED = [file for file in FILES if file in QUICK or re.fullmatch(
    r'gin/(native/(\w+_cqa|dss_[a-z]+|tiny|models/t5_1_[01]_small)|recipes/unpacked)\.gin', file)]


@pytest.mark.parametrize('file', [
    pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in TRAINED])
def test_trains_a_step_with_a_tiny_overlay(file, tmp_path, all_records):
  config = gin_config.parse(command(file), [*bindings(tmp_path, all_records), *TINY])
  result = loop.train(config)
  assert result.step == 1
  assert os.listdir(tmp_path / 'run' / 'checkpoints') == ['1']
