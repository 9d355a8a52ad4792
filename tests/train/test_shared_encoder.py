"""One encoder pass for all tasks of an input: exact in packed rows, in parts, on meshes."""

import json

import flax.linen as nn
import jax
import numpy as np
import programs
import pytest
import ragged

import dss_jax
from dss_jax import errors, models, objective, records, student_info
from dss_jax import sharding as sharding_lib
from dss_jax.convert import __main__ as convert_main
from dss_jax.data import packing
from dss_jax.export import __main__ as export_main
from dss_jax.export import loader
from dss_jax.models import flops
from dss_jax.predict import __main__ as predict_main
from dss_jax.train import config as config_lib
from dss_jax.train import step as step_lib
from dss_jax.train import throughput

CONFIG = models.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dropout_rate=0.0)
MODEL = models.Transformer(CONFIG)
EVEN = objective.table()
PROMPTS = {objective.LABEL: [5, 6], objective.RATIONALE: [5, 7, 8]}
NAMES = ('encoder_input_tokens', 'encoder_segment_ids', 'encoder_positions',
         'decoder_target_tokens', 'decoder_segment_ids', 'decoder_positions',
         'decoder_objective', 'decoder_cross_segment_ids')


@pytest.fixture(scope='module')
def params():
  return nn.unbox(models.init_params(MODEL, jax.random.key(0)))


def examples(inputs=12, seed=0):
  """(inputs, targets with prompt, objective of each target token): a label and a rationale each."""
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(inputs):
    source = np.append(rng.integers(2, 64, rng.integers(2, 12)), 1)
    for task, most in ((objective.LABEL, 3), (objective.RATIONALE, 8)):
      target = np.append(rng.integers(2, 64, rng.integers(1, most)), 1)
      prompt = PROMPTS[task]
      found.append((source, np.append(prompt, target), np.repeat(
          [objective.PADDING, task], [len(prompt), len(target)])))
  return found


def packed_batch(examples, rows=None):
  inputs, targets, tasks = zip(*examples, strict=True)
  arrays = packing.pack_window(
      np.concatenate(inputs), np.array([*map(len, inputs)]), np.concatenate(targets),
      np.array([*map(len, targets)]), np.concatenate(tasks), 32, 40,
      np.arange(len(examples)) % 2 == 1, share_inputs=True)
  batch = dict(zip(NAMES, arrays, strict=True))
  batch['decoder_input_tokens'] = ragged.shift_right(
      batch['decoder_target_tokens'], batch['decoder_segment_ids'])
  missing = rows - len(arrays[0]) if rows else 0
  return {name: np.pad(array, ((0, missing), (0, 0))) for name, array in batch.items()}


def unpacked_batch(examples):
  """The input once more for each of its targets."""
  batch = {name: np.zeros((len(examples), length), np.int32) for name, length in (
      ('encoder_input_tokens', 14), ('decoder_target_tokens', 14), ('decoder_objective', 14))}
  for row, columns in enumerate(examples):
    for array, column in zip(batch.values(), columns, strict=True):
      array[row, :len(column)] = column
  targets = batch['decoder_target_tokens']
  return {**batch, 'decoder_input_tokens': ragged.shift_right(targets, np.ones_like(targets))}


def loss_and_gradients(params, batch, model=MODEL, **kwargs):
  grads, sums = jax.jit(
      lambda p, b: step_lib.gradients(model, p, b, objectives=EVEN, **kwargs))(
          params, step_lib.features(batch))
  return sums, jax.device_get(grads)


@pytest.fixture(scope='module')
def wanted(params):
  return loss_and_gradients(params, unpacked_batch(examples()))


@pytest.mark.parametrize('kwargs', [{}, {'microbatches': 2}, {'loss_chunk': 7}],
                         ids=['whole', 'microbatches', 'chunks'])
def test_packed_with_shared_inputs_equals_unpacked(params, wanted, kwargs):
  batch = packed_batch(examples(), rows=8)
  assert (batch['encoder_input_tokens'] > 0).sum() == sum(
      len(source) for source, *_ in examples()[::2])  # Each input once.
  sums, grads = loss_and_gradients(params, batch, **kwargs)
  for found, value in zip(sums, wanted[0], strict=True):
    np.testing.assert_allclose(found, value, rtol=1e-5)
  assert ragged.relative_difference(grads, wanted[1]) < 1e-5


@pytest.mark.parametrize('attention', ['xla', 'pallas'])
def test_a_mesh_and_each_attention_give_the_same(params, wanted, attention):
  model = models.Transformer(models.T5Config(**{**CONFIG.__dict__, 'attention': attention}))
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(config_lib.MeshConfig(2, 2, 2)))
  grads, _ = sharding.jit(lambda p, b: step_lib.gradients(
      model, p, b, objectives=EVEN, microbatches=2))(
          jax.device_put(params, sharding.params(model)),
          sharding.shard_batch(step_lib.features(packed_batch(examples(), rows=8))))
  assert ragged.relative_difference(grads, wanted[1]) < 1e-5


def test_targets_of_an_input_do_not_see_each_other(params, wanted):
  """Other rationales: the labels' part of the gradient stays as it was."""
  def of_labels(examples):
    sums, _ = loss_and_gradients(params, packed_batch(examples, rows=8))
    return sums.cross_entropy
  before = examples()
  after = [(source, np.where((task == objective.RATIONALE) & (target > 1), 9, target), task)
           for source, target, task in before]
  one, other = map(of_labels, (before, after))
  np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
  assert abs(one[1] - other[1]) > 1e-2


