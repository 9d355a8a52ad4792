"""What config.json and generation_config.json of Hugging Face say of a network of any family."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax import errors, families, models

_ELSEWHERE = {'quantization_config': 'quantized weights are not read',
              'transformers_weights': 'weights in a file of another name are not read'}
_FORCED = ('forced_bos_token_id', 'forced_eos_token_id', 'forced_decoder_ids', 'suppress_tokens',
           'begin_suppress_tokens', 'bad_words_ids')


def read(hf: Mapping[str, Any], where: str) -> models.Config:
  """config.json -> the config of its family.

  Raises:
    UserError: names the field that another model, or one that this project lacks, has.
  """
  family = families.of_model_type(hf.get('model_type'), where)
  for name in hf.get('architectures') or ():
    if 'EncoderModel' in name or 'For' in name and 'ForConditionalGeneration' not in name:
      raise errors.UserError(
          f'{where}: architectures is {name!r}, which does not write text (an encoder alone, or '
          'another head); give a T5ForConditionalGeneration, MT5... or UMT5...')
  for name, right in (('is_encoder_decoder', True), ('is_decoder', False)):
    if hf.get(name, right) is not right:
      raise errors.UserError(f'{where}: {name} is {hf[name]!r}; a T5 with both stacks has {right}')
  for name, what in _ELSEWHERE.items():
    if hf.get(name):
      raise errors.UserError(
          f'{where}: {name} is {hf[name]!r}: {what}; give the folder of the plain weights')
  config = family.from_hugging_face(hf, where)
  check_ids(hf, config, where)
  return config


def check_ids(values: Mapping[str, Any], config: models.Config, where: str) -> None:
  """UserError for token ids in config.json or generation_config.json that are not the network's.

  Or that force tokens, which `generate` of transformers does whatever the network says.
  """
  for name, ours in ids(config).items():
    value = values.get(name)
    if value not in (None, ours, [ours]):
      raise errors.UserError(
          f'{where}: {name} is {value!r}; only T5\'s {ours} is supported, so this checkpoint would '
          'be read, or would answer, otherwise than it was trained')
  for name in _FORCED:
    if values.get(name):
      raise errors.UserError(
          f'{where}: {name} is {values[name]!r}, which this project does not have: remove it there '
          'if the answers are right without it')


def ids(config: models.Config) -> dict[str, int]:
  """The ids that both files hold."""
  return {'decoder_start_token_id': config.start_id, 'pad_token_id': config.pad_id,
          'eos_token_id': config.eos_id}


def generation(config: models.Config, target_length: int | None) -> dict[str, int]:
  """What generation_config.json holds.

  `max_length`, in which the start token counts, and not `max_new_tokens`: of that a caller's own
  `max_length` would be overruled.
  """
  return ids(config) | ({} if target_length is None else {'max_length': target_length + 1})


def write(config: models.Config, dtype: Any) -> dict[str, Any]:
  """The config of a network -> config.json.

  Raises:
    UserError: it has what transformers has no name for.
  """
  return {**families.of(config).to_hugging_face(config), 'is_encoder_decoder': True, **ids(config),
          'use_cache': True, 'dtype': np.dtype(dtype).name}
