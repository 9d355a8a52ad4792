"""What a second start in a MODEL_DIR may change, and that a run takes the advice it is given."""

import json
import re
import shutil

import numpy as np
import programs
import pytest

from dss_jax import errors, student_info, vocab
from dss_jax.convert import __main__ as convert_main
from dss_jax.precompile import advice
from dss_jax.train import config, gin_config, identity, run_info, watchdogs

SHORT = {'TRAIN_STEPS': 4, 'EVAL_PERIOD': 4, 'CHECKPOINT_PERIOD': 2, 'SCHEDULE': 'constant'}


@pytest.fixture
def claim(toy_data, tmp_path):
  """Claims a MODEL_DIR for a run as the trainer does, without training; returns whether it is new.

  The folder's own path is `claim.folder`.
  """
  def claimed(**settings):
    chosen = {'DATASET': 'toy', 'MODEL_DIR': claimed.folder, 'VOCABULARY': toy_data.vocabulary,
              'WARMUP_STEPS': 0, 'TRAIN_STEPS': 6, **settings}
    run = gin_config.parse(['gin/native/dss.gin'], [f'{k}={v}' for k, v in chosen.items()])
    return run_info.claim(run.model_dir, run_info.describe(run))
  claimed.folder = tmp_path / 'claimed'
  return claimed


def run_json(claim, change=None):
  path = claim.folder / 'run.json'
  run = json.loads(path.read_text())
  if change:
    change(run)
    path.write_text(json.dumps(run))
  return run


@pytest.fixture
def weights(random_weights, tmp_path):
  """Writes a checkpoint of the toy network in some format; returns its folder."""
  model = gin_config.parse(
      ['gin/native/dss.gin'], ['DATASET=toy', 'MODEL_DIR=x', 'VOCABULARY=bytes']).model

  def write(name, to='native', seed=1):
    convert_main.convert(random_weights(model, seed=seed), str(tmp_path / name), to,
                         info=student_info.StudentInfo(model=model))
    return tmp_path / name
  return write


# --- Settings that are no part of the run ---------------------------------------------------------


def test_every_field_is_counted_or_free():
  """A new field must be thought about: those that are free are listed here."""
  free = {name for name, field in identity._fields(config.TrainConfig)
          if field.metadata.get('free')}
  assert free == {
      'model_dir', 'data.records_dir', 'data.verify_records', 'model.remat', 'model.attention',
      'model.one_hot_embedding', 'mesh', 'evaluation.batch_size', 'evaluation.test_at_end',
      'checkpoints', 'microbatches', 'loss_chunk', 'log_every', 'profile_steps', 'log_to'}


@pytest.mark.parametrize('settings', [
    {'REMAT': 'full'}, {'ATTENTION': 'pallas'}, {'T5Config.one_hot_embedding': True},
    {'LOSS_CHUNK': 4}, {'MICROBATCHES': 2}, {'MESH_FSDP': 4}, {'EVAL_BATCH_SIZE': 3},
    {'CHECKPOINT_PERIOD': 5}, {'EvalConfig.test_at_end': False}])
def test_what_changes_no_number_may_change(claim, settings):
  assert claim()
  assert not claim(**settings)


@pytest.mark.parametrize('settings', [
    {'DTYPE': 'bfloat16'}, {'SCAN_LAYERS': True}, {'SEED': 1}, {'EVAL_PERIOD': 5},
    {'BATCH_SIZE': 8}, {'T5Config.mlp_activations': "('gelu',)"}, {'LABEL_PREFIX': 'x '},
    {'RngConfig.dropout': 'threefry2x32'}, {'RngConfig.params': 'rbg'}])
def test_what_changes_numbers_or_their_names_is_another_run(claim, settings):
  assert claim()
  with pytest.raises(errors.UserError, match='holds a run with other settings: .* was .*, is '):
    claim(**settings)


def test_a_run_json_from_when_they_counted(claim):
  """And one from before a field existed: it had its default."""
  assert claim()
  def earlier(run):
    run['identity'] |= {'model.remat': 'none', 'model.one_hot_embedding': False}
    del run['identity']['optimizer.epsilon'], run['initial_checkpoint_sha256']
    del run['identity']['rngs.params'], run['identity']['rngs.dropout']
  run_json(claim, earlier)
  assert not claim(REMAT='dots')
  run_json(claim, lambda run: run['identity'].update({'optimizer.gone': 1}))
  with pytest.raises(errors.UserError, match=r'settings: optimizer.gone was 1, is None\.'):
    claim()


# --- The same thing in another place --------------------------------------------------------------


def test_the_same_vocabulary_under_another_path(claim, toy_data, tmp_path):
  assert claim()
  shutil.copy(toy_data.vocabulary, tmp_path / 'moved.model')
  assert not claim(VOCABULARY=tmp_path / 'moved.model')
  with pytest.raises(errors.UserError, match="data.vocabulary was .*words.model', is 'bytes'"):
    claim(VOCABULARY='bytes', VOCAB_SIZE=384)
  vocab.train(toy_data.records_dir, str(tmp_path / 'moved.model'), vocab_size=60,
              model_type='char')
  with pytest.raises(errors.UserError, match="data.vocabulary was .*words.model', is .*moved"):
    claim(VOCABULARY=tmp_path / 'moved.model')