def test_the_prompt_has_no_share_in_the_loss(wanted):
  sums, _ = wanted
  for k, task in enumerate(PROMPTS):
    of_task = [tasks for _, _, tasks in examples() if tasks[-1] == task]
    assert sums.tokens[k] == sum(int((tasks == task).sum()) for tasks in of_task)
    assert sums.words[k] == sums.tokens[k] - len(of_task)
  batch = unpacked_batch(examples())
  given = (batch['decoder_objective'] == 0) & (batch['decoder_target_tokens'] > 0)
  assert given.sum() == 12 * 5
  counts = objective.count_tokens(batch['decoder_objective'], EVEN)
  assert not objective.token_weights(batch['decoder_objective'], counts, EVEN)[given].any()


def test_an_input_is_counted_once():
  found = examples()
  batch = packed_batch(found)
  sources, targets, read = throughput.example_lengths(batch)
  kept = targets > 0
  assert sources.sum() == sum(len(source) for source, *_ in found[::2])
  assert sorted(zip(read[kept].tolist(), targets[kept].tolist(), strict=True)) == sorted(
      (len(source), len(target)) for source, target, _ in found)
  shared, apart = (flops.forward_flops(CONFIG, *lengths) for lengths in (
      (sources, targets, read), (read, targets)))
  encoder, _ = flops.matmul_parameters(CONFIG)
  spared = [len(source) for source, *_ in found[::2]]
  heads = CONFIG.num_heads * CONFIG.head_dim
  assert apart - shared == pytest.approx(
      2 * encoder * sum(spared) + 4 * heads * sum(n * n for n in spared))


@pytest.mark.slow
def test_a_run_and_its_student_give_the_same_labels(toy_records, toy_vocabulary, tmp_path, capsys):
  """Trained by the command; the student, its conversions and its export have the decoder asked."""
  train = programs.trainer(toy_records, toy_vocabulary, SHARED_ENCODER=True, TRAIN_STEPS=60,
                           EVAL_PERIOD=60, DROPOUT_RATE=0, BATCH_SIZE=8, LEARNING_RATE=0.01)
  folder = tmp_path / 'run'
  assert train(folder) == 0
  assert student_info.find(str(folder)).shared_encoder
  lines = (folder / 'predictions/test/dss_toy_label-000060.jsonl').read_text().splitlines()
  written = [json.loads(line) for line in lines]
  inputs = [record.input for record in records.read_records(str(toy_records), 'toy', 'test')]
  student = dss_jax.load(str(folder))
  (tmp_path / 'in').write_text(''.join(json.dumps({
      'id': r.id, 'input': r.input, 'label': r.label}) + '\n'
      for r in records.read_records(str(toy_records), 'toy', 'test')))
  assert predict_main.main([f'--model_dir={folder}', f'--input={tmp_path / "in"}',
                            f'--output={tmp_path / "out"}', '--rationale']) == 0
  test = json.loads((folder / 'test_metrics.json').read_text())['metrics']['accuracy']
  assert f'accuracy {test:.2f} % of 16 rows' in capsys.readouterr().out
  found = student.predict(inputs, rationale=True)
  rows = map(json.loads, (tmp_path / 'out').read_text().splitlines())
  assert [(row['predicted_label'], row['rationale']) for row in rows] == [
      (one.label, one.rationale) for one in found]
  assert [one.label for one in found] == [one['prediction'] for one in written]
  assert [one['input']['text'] for one in written] == [student.tokenizer.decode(
      student.encode(text)) for text in inputs]
  prompt = np.array([student.given('[label] ')] * len(inputs))
  tokens = np.zeros((len(inputs), 64), np.int32)
  for row, text in zip(tokens, map(student.encode, inputs), strict=True):
    row[:len(text)] = text
  given = np.pad(prompt, ((0, 0), (1, 0)))
  logits = student.model.apply({'params': student.params}, tokens, given)[:, -1]
  firsts = [student.tokenizer.encode_target(one['output'])[:1] or [1] for one in written]
  assert [[i] for i in np.argmax(logits, -1).tolist()] == firsts
  assert len({one.rationale for one in found}) > 1
  for to in ('native', 'hf'):
    assert convert_main.main([f'--input={folder}', f'--output={tmp_path / to}', f'--to={to}']) == 0
    again = dss_jax.load(str(tmp_path / to)).predict(inputs[:3], rationale=True)
    assert [(one.label, one.rationale) for one in again] == [
        (one.label, one.rationale) for one in found[:3]]
  assert export_main.main([f'--model_dir={folder}', f'--output={tmp_path / "portable"}',
                           '--platforms=cpu']) == 0
  portable = loader.Student(tmp_path / 'portable')
  assert [label for label, _ in portable.predict(inputs[:3])] == [one.label for one in found[:3]]
  with pytest.raises(ValueError, match='this program asks for the label alone'):
    portable.predict(inputs[:3], prefix='[rationale] ')
  with pytest.raises(errors.UserError, match='data.shared_encoder was True, is False'):
    train(folder, SHARED_ENCODER=False)


@pytest.mark.slow
def test_unpacked_validation_has_the_same_losses(toy_records, toy_vocabulary, tmp_path):
  train = programs.trainer(toy_records, toy_vocabulary, SHARED_ENCODER=True, TRAIN_STEPS=1,
                           EVAL_PERIOD=1, DROPOUT_RATE=0, LEARNING_RATE=0)
  found = {}
  for pack in (True, False):
    assert train(tmp_path / str(pack), PACK=pack) == 0
    lines = map(json.loads, (tmp_path / str(pack) / 'metrics.jsonl').read_text().splitlines())
    found[pack] = next(line for line in lines if 'validation/loss' in line)
  for name in ('loss', 'label_loss', 'rationale_loss'):
    assert found[True][f'validation/{name}'] == pytest.approx(
        found[False][f'validation/{name}'], rel=1e-5)
