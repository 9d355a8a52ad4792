"""T5X's own programs, unmodified, on our gin files: train, resume, evaluate, infer, and mixtures.

Skips where T5X is not importable; docs/t5x.md says how to get it. Slow: each program is started
as a user would.
"""

import concurrent.futures
import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

t5x = pytest.importorskip(
    't5x', reason='T5X is on no package index; docs/t5x.md says how to get it')

import dss_jax.tasks  # noqa: E402, F401
from dss_jax import (  # noqa: E402
  data,
  distributions,
  gin_files,
  models,
  records,
  student_info,
)
from dss_jax.convert import __main__ as convert  # noqa: E402
from dss_jax.convert import formats  # noqa: E402
from dss_jax.data import row_lengths  # noqa: E402
from dss_jax.predict import student as student_lib  # noqa: E402

pytestmark = pytest.mark.slow

REPO = pathlib.Path(__file__).parents[1]
PROGRAMS = pathlib.Path(t5x.__file__).parent
SMALL = {'VOCAB_SIZE': 384, 'EVAL_PERIOD': 4, 'EVAL_STEPS': 1, 'CHECKPOINT_PERIOD': 4,
         'BATCH_SIZE': 8, 'EVAL_BATCH_SIZE': 8,
         'TASK_FEATURE_LENGTHS': {'inputs': 96, 'targets': 96}}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Records of a few sums."""
  made = tmp_path_factory.mktemp('t5x')
  for split, first in (('train', 0), ('validation', 40), ('test', 60)):
    rows = [records.RationaleRecord(
        id=str(i), input=f'Ann has {i} pens and buys 2. How many?', label=f'( {i}.0 + 2.0 )',
        teacher_label=f'( {i}.0 + 2.0 )', rationale=f'She has {i} and 2.')
            for i in range(first, first + 20)]
    for name in ('svamp', 'cqa', 'anli'):
      records.write_records(str(made / 'records'), name, split, rows, num_shards=2)
  return made


def program(name, folder, files, bindings, devices=1, flags=(), **environment):
  """Runs t5x/<name>.py from the repository's root; returns its output."""
  given = {**SMALL, 'RECORDS_DIR': str(folder / 'records'), 'VOCABULARY': 'bytes', **bindings}
  words = [sys.executable, str(PROGRAMS / f'{name}.py'), *(f'--gin_file={file}' for file in files),
           *(f'--gin.{key}={_literal(value)}' for key, value in given.items() if value is not None),
           *flags]
  done = subprocess.run(
      words, cwd=REPO, capture_output=True, text=True, check=False, timeout=600,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment,
           'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'})
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stderr


def _literal(value):
  return value if str(value).startswith('@') else repr(value)


def train(
    folder, name, steps, *, file='gin/dss_svamp.gin', devices=1, flags=(), **bindings):
  return program('train', folder, [file, 'gin/tiny.gin'],
                 {'MODEL_DIR': str(folder / name), 'TRAIN_STEPS': steps, 'EVAL_PERIOD': steps,
                  'CHECKPOINT_PERIOD': steps, **bindings}, devices, flags)


def test_measured_rows_are_the_native_engines(folder):
  said = train(folder, 'measured', 2, TASK_FEATURE_LENGTHS='auto', BATCH_SIZE='auto',
               BATCH_INPUTS=16)
  data.configure(records_dir=str(folder / 'records'), vocabulary='bytes')
  rows = row_lengths.measure('dss_svamp', {'inputs': 1024, 'targets': 256},
                             row_lengths.Asked('auto', 'auto', 16))
  assert f'dss_svamp: {rows}' in said
  operative = (folder / 'measured' / 'config.gin').read_text()
  assert "task_feature_lengths = @t5x_engine.row_lengths_of()" in operative


def metrics(model_dir, name='dss_svamp_label'):
  path = model_dir / 'inference_eval' / f'{name}-metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()]


def loss(log, mixture):
  """Of the evaluation."""
  line = next(line for line in log.splitlines() if f'training_eval/{mixture} accuracy' in line)
  return float(line.partition(' loss=')[2].partition(',')[0])


def train_and_resume(folder):
  train(folder, 'run', 4)
  return train(folder, 'run', 8, EVAL_PERIOD=4, CHECKPOINT_PERIOD=4)


