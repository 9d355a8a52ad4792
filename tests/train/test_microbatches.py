"""MICROBATCHES='auto': the fewest parts that fit, found once for a run."""

import json

import jax
import programs
import pytest

from dss_jax import arguments, errors
from dss_jax.precompile import advice
from dss_jax.train import __main__ as train_main
from dss_jax.train import gin_config


def config_of(command):
  rest, bindings = arguments.split_bindings(command[3:])
  return gin_config.parse([rest[0].partition('=')[2]], bindings)


@pytest.fixture
def command(toy_records, toy_vocabulary, tmp_path):
  def words(**settings):
    return programs.words(tmp_path / 'run', toy_records, toy_vocabulary, MICROBATCHES='auto',
                          BATCH_SIZE=32, MESH_DATA=8, **settings)
  return words


def test_a_cpu_takes_some_thousand_tokens_at_a_time(command, monkeypatch):
  config = config_of(command(TASK_FEATURE_LENGTHS="{'inputs': 64, 'targets': 24}"))
  assert advice.fewest_microbatches(config) == 1  # Not half of its 2,816 tokens.
  config = config_of(command(TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 128}"))
  assert advice.fewest_microbatches(config) == 4  # Four rows on each of eight devices.


@pytest.mark.slow
def test_other_devices_take_the_fewest_parts_that_fit(command, monkeypatch):
  """The compiler's counts, by which the room of the device is set here."""
  config = config_of(command())
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  needed = {k: sum(memory.values())
            for k, memory in advice._attempts(config, advice._numbers(config, 1))}
  assert list(needed) == [1, 2, 4] and needed[1] > needed[2] > needed[4]
  for k, room in needed.items():
    monkeypatch.setattr(advice, '_room', lambda room=room: room)
    assert advice.fewest_microbatches(config) == k
  monkeypatch.setattr(advice, '_room', lambda: needed[4] - 1)
  with pytest.raises(errors.UserError, match='None of these fits'):
    advice.fewest_microbatches(config)


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_number(command, monkeypatch, tmp_path):
  asked = []
  def once(config):
    asked.append(config)
    return 2
  monkeypatch.setattr(advice, 'fewest_microbatches', once)
  settings = {'TRAIN_STEPS': 2, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 1}
  assert train_main.main(command(**settings)[3:]) == 0
  run = json.loads((tmp_path / 'run/run.json').read_text())
  assert run['config']['microbatches'] == 2
  assert train_main.main(command(**settings)[3:]) == 0
  assert len(asked) == 1
