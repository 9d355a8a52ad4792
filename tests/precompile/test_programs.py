"""What is compiled is what the trainer runs; with libtpu also for slices that are elsewhere."""

import dataclasses
import importlib.util
import pickle

import jax
import numpy as np
import pytest

from dss_jax import errors, models
from dss_jax import sharding as sharding_lib
from dss_jax.data import pipeline
from dss_jax.precompile import __main__ as command
from dss_jax.precompile import collectives, compiled, jobs, topologies
from dss_jax.train import compute as compute_lib
from dss_jax.train import config as config_lib
from dss_jax.train import evaluation
from dss_jax.train import step as step_lib

NETWORK = models.T5Config(
    vocab_size=128, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=3,
    num_decoder_layers=3, mlp_dim=32, scan_layers=True, dtype='bfloat16')
MESH = config_lib.MeshConfig(2, 2, 2)

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="compiling for TPU needs libtpu: pip install 'dss_jax[tpu-plan]'")
needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec('jax_cuda13_plugin') is None,
    reason="compiling for GPUs needs JAX's CUDA plugin: pip install 'dss_jax[gpu]'")


def config(pack=True, **overrides):
  data = config_lib.DataConfig(
      mixture_or_task='dss_toy', vocabulary='bytes', feature_lengths={'inputs': 64, 'targets': 32},
      batch_size=8, pack=pack)
  return config_lib.TrainConfig('unused', data, model=NETWORK, mesh=MESH, **overrides)


@pytest.fixture(scope='module')
def sharding():
  return sharding_lib.Sharding(sharding_lib.make_mesh(MESH))


@pytest.mark.parametrize('pack', [True, False])
def test_the_batch_has_the_shapes_of_the_pipeline(toy_data, pack):
  data = config(pack).data
  batches = pipeline.train_iterator(
      data.mixture_or_task, data.feature_lengths, batch_size=data.batch_size, pack=pack, seed=0)
  batch = step_lib.features(pipeline.to_numpy(next(batches)))
  assert {name: rows.shape for name, rows in batch.items()} == compiled.features(data)
  assert {rows.dtype for rows in batch.values()} == {np.dtype(np.int32)}


def test_the_planned_step_is_the_one_that_the_trainer_runs(sharding):
  """Traced for shapes and for arrays, the trainer's step is the same program."""
  settings = config(microbatches=2)
  compute = compute_lib.build(settings, sharding)
  state = sharding.jit(compute.init, out_shardings=compute.state_sharding)()
  batch = sharding.shard_batch({name: np.ones(shape, np.int32)
                        for name, shape in compiled.features(settings.data).items()})
  planned = compiled.train_program(settings, sharding).lower()
  assert planned.as_text() == compute.train_step.lower(state, batch).as_text()
  assert '@Sharding' in planned.as_text() or 'sdy.sharding' in planned.as_text()


def test_the_new_state_takes_the_place_of_the_old_one(sharding, recwarn):
  """Every byte of parameters and optimizer is reused; only the metrics are new."""
  program = compiled.train_program(config(), sharding)
  stats = program.lower().compile().memory_analysis()
  assert stats.alias_size_in_bytes == compiled.bytes_of_arguments(program.arguments[:1]) > 0
  assert stats.output_size_in_bytes - stats.alias_size_in_bytes < 1024
  assert not [one for one in recwarn if 'donated' in str(one.message)]


def test_the_plan_knows_of_an_average_of_the_parameters(sharding):
  """In training, and so in what lies beside decoding."""
  plain, averaged = (compiled.bytes_of_arguments(compiled.train_program(
      config(optimizer=config_lib.OptimizerConfig(ema_decay=decay)), sharding).arguments)
      for decay in (0.0, 0.9))
  params = compiled.bytes_of_arguments(
      compiled.decode_program(config(), sharding).arguments[:1])
  assert averaged - plain == params + 4  # And a counter.


def test_the_planned_decoding_is_that_of_evaluation(sharding, toy_data):
  settings = config(evaluation=config_lib.EvalConfig(batch_size=7, num_examples=4))
  compute = compute_lib.build(settings, sharding)
  evaluator = evaluation.Evaluator(settings, 'validation', compute.model, sharding)
  planned = compiled.decode_program(settings, sharding)
  assert planned.arguments[1].shape == (8, 64)  # 7 rows on 4 shards.
  length = settings.data.feature_lengths['targets']
  run = evaluator._decoder.searcher(length).lower(*planned.arguments)
  assert planned.lower().as_text() == run.as_text()


@pytest.mark.slow
def test_memory_is_what_xla_says(sharding):
  program = compiled.train_program(config(), sharding)
  built = program.lower().compile()
  stats = compiled.memory_of(built)
  arguments = stats['arguments']
  assert arguments == built.memory_analysis().argument_size_in_bytes
  assert stats['results'] < 1000 < stats['temporaries']  # The state is donated; metrics are left.
  assert compiled.bytes_of_arguments(program.arguments) == pytest.approx(arguments, rel=0.02)
  found = compiled.run(compiled.TRAIN, config(), jax.devices(), 2**34)
  assert found['memory'] == stats and sum(found['collectives']['whole'].values()) > 0
  assert compiled.run(compiled.TRAIN, config(), jax.devices(), 1000).keys() == {
      'seconds', 'arguments'}


