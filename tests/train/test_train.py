"""The trainer end to end on the toy records: a run, its resumption, and what it refuses."""

import json
import re
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

import dss_jax
from dss_jax import cli, errors, ranking, records, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats
from dss_jax.train import __main__ as train_main

SETTINGS = {
    'TRAIN_STEPS': 6, 'EVAL_PERIOD': 3, 'CHECKPOINT_PERIOD': 2, 'KEEP_CHECKPOINTS': 5,
    'LOG_PERIOD': 1, 'PACK': True, 'BATCH_SIZE': 8, 'EVAL_BATCH_SIZE': 16, 'DROPOUT_RATE': 0.1,
    'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 24}", 'WARMUP_STEPS': 0,
}


def arguments(model_dir, records, vocabulary, gin_file='gin/native/dss.gin', **settings):
  chosen = {**SETTINGS, 'DATASET': 'toy', 'MODEL_DIR': model_dir, 'RECORDS_DIR': records,
            'VOCABULARY': vocabulary, **settings}
  return [f'--gin_file={gin_file}', *(f'--gin.{name}={value}' for name, value in chosen.items())]


@pytest.fixture(scope='module')
def finished(toy_records, toy_vocabulary, tmp_path_factory):
  """The MODEL_DIR of a run of six steps."""
  model_dir = tmp_path_factory.mktemp('run') / 'dss_toy'
  assert train_main.main(arguments(model_dir, toy_records, toy_vocabulary)) == 0
  return model_dir


def metrics(model_dir):
  return [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]


def final_params(model_dir):
  with ocp.CheckpointManager(model_dir / 'checkpoints') as manager:
    return manager.restore(6, args=ocp.args.Composite(
        state=ocp.args.StandardRestore())).state['params']


def leaves(tree):
  return ([leaf for value in tree.values() for leaf in leaves(value)] if isinstance(tree, dict)
          else [np.asarray(tree)])


def test_a_run_leaves_what_the_readme_says(finished):
  assert {p.name for p in finished.iterdir()} >= {
      'run.json', 'metrics.jsonl', 'tensorboard', 'checkpoints', 'best', 'predictions',
      'test_metrics.json'}
  lines = metrics(finished)
  assert [line['step'] for line in lines if 'train/loss' in line] == [1, 2, 3, 4, 5, 6]
  validation = [line for line in lines if 'validation/accuracy' in line]
  assert [line['step'] for line in validation] == [3, 6]
  for line in validation:
    assert 0 <= line['validation/accuracy'] <= 100
    assert line['validation/loss'] == pytest.approx(
        (line['validation/label_loss'] + line['validation/rationale_loss']) / 2, rel=1e-5)
  best = int(next((finished / 'best').iterdir()).name)
  scores = {line['step']: line['validation/accuracy'] for line in validation}
  assert scores[best] == max(scores.values())
  test = json.loads((finished / 'test_metrics.json').read_text())
  assert test['step'] == best and 0 <= test['metrics']['accuracy'] <= 100
  found = test['classes']['dss_toy_label']
  assert found['labels'] == ['left', 'right'] and sum(found['support']) == 16
  assert np.trace(np.array(found['confusion'])[:, :2]) / 0.16 == pytest.approx(
      test['metrics']['accuracy'])


def test_tensorboard_has_test_settings_config_and_rates(finished):
  from tensorboard.backend.event_processing import event_accumulator
  board = event_accumulator.EventAccumulator(
      str(finished / 'tensorboard'), {'scalars': 0, 'tensors': 0})
  board.Reload()
  tags = board.Tags()
  found = {tag.removesuffix('/text_summary') for tag in (*tags['scalars'], *tags['tensors'])}
  assert {'test/accuracy', 'train/tokens_per_second', 'config', 'parameters'} <= found
  config = next(tag for tag in tags['tensors'] if tag.startswith('config'))
  text = board.Tensors(config)[0].tensor_proto.string_val[0].decode()
  assert "MIXTURE_OR_TASK_NAME = 'dss_toy'" in text
  hparams = board.SummaryMetadata('_hparams_/session_start_info').plugin_data.content
  assert b'optimizer.learning_rate' in hparams


