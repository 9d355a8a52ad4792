"""T5X checkpoints without T5X: read, written, refused."""

import itertools
import os
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tensorstore as ts
from flax import serialization, traverse_util
from t5x_weights import BFLOAT16, VERSIONS, Given, assert_same_bits, read_all, scanned_values

from dss_jax import errors
from dss_jax.convert import t5x, t5x_layout


@pytest.mark.parametrize('dtype', [np.float32, BFLOAT16])
@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('version', VERSIONS)
def test_what_is_written_is_read(tmp_path, version, scanned, dtype):
  given = Given(version, dtype, scan_layers=scanned)
  t5x.write_t5x(str(tmp_path), given, step=7, scan_layers=scanned)
  for path in (tmp_path, tmp_path / 'checkpoint_7'):
    found = t5x.T5XWeights(str(path))
    assert found.config == given.config
    assert found.path == str(tmp_path / 'checkpoint_7')
    assert_same_bits(read_all(found), given.values)


@pytest.mark.parametrize('scanned', [False, True])
def test_names_and_axes_on_disk(tmp_path, scanned):
  t5x.write_t5x(str(tmp_path), Given(), scan_layers=scanned)
  folder = tmp_path / 'checkpoint_0'
  names = {p.name for p in folder.iterdir()}
  shape = lambda name: tuple(open_zarr(folder / name).shape)  # noqa: E731
  assert shape('target.token_embedder.embedding') == (48, 16)
  if not scanned:
    assert shape('target.decoder.layers_1.self_attention.out.kernel') == (10, 16)
    assert shape('target.encoder.relpos_bias.rel_embedding') == (2, 32)
    return
  # Of examples/scalable_t5, as T5X made them.
  assert shape('target.encoder.encoder.attention.query.kernel') == (16, 3, 2, 5)
  assert shape('target.decoder.decoder.encoder_decoder_attention.out.kernel') == (2, 2, 5, 16)
  assert shape('target.encoder.encoder.mlp.wi_1.kernel') == (16, 3, 24)
  assert shape('target.decoder.decoder.mlp.wo.kernel') == (24, 2, 16)
  assert shape('target.decoder.decoder.pre_mlp_layer_norm.scale') == (16, 2)
  assert shape('target.decoder.decoder.relpos_bias.rel_embedding') == (2, 2, 32)
  assert not any('layers_' in name or name == 'target.encoder.relpos_bias.rel_embedding'
                 for name in names)


def open_zarr(folder, **create):
  spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': f'{folder}/'}, **create}
  return ts.open(spec, create=bool(create), open=not create).result()


@pytest.mark.parametrize('scanned', [False, True])
def test_dtype_of_the_new_file(tmp_path, scanned):
  given = Given()
  t5x.write_t5x(str(tmp_path), given, dtype=BFLOAT16, scan_layers=scanned)
  expected = {name: array.astype(BFLOAT16) for name, array in given.values.items()}
  assert_same_bits(read_all(t5x.T5XWeights(str(tmp_path))), expected)


def test_tensors_of_several_chunks(tmp_path, monkeypatch):
  monkeypatch.setattr('dss_jax.convert.t5x_write._CHUNK_BYTES', 700)
  given = Given()
  t5x.write_t5x(str(tmp_path), given)
  embedding = tmp_path / 'checkpoint_0/target.token_embedder.embedding'
  assert len([p for p in embedding.iterdir() if p.name[0] != '.']) == 5  # 3072 bytes / 700
  assert_same_bits(read_all(t5x.T5XWeights(str(tmp_path))), given.values)


@pytest.mark.parametrize('scanned', [False, True])
def test_one_tensor_is_in_memory_at_a_time(tmp_path, scanned):
  given = Given(emb_dim=256, mlp_dim=5000, num_encoder_layers=4)
  largest = max(array.nbytes for array in given.values.values())
  total = sum(array.nbytes for array in given.values.values())
  with Peak() as writing:
    t5x.write_t5x(str(tmp_path), given, scan_layers=scanned)
  assert writing.bytes < 1.2 * largest < total / 10
  assert given.reads == list(given.specs)  # Each once.
  found = t5x.T5XWeights(str(tmp_path))
  with Peak() as reading:
    for name in found.specs:
      found.read(name)
  assert reading.bytes < 1.2 * largest


