"""Private names of other packages that we stand on: a row each, with what of ours would break.

A name that is not in this table must not be used: the last test reads our sources for others.
"""

import ast
import importlib.metadata
import inspect
import pathlib
import re

import numpy as np
import orbax.checkpoint as ocp
import pytest

REPO = pathlib.Path(__file__).parents[1]
_STEP_OF = 'Trainer: |L|, |R|, ... are counted before the batch is cut into microbatches'

# (upstream class, its private name, parameters, our file, what of ours stands on it)
NAMES = [
    ('seqio.EncDecFeatureConverter', '_pack_or_pad', ['ds', 'packed_lengths'],
     'data/feature_converter.py', 'our packer in the place of its own'),
    ('seqio.EncDecFeatureConverter', '_convert_example', ['features'],
     'data/feature_converter.py', 'decoder_objective beside its model features'),
    ('seqio.Task', '_get_cached_source', ['split', 'file_shuffle_buffer_size'],
     'data/record_task.py', 'cached rows in the order of their records'),
    ('seqio.Mixture', '_check_compatible_features', [],
     'data/mixture.py', 'tasks of different vocabularies are refused'),
    ('t5x.models.EncoderDecoderModel', '_compute_logits', ['params', 'batch', 'dropout_rng'],
     't5x_engine.py', 'the logits of our loss'),
    ('t5x.models.EncoderDecoderModel', '_compute_metrics',
     ['logits', 'targets', 'mask', 'loss', 'segment_ids'], 't5x_engine.py', 'its own metrics'),
    ('t5x.models.EncoderDecoderModel', '_compute_kv_cache',
     ['params', 'encoded_inputs', 'encoder_input_tokens', 'decoder_input_tokens',
      'prefill_decoder_prompt'], 't5x_engine.py', 'decoding with our network'),
    ('t5x.models.EncoderDecoderModel', '_compute_logits_from_slice',
     ['decoding_state', 'params', 'encoded_inputs', 'raw_inputs', 'max_decode_length'],
     't5x_engine.py', 'decoding with our network'),
    ('t5x.trainer.Trainer', '_partitioned_train_step', None, 't5x_engine.py', _STEP_OF),
    ('t5x.trainer.Trainer', '_get_step_rng', ['step'], 't5x_engine.py', _STEP_OF),
    *[('t5x.trainer.Trainer', name, None, 't5x_engine.py', _STEP_OF) for name in (
        '_model', '_partitioner', '_train_state_axes', '_learning_rate_fn', '_num_microbatches',
        '_weight_metrics_computer')],
]
NOT_UPSTREAM = {'os._exit', 'TaskSums._fields',  # the standard library's, in spite of their names
                'parser._option_string_actions'}  # argparse's; tests/test_arguments.py stands on it


def changed(package, what, ours, why):
  version = importlib.metadata.version(package) if package != 't5x' else 'of this machine'
  return f'{package} {version}: {what}. dss_jax/{ours} stands on it: {why}'


@pytest.mark.parametrize(('where', 'name', 'parameters', 'ours', 'why'), NAMES,
                         ids=[f'{where}.{name}' for where, name, *_ in NAMES])
def test_the_name_is_there_and_used(where, name, parameters, ours, why):
  module, _, cls = where.rpartition('.')
  package = module.partition('.')[0]
  if package == 't5x':
    pytest.importorskip('t5x', reason='T5X is on no package index; docs/t5x.md says how to get it')
  upstream = getattr(importlib.import_module(module), cls)
  sources = ''.join(inspect.getsource(inspect.getmodule(base)) for base in upstream.__mro__[:-1])
  assert f'self.{name}' in sources, changed(
      package, f'{cls} has no {name} any more, or calls it no more', ours, why)
  if parameters is not None:
    found = inspect.signature(getattr(upstream, name)).parameters
    assert set(parameters) <= set(found), changed(
        package, f'{cls}.{name} takes {list(found)}, without one of {parameters}', ours, why)


