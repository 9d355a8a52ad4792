"""`run.json`: what a run was, complete enough to repeat it and to refuse a mix-up."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from dss_jax import atomic, errors
from dss_jax.data import pipeline, vocabularies
from dss_jax.train import config as config_lib
from dss_jax.train import processes

RUN_FILE = 'run.json'
_PACKAGES = ('dss_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'seqio',
             'tensorflow-cpu', 'tensorflow-text', 'sentencepiece', 'numpy')


def describe(config: config_lib.TrainConfig, gin_text: str = '') -> dict[str, Any]:
  """The contents of run.json for a run with this config, on this machine."""
  return {
      'identity': config_lib.identity(config),
      'config': config_lib.as_dict(config),
      'gin': gin_text.splitlines(),
      'records': _records_used(config),
      'vocabulary_sha256': vocabularies.fingerprint(config.data.vocabulary),
      'versions': {'python': platform.python_version(), **_versions()},
  }


def _versions() -> dict[str, str]:
  found = {}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def _records_used(config: config_lib.TrainConfig) -> dict[str, Any]:
  """{'cqa-train': {'num_records': ..., 'sha256': [...]}} of every set the training reads."""
  return {
      found.name: {
          'num_records': found.num_records,
          'sha256': [shard['sha256'] for shard in found.entry['shards']]}
      for found in pipeline.record_sets(config.data.mixture_or_task, 'train')}


def exists(model_dir: str) -> bool:
  """Whether MODEL_DIR holds a run."""
  return tf.io.gfile.exists(os.path.join(model_dir, RUN_FILE))


def claim(model_dir: str, described: Mapping[str, Any]) -> bool:
  """Writes run.json into a new MODEL_DIR, or checks that it is of the same run.

  Returns: whether the run is new.

  Raises:
    UserError: MODEL_DIR holds a run with other settings or other records; lists them.
  """
  path = os.path.join(model_dir, RUN_FILE)
  if not exists(model_dir):
    if not processes.lead():
      return True
    tf.io.gfile.makedirs(model_dir)
    atomic.write(path, json.dumps(described, indent=2, sort_keys=True) + '\n')
    return True
  with tf.io.gfile.GFile(path) as f:
    earlier = json.loads(f.read())
  now = json.loads(json.dumps(described))
  changed = _differences(earlier['identity'], now['identity'])
  if changed:
    raise errors.UserError(
        f'MODEL_DIR={model_dir} holds a run with other settings: {"; ".join(changed)}. Use '
        'another MODEL_DIR, or the settings of its run.json to continue it')
  for key, what in (('records', 'the records have'), ('vocabulary_sha256', 'the vocabulary has')):
    if earlier[key] != now[key]:
      raise errors.UserError(
          f'MODEL_DIR={model_dir}: {what} changed since this run began (see "{key}" in its '
          'run.json); use another MODEL_DIR')
  return False


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  names = sorted({*earlier, *now})
  return [f'{name} was {earlier.get(name)!r}, is {now.get(name)!r}'
          for name in names if earlier.get(name) != now.get(name)]
