"""benchmarks/: what they count, what they feed, and that they run with JAX and NumPy alone."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import decode, errors, models, objective
from dss_jax.models import flops

# The scripts import each other by bare name.
sys.path.append(str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import batches as batches_lib
import generation
import machine
import ours
import timing
import token_arrays

REPO = pathlib.Path(__file__).parents[1]
TINY = {'vocab_size': 64, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 5, 'mlp_dim': 24,
        'num_encoder_layers': 2, 'num_decoder_layers': 3}
BLOCKED = """
import runpy, sys
for name in ('tensorflow', 'seqio', 'gin', 't5x', 'clu', 'torch', 'transformers'):
  sys.modules[name] = None  # As if it were not there.
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition('/')[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(autouse=True)
def quick_compilation():
  """These networks run for microseconds and compile for seconds."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


def run(script, *arguments, blocked=False, timeout=600):
  environment = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
  environment.pop('XLA_FLAGS', None)  # One device, as a user has.
  command = [sys.executable, *(['-c', BLOCKED] if blocked else []),
             str(REPO / 'benchmarks' / script), *arguments]
  return subprocess.run(command, text=True, capture_output=True, timeout=timeout, env=environment)


def table(output):
  """{setting: [examples/s, ...]} of the printed table; '(low-high)' left out."""
  lines = output.splitlines()
  first = next(i for i, line in enumerate(lines) if line.startswith('setting')) + 1
  rows = {}
  for line in lines[first:]:
    if line.startswith('median'):
      return rows
    name, *cells = line.split()
    rows[name] = [float(cell.rstrip('%').replace(',', '')) if cell != '-' else None
                  for cell in cells if not cell.startswith('(')]
  raise AssertionError(output)


def kernels(config):
  """Sizes of the kernels that an input token and that a target token go through."""
  tokens = jnp.ones((1, 2), jnp.int32)
  shapes = nn.unbox(jax.eval_shape(
      models.Transformer(config).init, jax.random.key(0), tokens, tokens))['params']
  sizes = {'input': 0, 'target': 0}
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    names = [part.key for part in path]
    if names[-1] == 'kernel':
      of_input = names[0] == 'encoder' or (
          'encoder_decoder_attention' in names and names[-2] in ('key', 'value'))
      sizes['input' if of_input else 'target'] += leaf.size
    if names[-1] == 'embedding' and config.logits_via_embedding:
      sizes['target'] += leaf.size
  return sizes['input'], sizes['target']


@pytest.mark.parametrize('config', [
    models.t5_config('1.1', 'base'), models.t5_config('1.0', 'large'),
    models.t5_config('1.1', 'small', **TINY)])
def test_the_formula_counts_the_kernels(config):
  assert flops.matmul_parameters(config) == kernels(config)


def test_the_formula_is_what_xla_counts():
  """XLA counts a causal score matrix in full, and everything elementwise on top: few percent."""
  config = models.t5_config('1.1', 'small', num_encoder_layers=2, num_decoder_layers=2)
  model, source, target = models.Transformer(config), 96, 64
  arguments = [jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (source, target)]
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *arguments))
  counted = jax.jit(model.apply).lower(params, *arguments).cost_analysis()['flops']
  causal = 4 * 384 * 2 * (target**2 - target * (target + 1) / 2)
  formula = flops.training_flops(config, [source], [target]) / 3 + causal
  assert formula == pytest.approx(counted, rel=0.03) and formula < counted


def test_token_arrays_come_back(tmp_path):
  arrays = token_arrays.synthetic(seed=1, n=9, vocab_size=40)
  path = str(tmp_path / 'tokens.npz')
  token_arrays.save(path, arrays)
  again = token_arrays.load(path, 40)
  for name, rows in arrays._asdict().items():
    assert [row.tolist() for row in rows] == [row.tolist() for row in getattr(again, name)]
  assert again.describe() == arrays.describe()
  with pytest.raises(errors.UserError, match='the model has 1 to 19'):
    token_arrays.load(path, 20)
  with pytest.raises(errors.UserError, match='make_tokens.py'):
    token_arrays.load(str(tmp_path / 'none.npz'), 40)


def test_synthetic_lengths_are_those_of_commonsense_qa():
  arrays = token_arrays.synthetic(seed=0, n=4096, vocab_size=1000)
  for name, mean, longest in (('label_inputs', 45.9, 100), ('rationale_inputs', 45.9, 100),
                              ('label_targets', 2.6, 12), ('rationale_targets', 28.9, 80)):
    rows = getattr(arrays, name)
    lengths = np.array([len(row) for row in rows])
    assert lengths.mean() == pytest.approx(mean, rel=0.03) and lengths.max() <= longest
    assert all(row[-1] == 1 and (row > 0).all() and (row < 1000).all() for row in rows)


def test_packed_and_padded_batches_give_the_same_loss():
  arrays = token_arrays.synthetic(seed=3, n=32, vocab_size=64)
  trainer = ours.Trainer(config := models.t5_config('1.1', 'small', **TINY))
  rows, = batches_lib.draw(arrays, 'dss', 12, 1, seed=0)
  lengths = batches_lib.row_lengths(config, rows)
  packed, = batches_lib.pack(rows, 1, lengths)
  padded = batches_lib.pad(rows)
  assert len(packed['encoder_input_tokens']) < len(rows.inputs)
  for name in ('encoder_input_tokens', 'decoder_target_tokens', 'decoder_objective'):
    values = (np.sort(batch[name][batch[name] > 0]) for batch in (packed, padded))
    np.testing.assert_array_equal(*values)
  assert trainer.loss(packed, 'dss') == pytest.approx(trainer.loss(padded, 'dss'), rel=1e-5)


def test_batches_of_several_steps_have_one_shape_and_every_example():
  arrays = token_arrays.synthetic(seed=0, n=40, vocab_size=64)
  steps = batches_lib.draw(arrays, 'dss', 16, 3, seed=0)  # 48 examples: some come twice.
  assert [rows.tasks for rows in steps] == [[objective.LABEL, objective.RATIONALE] * 16] * 3
  batches = batches_lib.pack(batches_lib.join(steps), 3, (256, 96))
  assert len({batch['encoder_input_tokens'].shape for batch in batches}) == 1
  assert sum(batch['decoder_segment_ids'].max(axis=1).sum() for batch in batches) == 96
  with pytest.raises(errors.UserError, match='--targets_length=8: the longest'):
    batches_lib.row_lengths(models.T5Config(), steps[0], targets_length=8)


def test_decoding_inputs_are_sorted_into_static_widths():
  arrays = token_arrays.synthetic(seed=0, n=64, vocab_size=64)
  batches = generation.input_batches(arrays, 16, 4, seed=0)
  widths = [batch.shape[1] for batch in batches]
  assert widths == sorted(widths) and not any(width % 32 for width in widths)
  assert sum((batch > 0).sum() for batch in batches) == sum(map(len, arrays.label_inputs))


def test_decoding_without_eos_makes_every_token():
  config = models.t5_config('1.1', 'small', **TINY)
  model = models.Transformer(config)
  tokens = jnp.arange(2, 14, dtype=jnp.int32).reshape(2, 6)

  @jax.jit
  def steps():
    params = nn.unbox(model.init(jax.random.key(0), tokens, tokens))['params']
    return decode.greedy_search(model, params, tokens, 9, eos_id=ours.NO_EOS).steps
  assert int(steps()) == 9


def test_times_are_taken_in_turns(capsys):
  calls = []
  sides = {name: lambda n=name: calls.append(n) for name in ('ours', 'theirs')}
  seconds = timing.in_turns(sides, 2)
  assert calls == ['ours', 'theirs'] * 2 and set(map(len, seconds.values())) == {2}
  assert timing.ratios([1.0, 2.0], [3.0, 3.0]) == [3.0, 1.5]
  assert str(timing.spread([3.0, 1.0, 1234.4])) == '3 (1-1,234)'


def test_threads_are_limited_to_the_cpus_there_are():
  with pytest.raises(errors.UserError, match='may use 1 to'):
    machine.limit_threads(1 + (os.cpu_count() or 1))


def test_a_wrong_setting_is_named():
  done = run('train_step.py', '--settings=dss-paked')
  assert done.returncode == 2 and "did you mean 'dss-packed'" in done.stderr


@pytest.mark.slow
def test_train_step_runs_without_tensorflow(tmp_path):
  done = run('train_step.py', '--tiny', '--batch_size=8', '--steps=2', '--repeats=2',
             '--microbatches=2', '--settings=dss-packed,standard-padded', '--threads=1',
             f'--json={tmp_path / "figures.json"}', blocked=True)
  assert done.returncode == 0, done.stderr
  rows = table(done.stdout)
  assert list(rows) == ['dss-packed', 'standard-padded']
  for examples, tokens, gflops, share, *_ in rows.values():
    assert tokens > examples > 0 and gflops > 0 and 0 < share < 100
  saved = json.loads((tmp_path / 'figures.json').read_text())
  assert [len(row['seconds']) for row in saved['rows']] == [2, 2]
  assert saved['machine']['threads'] == 1 and saved['ratios'] == {}


def test_decode_runs_without_tensorflow():
  done = run('decode.py', '--tiny', '--batch_size=8', '--steps=1', '--max_decode_length=6',
             '--repeats=2', blocked=True)
  assert done.returncode == 0, done.stderr
  examples, tokens, *_ = table(done.stdout)['dss_jax']
  assert tokens == pytest.approx(6 * examples, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(('script', 'names'), [
    ('train_step.py', ('dss-packed', 'standard-packed')), ('decode.py', ('dss_jax',))])
@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_against_transformers(script, names, version):
  for module in ('torch', 'transformers'):
    pytest.importorskip(module, reason="benchmark beside PyTorch: pip install -e '.[parity]'")
  settings = [f'--settings={",".join(names)}'] if script == 'train_step.py' else []
  done = run(script, '--tiny', '--batch_size=8', '--steps=1', '--repeats=2',
             f'--version={version}', '--peer=transformers', *settings)
  assert done.returncode == 0, done.stderr
  for name in names:
    line, = (line for line in done.stdout.splitlines()
             if line.startswith(f'{name} / transformers: '))
    assert len(line.partition('by repeat: ')[2].rstrip(')').split()) == 2


@pytest.mark.slow
def test_against_ctranslate2():
  for module in ('ctranslate2', 'torch', 'transformers'):
    pytest.importorskip(module, reason="benchmark beside it: pip install -e '.[ct2,parity]'")
  done = run('decode.py', '--tiny', '--batch_size=8', '--steps=1', '--repeats=1', '--beams=2',
             '--max_decode_length=5', '--peer=transformers', '--ctranslate2', '--threads=1')
  assert done.returncode == 0, done.stderr
  assert set(table(done.stdout)) == {
      'dss_jax', 'transformers', 'ctranslate2-float32', 'ctranslate2-int8'}
  assert 'dss_jax / ctranslate2-int8: ' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--ctranslate2']])
def test_servers_are_loaded_by_concurrent_clients(flags, tmp_path):
  if flags:
    for module in ('ctranslate2', 'torch', 'transformers'):
      pytest.importorskip(module, reason="benchmark beside it: pip install -e '.[ct2,parity]'")
  done = run('serve.py', '--tiny', '--clients', '1', '5', '--seconds=0.5', '--repeats=2',
             '--max_batch=4', f'--json={tmp_path}/figures.json', *flags)
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'figures.json').read_text())['rows']
  engines = ['dss_jax', 'ctranslate2-float32', 'ctranslate2-int8'][:3 if flags else 1]
  assert [(row['clients'], row['engine']) for row in rows] == [
      (clients, engine) for clients in (1, 5) for engine in engines]
  for row in rows:
    p50, p95, p99 = row['p50_p95_p99_ms']
    assert 0 < p50 <= p95 <= p99 and len(row['ratios']) == 2
  for engine in engines[:2]:  # int8 rounds.
    assert f'{engine}: 200 of 200 answers are those of dss_jax' in done.stdout


@pytest.mark.slow
def test_tokens_of_records_are_timed(toy_records, toy_vocabulary, tmp_path):
  path = tmp_path / 'toy.npz'
  done = run('make_tokens.py', '--task=dss_toy', f'--records_dir={toy_records}',
             f'--vocabulary={toy_vocabulary}', f'--output={path}')
  assert done.returncode == 0, done.stderr
  arrays = token_arrays.load(str(path), 128)
  assert len(arrays.label_inputs) == 96 and arrays.describe() in done.stdout
  done = run('decode.py', '--tiny', '--batch_size=4', '--steps=1', '--repeats=1',
             '--max_decode_length=4', f'--tokens={path}')
  assert done.returncode == 0 and str(path) in done.stdout, done.stderr


@pytest.mark.slow
def test_rematerialisation_saves_memory_in_the_benchmark(tmp_path):
  path = tmp_path / 'memory.json'
  done = run('memory.py', '--tiny', '--chip=cpu', '--batch_size=8', '--remat=none,full',
             '--loss_chunk=0', f'--json={path}')
  assert done.returncode == 0, done.stderr
  none, full = (row['total'] for row in json.loads(path.read_text())['steps'])
  assert 0 < full < 0.8 * none and 'REMAT=full, LOSS_CHUNK=0' in done.stdout
  done = run('memory.py', '--chip=v5e:4x4')
  assert done.returncode == 2 and 'give a single chip' in done.stderr


@pytest.mark.slow
def test_an_accelerator_is_measured_part_by_part(tmp_path):
  """On the CPU, at toy size, without PyTorch; what is there is not measured again."""
  path = tmp_path / 'figures.json'
  first = run('accelerator.py', '--tiny', '--parts=correct,attention', f'--json={path}',
              '--minutes=20', timeout=1500)
  assert first.returncode == 0, first.stderr
  before = json.loads(path.read_text())['parts']
  assert before['correct']['figures']['rows'][0]['loss'] < 1e-5  # float32 against float32
  assert {row['attention'] for row in before['attention']['figures']['rows']} >= {'xla', 'pallas'}
  again = run('accelerator.py', '--tiny', '--parts=correct,train-base,labels', f'--json={path}',
              '--minutes=20', blocked=True, timeout=1500)
  assert again.returncode == 0, again.stderr
  assert 'correct: done before' in again.stderr
  after = json.loads(path.read_text())['parts']
  assert after['correct'] == before['correct'] and set(after) == {
      'correct', 'attention', 'train-base', 'labels'}
  page = path.with_suffix('.md').read_text()
  for title in ('Against the CPU', 'Attention', 'Training', 'Decoding'):
    assert f'## {title}\n' in page
  assert 'Not run: train-large; greedy; beam.' in page and 'the figures say nothing' in page


def test_an_accelerators_parts_are_named_and_wait_for_time(tmp_path):
  wrong = run('accelerator.py', '--parts=trian-base')
  assert wrong.returncode == 2 and "did you mean 'train-base'" in wrong.stderr
  none = run('accelerator.py', '--minutes=0.1', f'--json={tmp_path / "none.json"}')
  assert none.returncode == 1 and 'correct: not begun' in none.stderr
