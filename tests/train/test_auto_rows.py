"""TASK_FEATURE_LENGTHS and BATCH_SIZE = 'auto': measured once, and then the run's."""

import dataclasses
import json

import pytest

from dss_jax import errors, records
from dss_jax.data import row_lengths
from dss_jax.tasks import toy
from dss_jax.train import __main__ as command
from dss_jax.train import config as config_lib
from dss_jax.train import gin_config, loop, run_info, student_files

AUTO = {'TASK_FEATURE_LENGTHS': 'auto', 'BATCH_SIZE': 'auto', 'PACK': True, 'BATCH_INPUTS': 16}


@pytest.fixture
def make(toy_data, tmp_path):
  """A config with rows that are to be measured, and what overrides it."""
  def made(**settings):
    chosen = {'DATASET': 'toy', 'MODEL_DIR': tmp_path / 'run', 'WARMUP_STEPS': 0,
              'RECORDS_DIR': toy_data.records_dir, 'VOCABULARY': toy_data.vocabulary,
              **AUTO, **settings}
    return gin_config.parse(['gin/native/dss.gin'], [f'{k}={v}' for k, v in chosen.items()])
  return made


def claim(config):
  run_info.claim(config.model_dir, run_info.describe(config))
  return json.loads(open(f'{config.model_dir}/run.json').read())


def test_the_numbers_are_the_runs(make, monkeypatch):
  config, said = loop.prepare_data(make())
  asked = row_lengths.Asked('auto', 'auto', 16)
  rows = row_lengths.measure('dss_toy', {'inputs': 1024, 'targets': 256}, asked)
  assert (config.data.feature_lengths, config.data.batch_size) == (rows.lengths, rows.batch_size)
  assert said == str(rows) and abs(rows.inputs - 16) < 4
  assert config.data.cut == rows.lengths
  assert config.data.limits == {'inputs': 1024, 'targets': 256}
  identity = claim(config)['identity']
  assert identity['data.feature_lengths.inputs'] == rows.lengths['inputs']
  assert identity['data.batch_size'] == rows.batch_size
  info = student_files.describe(config)
  assert (info.input_length, info.target_length) == (1024, 256)  # No packed row's length.
  monkeypatch.setattr(row_lengths, 'measure', None)  # A run that goes on measures nothing.
  again, said = loop.prepare_data(make())
  assert again == config and not said and not run_info.claim(
      again.model_dir, run_info.describe(again))


def test_an_older_run_goes_on_with_its_numbers(make):
  given = {'inputs': 64, 'targets': 24}
  older, said = loop.prepare_data(make(TASK_FEATURE_LENGTHS=given, BATCH_SIZE=8))
  assert not said and older.data.example_lengths is None
  run = claim(older)
  for section in (run['config']['data'], run['identity']):  # As an earlier version wrote it.
    for name in ('example_lengths', 'batch_inputs'):
      section.pop(name, section.pop(f'data.{name}', None))
  with open(f'{older.model_dir}/run.json', 'w') as f:
    json.dump(run, f)
  again, said = loop.prepare_data(make(BATCH_INPUTS=64))
  assert not said and again.data.limits == given and again.data.batch_size == 8
  assert not run_info.claim(again.model_dir, run_info.describe(again))
  with pytest.raises(errors.UserError, match='data.batch_size was 8, is 16'):
    run_info.claim(again.model_dir, run_info.describe(
        loop.prepare_data(make(BATCH_SIZE=16, BATCH_INPUTS=64))[0]))


@pytest.mark.slow
def test_one_of_the_two_may_be_given(make):
  lengths = {'inputs': 64, 'targets': 32}
  config, _ = loop.prepare_data(make(TASK_FEATURE_LENGTHS=lengths))
  assert config.data.feature_lengths == lengths and config.data.batch_size % 4 == 0
  config, _ = loop.prepare_data(make(BATCH_SIZE=4))
  assert config.data.batch_size == 4 and config.data.feature_lengths['inputs'] % 128 == 0


def test_a_plan_and_print_config_have_the_same(make, capsys, monkeypatch, tmp_path):
  config, said = loop.prepare_data(make())
  planned, lines = loop.look_at_data(make())
  assert planned == config and lines[0] == said
  bindings = [f'--gin.{k}={v}' for k, v in {
      'DATASET': 'toy', 'MODEL_DIR': tmp_path / 'run', 'RECORDS_DIR': config.data.records_dir,
      'VOCABULARY': config.data.vocabulary, **AUTO}.items()]
  assert command.main(['--gin_file=gin/native/dss.gin', *bindings, '--print_config']) == 0
  assert capsys.readouterr().out.rstrip().endswith(
      f'# TASK_FEATURE_LENGTHS = {config.data.feature_lengths}, '
      f'BATCH_SIZE = {config.data.batch_size}: {said}')
  nowhere = make(RECORDS_DIR=tmp_path)
  planned, lines = loop.look_at_data(nowhere)
  assert planned.data.feature_lengths == {'inputs': 1024, 'targets': 256}
  assert planned.data.batch_size == 8 and 'are not looked at' in lines[0]


def test_no_examples_are_no_rows(make, tmp_path):
  rows = [records.RationaleRecord(id=e.id, input=e.input, parse_status='no_label')
          for e in toy.make_examples(4, 5, 12)]
  records.write_records(str(tmp_path / 'empty'), 'toy', 'train', rows, num_shards=1)
  with pytest.raises(errors.UserError, match="task 'dss_toy_label' has no rows in split 'train'"):
    loop.prepare_data(make(RECORDS_DIR=tmp_path / 'empty'))


def test_limits_that_are_given():
  data = config_lib.DataConfig(mixture_or_task='x', feature_lengths='auto', batch_size=8,
                               example_lengths={'inputs': 2048, 'targets': 64})
  assert data.limits == data.cut == {'inputs': 2048, 'targets': 64}
  row = dataclasses.replace(data, feature_lengths={'inputs': 512, 'targets': 96})
  assert row.cut == {'inputs': 512, 'targets': 64} and row.limits == data.limits