def two_processes(folder):
  """Two steps, and two more by the same command; the log of the second start."""
  for steps in (2, 4):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      logs = list(pool.map(lambda index, steps=steps, address=address: train(
          folder, 'two', steps, file='gin/dss_anli.gin', EVAL_PERIOD=2, CHECKPOINT_PERIOD=2,
          flags=('--multiprocess_gpu', f'--coordinator_address={address}', '--process_count=2',
                 f'--process_index={index}')), range(2)))
  return logs[0]


def stock_mixture(folder):
  """Our tasks beside a foreign one under T5X's own model."""
  (folder / 'others.py').write_text(textwrap.dedent('''
      import seqio
      import dss_jax.tasks
      import tensorflow as tf
      VOCABULARY = seqio.ByteVocabulary()
      def rows(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(
            {'inputs': ['2 and 3'] * 16, 'targets': ['5'] * 16})
      features = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ('inputs', 'targets')}
      seqio.TaskRegistry.add(
          'others', source=seqio.FunctionDataSource(rows, splits=['train', 'validation']),
          preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
          output_features=features)
      seqio.MixtureRegistry.add('mixed', ['others', 'dss_cqa_label', 'dss_cqa_rationale'],
                                default_rate=1.0)
      dss_jax.data.configure(records_dir=RECORDS, vocabulary='bytes')
      '''.replace('RECORDS', repr(str(folder / 'records')))))
  (folder / 'mixed.gin').write_text(textwrap.dedent('''
      from __gin__ import dynamic_registration
      import __main__ as train_script
      import others
      import seqio
      from t5x import utils
      from t5x.examples.t5 import network
      include 't5x/examples/t5/t5_1_1/base.gin'
      include 't5x/configs/runs/finetune.gin'
      include 'gin/tiny.gin'
      MIXTURE_OR_TASK_NAME = 'mixed'
      VOCABULARY = @seqio.ByteVocabulary()
      network.T5Config.vocab_size = 384
      network.T5Config.dtype = 'float32'
      INITIAL_CHECKPOINT_PATH = []
      USE_CACHED_TASKS = False
      train_script.train.infer_eval_dataset_cfg = None
      '''))
  return program('train', folder, [str(folder / 'mixed.gin')],
                {'MODEL_DIR': str(folder / 'mixed'), 'TRAIN_STEPS': 2, 'EVAL_PERIOD': 2,
                 'VOCABULARY': None, 'utils.SaveCheckpointConfig.period': 2},
                PYTHONPATH=f'{folder}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')


@pytest.fixture(scope='module')
def runs(folder):
  """Name -> future of the output of what depends on nothing else: two programs at a time."""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    yield {
        'resumed': pool.submit(train_and_resume, folder),
        'whole': pool.submit(train, folder, 'whole', 8),
        'eight': pool.submit(train, folder, 'eight', 8, devices=8),
        'finetune': pool.submit(train, folder, 'finetune', 2, file='gin/finetune_svamp.gin'),
        'distill': pool.submit(train, folder, 'distill', 2, file='gin/distill_svamp.gin'),
        'own': pool.submit(train, folder, 'own', 2, file='gin/dss_cqa.gin',
                           NETWORK='@t5x_network.Transformer()'),
        'mixed': pool.submit(stock_mixture, folder),
        'two': pool.submit(two_processes, folder),
    }


@pytest.fixture(scope='module')
def trained(folder, runs):
  """MODEL_DIR of four steps, then four more by the same command."""
  assert "'step': 4, 'event_type': 'restore'" in runs['resumed'].result()
  return folder / 'run'


def test_trains_evaluates_checkpoints_and_resumes(trained):
  assert {'checkpoint_4', 'checkpoint_8'} <= {path.name for path in trained.iterdir()}
  assert [row['step'] for row in metrics(trained)][-1] == 8
  assert {'accuracy', 'text_accuracy'} <= set(metrics(trained)[-1])


def test_a_resumed_run_is_the_uninterrupted_one(folder, runs, trained):
  runs['whole'].result()
  ours, theirs = (formats.open_weights(str(folder / name / 'checkpoint_8'))
                  for name in ('run', 'whole'))
  assert set(ours.specs) == set(theirs.specs)
  for name in ours.specs:
    np.testing.assert_array_equal(ours.read(name), theirs.read(name), err_msg=name)


