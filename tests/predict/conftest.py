"""A small student with random weights in a folder of each format."""

import dataclasses

import pytest

from dss_jax import models, student_info
from dss_jax.convert import __main__ as convert_main

CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=2, num_decoder_layers=2)
INFO = student_info.StudentInfo(
    model=CONFIG, vocabulary='bytes', label_prefix='[label] ', rationale_prefix='[rationale] ',
    labels=('left', 'right'), input_length=64, target_length=12)


@pytest.fixture(scope='session')
def student_weights(random_weights):
  """A sharper head than the initialisation's, so that outputs differ and end."""
  weights = random_weights(CONFIG, seed=1)
  weights.arrays['decoder/logits_dense/kernel'] = 3 * weights.arrays['decoder/logits_dense/kernel']
  return weights


@pytest.fixture(scope='session')
def student_folders(student_weights, tmp_path_factory):
  """{'native', 'hf', 't5x'} -> folder, all of the same student."""
  folder = tmp_path_factory.mktemp('students')
  for to in ('native', 'hf', 't5x'):
    convert_main.convert(student_weights, str(folder / to), to, info=INFO)
  return folder


@pytest.fixture(scope='session')
def make_folder(student_weights, tmp_path_factory):
  """Writes the same weights with another student.json."""
  def make(**changes):
    folder = tmp_path_factory.mktemp('student') / 'native'
    convert_main.convert(student_weights, str(folder), 'native',
                         info=dataclasses.replace(INFO, **changes))
    return str(folder)
  return make