def test_orbax_files_have_their_names(tmp_path):
  """What tells a folder of arrays, what is written at the very end, and where it is before."""
  from dss_jax.convert import native
  from dss_jax.train import checksums
  seen = []

  def look():
    seen.extend(path.name for path in tmp_path.iterdir())
  options = ocp.CheckpointManagerOptions(
      async_options=ocp.AsyncOptions(post_finalization_callback=look))
  with ocp.CheckpointManager(tmp_path, options=options) as manager:
    manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave({'x': np.zeros(2)})))
    manager.wait_until_finished()
  aside = [name for name in seen if name.startswith(f'3{ocp.utils.TMP_DIR_SUFFIX}')]
  assert aside == seen, changed(
      'orbax-checkpoint', f'post_finalization_callback is called with {seen} in the folder',
      'train/checkpoints.py', 'checksums are written before a checkpoint has its name')
  assert (tmp_path / '3' / 'state' / native.METADATA_FILE).exists(), changed(
      'orbax-checkpoint', f'no {native.METADATA_FILE} beside the arrays', 'convert/native.py',
      'that file tells a folder of arrays')
  assert (tmp_path / '3' / checksums.STILL_WRITTEN[0]).exists(), changed(
      'orbax-checkpoint', f'no {checksums.STILL_WRITTEN[0]} in the folder of a step',
      'train/checksums.py', 'it is written last, and has no checksum')
  from orbax.checkpoint import future
  assert '_SignalingThread' in inspect.getsource(inspect.getmodule(future.ChainedFuture)), changed(
      'orbax-checkpoint', 'its threads log under another name', 'cli.py',
      'what they log as errors is raised again, and not shown twice')


def test_gin_writes_what_we_read():
  import gin
  from dss_jax.train import gin_config
  gin_config.read(['gin/native/dss.gin'], ['DATASET=toy', 'MODEL_DIR=x', 'SEED=3'])
  says = ['gin-config', 'a macro is written in another way', 'train/gin_config.py',
          'which macros there are, and which one sets a field']
  assert '\nSEED = 3\n' in gin.config_str(), changed(*says)
  assert gin_config.bound('dss_jax.train.TrainConfig')['seed'] == '%SEED', changed(*says)
  with pytest.raises(OSError, match=r'Unable to open file: nowhere\.gin'):
    gin.parse_config_file('nowhere.gin')
  gin.bind_parameter('dss_jax.train.MeshConfig.data', 0)
  with pytest.raises(Exception, match='In call to configurable'):
    gin.get_configurable('dss_jax.train.MeshConfig')()


def test_experimental_names_of_jax():
  from jax.experimental import multihost_utils, topologies
  for module, name, ours, why in (
      (topologies, 'get_topology_desc', 'precompile/topologies.py', 'compiling for a slice'),
      (multihost_utils, 'reached_preemption_sync_point', 'train/preemption.py', 'all stop at once'),
      (multihost_utils, 'sync_global_devices', 'train/processes.py', 'waiting for the others'),
      (multihost_utils, 'process_allgather', 'train/processes.py', 'what any process found')):
    assert hasattr(module, name), changed('jax', f'no {module.__name__}.{name}', ours, why)


def test_tensorflows_example_without_tensorflow():
  try:
    from tensorflow_datasets.proto import tf_example_pb2
  except ImportError:
    pytest.fail(changed('tensorflow-datasets', 'no proto.tf_example_pb2', 'records/record.py',
                        'records are read and written without TensorFlow'))
  import tensorflow as tf
  theirs = tf.train.Example(features=tf.train.Features(feature={
      'id': tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'a']))}))
  ours = tf_example_pb2.Example.FromString(theirs.SerializeToString())
  assert ours.features.feature['id'].bytes_list.value == [b'a']


def private_names(path):
  """Private attributes that a file reads of what it did not make: ['super()._pack_or_pad']."""
  tree = ast.parse(path.read_text())
  functions = ast.FunctionDef | ast.AsyncFunctionDef
  own = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
  mine = {'self'} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
  own |= {node.attr for node in ast.walk(tree)
          if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
  own |= {node.id for node in ast.walk(tree)
          if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and node.attr.startswith('_') and node.attr[1] != '_' and (
        ast.unparse(node.value) not in mine or node.attr not in own):
      yield ast.unparse(node)
    elif isinstance(node, ast.ImportFrom) and node.module and re.search(r'\b_(?!_)', node.module):
      yield node.module


def test_no_other_private_name_is_used():
  known = {(ours, name) for _, name, _, ours, _ in NAMES}
  for path in (REPO / 'dss_jax').rglob('*.py'):
    ours = path.relative_to(REPO / 'dss_jax').as_posix()
    for name in private_names(path):
      assert name in NOT_UPSTREAM or (ours, name.rpartition('.')[2]) in known, f'{ours}: {name}'