def test_eight_devices_give_the_loss_of_one(runs):
  one, eight = (loss(runs[name].result(), 'dss_svamp') for name in ('whole', 'eight'))
  assert one == pytest.approx(eight, rel=1e-4)


@pytest.mark.parametrize('name', ['finetune', 'distill', 'own'])
def test_the_baselines_and_our_network_train(folder, runs, name):
  runs[name].result()
  assert (folder / name / 'checkpoint_2').is_dir()
  assert list((folder / name / 'inference_eval').glob('*-metrics.jsonl'))


def test_eval_and_infer_and_our_own_prediction_agree(folder, trained, tmp_path):
  checkpoint = str(trained / 'checkpoint_8')
  files = ['gin/recipes/svamp.gin', 'gin/tiny.gin']
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    done = [
        pool.submit(program, 'eval', folder, ['gin/t5x/eval.gin', *files],
                    {'CHECKPOINT_PATH': checkpoint, 'EVAL_OUTPUT_DIR': str(tmp_path / 'eval')}),
        pool.submit(program, 'infer', folder, ['gin/t5x/infer.gin', *files],
                    {'CHECKPOINT_PATH': checkpoint, 'INFER_OUTPUT_DIR': str(tmp_path / 'infer'),
                     'MIXTURE_OR_TASK_NAME': 'dss_svamp_label'})]
    student = student_lib.load(checkpoint, vocabulary='bytes', label_prefix='[label] ')
    rows = list(records.read_records(str(folder / 'records'), 'svamp', 'test'))
    ours = student.predict([row.input for row in rows], max_input_length=96, max_target_length=96)
  for future in done:
    future.result()
  assert metrics(tmp_path / 'eval')[-1]['step'] == 8
  (found,) = (tmp_path / 'infer').glob('*predict.jsonl-00000-of-00001')
  theirs = [json.loads(line) for line in found.read_text().splitlines()]
  assert [p.label for p in ours] == [row['prediction'] for row in theirs]
  assert [row['inputs']['id'] for row in theirs] == [row.id for row in rows]
  assert len(rows) == 20


def test_two_processes_train_checkpoint_and_resume(folder, runs):
  assert "'step': 2, 'event_type': 'restore'" in runs['two'].result()
  assert (folder / 'two' / 'checkpoint_4').is_dir()


def test_a_native_checkpoint_continues(folder, trained, tmp_path):
  """T5X -> native -> T5X: at a learning rate of 0 it stays what it was."""
  convert.main([f'--input={trained}/checkpoint_8', f'--output={tmp_path}/native', '--to=native'])
  convert.main([f'--input={tmp_path}/native', f'--output={tmp_path}/t5x', '--to=t5x'])
  (checkpoint,) = (tmp_path / 't5x').glob('checkpoint_*')
  first = int(checkpoint.name.rpartition('_')[2])
  train(folder, 'continued', first + 2, INITIAL_CHECKPOINT_PATH=str(checkpoint), FIRST_STEP=first,
        EVAL_PERIOD=2, LEARNING_RATE=0.0)
  after = student_lib.load(str(folder / 'continued' / f'checkpoint_{first + 2}'),
                           vocabulary='bytes')
  before = student_lib.load(str(trained / 'checkpoint_8'), vocabulary='bytes')
  jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


@pytest.mark.parametrize(('binding', 'value', 'message'), [
    ('LOSS_NORMALIZING_FACTOR', 1024, 'LOSS_NORMALIZING_FACTOR = 1024 .*= None'),
    ('EARLY_STOPPING', 2, 'EARLY_STOPPING = 2: .* native engine')])
def test_what_is_not_here_stops_the_run(folder, binding, value, message):
  with pytest.raises(AssertionError, match=f'UserError: {message}'):
    train(folder, 'refused', 2, **{binding: value})


def test_smoothing_and_z_loss_are_in_the_loss_and_not_in_its_parts(folder):
  def losses(name, **bindings):
    log = train(folder, name, 2, LEARNING_RATE=0.0, **bindings)
    line = next(line for line in log.splitlines() if 'training_eval/dss_svamp accuracy' in line)
    return [float(line.partition(f' {what}=')[2].partition(',')[0])
            for what in ('loss', 'label/loss', 'rationale/loss')]
  plain, smoothed = losses('plain'), losses('smoothed', LABEL_SMOOTHING=0.3, Z_LOSS=0.1)
  assert smoothed[1:] == plain[1:] and smoothed[0] > plain[0] + 0.1


