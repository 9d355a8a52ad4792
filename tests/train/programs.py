"""The trainer as a program of its own: started, killed, told to stop, started again."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from dss_jax.train import __main__ as train_main

SETTINGS = {
    'TRAIN_STEPS': 300, 'EVAL_PERIOD': 0, 'CHECKPOINT_PERIOD': 20, 'KEEP_CHECKPOINTS': 2,
    'LOG_PERIOD': 1, 'PACK': True, 'BATCH_SIZE': 8, 'EVAL_BATCH_SIZE': 16, 'DROPOUT_RATE': 0.1,
    'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 24}", 'WARMUP_STEPS': 0,
}


def words(model_dir, records, vocabulary, *flags, **settings):
  chosen = {**SETTINGS, 'DATASET': 'toy', 'MODEL_DIR': model_dir, 'RECORDS_DIR': records,
            'VOCABULARY': vocabulary, **settings}
  return [sys.executable, '-m', 'dss_jax.train', '--gin_file=gin/native/dss.gin',
          *(f'--gin.{name}={value}' for name, value in chosen.items()), *flags]


def trainer(records, vocabulary, **defaults):
  """Trains in this process: `train(model_dir, **settings)` returns the exit code."""
  def train(model_dir, **settings):
    return train_main.main(words(model_dir, records, vocabulary, **{**defaults, **settings})[3:])
  return train


def start(command, devices=1, **options):
  """Compiled as this process compiles: states are compared to the bit."""
  flags = re.sub('device_count=[0-9]+', f'device_count={devices}', os.environ['XLA_FLAGS'])
  return subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO, **options,
      env={**os.environ, 'XLA_FLAGS': flags})


REPO = pathlib.Path(__file__).parents[2]


def finish(process, seconds=300):
  """(exit code, all it wrote)."""
  out, err = process.communicate(timeout=seconds)
  return process.returncode, out + err


def steps_done(model_dir):
  """By metrics.jsonl."""
  path = pathlib.Path(model_dir) / 'metrics.jsonl'
  return len(path.read_bytes().splitlines()) if path.exists() else 0


def logged_steps(model_dir):
  """Whose losses are in metrics.jsonl."""
  lines = (pathlib.Path(model_dir) / 'metrics.jsonl').read_text().splitlines()
  return [row['step'] for row in map(json.loads, lines) if 'train/loss' in row]


def saved_steps(model_dir):
  folder = pathlib.Path(model_dir) / 'checkpoints'
  return sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())


def wait_until(condition, process, seconds=120):
  """Returns when it holds; fails when the program ends before."""
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, finish(process)
    assert time.monotonic() < end
    time.sleep(0.002)


def kill(process):
  process.send_signal(signal.SIGKILL)
  process.communicate()


def free_address():
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{found.getsockname()[1]}'


def final_state(model_dir, step):
  """All leaves of the train state, as numpy arrays by name, wherever they were computed."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with ocp.CheckpointManager(pathlib.Path(model_dir) / 'checkpoints',
                             item_handlers={'state': ocp.StandardCheckpointHandler()}) as manager:
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        manager.item_metadata(step).state)
    state = manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(target))).state
  return by_name(state)


def by_name(tree):
  """{"['encoder']['norm']['scale']": numpy array, ...}"""
  return {jax.tree_util.keystr(path): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
