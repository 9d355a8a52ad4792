"""A batch that no memory holds gets an answer with numbers."""

import programs
import pytest

from dss_jax import arguments, errors
from dss_jax.precompile import advice
from dss_jax.train import __main__ as train_main

HUGE = {'BATCH_SIZE': 16, 'TASK_FEATURE_LENGTHS': "{'inputs': 60000, 'targets': 24}",
        'TRAIN_STEPS': 1, 'MESH_DATA': 8}


@pytest.mark.slow
def test_a_batch_that_does_not_fit(toy_records, toy_vocabulary, tmp_path):
  """XLA does run out: the attention of a row of 60,000 tokens takes terabytes."""
  command = programs.words(tmp_path / 'run', toy_records, toy_vocabulary, **HUGE)
  with pytest.raises(errors.UserError) as error:
    train_main.main(command[3:])
  lines = str(error.value).splitlines()
  assert 'does not fit into the memory of a device' in lines[0]
  assert [int(line.split()[0]) for line in lines[2:-1]] == [1, 2]
  assert 'None of these fits' in lines[-1]


@pytest.mark.slow
def test_the_number_of_parts_that_fits(toy_records, toy_vocabulary, tmp_path, monkeypatch):
  """On a device as large as four parts need."""
  from dss_jax.train import gin_config
  command = programs.words(tmp_path / 'run', toy_records, toy_vocabulary,
                           BATCH_SIZE=16, MESH_DATA=2, MESH_FSDP=4, MESH_MODEL=1)
  rest, bindings = arguments.split_bindings(command[3:])
  config = gin_config.parse([rest[0].partition('=')[2]], bindings)
  def answer(room):
    monkeypatch.setattr(advice, '_room', lambda: room)
    return advice.out_of_memory(config).splitlines()
  needed = [float(line.split()[3]) for line in answer(1)[2:-1]]
  assert len(needed) == 2 and needed[0] > needed[1]  # Two rows for every device.
  found = answer(int((needed[0] + needed[1]) / 2 * 2**20))
  assert found[-1] == '--gin.MICROBATCHES=2 fits, with the same result, but for what dropout draws.'
