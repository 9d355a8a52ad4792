"""The first step of the released PyTorch code: same weights and batch, same losses."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from dss_jax import models

_SHARED = Path(__file__).parents[2] / '..' / 'shared' / 'data'
GOLDEN = Path(os.environ.get('DSS_TEST_DATA', _SHARED)).parent / 'golden'
_ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}


def read_config(path, **overrides):
  hf = json.loads(path.read_text())
  assert hf['feed_forward_proj'] == 'gated-gelu' and not hf['tie_word_embeddings']
  return models.t5_config(
    '1.1', vocab_size=hf['vocab_size'], emb_dim=hf['d_model'], num_heads=hf['num_heads'],
    head_dim=hf['d_kv'], num_encoder_layers=hf['num_layers'],
    num_decoder_layers=hf['num_decoder_layers'], mlp_dim=hf['d_ff'],
    dropout_rate=hf['dropout_rate'], relpos_num_buckets=hf['relative_attention_num_buckets'],
    relpos_max_distance=hf['relative_attention_max_distance'], **overrides,
  )


def from_hugging_face(weights, config):
  """Hugging Face names -> ours, unrolled. PyTorch keeps a kernel as [out, in]."""
  unused = dict(weights)

  def take(name):
    return unused.pop(f'{name}.weight')

  def attention(name):
    return {ours: {'kernel': take(f'{name}.{hf}').T} for ours, hf in _ATTENTION.items()}

  def stack(side, depth, blocks):
    """blocks: (our norm, our attention, its name at Hugging Face) in the order of the layer."""
    relpos = take(f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias').T
    tree = {
      'relpos_bias': {'rel_embedding': relpos},
      f'{side}_norm': {'scale': take(f'{side}.final_layer_norm')},
    }
    for i in range(depth):
      layer = {}
      for j, (norm, ours, hf) in enumerate(blocks):
        layer[norm] = {'scale': take(f'{side}.block.{i}.layer.{j}.layer_norm')}
        layer[ours] = attention(f'{side}.block.{i}.layer.{j}.{hf}')
      name = f'{side}.block.{i}.layer.{len(blocks)}'
      layer['pre_mlp_layer_norm'] = {'scale': take(f'{name}.layer_norm')}
      layer['mlp'] = {
        k: {'kernel': take(f'{name}.DenseReluDense.{k}').T} for k in ('wi_0', 'wi_1', 'wo')
      }
      tree[f'layers_{i}'] = layer
    return tree

  encoder = stack('encoder', config.num_encoder_layers, [
    ('pre_attention_layer_norm', 'attention', 'SelfAttention'),
  ])
  decoder = stack('decoder', config.num_decoder_layers, [
    ('pre_self_attention_layer_norm', 'self_attention', 'SelfAttention'),
    ('pre_cross_attention_layer_norm', 'encoder_decoder_attention', 'EncDecAttention'),
  ])
  decoder['logits_dense'] = {'kernel': take('lm_head').T}
  params = {
    'token_embedder': {'embedding': take('shared')}, 'encoder': encoder, 'decoder': decoder,
  }
  assert not unused, sorted(unused)
  return params


def mean_cross_entropy(logits, targets):
  log_probs = jax.nn.log_softmax(logits)
  taken = np.take_along_axis(np.asarray(log_probs), targets[..., None], axis=-1)[..., 0]
  return -np.sum(taken * (targets > 0), dtype=np.float64) / np.sum(targets > 0)


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('task', ['label', 'rationale'])
def test_first_losses_are_those_of_the_released_code(task, scanned):
  if not GOLDEN.is_dir():
    pytest.skip(f'the golden trace is not here: {GOLDEN} (set DSS_TEST_DATA to shared/data)')
  safetensors = pytest.importorskip('safetensors.numpy')
  folder = GOLDEN / 't5-v1_1-tiny'
  config = read_config(folder / 'config.json', scan_layers=scanned)
  params = from_hugging_face(safetensors.load_file(folder / 'model.safetensors'), config)
  if scanned:
    params = models.stack_layers(params)
  with np.load(GOLDEN / 'dss_svamp_batches.npz') as batches:
    inputs = batches[f'001/{task}_inputs']
    targets = batches[f'001/{task}_targets']
  decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  logits = jax.jit(models.Transformer(config).apply)({'params': params}, inputs, decoder_inputs)
  step = json.loads((GOLDEN / 'dss_svamp_trace.json').read_text())['steps'][0]
  assert step['step'] == 1
  loss = mean_cross_entropy(logits, targets)
  print(f'{task} loss {loss:.8f}, released code {step[f"{task}_loss"]:.8f}')
  assert loss == pytest.approx(step[f'{task}_loss'], rel=1e-5)
