"""Every public family against `transformers`: a small random model under its published config.

What is printed is the table of the report: largest difference of logits, equal greedy answers,
round trips, and what a trained student's export differs by.
"""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
import sentencepiece
from reference import make_batch, their_logits

import dss_jax
from dss_jax import decode, families, records
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats
from dss_jax.convert import weights as weights_lib
from dss_jax.train import __main__ as train_main

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)

# Of the public config.json, what changes the network; sizes are made small below.
T5 = {
    'architectures': ['T5ForConditionalGeneration'], 'model_type': 't5',
    'decoder_start_token_id': 0, 'dropout_rate': 0.1, 'eos_token_id': 1,
    'initializer_factor': 1.0, 'is_encoder_decoder': True,
    'layer_norm_epsilon': 1e-06, 'output_past': True, 'pad_token_id': 0, 'use_cache': True,
    'relative_attention_num_buckets': 32, 'transformers_version': '4.23.1', 'vocab_size': 384,
}
GATED = {**T5, 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}
SIZE = {'d_model': 32, 'd_kv': 6, 'd_ff': 48, 'num_heads': 4, 'num_layers': 3,
        'num_decoder_layers': 2}
ACTIVATION = {'dense_act_fn': 'gelu_new', 'is_gated_act': True,
              'relative_attention_max_distance': 128}
SHARED, COPIES = 'shared', ('encoder.embed_tokens', 'decoder.embed_tokens')
UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias'
# name: (config.json, names of the embedding in the file, other tensors that old files hold)
FAMILIES = {
    't5-v1.0': ({**T5, 'n_positions': 512}, (SHARED,), ()),
    't5-v1.0, old file': ({**T5, 'n_positions': 512, 'architectures': ['T5WithLMHeadModel']},
                          (SHARED, *COPIES), (UNUSED,)),
    't5-v1.1': (GATED, (SHARED,), ()),
    't5-v1.1, old file': (GATED, (SHARED, *COPIES), ()),
    't5-lm-adapt': ({**GATED, 'relative_attention_max_distance': 128}, (SHARED, *COPIES), ()),
    'flan-t5': ({**GATED, **ACTIVATION, 'n_positions': 512}, (SHARED, *COPIES), ()),
    't5-efficient': ({**T5, 'n_positions': 512, 'feed_forward_proj': 'relu', 'num_layers': 4,
                      'num_decoder_layers': 1, 'd_ff': 40}, (SHARED,), ()),
    'mt5': ({**GATED, 'architectures': ['MT5ForConditionalGeneration'], 'model_type': 'mt5',
             'tokenizer_class': 'T5Tokenizer'}, (SHARED, *COPIES), ()),
    'umt5': ({**GATED, **ACTIVATION, 'architectures': ['UMT5ForConditionalGeneration'],
              'model_type': 'umt5', 'scalable_attention': True, 'classifier_dropout': 0.0,
              'tokenizer_class': 'T5Tokenizer'}, (SHARED,), ()),
    'byt5': ({**GATED, 'gradient_checkpointing': False, 'tokenizer_class': 'ByT5Tokenizer'},
             (SHARED,), ()),
    'ul2': ({**GATED, 'feed_forward_proj': 'gated-silu', 'dense_act_fn': 'silu',
             'is_gated_act': True}, (SHARED,), ()),
    'flan-ul2': ({**GATED, 'feed_forward_proj': 'gated-silu', 'dense_act_fn': 'silu',
                  'is_gated_act': True, 'relative_attention_max_distance': 128}, (SHARED,), ()),
    'madlad400': ({**GATED, **ACTIVATION, 'eos_token_id': 2, 'pad_token_id': 1},
                  ('decoder.embed_tokens',), ()),
}