@pytest.mark.slow
def test_the_same_checkpoint_under_another_path(claim, weights):
  """In another format, too; the place it was at need not be there any more."""
  first = weights('first')
  assert claim(INITIAL_CHECKPOINT_PATH=first)
  shutil.rmtree(first)
  assert not claim(INITIAL_CHECKPOINT_PATH=first)
  assert not claim(INITIAL_CHECKPOINT_PATH=weights('moved', 'hf'))
  for other in (weights('other', seed=2), ''):
    with pytest.raises(errors.UserError, match='settings: initial_checkpoint_path was '):
      claim(INITIAL_CHECKPOINT_PATH=other)
  with pytest.raises(errors.UserError, match='initial_checkpoint_path=.*nowhere does not exist'):
    claim(INITIAL_CHECKPOINT_PATH=first.parent / 'nowhere')
  run_json(claim, lambda run: run.pop('initial_checkpoint_sha256'))
  with pytest.raises(errors.UserError, match='settings: initial_checkpoint_path was '):
    claim(INITIAL_CHECKPOINT_PATH=first.parent / 'moved')  # What was there is not known.


# --- Longer ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def run(toy_records, toy_vocabulary):
  return programs.trainer(toy_records, toy_vocabulary, **SHORT)


@pytest.mark.slow
def test_a_run_is_made_longer(run, tmp_path, capsys):
  """It comes to what one that was as long from the start comes to; test is read at each end.

  So it does with REMAT and the lookup changed on the way.
  """
  long, short = tmp_path / 'long', tmp_path / 'short'
  assert run(long, TRAIN_STEPS=6, EVAL_PERIOD=2) == 0
  assert run(short, EVAL_PERIOD=2) == 0
  first = (short / 'test_metrics.json').read_text()
  assert run(short, TRAIN_STEPS=6, EVAL_PERIOD=2, REMAT='full',
             **{'T5Config.one_hot_embedding': True}) == 0
  assert f'resuming {short} at step 4' in capsys.readouterr().out
  found, wanted = programs.final_state(short, 6), programs.final_state(long, 6)
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  assert (short / 'test_metrics-4.json').read_text() == first
  assert (short / 'test_metrics.json').read_text() == (long / 'test_metrics.json').read_text()
  assert json.loads((short / 'run.json').read_text())['steps_before'] == [4]


@pytest.mark.parametrize('schedule', ['constant', 'rsqrt'])
def test_a_rate_that_does_not_know_the_end(claim, schedule):
  assert claim(SCHEDULE=schedule)
  (claim.folder / 'test_metrics.json').write_text('{"step": 6}')
  assert not claim(SCHEDULE=schedule, TRAIN_STEPS=12)
  assert not claim(SCHEDULE=schedule, TRAIN_STEPS=20)
  assert not claim(SCHEDULE=schedule, TRAIN_STEPS=20)
  assert run_json(claim)['steps_before'] == [6, 12]
  assert run_json(claim)['config']['steps'] == 20
  assert [path.name for path in claim.folder.glob('test*')] == ['test_metrics-6.json']
  with pytest.raises(errors.UserError, match='TRAIN_STEPS=20, not 6: .*longer, not shorter; use'):
    claim(SCHEDULE=schedule)
  with pytest.raises(errors.UserError, match='other settings: .*seed was 0, is 1; steps was 20'):
    claim(SCHEDULE=schedule, SEED=1, TRAIN_STEPS=30)


@pytest.mark.parametrize(('schedule', 'steps'), [('linear', 12), ('linear', 3), ('cosine', 12)])
def test_a_rate_that_ends(claim, schedule, steps):
  """The error says why, and what to do instead."""
  assert claim(SCHEDULE=schedule)
  before = run_json(claim)
  with pytest.raises(errors.UserError, match=(
      f'TRAIN_STEPS=6, not {steps}: SCHEDULE={schedule} comes to 0 .* another MODEL_DIR, with '
      f'INITIAL_CHECKPOINT_PATH={claim.folder} to start from what it has learnt')):
    claim(SCHEDULE=schedule, TRAIN_STEPS=steps)
  assert run_json(claim) == before


# --- Advice ---------------------------------------------------------------------------------------


def test_advice_after_out_of_memory_is_taken_by_the_same_run(claim):
  assert claim()
  kept, _, in_another = advice.NONE_FITS.partition('; ')
  settings = dict(re.findall(r'--gin\.(\w+)=(\w+)', kept))
  assert set(settings) == {'REMAT', 'LOSS_CHUNK'} and 'along MESH_FSDP' in kept
  assert not claim(**settings, MESH_DATA=2, MESH_FSDP=4)
  assert 'TASK_FEATURE_LENGTHS' in in_another and 'in another MODEL_DIR' in in_another


def test_advice_after_a_loss_that_is_no_number(toy_data, claim, weights):
  """What it names is another run's, and what it starts from can be read."""
  claim(TRAIN_STEPS=6)
  shutil.move(weights('saved'), claim.folder / 'checkpoints' / '5')
  watch = watchdogs.FiniteLoss(
      'dss_toy', {'inputs': 8, 'targets': 8}, str(claim.folder), lambda: [5])
  batch = {name: np.zeros((1, 8), np.int32)
           for name in ('encoder_input_tokens', 'decoder_target_tokens')}
  watch.after_step(6, {'loss': np.float32('nan'), 'gradient_norm': np.float32(1)}, batch)
  with pytest.raises(errors.UserError, match='DTYPE=float32, in another MODEL_DIR') as caught:
    watch.check()
  advised = dict(re.findall('(INITIAL_CHECKPOINT_PATH)=([^ ]+)', str(caught.value)))
  claim.folder = claim.folder.parent / 'another'
  assert claim(**advised, LEARNING_RATE=1e-5, WARMUP_STEPS=5, CLIP_NORM=1, DTYPE='float32')
