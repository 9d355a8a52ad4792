"""INITIAL_CHECKPOINT_PATH: pretrained parameters, tensor by tensor onto their devices."""

import contextlib
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
import tqdm
from flax import traverse_util

from dss_jax import errors, models, student_info
from dss_jax.convert import formats, own_vocabulary
from dss_jax.convert import weights as weights_lib
from dss_jax.train import config as config_lib
from dss_jax.train import processes

_SMALL = 1 << 14  # elements: a norm has as many as the network is wide


def check(config: config_lib.TrainConfig) -> None:
  """UserError, before anything is written, if the checkpoint does not fit the run.

  It does if its network is the run's, and VOCABULARY its own, which may have more pieces at the
  end.
  """
  path = config.initial_checkpoint_path
  if not path:
    return
  with _named(path):
    weights = formats.open_weights(path)
    info = formats.find_info(path, weights)
    weights_lib.check_network(weights, config.model)
    _check_vocabulary(path, info, config.data.vocabulary)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f'TrainConfig.initial_checkpoint_path={path}: {error}') from error


def _check_vocabulary(path: str, info: student_info.StudentInfo, given: str) -> None:
  model = None
  if given != student_info.BYTES:
    with tf.io.gfile.GFile(given, 'rb') as f:
      model = f.read()
  if own := own_vocabulary.find(path, info):
    own_vocabulary.check_same(own, given, model, name='VOCABULARY', longer=True)
  else:
    own_vocabulary.check_rows(
        given, model, info.model.vocab_size, name='VOCABULARY', full=True)


def fingerprint(path: str) -> str:
  """sha256 that is the same for the same parameters in another place or format.

  Of all names and shapes, of the values of what is small (norms, position biases), and of the
  smallest matrix: gigabytes elsewhere need not be read to know a checkpoint again.

  Raises:
    UserError: see `open.open_weights`.
  """
  with _named(path):
    weights = formats.open_weights(path)
  sizes = {name: math.prod(spec.shape) for name, spec in weights.specs.items()}
  large = [name for name in sizes if sizes[name] > _SMALL]
  left_out = set(large) - {min(large, key=lambda name: (sizes[name], name), default='')}
  read = {name: weights.read(name) for name in sizes if name not in left_out}
  digest = hashlib.sha256()
  for name, spec in sorted(weights.specs.items()):
    digest.update(f'{name} {spec.shape}\n'.encode())
    if name in read:
      digest.update(read[name].astype(np.float32).tobytes())
  return digest.hexdigest()


def load_params(path: str, config: models.Config, shardings: Any) -> Any:
  """Float32 parameters in the network's layout, each laid out by its sharding.

  Args:
    path: see TrainConfig.initial_checkpoint_path.
    config: the network.
    shardings: NamedSharding of every parameter, a tree like the parameters.
  """
  flat = traverse_util.flatten_dict(shardings, sep='/')
  with tqdm.tqdm(total=len(flat), desc=f'reading {path}', unit='tensor', delay=2, leave=False,
                 disable=not processes.is_main()) as bar:
    def place(name: str, array: np.ndarray) -> jax.Array:
      bar.update()
      return jax.make_array_from_callback(array.shape, flat[name], lambda index: array[index])
    return weights_lib.load_params(formats.open_weights(path), config, place=place)
