"""INITIAL_CHECKPOINT_PATH: a run starts from weights of any of the three formats."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from dss_jax import errors, models, student_info, vocab
from dss_jax import sharding as sharding_lib
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats
from dss_jax.train import __main__ as train_main
from dss_jax.train import config as config_lib
from dss_jax.train import gin_config, initial

SETTINGS = {
    'TRAIN_STEPS': 1, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 1, 'PACK': True, 'BATCH_SIZE': 8,
    'DROPOUT_RATE': 0.0, 'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 24}",
    'WARMUP_STEPS': 0, 'EvalConfig.test_at_end': False,
}


@pytest.fixture(scope='module')
def train(toy_records, toy_vocabulary):
  """Runs the trainer for a step in a folder."""
  def run(model_dir, **settings):
    chosen = {**SETTINGS, 'MODEL_DIR': model_dir, 'RECORDS_DIR': toy_records,
              'VOCABULARY': toy_vocabulary, **settings}
    flags = [f'--gin.{name}={value}' for name, value in chosen.items()]
    return train_main.main(['--gin_file=gin/native/dss.gin', '--gin.DATASET=toy', *flags])
  return run


@pytest.fixture(scope='module')
def pretrained(random_weights, tmp_path_factory):
  """The same weights in a folder of each format."""
  folder = tmp_path_factory.mktemp('pretrained')
  config = gin_config.parse(
      ['gin/native/dss.gin'],
      ['DATASET=toy', 'MODEL_DIR=x', 'RECORDS_DIR=x', 'VOCABULARY=bytes']).model
  for to in ('hf', 'native', 't5x'):
    convert_main.convert(random_weights(config, seed=7), str(folder / to), to,
                         info=student_info.StudentInfo(model=config))
  return folder


@pytest.mark.parametrize(('source', 'scan_layers', 'mesh'), [
    ('hf', False, (8, 1, 1)), ('hf', True, (2, 2, 2)), ('native', False, (1, 8, 1)),
    ('t5x', True, (4, 1, 2))])
def test_parameters_are_laid_out_over_the_mesh(pretrained, source, scan_layers, mesh):
  """The same values from every format, in either layout, each where its sharding says."""
  expected = formats.open_weights(str(pretrained / 'native'))
  config = dataclasses.replace(expected.config, scan_layers=scan_layers)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(*mesh)))
  places = sharding.params(models.Transformer(config))
  params = initial.load_params(str(pretrained / source), config, places)
  assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, params, places))
  unrolled = models.unstack_layers(params) if scan_layers else params
  found = traverse_util.flatten_dict(unrolled, sep='/')
  assert set(found) == set(expected.specs)
  for name, x in found.items():
    assert np.array_equal(x, expected.read(name)), name


@pytest.mark.slow
def test_a_run_starts_with_the_checkpoints_parameters(pretrained, train, tmp_path):
  """At learning rate 0 they are what it saves; a finished or resumed run needs it no more."""
  shutil.copytree(pretrained / 'hf', tmp_path / 'hf')
  settings = {'INITIAL_CHECKPOINT_PATH': tmp_path / 'hf', 'LEARNING_RATE': 0.0, 'SEED': 5}
  assert train(tmp_path / 'run', **settings) == 0
  expected, found = (formats.open_weights(str(p)) for p in (pretrained / 'hf', tmp_path / 'run'))
  for name in expected.specs:
    assert np.array_equal(found.read(name), expected.read(name)), name
  shutil.rmtree(tmp_path / 'hf')
  assert train(tmp_path / 'run', **settings) == 0


def test_another_size_is_refused_before_anything_is_written(pretrained, train, tmp_path):
  with pytest.raises(errors.UserError) as caught:
    train(tmp_path / 'run', INITIAL_CHECKPOINT_PATH=pretrained / 'hf', VOCAB_SIZE=256)
  message = str(caught.value)
  assert message.startswith('VOCAB_SIZE=256, but INITIAL_CHECKPOINT_PATH') and 'has 128' in message
  assert not (tmp_path / 'run').exists()


def test_a_path_without_a_checkpoint_is_refused(train, tmp_path):
  with pytest.raises(errors.UserError, match=r'INITIAL_CHECKPOINT_PATH=.*does not exist'):
    train(tmp_path / 'run', INITIAL_CHECKPOINT_PATH=tmp_path / 'nowhere')


@pytest.mark.parametrize(('field', 'value'), [
    ('mlp_activations', ('silu',)), ('relpos_max_distance', 64)])
def test_another_network_of_the_same_shapes_is_refused(pretrained, train, tmp_path, field, value):
  with pytest.raises(errors.UserError) as caught:
    train(tmp_path / 'run', INITIAL_CHECKPOINT_PATH=pretrained / 't5x',
          **{f'T5Config.{field}': value})
  message = str(caught.value)
  assert message.startswith(f'T5Config.{field}={value!r}, but') and ' has ' in message
  assert str(pretrained / 't5x') in message and '\n' not in message
  assert not (tmp_path / 'run').exists()


def test_another_vocabulary_than_the_checkpoints_is_refused(
    pretrained, train, tmp_path, toy_records, toy_vocabulary):
  """With both paths; its own under another path is right."""
  shutil.copytree(pretrained / 'hf', tmp_path / 'hf')
  shutil.copy(toy_vocabulary, tmp_path / 'hf' / 'spiece.model')
  other = str(tmp_path / 'other.model')
  vocab.train(str(toy_records), other, vocab_size=60, model_type='unigram')
  for given, message in ((other, f'VOCABULARY={other} is another'), ('bytes', 'VOCABULARY=bytes')):
    settings = {'DATASET': 'toy', 'INITIAL_CHECKPOINT_PATH': tmp_path / 'hf', 'VOCAB_SIZE': 128}
    with pytest.raises(errors.UserError) as caught:
      initial.check(gin_config.parse(['gin/native/dss.gin'], [
          f'{name}={value}' for name, value in {
              **settings, 'MODEL_DIR': 'x', 'RECORDS_DIR': 'x', 'VOCABULARY': given}.items()]))
    assert message in str(caught.value) and str(tmp_path / 'hf/spiece.model') in str(caught.value)
  initial.check(gin_config.parse(['gin/native/dss.gin'], [
      'DATASET=toy', 'MODEL_DIR=x', 'RECORDS_DIR=x', f'VOCABULARY={toy_vocabulary}',
      f'INITIAL_CHECKPOINT_PATH={tmp_path / "hf"}']))
