"""TOKEN_DISTRIBUTIONS: exact in packed rows, in parts, on meshes; and whole runs by the command."""

import json

import flax.linen as nn
import jax
import numpy as np
import programs
import pytest
import ragged

from dss_jax import distributions, divergence, errors, models, objective, records
from dss_jax import sharding as sharding_lib
from dss_jax.data import packing
from dss_jax.train import config as config_lib
from dss_jax.train import step as step_lib

CONFIG = models.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dropout_rate=0.0)
MODEL = models.Transformer(CONFIG)
EVEN = objective.table()
TOP_K = 3


@pytest.fixture(scope='module')
def params():
  return nn.unbox(models.init_params(MODEL, jax.random.key(0)))


def stored(examples, seed=7):
  """Of each example int32 [T, 2 k]; every third has none."""
  rng = np.random.default_rng(seed)
  found = []
  for i, (_, targets, _) in enumerate(examples):
    ids = np.array([rng.permutation(np.arange(1, 64))[:TOP_K] for _ in targets])
    log_p = np.log(rng.dirichlet(np.ones(TOP_K + 1), len(targets))[:, :TOP_K] + 1e-9)
    rows = np.frombuffer(divergence.pack(ids, log_p), np.int32).reshape(-1, 2 * TOP_K)
    found.append(rows * bool(i % 3))
  return found


def unpacked_batch(examples):
  batch = ragged.unpacked_batch(examples)
  array = np.zeros((*batch['decoder_target_tokens'].shape, 2 * TOP_K), np.int32)
  for row, one in zip(array, stored(examples), strict=True):
    row[:len(one)] = one
  return {**batch, step_lib.DISTRIBUTION: array}


def packed_batch(examples, rows):
  batch = ragged.packed_batch(examples, rows)
  inputs, targets, tasks = zip(*examples, strict=True)
  *_, array = packing.pack_window(
      np.concatenate(inputs), np.array([*map(len, inputs)]), np.concatenate(targets),
      np.array([*map(len, targets)]), np.repeat(tasks, [*map(len, targets)]), 32, 24,
      distribution=np.concatenate(stored(examples)))
  return {**batch, step_lib.DISTRIBUTION: np.pad(
      array, ((0, rows - len(array)), (0, 0), (0, 0)))}


def gradients(params, batch, direction, **kwargs):
  grads, sums = jax.jit(lambda p, b: step_lib.gradients(
      MODEL, p, b, objectives=EVEN, terms=objective.Terms(0.1, 0.0, direction, 0.7), **kwargs))(
          params, step_lib.features(batch))
  return jax.device_get(grads), objective.summarize(sums, EVEN)['loss']


@pytest.mark.parametrize('direction', [
    'forward', pytest.param('reverse', marks=pytest.mark.slow)])
def test_packed_in_parts_and_on_a_mesh_it_is_that_of_plain_rows(params, direction):
  examples = ragged.examples()
  wanted, loss = gradients(params, unpacked_batch(examples), direction)
  batch = packed_batch(examples, 16)
  found, other = gradients(params, batch, direction)
  assert ragged.relative_difference(found, wanted) < 1e-5
  assert float(other) == pytest.approx(float(loss), rel=1e-5)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  found, _ = sharding.jit(lambda p, b: step_lib.gradients(
      MODEL, p, b, objectives=EVEN, terms=objective.Terms(0.1, 0.0, direction, 0.7),
      microbatches=2, loss_chunk=7))(
          jax.device_put(params, sharding.params(MODEL)),
          sharding.shard_batch(step_lib.features(batch)))
  assert ragged.relative_difference(jax.device_get(found), wanted) < 1e-5
  plain, same = gradients(params, unpacked_batch(examples), '')
  assert ragged.relative_difference(plain, wanted) > 1e-2
  assert float(same) == pytest.approx(float(loss), rel=1e-6)  # What is logged stays what it was.


SIZES = {'T5Config.num_heads': 2, 'T5Config.head_dim': 8, 'T5Config.num_encoder_layers': 1,
         'T5Config.num_decoder_layers': 1, 'DTYPE': 'float32', 'SCAN_LAYERS': False,
         'DROPOUT_RATE': 0, 'LEARNING_RATE': 0.01, 'BATCH_SIZE': 8, 'PACK': True}
LARGE = {**SIZES, 'T5Config.emb_dim': 32, 'T5Config.mlp_dim': 64}
SMALL = {**SIZES, 'T5Config.emb_dim': 16, 'T5Config.mlp_dim': 32}


@pytest.mark.slow
def test_a_teacher_is_trained_writes_and_is_learnt_from(toy_records, toy_vocabulary, tmp_path):
  """The commands, as a user gives them; the student ends nearer to its teacher than without."""
  train = programs.trainer(toy_records, toy_vocabulary, TRAIN_STEPS=30)
  teacher, stored = str(tmp_path / 'teacher'), str(tmp_path / 'stored')
  assert train(teacher, EVAL_PERIOD=30, **LARGE) == 0
  assert distributions.main([str(toy_records), f'--model_dir={teacher}', f'--output={stored}']) == 0
  assert records.find_set(stored, 'toy', 'train').entry['distributions']['top_k'] == 8
  chosen = {'RECORDS_DIR': stored, 'TOKEN_DISTRIBUTIONS': 'forward',
            'TOKEN_DISTRIBUTION_WEIGHT': 1.0, **SMALL}
  student = tmp_path / 'student'
  assert train(student, **{**chosen, 'TRAIN_STEPS': 20, 'SCHEDULE': 'constant'}) == 0
  whole = {**chosen, 'TRAIN_STEPS': 40, 'SCHEDULE': 'constant'}
  assert train(student, **whole) == 0  # It goes on.
  assert train(tmp_path / 'at_once', **whole) == 0
  programs.assert_same(programs.final_state(student, 40),
                       programs.final_state(tmp_path / 'at_once', 40))
  lines = [json.loads(line) for line in (student / 'metrics.jsonl').read_text().splitlines()]
  losses = [line['train/loss'] for line in lines if 'train/loss' in line]
  assert len(losses) == 40 and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
  with pytest.raises(errors.UserError, match="data.token_distributions was 'forward', is 'rev"):
    train(student, **{**whole, 'TOKEN_DISTRIBUTIONS': 'reverse'})
  with pytest.raises(errors.UserError, match='token_distribution_weight was 1.0, is 0.5'):
    train(student, **{**whole, 'TOKEN_DISTRIBUTION_WEIGHT': 0.5})
  with pytest.raises(errors.UserError, match="^TOKEN_DISTRIBUTIONS='forward': .* are of another "
                                             'vocabulary.*than VOCABULARY=bytes'):
    train(tmp_path / 'bytes', **{**whole, 'VOCABULARY': 'bytes', 'VOCAB_SIZE': 384})
  with pytest.raises(errors.UserError, match="^SOFT_LABELS=1.0: .*TOKEN_DISTRIBUTIONS='forward'"):
    train(tmp_path / 'soft', **{**whole, 'SOFT_LABELS': 1.0})
