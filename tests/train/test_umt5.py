"""What a run with umT5's biases, one in every layer, needs besides the network."""

import dataclasses

import jax
import numpy as np
import pytest
import ragged
from flax import linen as nn

from dss_jax import decode, models, objective
from dss_jax import sharding as sharding_lib
from dss_jax.export import folder
from dss_jax.models import flops
from dss_jax.precompile import compiled
from dss_jax.train import compute as compute_lib
from dss_jax.train import config as config_lib
from dss_jax.train import gin_config
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import step as step_lib

CONFIG = models.t5_config(
    'umt5', 'small', vocab_size=64, emb_dim=32, num_heads=4, head_dim=8, num_encoder_layers=2,
    num_decoder_layers=2, mlp_dim=64, dropout_rate=0.0, scan_layers=True)
MODEL = models.Transformer(CONFIG)
BIAS = ('layers', 'relpos_bias', 'rel_embedding')


@pytest.mark.slow
def test_a_mesh_computes_what_one_device_does():
  params = nn.unbox(models.init_params(MODEL, jax.random.key(0)))
  batch = ragged.packed_batch(ragged.examples(count=60), rows=16)

  def gradients(params, batch):
    return step_lib.gradients(MODEL, params, batch, objectives=objective.table())[0]
  expected = jax.jit(gradients)(params, batch)
  for side in ('encoder', 'decoder'):  # Every layer learns its own.
    first, second = expected[side]['layers']['relpos_bias']['rel_embedding']
    assert np.any(first) and np.any(first != second)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  layout = sharding.params(MODEL)
  place = layout['encoder']['layers']['relpos_bias']['rel_embedding']
  assert tuple(place.spec)[:2] == (None, 'model')  # Heads, not layers, are split.
  found = sharding.jit(gradients)(jax.device_put(params, layout), sharding.shard_batch(batch))
  assert ragged.relative_difference(jax.device_get(found), expected) < 1e-5


@pytest.mark.slow
def test_no_decay_knows_the_biases():
  params = nn.unbox(models.init_params(MODEL, jax.random.key(0)))
  config = config_lib.OptimizerConfig(weight_decay=1.0, no_decay=('rel_embedding',))
  optimizer = optimizer_lib.make_optimizer(config, lambda step: 0.1)
  updates, _ = optimizer.update(
      jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
  moved = {name for name, x in (
      ('/'.join(k.key for k in path), x) for path, x in jax.tree_util.tree_leaves_with_path(updates)
  ) if np.any(x)}
  assert 'encoder/layers/mlp/wo/kernel' in moved and f'encoder/{"/".join(BIAS)}' not in moved


@pytest.mark.slow
def test_gin_has_its_sizes_and_precompile_its_programs():
  config = gin_config.parse(['gin/native/dss.gin', 'gin/native/models/umt5_small.gin'], [
      'DATASET=toy', 'MODEL_DIR=x', 'RECORDS_DIR=x', 'VOCABULARY=bytes', 'VOCAB_SIZE=256384',
      'DROPOUT_RATE=0.1'])
  assert config.model == models.t5_config(
      'umt5', 'small', vocab_size=256384, scan_layers=config.model.scan_layers)
  # 32 buckets of 6 heads in 7 + 7 more layers than v1.1's.
  shared = dataclasses.replace(config.model, relpos_per_layer=False)
  assert compiled.num_parameters(config.model) - compiled.num_parameters(shared) == 14 * 32 * 6
  assert flops.matmul_parameters(config.model) == flops.matmul_parameters(shared)
  small = dataclasses.replace(config, model=CONFIG, microbatches=2, data=dataclasses.replace(
      config.data, batch_size=8, feature_lengths={'inputs': 16, 'targets': 8}))
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(
      config_lib.MeshConfig(2, 1, 2), jax.devices()[:4]))
  assert compute_lib.build(small, sharding).model == MODEL
  for make in (compiled.train_program, compiled.decode_program):
    assert compiled.memory_of(make(small, sharding).lower().compile())['temporaries'] > 0


@pytest.mark.slow
def test_stablehlo_decodes_the_same():
  model = models.Transformer(dataclasses.replace(CONFIG, scan_layers=False))
  params = nn.unbox(models.init_params(model, jax.random.key(1)))
  exported = folder.export_decoding(model, params, 6, ('cpu',))
  tokens = np.random.default_rng(0).integers(2, 64, (3, 11)).astype(np.int32)
  ids, log_probs = exported.call(folder.flat(params), tokens)
  expected = decode.greedy_search(model, params, tokens, 6)
  assert np.array_equal(ids, expected.tokens)
  np.testing.assert_allclose(log_probs, expected.log_probs, rtol=1e-5)
