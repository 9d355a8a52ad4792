"""Every setting of a run: what it may not be is refused by the name of its macro."""

import re

import pytest

from dss_jax import data, errors, sharding
from dss_jax.data import vocabularies
from dss_jax.train import config, gin_config

WHOLE_FROM_1 = ('BATCH_SIZE', 'BATCH_INPUTS', 'TRAIN_STEPS', 'MICROBATCHES', 'LOG_PERIOD',
                'EVAL_BATCH_SIZE', 'KEEP_CHECKPOINTS', 'VOCAB_SIZE')
WHOLE_FROM_0 = ('EVAL_PERIOD', 'EVAL_EXAMPLES', 'CHECKPOINT_PERIOD', 'WARMUP_STEPS', 'LOSS_CHUNK',
                'SEED', 'TRAIN_FRACTION_SEED')
MESH = ('MESH_DATA', 'MESH_FSDP', 'MESH_MODEL')
FROM_0 = ('LEARNING_RATE', 'WEIGHT_DECAY')
TEXTS = ('MODEL_DIR', 'RECORDS_DIR', 'VOCABULARY', 'INITIAL_CHECKPOINT_PATH', 'LABEL_PREFIX',
         'RATIONALE_PREFIX', 'MIXTURE_OR_TASK_NAME')
NOT_NUMBERS = ('abc', 'None', 'True', '-3')
WRONG = (
    [(name, value) for name in WHOLE_FROM_1 for value in (*NOT_NUMBERS[2:], '0', '8.0')]
    + [(name, value) for name in WHOLE_FROM_0 for value in ('abc', '-3', '1e4')]
    + [(name, value) for name in MESH for value in ('-3', '0', '1.5')]
    + [(name, value) for name in FROM_0 for value in (*NOT_NUMBERS[:3], '-1e-9', '1e999')]
    + [(name, value) for name in TEXTS for value in ('5', 'None')]
    + [(name, value) for name in ('PACK', 'VERIFY_RECORDS', 'SCAN_LAYERS')
       for value in ('yes', '1')]
    + [('TRAIN_FRACTION', value) for value in ('0', '1.5', 'nan', '12%', 'None')]
    + [('DSS_ALPHA', value) for value in ('-0.1', '1.01', '50%', 'True')]
    + [('DSS_OBJECTIVES', value) for value in (
        '5', 'abc', "('a', 'b', 'label', 1)", "[('a', 'b', 'label', -1)]", "[('a', 'b', 'label')]")]
    + [('CLIP_NORM', value) for value in ('abc', 'True', '-1e-9', '1e999')]
    + [('BETA2', value) for value in ('1.0', '-0.1', 'None')]
    + [('DROPOUT_RATE', value) for value in ('abc', '1.0', '-0.1')]
    + [('SCHEDULE', value) for value in ('Linear', '[1]')]
    + [('OPTIMIZER', value) for value in ('sgd', '[1]')]
    + [('DTYPE', value) for value in ('float16', '[1]')]
    + [('REMAT', value) for value in ('True', '[1]')]
    + [('EXAMPLE_LENGTHS', value) for value in (
        '5', 'auto', '[64, 64]', "{'inputs': 64}", "{'inputs': 64, 'targets': 0}")]
    + [('TASK_FEATURE_LENGTHS', value) for value in (
        'None', '5', 'abc', '[64, 64]', '{}', "{'inputs': 64}", "{'inputs': 64, 'targets': 0}",
        "{'inputs': 64, 'targets': 6.5}", "{'inputs': '64', 'targets': 6}",
        "{'inputs': 64, 'targets': 24, 'x': 1}", "{1: 64, 'targets': 24}")])
FIELDS = (('OptimizerConfig.beta1', '1'), ('OptimizerConfig.epsilon', '0'),
          ('EvalConfig.test_at_end', "'no'"), ('TrainConfig.data', "'cqa'"),
          ('TrainConfig.optimizer', 'None'), ('T5Config.emb_dim', '0'))


def parse(*bindings):
  return gin_config.parse(['gin/native/dss.gin'],
                          ['DATASET=toy', 'MODEL_DIR=run', 'VOCABULARY=bytes', *bindings])


@pytest.mark.parametrize(('name', 'value'), [*WRONG, *FIELDS])
def test_a_wrong_value_is_named_with_its_macro(name, value):
  with pytest.raises(errors.UserError) as caught:
    parse(f'{name}={value}')
  said = str(caught.value)
  assert name in said and ': ' in said and '\n' not in said


@pytest.mark.parametrize('binding', [
    'LEARNING_RATE=0', 'LEARNING_RATE=1', 'EVAL_PERIOD=0', 'CHECKPOINT_PERIOD=0', 'CLIP_NORM=0',
    'DSS_ALPHA=1', 'TRAIN_FRACTION=1', 'BETA2=0', 'DROPOUT_RATE=0', 'MESH_MODEL=-1',
    'LABEL_PREFIX=', 'RECORDS_DIR=gs://b/r', 'INITIAL_CHECKPOINT_PATH=',
    "DSS_OBJECTIVES=(('premise', '', 'label', 0),)"])
def test_the_ends_of_a_range_are_taken(binding):
  parse(binding)


def test_a_warm_up_longer_than_the_run():
  with pytest.raises(errors.UserError, match='WARMUP_STEPS=21: the run ends .*TRAIN_STEPS=20'):
    parse('TRAIN_STEPS=20', 'WARMUP_STEPS=21')
  parse('TRAIN_STEPS=20', 'WARMUP_STEPS=20')
  parse('TRAIN_STEPS=20', 'WARMUP_STEPS=10000', 'SCHEDULE=rsqrt')  # There it is a plateau.


@pytest.mark.parametrize(('make', 'said'), [
    (lambda: config.CheckpointConfig(every=-1), r'CheckpointConfig\.every=-1: '),
    (lambda: config.OptimizerConfig(no_decay=('x',)), r"OptimizerConfig\.no_decay='x': known: "),
    (lambda: sharding.MeshConfig(fsdp=0), r'MeshConfig\.fsdp=0: use '),
    (lambda: sharding.make_mesh(sharding.MeshConfig(model=3)),
     r'^MeshConfig\.data=-1, MeshConfig\.fsdp=1, MeshConfig\.model=3: the product must'),
    (lambda: sharding.parse_mesh('eight'), '^mesh=eight: '),
    (lambda: data.DataSettings(train_fraction=2), r'DataSettings\.train_fraction=2: ')])
def test_a_library_error_names_the_field(make, said):
  """What the user of the classes has written; macros and flags are the command line's."""
  with pytest.raises(errors.UserError, match=said) as caught:
    make()
  assert not re.search('[A-Z]{3,}|--', str(caught.value))


def test_gin_puts_its_macros_in_the_place_of_fields():
  """By what the files of this run bind; other fields keep their names."""
  parse()
  with pytest.raises(errors.UserError, match=r'^MESH_DATA=-1, MESH_FSDP=1, MESH_MODEL=3: the '), \
      gin_config.macros_named():
    sharding.make_mesh(sharding.MeshConfig(model=3))
  with pytest.raises(errors.UserError, match=r'^VOCABULARY=no/such'), gin_config.macros_named():
    vocabularies.load('no/such.model')
  assert gin_config.with_macros('OptimizerConfig.beta1=2, No.such') == (
      'OptimizerConfig.beta1=2, No.such')
