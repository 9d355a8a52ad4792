"""Evaluation: decoding is scored as SeqIO scores it, losses are exact over a whole split."""

import jax
import numpy as np
import pytest
import seqio

from dss_jax import data, decode, errors, models, objective, records, student_info
from dss_jax import sharding as sharding_lib
from dss_jax.data import pipeline
from dss_jax.train import checkpoints as checkpoints_lib
from dss_jax.train import config as config_lib
from dss_jax.train import evaluation, gin_config, loop, student_files


def make_config(toy_records, toy_vocabulary, tmp_path, task='dss_toy', **settings):
  chosen = {'DATASET': 'toy', 'MODEL_DIR': tmp_path, 'RECORDS_DIR': toy_records,
            'VOCABULARY': toy_vocabulary,
            'MIXTURE_OR_TASK_NAME': task, 'BATCH_SIZE': 8, 'EVAL_BATCH_SIZE': 5,
            'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 24}", **settings}
  config = gin_config.parse(['gin/native/dss.gin'], [f'{k}={v}' for k, v in chosen.items()])
  loop.configure_data(config.data)
  return config


def make_evaluator(config, split='validation'):
  model = models.Transformer(config.model)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config.mesh))
  params = jax.device_put(
      jax.tree.map(lambda p: p.unbox(), models.init_params(model, jax.random.key(1)),
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
    alone = decode.greedy_decode(
        model, jax.device_get(params), row['encoder_input_tokens'][None], length)
    assert predictions[index] == np.asarray(alone)[0].tolist()


def test_a_model_that_is_right_scores_100(config, monkeypatch):
  evaluator, params, _ = make_evaluator(config)
  def gold(params, examples):
    return [(index, ex['decoder_target_tokens'].tolist()) for index, ex in examples]
  monkeypatch.setattr(evaluator, 'predict', gold)
  assert evaluator.scores(params, 1) == dict.fromkeys(
      ('accuracy', 'macro_f1', 'weighted_f1'), 100.0)
  def mostly_gold(params, examples):
    return [(i, ids if i else [2, 1]) for i, ids in gold(params, examples)]
  monkeypatch.setattr(evaluator, 'predict', mostly_gold)
  assert evaluator.scores(params, 1)['accuracy'] == 100 * 15 / 16


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
    assert evaluator._decode_length([{'decoder_target_tokens': targets}], 0) == length


def test_summary_of_absent_tasks():
  sums = objective.TaskSums(*(np.array([2.0, 0.0]) for _ in range(4)))
  assert set(objective.only_present(objective.summarize(sums, objective.table(1.0)))) == {
      'loss', 'label_loss', 'label_token_accuracy', 'label_tokens'}


def test_inputs_longer_than_the_limit_keep_their_eos(toy_records, toy_vocabulary, tmp_path):
  lengths = "{'inputs': 9, 'targets': 24}"
  evaluator, params, _ = make_evaluator(
      make_config(toy_records, toy_vocabulary, tmp_path, TASK_FEATURE_LENGTHS=lengths))
  seen = []
  def searcher(max_length):
    def search(params, tokens):
      seen.extend(np.asarray(tokens))
      return np.ones((len(tokens), max_length), np.int32), np.zeros(len(tokens))
    return search
  evaluator._decoder.searcher = lambda length, beams, penalty, given: searcher(length)
  evaluator.scores(params, 1)
  trained = [row['encoder_input_tokens'] for row in pipeline.make_dataset(
      'dss_toy_label', 'validation', {'inputs': 9, 'targets': 24}, pack=False, shuffle=False,
      seed=0, num_epochs=1).as_numpy_iterator()]
  assert sorted(row.tolist() for row in seen if row.any()) == sorted(
      row.tolist() for row in trained)
  assert all(row[-1] == 1 for row in trained)


def test_several_tasks_are_told_apart_and_their_mean_chooses():
  assert evaluation.combine({'cqa_finetune': {'accuracy': 60}}) == {'accuracy': 60.0}
  assert evaluation.combine({
      'dss_cqa_label': {'accuracy': 60}, 'dss_svamp_label': {'accuracy': 40, 'text_accuracy': 10}
  }) == {'accuracy': 50.0, 'dss_cqa_label/accuracy': 60.0, 'dss_svamp_label/accuracy': 40.0,
         'dss_svamp_label/text_accuracy': 10.0}


@pytest.fixture
def two_datasets(toy_records, toy_vocabulary, tmp_path):
  """A mixture over two datasets of different metrics, and its config."""
  for name, label, arguments in (('sums', '( 8 / 2 )', {'metric': 'equation'}),
                                 ('sides', 'left', {'labels': ('left', 'right')})):
    data.register(name, **arguments)
    for split in ('train', 'validation', 'test'):
      records.write_records(str(tmp_path / 'two'), name, split, [
          records.RationaleRecord(id=f'{split}{i}', input=f'{name} {i}', label=label,
                                  teacher_label=label, rationale='Because.', split=split)
          for i in range(4)])
  seqio.MixtureRegistry.add(
      'two_label', ['dss_sums_label', 'dss_sides_label'], default_rate=1.0,
      mixture_cls=data.DssMixture)
  yield make_config(tmp_path / 'two', 'bytes', tmp_path, 'two_label', VOCAB_SIZE=384)
  seqio.MixtureRegistry.remove('two_label')


def test_a_mixture_over_two_datasets_reports_both(two_datasets, monkeypatch):
  evaluator, params, _ = make_evaluator(two_datasets)
  def gold_sums(params, examples):
    is_sum = chr(examples[0][1]['decoder_target_tokens'][0] - 3) == '('
    return [(i, ex['decoder_target_tokens'].tolist() if is_sum else [5, 1]) for i, ex in examples]
  monkeypatch.setattr(evaluator, 'predict', gold_sums)
  assert evaluator.scores(params, 1) == {
      'accuracy': 50.0, 'dss_sums_label/accuracy': 100.0, 'dss_sums_label/text_accuracy': 100.0,
      'dss_sides_label/accuracy': 0.0, 'dss_sides_label/macro_f1': 0.0,
      'dss_sides_label/weighted_f1': 0.0}
  info = student_files.describe(two_datasets)
  assert (info.metric, info.labels, info.label_prefix) == ('', (), '[label] ')
  assert info.of('sides').labels == ('left', 'right') and info.of('sides').metric == 'text'
  assert info.of('sums').metric == 'equation' and info.of('sums').labels == ()
  assert student_info.from_json(info.as_json(), 'here') == info


@pytest.mark.parametrize(('task', 'metric', 'why'), [
    ('dss_toy', 'acuracy', "did you mean 'accuracy'"),
    ('dss_toy', 'text_accuracy', 'EvalConfig.metric=text_accuracy'),
    ('dss_toy_rationale', 'accuracy', 'known: loss, rationale_loss'),
    ('toy_finetune', 'rationale_loss', 'EvalConfig.metric=rationale_loss'),
    ('two_label', 'text_accuracy', 'EvalConfig.metric=text_accuracy'),
    ('two_label', 'dss_toy_label/accuracy', 'EvalConfig.metric')])
def test_a_metric_that_no_evaluation_has_is_refused(two_datasets, task, metric, why):
  with pytest.raises(errors.UserError, match=why):
    evaluation.check_metric(task, metric)
  for known in ('loss', 'label_loss', 'accuracy', 'dss_sides_label/accuracy'):
    evaluation.check_metric('two_label', known)
  for known in ('macro_f1', 'weighted_f1'):
    evaluation.check_metric('dss_toy', known)


def test_a_loss_chooses_the_smallest(tmp_path):
  checkpoints = checkpoints_lib.Checkpoints(
      str(tmp_path), config_lib.CheckpointConfig(), 'label_loss')
  params = {'w': jax.numpy.zeros(2)}
  kept = [checkpoints.save_best(step, params, {'label_loss': loss})
          for step, loss in ((1, 3.0), (2, 4.0), (3, 2.0), (4, 2.0))]
  assert kept == [True, False, True, False]
  assert checkpoints.restore_best(params)[0] == 3
  checkpoints.close()