@pytest.mark.slow
def test_where_stderr_is_no_terminal_each_log_period_is_a_line(
    toy_records, toy_vocabulary, tmp_path, capfd):
  assert train_main.main(arguments(
      tmp_path / 'run', toy_records, toy_vocabulary, TRAIN_STEPS=4, EVAL_PERIOD=0,
      LOG_PERIOD=2)) == 0
  lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('step ')]
  assert [line.split(',')[0] for line in lines] == ['step 2 of 4', 'step 4 of 4']
  for line in lines:
    assert re.search(r', loss [\d.]+, .* tokens/s, \d\d:\d\d elapsed, \d\d:\d\d left$', line)
  assert lines[-1].endswith('00:00 left')


def test_rates_are_of_the_steps_alone(finished):
  """The first step, which compiles, and the steps after which something else took time count
  nothing; examples are those of the batches."""
  lines = {line['step']: line for line in metrics(finished) if 'train/loss' in line}
  assert [step for step, line in lines.items() if 'train/examples_per_second' in line] == [
      2, 3, 4, 5, 6]
  for step in (2, 3, 5, 6):
    line = lines[step]
    assert line['train/examples_per_second'] == pytest.approx(
        line['train/examples'] * line['train/steps_per_second'], rel=1e-4)
    targets = line['train/label_tokens'] + line['train/rationale_tokens']
    assert line['train/tokens_per_second'] > targets * line['train/steps_per_second']
  assert not any('train/percent_of_peak' in line for line in lines.values())  # Of a CPU, unknown.


@pytest.mark.slow
def test_steps_are_traced_and_a_run_that_ends_before_leaves_its_trace(
    toy_records, toy_vocabulary, tmp_path, capsys):
  assert train_main.main(arguments(
      tmp_path / 'run', toy_records, toy_vocabulary, TRAIN_STEPS=4, EVAL_PERIOD=0,
      PROFILE_STEPS=9)) == 0
  assert list((tmp_path / 'run/tensorboard').glob('plugins/profile/*/*.xplane.pb'))
  out = capsys.readouterr().out
  assert 'parameters (' in out and 'encoder' in out and ' x cpu' in out


def test_predictions_are_kept_as_text(finished):
  files = list((finished / 'predictions' / 'validation').glob('*toy_label*3.jsonl'))
  rows = [json.loads(line) for line in files[0].read_text().splitlines()]
  assert len(rows) == 16
  assert {row['target'] for row in rows} <= {'left', 'right'}
  assert all(isinstance(row['prediction'], str) for row in rows)
  assert {tuple(row) for row in rows} == {('input', 'target', 'output', 'prediction')}
  assert all(row['input']['text'].startswith('[label] ') and row['input']['id'].startswith('toy-')
             and set(row['input']) == {'id', 'text'} for row in rows)


def test_what_prediction_needs_lies_in_the_run_and_goes_along(
    finished, toy_vocabulary, tmp_path):
  """Prompts, lengths, labels and vocabulary; the model card's facts join them."""
  for to in ('hf', 'native', 't5x'):
    assert convert_main.main(
        [f'--input={finished}', f'--output={tmp_path / to}', f'--to={to}']) == 0
  with open(toy_vocabulary, 'rb') as f:
    vocabulary = f.read()
  for folder in (finished, *(tmp_path / to for to in ('hf', 'native', 't5x'))):
    info = student_info.find(str(folder))
    assert (info.label_prefix, info.rationale_prefix) == ('[label] ', '[rationale] ')
    assert info.labels == ('left', 'right') and info.input_length == 64
    assert formats.find_vocabulary(str(folder), info) == vocabulary
    if folder != finished:
      assert info.training['task'] == 'dss_toy'
      assert info.training['records'] == {'toy-train': 96}
      assert set(info.training['test']) == {'accuracy', 'macro_f1', 'weighted_f1'}
      assert '| test | accuracy |' in (folder / 'README.md').read_text()


def test_predictions_are_those_of_the_trainers_test(finished, toy_records):
  """The same rows, through files and text, without SeqIO: the same accuracy."""
  rows = list(records.read_records(str(toy_records), 'toy', 'test'))
  predictions = dss_jax.load(str(finished)).predict([row.input for row in rows])
  right = sum(p.label == row.label for p, row in zip(predictions, rows))
  test = json.loads((finished / 'test_metrics.json').read_text())
  assert test['metrics']['accuracy'] == pytest.approx(100 * right / len(rows))