def save_public(folder, name):
  """A folder with random weights under the names of the public one; returns the config."""
  config, embeddings, others = FAMILIES[name]
  config = {**SIZE, **config}
  kind = {'mt5': 'MT5', 'umt5': 'UMT5'}.get(config['model_type'], 'T5')
  torch.manual_seed(len(name))
  fields = {k: v for k, v in config.items() if k not in ('architectures', 'model_type')}
  model = getattr(transformers, f'{kind}ForConditionalGeneration')(
      getattr(transformers, f'{kind}Config')(**fields))
  tensors = {k: v.clone() for k, v in model.state_dict().items()
             if 'embed_tokens' not in k and k not in ('shared.weight', 'lm_head.weight')}
  for one in tensors:
    if 'norm' in one:
      tensors[one] += 0.1 * torch.randn_like(tensors[one])
  # Small: a large table makes a tied network repeat its last token.
  table = 0.1 * torch.randn(config['vocab_size'], config['d_model'])
  tensors |= {f'{one}.weight': table.clone() for one in embeddings}
  if config.get('tie_word_embeddings') is False:
    tensors['lm_head.weight'] = 0.3 * torch.randn(*table.shape)
  else:
    tensors['decoder.final_layer_norm.weight'] *= 8  # Logits of the others' size.
  for one in others:
    tensors[f'{one}.weight'] = torch.randn(32, config['num_heads'])
  folder.mkdir()
  from safetensors.torch import save_file
  save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(config))
  return config


def madlads_vocabulary(toy_records):
  """A SentencePiece model with SentencePiece's own ids, as madlad's: unknown 0, 1, EOS 2."""
  text = [text for record in records.read_records(str(toy_records), 'toy', 'train')
          for text in (record.input, record.rationale, record.label)]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(text), model_writer=model, vocab_size=200, num_threads=1,
      hard_vocab_limit=False, character_coverage=1.0, minloglevel=2)
  return model.getvalue()


def load_theirs(folder):
  return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def greedy_of_theirs(model, source, length):
  with torch.no_grad():
    ids = model.generate(
        torch.from_numpy(source).long(), do_sample=False, num_beams=1, max_new_tokens=length,
        attention_mask=torch.from_numpy((source > 0).astype(np.int64)))[:, 1:].numpy()
  return np.pad(ids, ((0, 0), (0, length - ids.shape[1])))


def ours(folder, source, target, **changes):
  """Logits, greedy answers."""
  weights = formats.open_weights(str(folder))
  config = dataclasses.replace(weights.config, **changes)
  params = weights_lib.load_params(weights, config)
  model = families.network(config)
  logits = jax.jit(model.apply)(
      {'params': params}, source, np.pad(target, ((0, 0), (1, 0)))[:, :-1])
  return np.asarray(logits), np.asarray(jax.jit(
      lambda p, s: decode.greedy_decode(model, p, s, 12))(params, source))


def bits(folder):
  found = formats.open_weights(str(folder))
  return {name: (found.read(name).dtype, found.read(name).tobytes()) for name in found.specs}


def convert(source, target, to, *flags):
  assert convert_main.main([f'--input={source}', f'--output={target}', f'--to={to}', *flags]) == 0


@pytest.mark.parametrize('name', FAMILIES)
def test_reads_answers_and_comes_back(name, tmp_path, capsys):
  config = save_public(tmp_path / 'hf', name)
  theirs = load_theirs(tmp_path / 'hf')
  source, target = make_batch(config['vocab_size'], seed=3)
  expected, answers = their_logits(theirs, source, target), greedy_of_theirs(theirs, source, 12)
  difference = {}
  for kind, changes in (('unrolled', {}), ('scanned', {'scan_layers': True})):
    logits, greedy = ours(tmp_path / 'hf', source, target, **changes)
    difference[kind] = np.abs(logits - expected).max()
    assert np.array_equal(greedy, answers), kind
  assert len(np.unique(answers)) > 3
  # Round trips: through native and T5X, and back as a folder of transformers.
  own_biases = config['model_type'] == 'umt5'
  convert(tmp_path / 'hf', tmp_path / 'native', 'native', '--scan_layers')
  convert(tmp_path / 'native', tmp_path / 't5x', 't5x', *['--scan_layers'] * own_biases)
  convert(tmp_path / 't5x', tmp_path / 'back', 'hf')
  read = bits(tmp_path / 'hf')
  assert all(bits(tmp_path / one) == read for one in ('native', 't5x', 'back'))
  back = load_theirs(tmp_path / 'back')
  assert type(back).__name__.startswith('UMT5') == own_biases
  again = np.abs(their_logits(back, source, target) - expected).max()
  with capsys.disabled():
    print(f'\n| {name} | {difference["unrolled"]:.1e} | {difference["scanned"]:.1e} | equal '
          f'| to the bit (native, T5X, hf) | {again:.1e} | [{expected.min():.1f}, '
          f'{expected.max():.1f}] |', end='')
  assert max(difference.values()) <= 1e-4 and again == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in FAMILIES if 'old' not in name])
