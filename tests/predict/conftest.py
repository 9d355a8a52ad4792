"""A small student with random weights in a folder of each format."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from dss_jax import models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import weights as weights_lib
from dss_jax.train import state as state_lib

sys.path.insert(0, str(pathlib.Path(__file__).parent))
CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=2, num_decoder_layers=2)
INFO = student_info.StudentInfo(
    model=CONFIG, vocabulary='bytes', label_prefix='[label] ', rationale_prefix='[rationale] ',
    labels=('left', 'right'), input_length=64, target_length=12)


class RandomWeights(weights_lib.Weights):
  """A sharper head than the initialisation's, so that outputs differ and end."""

  def __init__(self, config=CONFIG, seed=1):
    self.path, self.config = 'memory', config
    tree = nn.unbox(state_lib.init_params(models.Transformer(config), jax.random.key(seed)))
    flat = traverse_util.flatten_dict(tree, sep='/')
    self.arrays = {name: np.asarray(x) for name, x in flat.items()}
    self.arrays['decoder/logits_dense/kernel'] = 3 * self.arrays['decoder/logits_dense/kernel']
    self.specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self.arrays.items()}

  def read(self, name):
    return self.arrays[name]


@pytest.fixture(scope='session')
def student_folders(tmp_path_factory):
  """{'native', 'hf', 't5x'} -> folder, all of the same student."""
  folder = tmp_path_factory.mktemp('students')
  for to in ('native', 'hf', 't5x'):
    convert_main.convert(RandomWeights(), str(folder / to), to, info=INFO)
  return folder


@pytest.fixture(scope='session')
def make_folder(tmp_path_factory):
  """Writes the same weights with another student.json."""
  def make(**changes):
    folder = tmp_path_factory.mktemp('student') / 'native'
    convert_main.convert(RandomWeights(), str(folder), 'native',
                         info=dataclasses.replace(INFO, **changes))
    return str(folder)
  return make