def test_how_labels_are_ranked_is_chosen_on_validation(finished, toy_records):
  student = dss_jax.load(str(finished))
  rows = list(records.read_records(str(toy_records), 'toy', 'validation'))
  found = student.calibrate([row.input for row in rows], [row.label for row in rows])
  assert student.info.ranking in ranking.WAYS
  assert found[student.info.ranking].loss == pytest.approx(
      min(one.loss for one in found.values()), rel=1e-4)


def test_run_json_is_complete(finished, toy_records):
  run = json.loads((finished / 'run.json').read_text())
  assert run['config']['optimizer']['beta2'] == 0.98
  assert run['config']['model']['emb_dim'] == 32
  assert run['records']['toy-train']['num_records'] == 96
  assert run['versions']['jax'] and run['versions']['seqio']
  assert "MIXTURE_OR_TASK_NAME = 'dss_toy'" in '\n'.join(run['gin'])


def test_resuming_gives_the_uninterrupted_run(finished, toy_records, toy_vocabulary, tmp_path,
                                               capsys):
  interrupted = tmp_path / 'run'
  shutil.copytree(finished, interrupted)
  for step in (4, 6):
    shutil.rmtree(interrupted / 'checkpoints' / str(step))
  shutil.rmtree(interrupted / 'best')
  (interrupted / 'test_metrics.json').unlink()
  with (interrupted / 'metrics.jsonl').open('a') as f:
    f.write('{"step": 7, "train/lo')  # A torn last line.
  assert train_main.main(arguments(interrupted, toy_records, toy_vocabulary)) == 0
  assert 'at step 2' in capsys.readouterr().out
  for resumed, whole in zip(leaves(final_params(interrupted)), leaves(final_params(finished)),
                            strict=True):
    np.testing.assert_array_equal(resumed, whole)
  def comparable(model_dir):
    return [{k: v for k, v in line.items() if not k.endswith('_per_second')}
            for line in metrics(model_dir)]
  assert comparable(interrupted) == comparable(finished)