@pytest.mark.slow
def test_gradients_of_copies_are_reduced_once_a_step():
  """Eight copies, one microbatch. XLA adds up the bias of the positions [heads, T, T] in every
  layer, and the embedding's gradient once for each side.
  """
  settings = dataclasses.replace(config(), mesh=config_lib.MeshConfig(8, 1, 1))
  found = compiled.run(compiled.TRAIN, settings, jax.devices(), 2**34)
  whole, parameters = found['collectives']['whole'], compiled.num_parameters(NETWORK)
  biases, embedding = 3 * 2 * (64**2 + 32**2), 128 * 16
  assert whole['all-reduce'] == pytest.approx(4 * (parameters + biases + embedding), rel=0.01)
  assert sum(whole.values()) == whole['all-reduce']


@pytest.mark.parametrize('message, needed', [
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
     'temporaries (40.50G) exceeds available HBM (15.75G).', 40.5 * 2**30),
    ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 15.75G hbm.',
     2**29),
    ('RESOURCE_EXHAUSTED: no figures', 0),
    ('INTERNAL: Mosaic failed', None)])
def test_the_compilers_words_for_too_much(message, needed):
  assert compiled.temporaries_of_error(message) == needed


def test_a_job_travels_to_another_process():
  job = jobs.Job('train', 'v5e:2x2', config())
  again = pickle.loads(pickle.dumps(job))
  assert again == job and again.key() == job.key()
  other = dataclasses.replace(job.config, microbatches=2)
  assert dataclasses.replace(job, config=other).key() != job.key()


def test_a_process_that_dies_is_an_outcome(monkeypatch):
  monkeypatch.setattr(jobs, 'ENVIRONMENT', {'PYTHONHOME': '/nowhere'})
  outcome = jobs.run(jobs.Job('train', 'v5e:2x2', config()), 60)
  assert outcome.status == jobs.CRASHED and 'exit code 1' in outcome.reason


def test_a_slow_process_is_ended():
  outcome = jobs.run(jobs.Job('train', 'v5e:2x2', config()), 0.01)
  assert outcome.status == jobs.TIMEOUT and outcome.reason == 'over 0.000167 min'


def on_slice(**overrides):
  return dataclasses.replace(config(), mesh=config_lib.MeshConfig(1, 2, 2), **overrides)


def check_a_slice(kind, topology):
  outcome = jobs.run(jobs.Job(kind, topology, on_slice(microbatches=2)), 300)
  assert outcome.status == jobs.COMPILED, outcome.reason
  assert 0 < outcome.facts['memory']['arguments'] < outcome.total < 2**30
  assert sum(outcome.facts['collectives']['whole'].values()) > 0
  assert outcome.facts['collectives']['unknown_loops'] == (1 if kind == 'decode' else 0)
  assert set(outcome.facts['collectives']['whole']) == set(collectives.KINDS)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize('kind, topology', [
    ('train', 'v5e:2x2'), ('decode', 'v5e:2x2'), ('train', 'v4:2x2x1'), ('train', 'v6e:2x2')])
def test_compiling_for_a_slice(kind, topology):
  check_a_slice(kind, topology)


@needs_libtpu
@pytest.mark.slow
def test_attention_without_its_matrix_is_compiled_for_a_slice():
  """Its kernels go through the TPU's compiler, forward and backward, rows and heads divided."""
  model = dataclasses.replace(
      NETWORK, num_heads=4, head_dim=64, num_encoder_layers=1, num_decoder_layers=1,
      attention='pallas', remat='scores')
  data = dataclasses.replace(config().data, feature_lengths={'inputs': 160, 'targets': 32})
  outcome = jobs.run(jobs.Job('train', 'v5e:2x2', on_slice(model=model, data=data)), 600)
  assert outcome.status == jobs.COMPILED, outcome.reason


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize('kind, topology', [
    ('train', 'h100:4'), ('decode', 'h100:4'), ('train', 'a100:4'), ('train', 'h200:2x2')])
def test_compiling_for_gpus(kind, topology):
  check_a_slice(kind, topology)


@needs_libtpu
@pytest.mark.slow
def test_what_libtpu_says_of_too_much_is_understood():
  model = models.T5Config(**{**vars(NETWORK), 'vocab_size': 2**17, 'scan_layers': True})
  data = config_lib.DataConfig(
      mixture_or_task='dss_toy', vocabulary='bytes', feature_lengths={'inputs': 8, 'targets': 2048},
      batch_size=512, pack=False)
  settings = dataclasses.replace(on_slice(), model=model, data=data)
  outcome = jobs.run(jobs.Job('train', 'v5e:2x2', settings), 300)
  assert outcome.status == jobs.NO_ROOM
  assert outcome.facts['temporaries'] > topologies.CHIPS['v5e'].hbm


@needs_libtpu
@pytest.mark.slow
def test_a_size_that_libtpu_refuses_is_an_outcome_with_its_reason():
  settings = dataclasses.replace(config(), mesh=config_lib.MeshConfig(8, 1, 1))
  outcome = jobs.run(jobs.Job('train', 'v5e:512x2', settings), 120)
  assert outcome.status in (jobs.REFUSED, jobs.CRASHED) and outcome.reason


@needs_libtpu
@pytest.mark.slow
def test_the_command(capsys):
  assert command.main([
      '--gin_file=gin/native/dss.gin', '--gin.DATASET=toy', '--topology=v5e:2x2',
      '--mesh=-1x1x1', '--gin.VOCAB_SIZE=128']) == 0
  assert ' yes ' in capsys.readouterr().out


def test_the_mesh_is_over_the_devices_that_are_given():
  devices = jax.devices()[:4]
  mesh = sharding_lib.make_mesh(config_lib.MeshConfig(1, -1, 2), devices)
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 2, 'model': 2}
  assert set(mesh.devices.flat) == set(devices)
  with pytest.raises(errors.UserError, match='number of devices, 4'):
    sharding_lib.make_mesh(config_lib.MeshConfig(8, 1, 1), devices)
