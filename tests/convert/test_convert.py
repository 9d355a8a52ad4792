"""Checkpoints in and out: every format to every other, to the bit, one tensor at a time."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from dss_jax import errors, families, models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, hugging_face_config, model_card
from dss_jax.convert import weights as weights_lib

TINY = {'vocab_size': 64, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 6, 'mlp_dim': 20,
        'num_encoder_layers': 3, 'num_decoder_layers': 2}
CONFIGS = {version: models.t5_config(version, 'small', **TINY)
           for version in ('1.0', '1.1', 'umt5')}


class CountedWeights(weights_lib.ArrayWeights):
  """Random weights; counts the tensors that are read."""

  def __init__(self, config):
    params = nn.unbox(models.init_params(models.Transformer(config), jax.random.key(0)))
    super().__init__(params, config)
    self.reads = []

  def read(self, name):
    self.reads.append(name)
    return super().read(name)


def write(folder, to, config, **options):
  weights = CountedWeights(config)
  convert_main.convert(weights, str(folder), to,
                       info=student_info.StudentInfo(model=config), **options)
  return weights


def read_all(folder):
  found = formats.open_weights(str(folder))
  return {name: found.read(name) for name in found.specs}


def assert_same(found, expected):
  assert set(found) == set(expected)
  for name, x in expected.items():
    assert found[name].dtype == x.dtype, name
    assert found[name].tobytes() == x.tobytes(), name


FORMATS = [('hf', False), ('native', False), ('native', True), ('t5x', False), ('t5x', True)]


# Every format is followed by every other one once: round the circle in steps of 1, 2, 3, 4.
CHAIN = [FORMATS[i * step % 5] for step in (1, 2, 3, 4) for i in range(1, 6)]


@pytest.mark.parametrize(('version', 'steps'), [
    pytest.param('1.1', len(CHAIN), marks=pytest.mark.slow), ('1.0', 5), ('umt5', 5)])
def test_every_format_to_every_other_to_the_bit(tmp_path, version, steps):
  expected = write(tmp_path / '0', 'hf', CONFIGS[version]).arrays
  for i, (to, scan) in enumerate(CHAIN[:steps], 1):
    # T5X has umT5's network scanned alone.
    scan = scan or (version, to) == ('umt5', 't5x')
    flag = '--scan_layers' if scan else '--no-scan_layers'
    assert convert_main.main([f'--input={tmp_path / str(i - 1)}', f'--output={tmp_path / str(i)}',
                              f'--to={to}', flag]) == 0
    assert_same(read_all(tmp_path / str(i)), expected)


def test_another_format_is_one_entry(tmp_path, monkeypatch):
  def save(path, weights, output):
    np.savez(f'{path}/weights.npz', **{name: weights.read(name) for name in weights.specs})

  def read(path):
    tree = traverse_util.unflatten_dict(dict(np.load(f'{path}/weights.npz')), sep='/')
    return weights_lib.ArrayWeights(tree, student_info.find(path).model)

  monkeypatch.setitem(formats.FORMATS, 'npz', formats.Format(
      'weights.npz', 'a folder with weights.npz',
      lambda path: os.path.exists(f'{path}/weights.npz'), read, save))
  expected = write(tmp_path / 'native', 'native', CONFIGS['1.1']).arrays
  for given, to in (('native', 'npz'), ('npz', 'hf')):
    assert convert_main.main(
        [f'--input={tmp_path / given}', f'--output={tmp_path / to}', f'--to={to}']) == 0
  assert_same(read_all(tmp_path / 'hf'), expected)
  with pytest.raises(errors.UserError, match='or a folder with weights.npz'):
    formats.open_weights(str(tmp_path))


@pytest.mark.parametrize('to', ['hf', 'native', 't5x'])
def test_bfloat16_rounds_once(tmp_path, to):
  weights = write(tmp_path / 'a', to, CONFIGS['1.1'], dtype='bfloat16')
  rounded = {name: x.astype(jnp.bfloat16) for name, x in weights.arrays.items()}
  assert_same(read_all(tmp_path / 'a'), rounded)


@pytest.mark.parametrize('version', CONFIGS)
def test_the_config_comes_back(tmp_path, version):
  """Also from shapes alone: T5X carries no config."""
  config = dataclasses.replace(CONFIGS[version], num_decoder_layers=1)
  for to in ('hf', 'native', 't5x'):
    scanned = (version, to) == ('umt5', 't5x')
    write(tmp_path / to, to, config, scan_layers=scanned)
    (tmp_path / to / 'student.json').unlink()
    found = formats.open_weights(str(tmp_path / to)).config
    assert found == dataclasses.replace(config, scan_layers=scanned)


def test_every_parameter_has_a_name_at_hugging_face():
  for config in CONFIGS.values():
    names = [families.of(config).their_name(name) for name in weights_lib.expected_specs(config)]
    assert len(set(names)) == len(names)


def test_config_json_comes_back():
  for config in CONFIGS.values():
    written = json.loads(json.dumps(hugging_face_config.write(config, np.float32)))
    assert hugging_face_config.read(written, 'x') == config


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('model_type', 'bert', "model_type is 'bert', which this project does not have; give a T5"),
    ('feed_forward_proj', 'gelu', "feed_forward_proj is 'gelu'.*gated-gelu"),
    ('layer_norm_epsilon', 1e-5, 'layer_norm_epsilon is 1e-05; T5 has 1e-06'),
    ('d_model', None, "has no field 'd_model'"),
])
def test_another_models_config_is_refused(field, value, message):
  written = hugging_face_config.write(CONFIGS['1.1'], np.float32)
  if value is None:
    del written[field]
  else:
    written[field] = value
  with pytest.raises(errors.UserError, match=message):
    hugging_face_config.read(written, 'config.json')


def test_a_mismatch_lists_parameters_expected_and_found(tmp_path):
  write(tmp_path / 'a', 'native', CONFIGS['1.1'])
  weights = formats.open_weights(str(tmp_path / 'a'))
  other = models.t5_config('1.1', 'small', **{**TINY, 'vocab_size': 80, 'num_decoder_layers': 3})
  with pytest.raises(errors.UserError) as caught:
    weights_lib.load_params(weights, other)
  message = str(caught.value)
  assert 'token_embedder/embedding: expected (80, 16), found (64, 16)' in message
  assert 'decoder/layers_2/mlp/wi_1/kernel: expected (16, 20), not found' in message
  assert str(tmp_path / 'a') in message and 'VOCAB_SIZE' in message


def test_unexpected_parameters_are_named(tmp_path):
  write(tmp_path / 'a', 'hf', CONFIGS['1.1'])
  config = json.loads((tmp_path / 'a/config.json').read_text())
  config['num_layers'] = 2
  (tmp_path / 'a/config.json').write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match=r'encoder\.block\.2.*: not a parameter of'):
    formats.open_weights(str(tmp_path / 'a'))


def test_folders_that_hold_nothing_to_read(tmp_path):
  with pytest.raises(errors.UserError, match='does not exist'):
    formats.open_weights(str(tmp_path / 'nowhere'))
  (tmp_path / 'notes.txt').write_text('x')
  with pytest.raises(errors.UserError, match=r'holds notes\.txt.*T5X.*Hugging Face'):
    formats.open_weights(str(tmp_path))


def test_a_folder_with_weights_of_tensorflow_alone_says_what_to_do(tmp_path):
  write(tmp_path / 'a', 'hf', CONFIGS['1.1'])
  (tmp_path / 'a/model.safetensors').rename(tmp_path / 'a/tf_model.h5')
  with pytest.raises(errors.UserError, match=r'tf_model\.h5.*from_tf=True.*save_pretrained'):
    formats.open_weights(str(tmp_path / 'a'))
  (tmp_path / 'a/tf_model.h5').unlink()
  with pytest.raises(errors.UserError, match='has no model.safetensors .it has README.md, config'):
    formats.open_weights(str(tmp_path / 'a'))


@pytest.mark.parametrize('to', ['hf', 'native', 't5x'])
def test_a_failure_leaves_nothing(tmp_path, to):
  weights = CountedWeights(CONFIGS['1.1'])
  kept = weights.read

  def read(name):
    if len(weights.reads) == 20:
      raise OSError('No space left on device')
    return kept(name)
  weights.read = read
  with pytest.raises(OSError, match='No space left'):
    convert_main.convert(weights, str(tmp_path / 'a'), to,
                         info=student_info.StudentInfo(model=weights.config))
  assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_left_alone(tmp_path):
  write(tmp_path / 'a', 'hf', CONFIGS['1.1'])
  with pytest.raises(errors.UserError, match=r'exists: give a new folder'):
    write(tmp_path / 'a', 'native', CONFIGS['1.1'])


def test_each_tensor_is_read_once(tmp_path):
  for to in ('hf', 'native', 't5x'):
    weights = write(tmp_path / to, to, CONFIGS['1.1'])
    assert sorted(weights.reads) == sorted(weights.specs)


def test_a_scanned_tree_in_memory_is_written_unrolled(tmp_path):
  unrolled = CountedWeights(CONFIGS['1.1'])
  tree = traverse_util.unflatten_dict(unrolled.arrays, sep='/')
  scanned = weights_lib.ArrayWeights(
      models.stack_layers(tree), dataclasses.replace(CONFIGS['1.1'], scan_layers=True))
  assert_same({name: scanned.read(name) for name in scanned.specs}, unrolled.arrays)


MEASURE = '''
import sys, threading, time
from dss_jax.convert import __main__ as main
from dss_jax.convert import formats

def anonymous_bytes():
  with open('/proc/self/status') as f:
    return next(int(line.split()[1]) * 1024 for line in f if line.startswith('RssAnon'))

formats.open_weights(sys.argv[1])  # Imports and caches are not what is measured.
base, peak, done = anonymous_bytes(), 0, False

def watch():
  global peak
  while not done:
    peak = max(peak, anonymous_bytes())
    time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
main.main([f'--input={sys.argv[1]}', f'--output={sys.argv[2]}', *sys.argv[3:]])
done = True
thread.join()
print('peak', peak - base)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/self/status')
def test_peak_memory_is_that_of_some_tensors_not_of_the_model(tmp_path, capsys):
  """At most 1.2 times the largest tensor plus the model in its target dtype, at v1.1 small."""
  config = models.t5_config('1.1', 'small', num_encoder_layers=16, num_decoder_layers=16)
  weights = CountedWeights(config)
  convert_main.convert(weights, str(tmp_path / 'hf'), 'hf',
                       info=student_info.StudentInfo(model=config))
  model = sum(x.nbytes for x in weights.arrays.values())
  largest = max(x.nbytes for x in weights.arrays.values())
  for source, to, *flags in (
      ('hf', 'native'), ('native', 'hf'), ('hf', 't5x'), ('t5x', 'native', '--scan_layers'),
      ('native', 't5x'), ('hf', 'native', '--dtype=bfloat16')):
    output = tmp_path / 'out'
    printed = subprocess.run(
        [sys.executable, '-c', MEASURE, str(tmp_path / source), str(output), f'--to={to}', *flags],
        check=True, capture_output=True, text=True, timeout=600).stdout
    peak = int(printed.split('peak ')[1])
    bound = 1.2 * largest + model * (0.5 if flags == ['--dtype=bfloat16'] else 1)
    with capsys.disabled():
      print(f'\n{source} -> {to} {" ".join(flags)}: peak {peak / 2**20:.0f} MiB; model '
            f'{model / 2**20:.0f}, largest tensor {largest / 2**20:.0f}; '
            f'{peak / bound:.0%} of the bound', end='')
    assert peak <= bound
    if not flags and not (tmp_path / to).exists():
      output.rename(tmp_path / to)
    else:
      subprocess.run(['rm', '-r', str(output)], check=True)


TRAINED = {
    'task': 'dss_cqa', 'step': 200, 'settings': {'steps': 200, 'alpha': 0.5},
    'records': {'cqa-train': 8766}, 'versions': {'jax': '0.10.2'},
    'validation': {'accuracy': 71.25}, 'test': {'accuracy': 70.5}}


def test_model_card_tells_task_data_metrics_and_training():
  info = student_info.StudentInfo(
      model=CONFIGS['1.1'], label_prefix='[label] ', rationale_prefix='[rationale] ',
      labels=('yes', 'no'), training=TRAINED)
  card = model_card.text(info, 'transformers')
  for part in ('# dss_cqa', '`[label] `', '`[rationale] `', '`yes`', 'cqa-train (8,766 records)',
               '| test | accuracy | 70.5 |', '| alpha | 0.5 |', 'from_pretrained'):
    assert part in card
  assert 'load' in model_card.text(info, 'jax')


def test_model_card_tells_how_the_vocabulary_writes_labels(toy_vocabulary):
  info = student_info.StudentInfo(model=CONFIGS['1.1'], labels=('left  lane', 'right'))
  with open(toy_vocabulary, 'rb') as f:
    card = model_card.text(info, 'transformers', f.read())
  assert '| `left  lane` | `left lane` |' in card and '| `right` |' not in card
  assert 'otherwise' not in model_card.text(info, 'transformers')


def test_a_strangers_folder_inside_a_run_is_not_that_run(tmp_path):
  """Only a run's own steps take its student.json and vocabulary."""
  write(tmp_path / 'run', 'native', CONFIGS['1.1'], vocabulary=b'the run')
  info = student_info.find(str(tmp_path / 'run' / 'params'))
  assert info and formats.find_vocabulary(str(tmp_path / 'run' / 'params'), info) == b'the run'
  write(tmp_path / 'run' / 'downloaded', 'hf', CONFIGS['1.0'])
  (tmp_path / 'run/downloaded/student.json').unlink()
  inside = str(tmp_path / 'run' / 'downloaded')
  assert student_info.find(inside) is None
  assert formats.find_vocabulary(inside, student_info.StudentInfo(CONFIGS['1.0'])) is None


def test_student_json_comes_back():
  info = student_info.StudentInfo(
      model=CONFIGS['1.0'], vocabulary='bytes', labels=('a', 'b'), training=TRAINED)
  assert student_info.from_json(info.as_json(), 'x') == info
  with pytest.raises(errors.UserError, match='not a student.json'):
    student_info.from_json('{"model": {}, "labels": [], "colour": 1}', 'x')
