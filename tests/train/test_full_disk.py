"""A disk that is full when a checkpoint is written ends the run with one line that says so."""

import os
import subprocess
import sys

import pytest

SETTINGS = {'TRAIN_STEPS': 2, 'WARMUP_STEPS': 0, 'EVAL_PERIOD': 2, 'EVAL_EXAMPLES': 8,
            'CHECKPOINT_PERIOD': 2, 'BATCH_SIZE': 4, 'TASK_FEATURE_LENGTHS': "{'inputs': 64, "
            "'targets': 24}"}


@pytest.mark.slow
@pytest.mark.parametrize('kilobytes, where', [(1500, 'best'), (4000, 'checkpoints')])
def test_a_full_disk_is_one_line(small_disk, toy_records, toy_vocabulary, kilobytes, where):
  """Of a student of 0.7M parameters: the best ones are written first, then the whole state."""
  folder = small_disk(kilobytes)
  bindings = SETTINGS | {'MODEL_DIR': folder / 'run', 'RECORDS_DIR': toy_records,
                         'VOCABULARY': toy_vocabulary}
  done = subprocess.run(
      [sys.executable, '-m', 'dss_jax.cli', 'train', '--gin_file=gin/native/dss.gin',
       '--gin.DATASET=toy', '--gin_file=gin/native/tiny.gin',
       *(f'--gin.{name}={value}' for name, value in bindings.items())],
      capture_output=True, text=True, check=False, timeout=600,
      env={**os.environ, 'XLA_FLAGS': '', 'TQDM_DISABLE': '1'})
  assert done.returncode == 2
  _, *said = done.stderr.splitlines()  # The first line tells what is loaded.
  assert len(said) == 1 and said[0].startswith(f'error: {folder}/run/{where}: the checkpoint of '
                                               'step 2 could not be written'), done.stderr
  assert 'No space left on device' in said[0] and 'Make room' in said[0]