def test_a_teachers_token_distributions_are_in_the_loss_of_training(
    folder, random_weights, tmp_path):
  teacher, stored = str(tmp_path / 'teacher'), str(tmp_path / 'stored')
  config = models.T5Config(
      vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
      num_decoder_layers=1, mlp_dim=32, dtype='float32')
  convert.convert(random_weights(config), teacher, 'native', info=student_info.StudentInfo(
      config, vocabulary='bytes', label_prefix='[label] ', rationale_prefix='[rationale] ',
      input_length=96, target_length=96))
  assert distributions.main([str(folder / 'records'), f'--model_dir={teacher}',
                             f'--output={stored}']) == 0
  found = {}
  for name, bindings in (('without', {}), ('with', {'TOKEN_DISTRIBUTIONS': 'forward'}),
                         ('alone', {'TOKEN_DISTRIBUTIONS': 'forward',
                                    'TOKEN_DISTRIBUTION_WEIGHT': 1.0})):
    log = train(folder, f'stored_{name}', 2, RECORDS_DIR=stored, LEARNING_RATE=0.0,
                DROPOUT_RATE=0.0, **bindings)
    line = next(line for line in log.splitlines() if 'collection=train accuracy' in line)
    found[name] = [float(line.partition(f' {what}=')[2].partition(',')[0])
                   for what in ('loss', 'label/loss', 'rationale/loss')]
  assert found['with'][1:] == found['alone'][1:] == found['without'][1:]
  assert found['with'][0] == pytest.approx((found['without'][0] + found['alone'][0]) / 2, abs=2e-3)
  assert abs(found['without'][0] - found['alone'][0]) > 0.1
  with pytest.raises(AssertionError, match='UserError: .*none: write them with `dss distributions'):
    train(folder, 'stored_none', 2, TOKEN_DISTRIBUTIONS='forward')


def test_a_student_is_pretrained_on_text_alone(folder):
  """Span corruption, whose vocabulary has sentinels."""
  log = train(folder, 'pretrained', 2, MIXTURE_OR_TASK_NAME='svamp_pretrain')
  assert np.isfinite(loss(log, 'svamp_pretrain'))
  assert (folder / 'pretrained' / 'checkpoint_2').is_dir()


def test_our_tasks_in_somebody_elses_mixture_under_stock_t5x(folder, runs):
  assert 'collection=train accuracy' in runs['mixed'].result()
  assert (folder / 'mixed' / 'checkpoint_2').is_dir()


def test_every_file_for_t5x_parses(tmp_path):
  """All runs with all sizes, and from another directory."""
  runs = [file for file in gin_files.known_files()
          if gin_files.is_for_t5x(file) and file.count('/') == 1 and file != 'gin/tiny.gin']
  assert len(runs) == 12
  script = textwrap.dedent('''
      import json, sys
      import gin, t5x.train
      from t5x import gin_utils
      import __main__
      __main__.train = t5x.train.train
      roots, runs = json.loads(sys.argv[1])
      for run in runs:
        for size in ('small', 'base', 'large', 'xl', 'xxl'):
          gin.clear_config()
          gin_utils.parse_gin_flags(
              roots, [run, f'gin/t5x/t5_1_1_{size}.gin'], ["MODEL_DIR='x'"], finalize_config=False)
          print(run, size, gin.query_parameter('%MODEL').config_key[-1],
                gin.query_parameter('t5x.examples.t5.network.T5Config.emb_dim'),
                *map(gin.query_parameter, ('%DROPOUT_RATE', '%OPTIMIZER', '%Z_LOSS')))
  ''')
  for runs_here, roots in (
      (runs, [str(REPO), str(PROGRAMS.parent)]),
      ([run.removeprefix('gin/') for run in runs],
       [str(gin_files.configs_dir()), str(PROGRAMS.parent)])):
    done = subprocess.run([sys.executable, '-c', script, json.dumps([roots, runs_here])],
                          cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 60
    assert {size: int(width) for _, size, _, width, *_ in lines} == {
        'small': 512, 'base': 768, 'large': 1024, 'xl': 2048, 'xxl': 4096}
    assert {line[2] for line in lines} == {'dss_jax.t5x_engine.EncoderDecoderModel'}
    assert {tuple(line[4:]) for line in lines} == {('0.1', 'adamw_transformers4', '0.0')}