def test_a_student_is_trained_and_loaded_by_transformers(name, tmp_path, toy_records, capsys):
  """Begins from the public folder, a few steps; exported as it is, with equal logits."""
  save_public(tmp_path / 'hf', name)
  network = formats.open_weights(str(tmp_path / 'hf')).config
  settings = {
      'MODEL_DIR': tmp_path / 'run', 'RECORDS_DIR': toy_records, 'VOCABULARY': 'bytes',
      'VOCAB_SIZE': 384, 'TRAIN_STEPS': 4, 'BATCH_SIZE': 8, 'EVAL_PERIOD': 4,
      'CHECKPOINT_PERIOD': 4, 'WARMUP_STEPS': 0, 'EVAL_EXAMPLES': 4, 'LEARNING_RATE': 0.01,
      'OPTIMIZER': 'adafactor',
      'TASK_FEATURE_LENGTHS': "{'inputs': 128, 'targets': 64}",
      'INITIAL_CHECKPOINT_PATH': tmp_path / 'hf', 'SCAN_LAYERS': True,
      **{f'T5Config.{field}': getattr(network, field) for field in (
          'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
          'num_decoder_layers', 'mlp_activations', 'logits_via_embedding', 'relpos_per_layer',
          'eos_id', 'pad_id')}}
  if name == 'madlad400':
    settings['VOCABULARY'] = tmp_path / 'hf' / 'spiece.model'
    settings['VOCABULARY'].write_bytes(madlads_vocabulary(toy_records))
  assert train_main.main(['--gin_file=gin/native/dss.gin', '--gin.DATASET=toy',
                          *(f'--gin.{key}={value}' for key, value in settings.items())]) == 0
  convert(tmp_path / 'run', tmp_path / 'out', 'hf')
  student = dss_jax.load(str(tmp_path / 'run'))
  theirs = load_theirs(tmp_path / 'out')
  source, target = make_batch(384, seed=4)
  logits = np.asarray(student.model.apply(
      {'params': student.params}, source, np.pad(target, ((0, 0), (1, 0)))[:, :-1]))
  difference = np.abs(logits - their_logits(theirs, source, target)).max()
  before = np.abs(logits - their_logits(load_theirs(tmp_path / 'hf'), source, target)).max()
  with capsys.disabled():
    print(f'\n| {name} | trained: {before:.2f} from where it began | export {difference:.1e} |',
          end='')
  assert difference <= 1e-4 < 0.01 < before
  if name == 'madlad400':
    assert theirs.config.eos_token_id == 2 and student.encode('a')[-1] == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1)
    for text in ('a b', '  two  spaces ', '\u00fcber'):
      assert tokenizer(text).input_ids == student.encode(text)
  else:
    # AutoTokenizer of transformers 5 does not look which tokenizer an umT5's folder names.
    by_name = transformers.ByT5Tokenizer if name == 'umt5' else transformers.AutoTokenizer
    tokenizer = by_name.from_pretrained(tmp_path / 'out')
    assert tokenizer('a b').input_ids == student.encode('a b') == [100, 35, 101, 1]