class Peak:
  """Most bytes of NumPy arrays and other Python objects, beyond those at the start."""

  def __enter__(self):
    tracemalloc.start()
    return self

  def __exit__(self, *error):
    self.bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_progress_sees_every_tensor_once(tmp_path):
  given = Given()
  seen = []

  def progress(names):
    for name in names:
      seen.append(name)
      yield name

  t5x.write_t5x(str(tmp_path), given, progress=progress)
  assert seen == list(given.specs)


@pytest.mark.parametrize('failure', [OSError('disk full'), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, failure):
  given = Given()

  def fail(name):
    assert not (tmp_path / 'checkpoint_0').exists()
    assert any(tmp_path.iterdir())
    if len(given.reads) == 20:
      raise failure

  given.on_read = fail
  with pytest.raises(type(failure)):
    t5x.write_t5x(str(tmp_path), given)
  assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_checkpoint(tmp_path):
  # A child of its own: TensorStore's threads do not survive a fork.
  script = tmp_path / 'killed.py'
  script.write_text(f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import t5x_weights
from dss_jax.convert import t5x
given = t5x_weights.Given()
given.on_read = lambda name: os._exit(9) if len(given.reads) == 20 else None
t5x.write_t5x({str(tmp_path / 'run')!r}, given)
""")
  done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
  assert done.returncode == 9, done.stderr
  left, = (tmp_path / 'run').iterdir()
  assert left.name.startswith('.checkpoint_0.writing-')
  assert not t5x.is_t5x_checkpoint(str(left.parent))
  with pytest.raises(errors.UserError, match='was not finished'):
    t5x.T5XWeights(str(left))


# The layout of the public checkpoints, by another writer -----------------------------------


def write_public(folder, values, inline=(), driver='file', **extra):
  """As T5X of 2021 to 2023 wrote: gzip, specs with chunks, an Adafactor state, some inline."""
  folder.mkdir(parents=True)
  target = {}
  for name, array in {**values, **extra}.items():
    stored = 'target.' + name.replace('/', '.')
    if name in inline:
      target[name] = array
      continue
    metadata = {'shape': list(array.shape), 'chunks': list(array.shape),
                'compressor': {'id': 'gzip'}}
    open_zarr(folder / stored, metadata=metadata, dtype=array.dtype.name).write(array).result()
    kvstore = {'driver': driver, 'path': stored}
    target[name] = {'driver': 'zarr', 'dtype': array.dtype.name, 'metadata': metadata,
                    'kvstore': kvstore | ({'bucket': 'dummy'} if driver == 'gcs' else {})}
  tree = {'version': 3, 'optimizer': {
      'target': traverse_util.unflatten_dict(target, sep='/'),
      'state': {'step': np.int32(9), 'param_states': {'x': {'v': np.zeros(3)}}}}}
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))


@pytest.mark.parametrize('driver', ['file', 'gfile', 'gcs'])
@pytest.mark.parametrize('version', VERSIONS)
def test_public_layout(tmp_path, version, driver):
  given = Given(version)
  small = [name for name, array in given.values.items() if array.ndim == 1]
  write_public(tmp_path / 'checkpoint_9', given.values, inline=small, driver=driver)
  found = t5x.T5XWeights(str(tmp_path))
  assert found.config == given.config
  assert_same_bits(read_all(found), given.values)


@pytest.mark.parametrize('inline', [False, True])
@pytest.mark.parametrize('version', VERSIONS)
def test_scanned_layout(tmp_path, version, inline):
  given = Given(version, scan_layers=True)
  values = scanned_values(given)
  write_public(tmp_path / 'checkpoint_9', values, inline=values if inline else ())
  found = t5x.T5XWeights(str(tmp_path))
  assert found.config == given.config
  assert_same_bits(read_all(found), given.values)
  backwards = {name: found.read(name) for name in reversed(found.specs)}
  assert_same_bits(backwards, given.values)


def test_layers_of_a_stack_follow_each_other(tmp_path):
  """One chunk holds all layers of a stack, so each stack must be decoded once."""
  given = Given(scan_layers=True)
  write_public(tmp_path / 'checkpoint_9', scanned_values(given))
  found = t5x.T5XWeights(str(tmp_path))
  stacks = [name.split('layers_')[1][1:] for name in found.specs if 'encoder/layers_' in name]
  assert len(list(itertools.groupby(stacks))) == len(set(stacks))


def test_scalable_t5_without_scan(tmp_path):
  given = Given()
  values = dict(given.values)
  for side, layers in (('encoder', 3), ('decoder', 2)):
    bias = values.pop(f'{side}/relpos_bias/rel_embedding')
    values |= {f'{side}/layers_{i}/relpos_bias/rel_embedding': bias for i in range(layers)}
  for name in values:
    if 'attention/' in name and name.endswith('kernel'):
      heads = (2, 5)
      values[name] = (values[name].reshape(*heads, -1) if '/out/' in name
                      else values[name].reshape(-1, *heads))
  write_public(tmp_path / 'checkpoint_9', values)
  found = t5x.T5XWeights(str(tmp_path))
  assert found.config == given.config
  assert_same_bits(read_all(found), given.values)


@pytest.mark.parametrize('storage', ['ocdbt', 'folders', 'placeholders'])
def test_orbax_layout(tmp_path, storage):
  """checkpoint_<step>/state: what T5X writes now, and two kinds of 2022 and 2023."""
  given = Given()
  state = tmp_path / 'checkpoint_9/state'
  tree = {}
  for name, array in given.values.items():
    stored = 'target.' + name.replace('/', '.')
    if storage == 'placeholders' and array.ndim == 1:
      tree[name] = array
      continue
    tree[name] = f'PLACEHOLDER://{stored}'
    kvstore = {'driver': 'file', 'path': f'{state}/{stored}/'}
    if storage == 'ocdbt':
      kvstore = {'driver': 'ocdbt', 'base': f'file://{state}/', 'path': f'{stored}/'}
    metadata = {'shape': array.shape, 'chunks': array.shape, 'compressor': {'id': 'zstd'}}
    ts.open({'driver': 'zarr', 'kvstore': kvstore, 'metadata': metadata, 'dtype': 'float32'},
            create=True).result().write(array).result()
  if storage == 'placeholders':
    tree = {'target': traverse_util.unflatten_dict(tree, sep='/'), 'state': {'step': 9}}
    (state / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))
  assert t5x.is_t5x_checkpoint(str(tmp_path)) and t5x.is_t5x_checkpoint(str(state.parent))
  assert_same_bits(read_all(t5x.T5XWeights(str(tmp_path))), given.values)


# What is refused ----------------------------------------------------------------------------


def refused(path, *words, step=None):
  with pytest.raises(errors.UserError) as caught:
    t5x.T5XWeights(str(path), step)
  for word in (str(path), *words):
    assert word in str(caught.value)


def test_steps(tmp_path):
  for step in (3, 20):
    t5x.write_t5x(str(tmp_path), Given(), step=step)
  (tmp_path / 'checkpoint_30.tmp-1700000000').mkdir()
  (tmp_path / 'checkpoint_40.orbax-checkpoint-tmp-17').mkdir()
  assert t5x.T5XWeights(str(tmp_path)).path.endswith('checkpoint_20')
  assert t5x.T5XWeights(str(tmp_path), 3).path.endswith('checkpoint_3')
  assert t5x.T5XWeights(str(tmp_path / 'checkpoint_3'), 3).path.endswith('checkpoint_3')
  refused(tmp_path, 'checkpoint_4 ', '[3, 20]', step=4)
  refused(tmp_path / 'checkpoint_3', 'no checkpoint_4', step=4)
  refused(tmp_path / 'checkpoint_30.tmp-1700000000', 'not finished')
  refused(tmp_path / 'checkpoint_40.orbax-checkpoint-tmp-17', 'not finished')
  refused(tmp_path / 'nothing', 'not a folder')
  with pytest.raises(errors.UserError, match='checkpoint_3 exists'):
    t5x.write_t5x(str(tmp_path), Given(), step=3)


def test_lost_files(tmp_path):
  t5x.write_t5x(str(tmp_path), Given())
  folder = tmp_path / 'checkpoint_0'
  kernel = folder / 'target.encoder.layers_1.mlp.wo.kernel'
  (kernel / '0.0').unlink()
  found = t5x.T5XWeights(str(tmp_path))
  with pytest.raises(errors.UserError, match='encoder/layers_1/mlp/wo/kernel cannot be read'):
    found.read('encoder/layers_1/mlp/wo/kernel')
  (kernel / '.zarray').unlink()
  refused(folder, '1 of', 'encoder/layers_1/mlp/wo/kernel')
  data = (folder / 'checkpoint').read_bytes()
  (folder / 'checkpoint').write_bytes(data[:len(data) // 2])
  refused(folder, 'cut')
  (folder / 'checkpoint').unlink()
  refused(folder, "'checkpoint'", 'state/manifest.ocdbt', 'target.decoder')


def test_biases_that_differ_are_an_umt5s(tmp_path):
  """As those of the public umT5, and of what scalable_t5 trained."""
  given = Given('umt5', scan_layers=True)
  with pytest.raises(errors.UserError, match='examples/t5 one for all: give --scan_layers'):
    t5x.write_t5x(str(tmp_path), given)
  t5x.write_t5x(str(tmp_path / 'a'), given, scan_layers=True)
  for values, folder in ((None, 'a'), (scanned_values(given), 'b')):
    if values:
      write_public(tmp_path / 'b/checkpoint_1', values)
    found = t5x.T5XWeights(str(tmp_path / folder))
    assert found.config == given.config and found.config.relpos_per_layer
    assert_same_bits(read_all(found), given.values)
  own = scanned_values(Given(scan_layers=True))
  own['decoder/decoder/relpos_bias/rel_embedding'][0, 1, 0] += 1
  write_public(tmp_path / 'c/checkpoint_1', own)
  assert t5x.T5XWeights(str(tmp_path / 'c')).config.relpos_per_layer


def test_other_models(tmp_path):
  values = Given().values
  decoder_only = {name: array for name, array in values.items() if 'encoder' not in name}
  write_public(tmp_path / 'a/checkpoint_1', decoder_only)
  refused(tmp_path / 'a', 'not a T5 encoder-decoder', 'encoder/relpos_bias', 'decoder_norm')
  write_public(tmp_path / 'b/checkpoint_1', values,
               **{'encoder/layers_0/adapter/kernel': np.ones((16, 4), np.float32)})
  refused(tmp_path / 'b', 'encoder/layers_0/adapter/kernel: not a parameter')
  missing = {name: array for name, array in values.items() if 'layers_1/mlp/wo' not in name}
  write_public(tmp_path / 'c/checkpoint_1', missing)
  refused(tmp_path / 'c', 'encoder/layers_1/mlp/wo/kernel: expected (24, 16), not found')
  old = {name: array.astype(np.uint16) for name, array in values.items()}
  write_public(tmp_path / 'e/checkpoint_1', old)
  refused(tmp_path / 'e', 'uint16')


def test_detection(tmp_path):
  def is_one(path):
    return t5x.is_t5x_checkpoint(str(path))

  assert not is_one(tmp_path) and not is_one(tmp_path / 'nothing')
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-1"')  # TensorFlow's
  assert not is_one(tmp_path)
  (tmp_path / 'checkpoint-500').mkdir()  # The Hugging Face trainer's
  assert not is_one(tmp_path)
  native = tmp_path / 'checkpoints/200/state'
  native.mkdir(parents=True)
  (native / '_METADATA').write_text('{"tree_metadata": {"(\'params\', \'decoder\')": {}}}')
  (native / 'manifest.ocdbt').touch()
  assert not is_one(native.parent)
  t5x.write_t5x(str(tmp_path), Given())
  assert is_one(tmp_path) and is_one(tmp_path / 'checkpoint_0')
  (tmp_path / 'moved').mkdir()
  renamed = (tmp_path / 'checkpoint_0').rename(tmp_path / 'moved/t5')
  assert is_one(renamed)
  assert_same_bits(read_all(t5x.T5XWeights(str(renamed))), Given().values)


def test_places():
  assert t5x.kvstore_spec('gs://bucket/a/b') == {'driver': 'gcs', 'bucket': 'bucket',
                                                 'path': 'a/b/'}
  assert t5x.kvstore_spec('gs://bucket') == {'driver': 'gcs', 'bucket': 'bucket', 'path': ''}
  assert t5x.kvstore_spec(pathlib.Path('/a/b')) == {'driver': 'file', 'path': '/a/b/'}
  assert t5x.kvstore_spec('a/') == {'driver': 'file', 'path': f'{os.getcwd()}/a/'}
  for spec in ('gs://bucket/a/b', '/a/b'):  # TensorStore takes them.
    ts.Spec(t5x_layout.zarr_spec(t5x.kvstore_spec(spec)))
