"""Folders of pytorch_model.bin and flax_model.msgpack: the same weights as safetensors."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch_bytes
from etils import epath
from flax import serialization, traverse_util
from t5x_weights import Given

from dss_jax import errors, families, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, hugging_face, hugging_face_files
from dss_jax.predict import fingerprint


@pytest.fixture(scope='module')
def given():
  return Given()


@pytest.fixture(scope='module')
def kept(tmp_path_factory, given):
  """A folder without weights."""
  folder = tmp_path_factory.mktemp('kept') / 'hf'
  convert_main.convert(given, str(folder), 'hf',
                       info=student_info.StudentInfo(model=given.config))
  for name in ('student.json', 'model.safetensors'):
    (folder / name).unlink()
  return folder


@pytest.fixture
def folder(kept, tmp_path):
  return shutil.copytree(kept, tmp_path / 'hf')


def their_arrays(given):
  """{PyTorch's name: array in PyTorch's layout}"""
  their_name = families.of(given.config).their_name
  return {their_name(name): x.T if x.ndim == 2 and 'embedding' not in name.split('/') else x
          for name, x in given.values.items()}


def flax_arrays(given):
  """{Flax's name at transformers 4: array}"""
  found = {}
  for name, x in given.values.items():
    theirs = families.of(given.config).their_name(name).replace('.', '/')
    if name.endswith('/kernel'):
      theirs = theirs.replace('/weight', '/kernel')
    elif name.endswith(('/embedding', '/rel_embedding')):
      theirs, x = theirs.replace('/weight', '/embedding'), x.T if 'rel' in name else x
    found[theirs] = x
  return found


def split(arrays, file, index, write):
  """Two shards and their index."""
  names = list(arrays)
  stem, _, ending = file.partition('.')
  shards = {f'{stem}-{i:05d}-of-00002.{ending}': names[i - 1::2] for i in (1, 2)}
  for shard, some in shards.items():
    write(index.parent / shard, {name: arrays[name] for name in some})
  index.write_text(json.dumps(
      {'weight_map': {name: shard for shard, some in shards.items() for name in some}}))


def write_flax(path, arrays):
  path.write_bytes(serialization.msgpack_serialize(
      traverse_util.unflatten_dict({name: np.array(x) for name, x in arrays.items()}, sep='/')))


WRITERS = {'pytorch_model.bin': (torch_bytes.write, their_arrays),
           'flax_model.msgpack': (write_flax, flax_arrays)}
EACH = pytest.mark.parametrize('file', WRITERS)


def assert_same(folder, given):
  weights = formats.open_weights(str(folder))
  assert set(weights.specs) == set(given.values)
  for name, x in given.values.items():
    found = weights.read(name)
    assert found.dtype == x.dtype and np.array_equal(found, x), name


@EACH
@pytest.mark.parametrize('sharded', [False, True])
def test_every_parameter_to_the_bit(file, sharded, folder, given):
  write, arrays = WRITERS[file]
  if sharded:
    split(arrays(given), file, folder / f'{file}.index.json', write)
  else:
    write(folder / file, arrays(given))
  assert_same(folder, given)


def test_the_legacy_format(folder, given):
  torch_bytes.write(folder / 'pytorch_model.bin', their_arrays(given), legacy=True)
  assert_same(folder, given)


def test_tied_copies_that_were_saved_once_or_twice(folder, given):
  arrays = their_arrays(given)
  arrays['encoder.embed_tokens.weight'] = arrays['shared.weight']
  arrays['decoder.embed_tokens.weight'] = arrays['shared.weight'].copy()
  torch_bytes.write(folder / 'pytorch_model.bin', arrays)
  assert_same(folder, given)
  place = hugging_face_files.open_files(epath.Path(folder))['shared.weight'].place
  assert place('shared.weight') == place('encoder.embed_tokens.weight')
  assert place('shared.weight') != place('decoder.embed_tokens.weight')
  arrays['decoder.embed_tokens.weight'] = arrays['shared.weight'] + 1
  torch_bytes.write(folder / 'pytorch_model.bin', arrays)
  with pytest.raises(errors.UserError, match='decoder.embed_tokens.weight differs from shared'):
    formats.open_weights(str(folder))


def test_safetensors_are_preferred(folder, given):
  hugging_face.write_hugging_face(str(folder), given)
  for file in WRITERS:
    (folder / file).write_bytes(b'not even looked at')
  assert_same(folder, given)
  before = fingerprint.fingerprint(str(folder))
  (folder / 'pytorch_model.bin').unlink()
  assert fingerprint.fingerprint(str(folder)) == before


@EACH
def test_predictions_know_other_weights(file, folder, given):
  write, arrays = WRITERS[file]
  write(folder / file, arrays(given))
  before = fingerprint.fingerprint(str(folder))
  write(folder / file, {name: x + 1 for name, x in arrays(given).items()})
  assert fingerprint.fingerprint(str(folder)) != before


@EACH
def test_a_shard_that_is_missing_and_an_index_of_another(file, folder, given):
  write, arrays = WRITERS[file]
  index = folder / f'{file}.index.json'
  split(arrays(given), file, index, write)
  stem, _, ending = file.partition('.')
  shards = [f'{stem}-0000{i}-of-00002.{ending}' for i in (1, 2)]
  shutil.copy(folder / shards[0], folder / 'kept')
  shutil.copy(folder / shards[1], folder / shards[0])
  with pytest.raises(errors.UserError, match='index.json is not of the files beside it'):
    formats.open_weights(str(folder))
  (folder / shards[0]).unlink()
  with pytest.raises(errors.UserError, match=f'has no {shards[0]} .it has'):
    formats.open_weights(str(folder))
  index.write_text(json.dumps({'weight_map': {'shared.weight': '../outside'}}))
  with pytest.raises(errors.UserError, match='weight_map is no map'):
    formats.open_weights(str(folder))


def test_bfloat16_and_damage_in_flax_files(folder, given):
  file = folder / 'flax_model.msgpack'
  rounded = {name: x.astype(jnp.bfloat16) for name, x in flax_arrays(given).items()}
  write_flax(file, rounded)
  found = formats.open_weights(str(folder)).read('token_embedder/embedding')
  assert np.array_equal(found, given.values['token_embedder/embedding'].astype(jnp.bfloat16))
  data = file.read_bytes()
  for cut in (0, 1, 1000, len(data) - 1):
    file.write_bytes(data[:cut])
    with pytest.raises(errors.UserError, match='flax_model.msgpack: not a file of Flax, or cut'):
      formats.open_weights(str(folder))
  file.write_bytes(serialization.msgpack_serialize({'shared': {'embedding': 'x'}}))
  with pytest.raises(errors.UserError, match="'shared/embedding' is a str, not a tensor"):
    formats.open_weights(str(folder))
