"""Our network against `transformers` (PyTorch): same weights through convert, same logits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import make_batch, save_random_model, their_logits

from dss_jax import errors, models
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats
from dss_jax.convert import weights as weights_lib

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)

TINY = {'vocab_size': 96, 'emb_dim': 32, 'num_heads': 4, 'head_dim': 6, 'mlp_dim': 48,
        'num_encoder_layers': 3, 'num_decoder_layers': 2}
REAL = [('1.0', 'small'), ('1.1', 'small'), ('1.1', 'base')]


def our_logits(folder, source, target, scanned=False):
  weights = formats.open_weights(str(folder))
  config = dataclasses.replace(weights.config, scan_layers=scanned)
  params = weights_lib.load_params(weights, config)
  decoder_inputs = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
  return np.asarray(jax.jit(models.Transformer(config).apply)(
      {'params': params}, jnp.asarray(source), jnp.asarray(decoder_inputs)))


def read_bytes(folder):
  """{tensor name: (dtype, shape, bytes)} of all safetensors files of a folder."""
  from safetensors.torch import load_file
  found = {}
  for file in sorted(folder.glob('*.safetensors')):
    for name, tensor in load_file(file).items():
      found[name] = (tensor.dtype, tuple(tensor.shape),
                     tensor.contiguous().view(torch.uint8).numpy().tobytes())
  return found


def run(*flags):
  assert convert_main.main(list(flags)) == 0


@pytest.mark.parametrize(('version', 'size'), [
    *(pytest.param(*one, marks=pytest.mark.slow) for one in REAL), ('1.0', 'tiny'),
    ('1.1', 'tiny')])
def test_logits_and_round_trip(version, size, tmp_path, capsys):
  """float32 logits within 1e-4 through both directions; HF -> native -> HF to the last bit."""
  config = models.t5_config(version, 'small', **TINY) if size == 'tiny' else (
      models.t5_config(version, size))
  hf, native, back = (tmp_path / name for name in ('hf', 'native', 'back'))
  theirs = save_random_model(hf, config)
  run(f'--input={hf}', f'--output={native}', '--to=native', '--scan_layers')
  run(f'--input={native}', f'--output={back}', '--to=hf')
  source, target = make_batch(config.vocab_size)
  expected = their_logits(theirs, source, target)
  difference = np.abs(our_logits(hf, source, target) - expected).max()
  scanned = np.abs(our_logits(native, source, target, scanned=True) - expected).max()
  reloaded = transformers.T5ForConditionalGeneration.from_pretrained(back).eval()
  back_difference = np.abs(their_logits(reloaded, source, target) - expected).max()
  with capsys.disabled():
    print(f'\nT5 v{version} {size}: max |logit difference| {difference:.1e} unrolled, '
          f'{scanned:.1e} scanned, {back_difference:.1e} reloaded; logits in '
          f'[{expected.min():.2f}, {expected.max():.2f}], std {expected.std():.2f}')
  assert max(difference, scanned) <= 1e-4
  assert back_difference == 0
  assert read_bytes(hf) == read_bytes(back)


def test_the_untied_head_stays_untied(tmp_path):
  config = models.t5_config('1.1', 'small', **TINY)
  save_random_model(tmp_path / 'hf', config)
  run(f'--input={tmp_path / "hf"}', f'--output={tmp_path / "out"}', '--to=hf')
  loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'out')
  assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)


def test_an_encoder_with_an_embedding_of_its_own_is_refused(tmp_path):
  """transformers 5 makes one if the flag is set before the model is built."""
  config = transformers.T5Config(vocab_size=96, d_model=32, d_kv=6, d_ff=48, num_layers=1,
                                 num_heads=4, feed_forward_proj='gated-gelu')
  config.tie_word_embeddings = False
  transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
  with pytest.raises(errors.UserError, match='encoder.embed_tokens.weight differs from shared'):
    formats.open_weights(str(tmp_path))


def test_sharded_folders(tmp_path):
  """Theirs in shards reads as ours; ours in shards loads in transformers."""
  from dss_jax.convert import hugging_face
  config = models.t5_config('1.1', 'small', **TINY)
  theirs = save_random_model(tmp_path / 'hf', config, max_shard_size='20KB')
  assert len(list((tmp_path / 'hf').glob('*.safetensors'))) > 2
  source, target = make_batch(config.vocab_size)
  expected = their_logits(theirs, source, target)
  np.testing.assert_allclose(our_logits(tmp_path / 'hf', source, target), expected, atol=1e-4)
  out = tmp_path / 'out'
  out.mkdir()
  weights = formats.open_weights(str(tmp_path / 'hf'))
  hugging_face.write_hugging_face(str(out), weights, max_shard_bytes=20_000)
  assert len(list(out.glob('*.safetensors'))) > 2
  reloaded = transformers.T5ForConditionalGeneration.from_pretrained(out).eval()
  assert np.array_equal(their_logits(reloaded, source, target), expected)


def test_bfloat16_is_theirs_to_the_bit(tmp_path):
  config = models.t5_config('1.1', 'small', **TINY)
  theirs = save_random_model(tmp_path / 'hf', config)
  run(f'--input={tmp_path / "hf"}', f'--output={tmp_path / "out"}', '--to=hf', '--dtype=bfloat16')
  theirs.to(torch.bfloat16).save_pretrained(tmp_path / 'bf16')
  assert read_bytes(tmp_path / 'out') == read_bytes(tmp_path / 'bf16')


def make_model(family='T5', untied=False, **fields):
  """A random model of transformers with an odd config."""
  torch.manual_seed(0)
  config = getattr(transformers, f'{family}Config')(**{
      'vocab_size': 96, 'd_model': 32, 'd_kv': 6, 'd_ff': 48, 'num_layers': 2, 'num_heads': 4,
      'decoder_start_token_id': 0, **fields})
  model = getattr(transformers, f'{family}ForConditionalGeneration')(config).eval()
  if untied:
    model.lm_head.weight = torch.nn.Parameter(torch.randn(96, 32) * 32 ** -0.5)
  return model


@pytest.mark.parametrize('fields', [
    {'feed_forward_proj': 'gated-silu', 'tie_word_embeddings': False, 'untied': True},
    {'feed_forward_proj': 'gated-relu', 'relative_attention_num_buckets': 16},
    {'feed_forward_proj': 'silu', 'relative_attention_max_distance': 20},
    {'feed_forward_proj': 'gelu_new', 'num_decoder_layers': 1},
    {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
    {'family': 'MT5'}, {'family': 'MT5', 'untied': True},
], ids=lambda fields: '-'.join(str(value) for value in fields.values()))
def test_unusual_models_are_read_right(fields, tmp_path):
  """Also a tied head that is not scaled, which is what transformers 5 makes of every mT5."""
  theirs = make_model(**fields)
  theirs.save_pretrained(tmp_path / 'hf')
  source, target = make_batch(96)
  expected = their_logits(theirs, source, target)
  reloaded = type(theirs).from_pretrained(tmp_path / 'hf').eval()
  assert np.array_equal(their_logits(reloaded, source, target), expected)
  np.testing.assert_allclose(our_logits(tmp_path / 'hf', source, target), expected, atol=1e-4)
  run(f'--input={tmp_path / "hf"}', f'--output={tmp_path / "out"}', '--to=hf')
  back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'out').eval()
  np.testing.assert_allclose(their_logits(back, source, target), expected, atol=1e-5)


@pytest.mark.parametrize(('version', 'scale'), [('4.57.1', 32 ** -0.5), ('5.24.0', 1.0)])
def test_a_tied_mt5_is_scaled_as_the_transformers_that_saved_it(version, scale, tmp_path):
  theirs = make_model('MT5')
  theirs.save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  source, target = make_batch(96)
  (tmp_path / 'config.json').write_text(json.dumps({**config, 'transformers_version': version}))
  expected = their_logits(theirs, source, target) * scale
  np.testing.assert_allclose(our_logits(tmp_path, source, target), expected, atol=1e-4)


@pytest.mark.parametrize('kept', ['encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'])
def test_the_embedding_under_another_of_its_names(kept, tmp_path):
  """As in Madlad's folders."""
  from safetensors.torch import load_file, save_file
  make_model(untied=True, feed_forward_proj='gated-gelu', tie_word_embeddings=False
             ).save_pretrained(tmp_path)
  tensors = load_file(tmp_path / 'model.safetensors')
  tensors[kept] = tensors.pop('shared.weight')
  save_file(tensors, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
  theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
  source, target = make_batch(96)
  np.testing.assert_allclose(our_logits(tmp_path, source, target),
                             their_logits(theirs, source, target), atol=1e-4)
