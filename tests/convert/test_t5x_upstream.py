"""T5X itself writes what we read, and restores and runs what we write."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from t5x_weights import BFLOAT16, TINY, VERSIONS, Given, assert_same_bits, read_all, scanned_values

from dss_jax import models
from dss_jax.convert import t5x

HOW_TO = 'T5X is not on the package index; docs/checkpoints.md says how to run these tests'
SHAPES = dict.fromkeys(
    ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens'), (8, 8))


class T5X:
  """T5X's own model, train state and checkpointing of a tiny network.

  Adafactor factors from 128 on, and T5X divides among the eight devices of the tests.
  """

  fields = {**TINY, 'emb_dim': 160, 'mlp_dim': 136, 'num_heads': 8, 'head_dim': 24,
            'vocab_size': 384}

  def __init__(self, version, scanned, train=True):
    pytest.importorskip('t5x', reason=HOW_TO)
    import seqio
    from t5x import adafactor, partitioning, utils
    from t5x import models as t5x_models
    from t5x.examples.scalable_t5 import network as scalable
    from t5x.examples.t5 import network as plain
    network = scalable if scanned else plain
    gated = version != '1.0'
    config = network.T5Config(
        **self.fields, dtype='float32', dropout_rate=0.0, logits_via_embedding=not gated,
        mlp_activations=('gelu', 'linear') if gated else ('relu',))
    vocabulary = seqio.PassThroughVocabulary(384)
    optimizer = adafactor.Adafactor(
        learning_rate=1e-3, step_offset=0,
        logical_factor_rules=adafactor.standard_logical_factor_rules())
    self.utils, self.module = utils, network.Transformer(config)
    model = t5x_models.EncoderDecoderModel(self.module, vocabulary, vocabulary, optimizer)
    self.partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules())
    self.init = utils.TrainStateInitializer(
        optimizer_def=optimizer if train else None, init_fn=model.get_initial_variables,
        input_shapes=SHAPES, input_types=dict.fromkeys(SHAPES, jnp.int32),
        partitioner=self.partitioner)

  def fresh_state(self):
    """Zeros, which Adafactor's state is before the first step."""
    shapes = self.init.global_train_state_shape
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def manager(self, restore=None, save=None, model_dir=None, use_orbax=True):
    """T5X's train.py, eval.py and infer.py call the same function."""
    return self.utils.create_checkpoint_manager_and_restore(
        self.init, self.partitioner, restore, restore and restore.path, jax.random.PRNGKey(0),
        save_checkpoint_cfg=save, model_dir=model_dir, use_orbax=use_orbax)

  def restore(self, path, use_orbax=True, **settings):
    config = self.utils.RestoreCheckpointConfig(mode='specific', path=str(path), **settings)
    return self.manager(config, use_orbax=use_orbax)[0]

  def save(self, state, folder, use_orbax, dtype='float32'):
    folder.mkdir()
    manager = self.manager(save=self.utils.SaveCheckpointConfig(dtype=dtype),
                           model_dir=str(folder), use_orbax=use_orbax)[1]
    manager.save(state)
    manager.wait_until_finished()


def flat(tree):
  tree = jax.tree.map(np.asarray, serialization.to_state_dict(tree))
  return traverse_util.flatten_dict(tree, sep='/')


def flat_to_tree(arrays):
  return traverse_util.unflatten_dict(arrays, sep='/')


@pytest.mark.parametrize('use_orbax', [True, False])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('scanned', [False, True])
def test_t5x_writes_and_we_read(tmp_path, scanned, dtype, use_orbax):
  theirs = T5X('1.1', scanned)
  given = Given(scan_layers=scanned, **T5X.fields)
  values = scanned_values(given) if scanned else given.values
  state = theirs.fresh_state().replace_step(jnp.int32(11))
  state = state.replace_params(flat_to_tree(values))
  theirs.save(state, tmp_path / 'run', use_orbax, dtype)
  found = t5x.T5XWeights(str(tmp_path / 'run'))
  assert found.path.endswith('checkpoint_11') and found.config == given.config
  # With Orbax, T5X saves float32 whatever dtype says.
  dtype = np.float32 if use_orbax else np.dtype(dtype)
  assert_same_bits(read_all(found), {k: v.astype(dtype) for k, v in given.values.items()})


@pytest.mark.parametrize('use_orbax', [True, False])
@pytest.mark.parametrize(('version', 'scanned'), [
    *((version, scanned) for version in VERSIONS for scanned in (False, True)), ('umt5', True)])
def test_we_write_and_t5x_restores(tmp_path, version, scanned, use_orbax):
  theirs = T5X(version, scanned)
  given = Given(version, **T5X.fields)
  t5x.write_t5x(str(tmp_path), given, step=5, scan_layers=scanned)
  # finetune.gin
  state = theirs.restore(tmp_path / 'checkpoint_5', use_orbax, dtype='float32')
  assert_same_bits(flat(state.params), scanned_values(given) if scanned else given.values)
  assert int(state.step) == 5
  assert_same_bits(flat(state.param_states), flat(theirs.fresh_state().param_states))
  tokens = np.random.default_rng(1).integers(1, 384, (2, 2, 7))
  expected = theirs.module.apply({'params': flat_to_tree(flat(state.params))}, *tokens,
                                 tokens[1], enable_dropout=False)
  params = flat_to_tree(given.values)
  logits = models.Transformer(given.config).apply({'params': params}, *tokens[:2])
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('scanned', [False, True])
def test_t5x_infers_and_evaluates(tmp_path, scanned):
  """eval.gin and infer.gin: no optimizer; infer.gin has bfloat16."""
  theirs = T5X('1.1', scanned, train=False)
  given = Given(**T5X.fields)
  t5x.write_t5x(str(tmp_path), given, step=0, dtype=BFLOAT16, scan_layers=scanned)
  values = scanned_values(given) if scanned else given.values
  for dtype in (None, 'bfloat16'):
    state = theirs.restore(tmp_path / 'checkpoint_0', dtype=dtype)
    assert_same_bits(flat(state.params), {k: v.astype(BFLOAT16) for k, v in values.items()})