def test_a_finished_run_only_reports(finished, toy_records, toy_vocabulary, capsys):
  before = (finished / 'metrics.jsonl').read_bytes()
  assert train_main.main(arguments(finished, toy_records, toy_vocabulary)) == 0
  said = capsys.readouterr().out
  assert 'done: 6 steps of dss_toy' in said
  assert 'dss_toy_label on test:' in said and 'weighted F1' in said
  assert (finished / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(('settings', 'message'), [
    ({'DSS_ALPHA': 0.3}, r'MODEL_DIR=.* other settings: alpha was 0.5, is 0.3'),
    ({'DSS_ALHPA': 0.3}, "--gin.DSS_ALHPA: .*did you mean 'DSS_ALPHA'"),
    ({'MIXTURE_OR_TASK_NAME': 'dss_tyo'}, "'dss_tyo': did you mean 'dss_toy'"),
    ({'OPTIMIZER': 'adamv'}, "OPTIMIZER='adamv': did you mean 'adamw'"),
    ({'VOCAB_SIZE': 16}, 'has .* ids, the model only 16'),
    ({'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 6}"}, 'all would be cut; raise it'),
    ({'TASK_FEATURE_LENGTHS': "{'input': 64}"}, 'TASK_FEATURE_LENGTHS='),
    ({'BATCH_SIZE': 12}, 'BATCH_SIZE=12 must be a multiple of 8.*MESH_MODEL=2 .*= 4'),
    ({'MICROBATCHES': 3}, 'cannot be split into MICROBATCHES=3'),
    ({'MESH_MODEL': 3}, 'MESH_MODEL=3: the product must be the number of devices, 8'),
    ({'RECORDS_DIR': 'nowhere'}, 'nowhere/manifest.json does not exist'),
    ({'VOCABULARY': 'no.model'}, 'VOCABULARY=no.model'),
    ({'MODEL_DIR': ''}, 'MODEL_DIR is not set'),
    ({'TRAIN_FRACTION': 0.0}, r'TRAIN_FRACTION=0.0'),
    ({'T5Config.remat': 'some'}, 'remat'),
    ({'T5Config.depth': 3}, 'depth'),
    ({'VOCABULARY': 's3://b/v.model'}, 'VOCABULARY=s3://b/v.model: s3:// cannot be'),
    ({'RECORDS_DIR': 'https://h/r'}, 'RECORDS_DIR=https://h/r: https:// cannot be read'),
    ({'MODEL_DIR': 'gs:/b/run'}, 'MODEL_DIR=gs:/b/run: .*; use .* gs://BUCKET/'),
    ({'INITIAL_CHECKPOINT_PATH': 'hf://t5'}, 'INITIAL_CHECKPOINT_PATH=hf://t5: .*OWNER/NAME'),
])
def test_bad_settings_get_one_line(finished, toy_records, toy_vocabulary, settings, message):
  before = sorted(p for p in finished.rglob('*'))
  with pytest.raises(errors.UserError, match=message) as caught:
    train_main.main(arguments(finished, toy_records, toy_vocabulary, **settings))
  assert '\n' not in str(caught.value)
  assert sorted(p for p in finished.rglob('*')) == before


def test_a_missing_gin_file_suggests_the_nearest():
  with pytest.raises(errors.UserError, match="did you mean 'gin/native/dss.gin'"):
    train_main.main(['--gin_file=gin/native/ds.gin'])


def damage(folder, how):
  shard = sorted(folder.glob('toy-train.tfrecord-*'))[1]
  data = bytearray(shard.read_bytes())
  if how == 'flip':
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
  elif how == 'cut':
    shard.write_bytes(data[:-20])
  else:
    shard.unlink()
  return shard.name


@pytest.mark.parametrize(('how', 'message'), [
    ('flip', 'sha256'), ('cut', 'incomplete'), ('remove', 'is missing')])
def test_damaged_records_are_named_before_anything_is_written(
    toy_records, toy_vocabulary, tmp_path, how, message):
  shutil.copytree(toy_records, tmp_path / 'records')
  name = damage(tmp_path / 'records', how)
  with pytest.raises(errors.UserError, match=f'(?s){name}.*{message}|{message}.*{name}'):
    train_main.main(arguments(tmp_path / 'run', tmp_path / 'records', toy_vocabulary))
  assert not (tmp_path / 'run').exists()


def test_changed_records_are_noticed_on_resuming(finished, toy_vocabulary, tmp_path):
  from dss_jax.tasks import toy
  from dss_jax.teacher import job
  from dss_jax.teacher.ask import clients
  for split in ('train', 'validation'):
    job.run(toy.DATASET, split, list(toy.make_examples(32, 9, 12)),
            clients.ScriptedClient(toy.teacher), 'strict', str(tmp_path), holdout='none')
  with pytest.raises(errors.UserError, match='the records have changed'):
    train_main.main(arguments(finished, tmp_path, toy_vocabulary))


@pytest.mark.slow
def test_a_changed_vocabulary_is_noticed_on_resuming(toy_records, toy_vocabulary, tmp_path):
  from dss_jax import vocab
  path = tmp_path / 'words.model'
  shutil.copy(toy_vocabulary, path)
  settings = {'TRAIN_STEPS': 1, 'EVAL_PERIOD': 0}
  assert train_main.main(arguments(tmp_path / 'run', toy_records, path, **settings)) == 0
  vocab.train(str(toy_records), str(path), vocab_size=60, model_type='char')
  with pytest.raises(errors.UserError, match='the vocabulary has changed'):
    train_main.main(arguments(tmp_path / 'run', toy_records, path, **settings))


def test_help_teaches(capsys):
  with pytest.raises(SystemExit):
    train_main.main(['--help'])
  said = capsys.readouterr().out
  assert '--method=dss --dataset=cqa' in said and 'DSS_ALPHA' in said


def test_the_console_command_dispatches(capsys):
  assert cli.main(['--help']) == 0
  said = capsys.readouterr().out
  assert all(f'\n  {verb} ' in said for verb in cli.VERBS)
  with pytest.raises(errors.UserError, match="did you mean 'train'"):
    cli.main(['trian'])
