"""Evaluation: decoding is scored as SeqIO scores it, losses are exact over a whole split."""

import jax
import numpy as np
import pytest

from dss_jax import models, objective
from dss_jax.data import pipeline
from dss_jax.train import evaluation, gin_config, loop
from dss_jax.train import sharding as sharding_lib
from dss_jax.train import state as state_lib


def make_config(toy_records, toy_vocabulary, tmp_path, task='dss_toy', **settings):
  chosen = {'MODEL_DIR': tmp_path, 'RECORDS_DIR': toy_records, 'VOCABULARY': toy_vocabulary,
            'MIXTURE_OR_TASK_NAME': task, 'BATCH_SIZE': 8, 'EVAL_BATCH_SIZE': 5,
            'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 24}", **settings}
  config = gin_config.parse(['gin/native/dss_toy.gin'], [f'{k}={v}' for k, v in chosen.items()])
  loop._configure_data(config.data)
  return config


def make_evaluator(config, split='validation'):
  model = models.Transformer(config.model)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config.mesh))
  params = jax.device_put(
      jax.tree.map(lambda p: p.unbox(), state_lib.init_params(model, jax.random.key(1)),
                   is_leaf=lambda p: hasattr(p, 'unbox')), sharding.params(model))
  return evaluation.Evaluator(config, split, model, sharding), params, model


@pytest.fixture
def config(toy_records, toy_vocabulary, tmp_path):
  return make_config(toy_records, toy_vocabulary, tmp_path)


def test_losses_do_not_depend_on_packing_or_batch_size(toy_records, toy_vocabulary, tmp_path):
  found = []
  for settings in ({'PACK': True}, {'PACK': False}, {'PACK': False, 'BATCH_SIZE': 24}):
    evaluator, params, _ = make_evaluator(
        make_config(toy_records, toy_vocabulary, tmp_path, **settings))
    found.append(evaluator.losses(params))
  assert found[1] == pytest.approx(found[0], rel=1e-5)
  assert found[2] == pytest.approx(found[0], rel=1e-5)
  assert found[0]['loss'] == pytest.approx(
      (found[0]['label_loss'] + found[0]['rationale_loss']) / 2, rel=1e-6)


def test_every_example_is_decoded_in_its_place(config):
  evaluator, params, model = make_evaluator(config)
  rows = list(pipeline.make_dataset(
      'dss_toy_label', 'validation', {'inputs': 64, 'targets': 24}, pack=False, shuffle=False,
      seed=0, num_epochs=1).enumerate().as_numpy_iterator())
  rng = np.random.default_rng(0)
  for _, row in rows:  # Ragged inputs, so that sorting by length does reorder them.
    keep = np.arange(64) < rng.integers(3, 14)
    row['encoder_input_tokens'] = row['encoder_input_tokens'] * keep
  predictions = dict(evaluator.predict(params, rows))
  assert sorted(predictions) == list(range(16))
  assert len(set(map(tuple, predictions.values()))) > 4  # Else a mix-up would not show.
  length = len(predictions[0])
  for index, row in rows:
    alone = models.greedy_decode(
        model, jax.device_get(params), row['encoder_input_tokens'][None], length)
    assert predictions[index] == np.asarray(alone)[0].tolist()


def test_a_model_that_is_right_scores_100(config, monkeypatch):
  evaluator, params, _ = make_evaluator(config)
  def gold(params, examples):
    return [(index, ex['decoder_target_tokens'].tolist()) for index, ex in examples]
  monkeypatch.setattr(evaluator, 'predict', gold)
  assert evaluator.scores(params, 1) == {'accuracy': 100.0}
  def mostly_gold(params, examples):
    return [(i, ids if i else [2, 1]) for i, ids in gold(params, examples)]
  monkeypatch.setattr(evaluator, 'predict', mostly_gold)
  assert evaluator.scores(params, 1) == {'accuracy': 100 * 15 / 16}


def test_baselines_show_no_rationale_metrics(toy_records, toy_vocabulary, tmp_path):
  evaluator, params, _ = make_evaluator(
      make_config(toy_records, toy_vocabulary, tmp_path, 'toy_finetune', DSS_ALPHA=1.0))
  losses = evaluator.losses(params)
  assert set(losses) == {'loss', 'label_loss', 'label_token_accuracy'}
  assert losses['loss'] == pytest.approx(losses['label_loss'])


def test_answers_behind_a_rationale_may_take_all_tokens(toy_records, toy_vocabulary, tmp_path):
  for task, length in (('toy_rationale_then_label', 24), ('toy_finetune', 8)):
    evaluator, _, _ = make_evaluator(make_config(toy_records, toy_vocabulary, tmp_path, task))
    targets = np.array([3, 1, 0, 0], np.int32)
    assert evaluator._decode_length([{'decoder_target_tokens': targets}]) == length


def test_summary_of_absent_tasks():
  sums = objective.TaskSums(*(np.array([2.0, 0.0]) for _ in range(3)))
  assert set(objective.only_present(objective.summarize(sums, 1.0))) == {
      'loss', 'label_loss', 'label_token_accuracy', 'label_tokens'}
