"""`run.json`: what a run was, complete enough to repeat it and to refuse a mix-up."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from dss_jax import errors, files
from dss_jax.convert import hub
from dss_jax.data import pipeline, row_lengths, vocabularies
from dss_jax.train import config as config_lib
from dss_jax.train import identity, initial, processes

RUN_FILE = 'run.json'
TEST_FILE = 'test_metrics.json'
_WITHOUT_END = ('constant', 'rsqrt')  # Schedules that do not depend on TRAIN_STEPS.
_PACKAGES = ('dss_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'seqio',
             'tensorflow', 'tensorflow-text', 'sentencepiece', 'numpy')


def pin(config: config_lib.TrainConfig) -> config_lib.TrainConfig:
  """The config with a model of the hub at one commit; all processes must ask.

  Of a run that goes on, the commit that it began with, wherever a branch is by now, and for
  MICROBATCHES='auto' the number, so that dropout draws what it would have drawn.
  """
  given = config.initial_checkpoint_path

  def find() -> str:
    if exists(config.model_dir):
      earlier = _read(config.model_dir)
      began = earlier['identity'].get('initial_checkpoint_path')
      if given in (began, (earlier.get(_HUB) or {}).get('given')):
        return began
    with initial.named(given):
      return hub.pinned(given)

  pinned = dataclasses.replace(config, initial_checkpoint_path=processes.from_main(find))
  if config.microbatches == config_lib.AUTO and exists(config.model_dir):
    earlier = _read(config.model_dir)['config'].get('microbatches', 1)
    return dataclasses.replace(pinned, microbatches=earlier)
  return pinned


def pin_rows(config: config_lib.TrainConfig) -> tuple[config_lib.TrainConfig, str]:
  """The config with its rows in numbers, and what was measured, in words; all processes must ask.

  Of a run that goes on, the numbers that it began with: then the words are ''.

  Raises:
    UserError: there is nothing to measure.
  """
  data = config.data
  if data.is_measured:
    return config, ''

  def find() -> str:
    if exists(config.model_dir):
      began = _read(config.model_dir)['config']['data']
      return json.dumps([{name: began.get(name) for name in _ROWS}, ''])
    asked = row_lengths.Asked(data.feature_lengths, data.batch_size, data.batch_inputs, data.pack)
    rows = row_lengths.measure(data.mixture_or_task, data.limits, asked)
    return json.dumps([{'feature_lengths': rows.lengths, 'batch_size': rows.batch_size,
                        'example_lengths': data.example_lengths}, str(rows)])

  found, said = json.loads(processes.from_main(find))
  if data.feature_lengths != config_lib.AUTO:
    del found['feature_lengths'], found['example_lengths']
  if data.batch_size != config_lib.AUTO:
    del found['batch_size']
  return dataclasses.replace(config, data=dataclasses.replace(data, **found)), said


_ROWS = ('feature_lengths', 'batch_size', 'example_lengths')


def describe(
    config: config_lib.TrainConfig, gin_text: str = '', given: str = '') -> dict[str, Any]:
  """The contents of run.json for a run with this config, on this machine.

  Args:
    config: as `pin` returns it.
    gin_text: all bindings.
    given: the INITIAL_CHECKPOINT_PATH that the user gave.
  """
  return {
      'identity': identity.of(config),
      'config': config_lib.as_dict(config),
      'gin': gin_text.splitlines(),
      'records': _records_used(config),
      'vocabulary_sha256': vocabularies.fingerprint(config.data.vocabulary),
      _HUB: {'given': given},
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
          **({'num_inputs': found.num_inputs} if found.has_samples else {}),
          'sha256': [shard['sha256'] for shard in found.entry['shards']]}
      for found in pipeline.record_sets(config.data.mixture_or_task, 'train')}


def exists(model_dir: str) -> bool:
  """Whether MODEL_DIR holds a run."""
  return tf.io.gfile.exists(os.path.join(model_dir, RUN_FILE))


def _read(model_dir: str) -> dict[str, Any]:
  with tf.io.gfile.GFile(os.path.join(model_dir, RUN_FILE)) as f:
    return json.loads(f.read())


def claim(model_dir: str, described: Mapping[str, Any]) -> bool:
  """Writes run.json into a new MODEL_DIR, or checks that it is of the same run.

  A run may be made longer where that changes nothing of what it did: run.json then has the new
  TRAIN_STEPS, and the earlier ones under `steps_before`.

  Returns: whether the run is new.

  Raises:
    UserError: MODEL_DIR holds a run with other settings or other records; lists them.
  """
  if not exists(model_dir):
    if processes.is_main():
      tf.io.gfile.makedirs(model_dir)
      path = described['identity']['initial_checkpoint_path']
      found = hub.describe(path) if path else None
      _write(model_dir, {**described, _START: _fingerprint(described['identity']),
                         _HUB: found and {**described[_HUB], **found}})
    return True
  earlier = _read(model_dir)
  now = json.loads(json.dumps(described))
  now[_START], now[_HUB] = _start(earlier, now), earlier.get(_HUB)
  changed = identity.differences(*(
      run['identity'] | {name: run.get(name) for name in identity.CONTENTS.values()}
      for run in (earlier, now)))
  if set(changed) - {'steps', *identity.CONTENTS.values()}:
    listed = '; '.join(f'{name} was {was!r}, is {then!r}' for name, (was, then) in changed.items())
    raise errors.UserError(
        f'MODEL_DIR={model_dir} holds a run with other settings: {listed}. Use another MODEL_DIR, '
        'or the settings of its run.json to continue it')
  for key, what in (('records', 'the records have'), ('vocabulary_sha256', 'the vocabulary has')):
    if earlier[key] != now[key]:
      raise errors.UserError(
          f'MODEL_DIR={model_dir}: {what} changed since this run began (see "{key}" in its '
          'run.json); use another MODEL_DIR')
  if changed:
    _lengthen(model_dir, earlier, now)
  return False


_HUB = 'initial_checkpoint'  # what of the hub it began with; None if nothing
_START = identity.CONTENTS['initial_checkpoint_path']


def _start(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
  """Fingerprint of what the run starts from; read only if it is said to be elsewhere."""
  path, known = 'initial_checkpoint_path', earlier.get(_START)
  moved = now['identity'][path] != earlier['identity'].get(path)
  return _fingerprint(now['identity']) if moved and known else known


def _fingerprint(settings: Mapping[str, Any]) -> str | None:
  path = settings.get('initial_checkpoint_path')
  return initial.fingerprint(path) if path else None


def _write(model_dir: str, run: Mapping[str, Any]) -> None:
  files.write(os.path.join(model_dir, RUN_FILE), json.dumps(run, indent=2, sort_keys=True) + '\n')


def note(model_dir: str, **facts: Any) -> None:
  """Adds what came of the run to its run.json."""
  run = _read(model_dir)
  if not facts.items() <= run.items():
    _write(model_dir, {**run, **facts})


def _lengthen(model_dir: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Lets a run go on to more steps, and keeps what was measured at its earlier end.

  Raises:
    UserError: its learning rates would have been others from the first step on, or it is to
      become shorter.
  """
  was, then = earlier['identity']['steps'], now['identity']['steps']
  schedule = now['identity']['optimizer.schedule']
  said = f'MODEL_DIR={model_dir} holds a run of TRAIN_STEPS={was}, not {then}: '
  if schedule not in _WITHOUT_END:
    raise errors.UserError(
        f'{said}SCHEDULE={schedule} comes to 0 at the last step, so with more or fewer steps every '
        "step's learning rate is another (only constant and rsqrt can be made longer). Use another "
        f'MODEL_DIR, with INITIAL_CHECKPOINT_PATH={model_dir} to start from what it has learnt')
  if then < was:
    raise errors.UserError(f'{said}a run can be made longer, not shorter; use another MODEL_DIR')
  if processes.is_main():
    test, ext = os.path.splitext(os.path.join(model_dir, TEST_FILE))
    if tf.io.gfile.exists(test + ext):
      tf.io.gfile.rename(test + ext, f'{test}-{was}{ext}', overwrite=True)
    _write(model_dir, {**now, 'steps_before': [*earlier.get('steps_before', []), was]})
