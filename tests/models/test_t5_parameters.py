"""Names, shapes, axes, dtypes, initial values and counts of the parameters."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dss_jax import models

KV, OUT = ((16, 10), ('embed', 'joined_kv')), ((10, 16), ('joined_kv', 'embed'))
WI, WO = ((16, 24), ('embed', 'mlp')), ((24, 16), ('mlp', 'embed'))
NORM = ((16,), ('embed',))
ATTENTION = {'query': KV, 'key': KV, 'value': KV, 'out': OUT}
GATED = {'wi_0': WI, 'wi_1': WI, 'wo': WO}

# T5X's T5 example with the dimensions of conftest.TINY, but 2 and 3 layers deep.
OUTSIDE = {
  'token_embedder/embedding': ((48, 16), ('vocab', 'embed')),
  'encoder/relpos_bias/rel_embedding': ((2, 32), ('heads', 'relpos_buckets')),
  'encoder/encoder_norm/scale': NORM,
  'decoder/relpos_bias/rel_embedding': ((2, 32), ('heads', 'relpos_buckets')),
  'decoder/decoder_norm/scale': NORM,
}
HEAD = {'decoder/logits_dense/kernel': ((16, 48), ('embed', 'vocab'))}
ENCODER_LAYER = {
  'pre_attention_layer_norm/scale': NORM,
  **{f'attention/{k}/kernel': v for k, v in ATTENTION.items()},
  'pre_mlp_layer_norm/scale': NORM,
}
DECODER_LAYER = {
  'pre_self_attention_layer_norm/scale': NORM,
  **{f'self_attention/{k}/kernel': v for k, v in ATTENTION.items()},
  'pre_cross_attention_layer_norm/scale': NORM,
  **{f'encoder_decoder_attention/{k}/kernel': v for k, v in ATTENTION.items()},
  'pre_mlp_layer_norm/scale': NORM,
}


def expected_table(version, scanned):
  mlp = {'wi': WI, 'wo': WO} if version == '1.0' else GATED
  mlp = {f'mlp/{k}/kernel': v for k, v in mlp.items()}
  table = {**OUTSIDE, **({} if version == '1.0' else HEAD)}
  if version == 'umt5':  # The bias of each layer is in it.
    bias = table.pop('encoder/relpos_bias/rel_embedding')
    mlp |= {'relpos_bias/rel_embedding': table.pop('decoder/relpos_bias/rel_embedding')}
    assert mlp['relpos_bias/rel_embedding'] == bias
  for stack, depth, layer in (('encoder', 2, ENCODER_LAYER), ('decoder', 3, DECODER_LAYER)):
    for name, (shape, axes) in {**layer, **mlp}.items():
      if scanned:
        table[f'{stack}/layers/{name}'] = ((depth, *shape), ('layers', *axes))
      else:
        table |= {f'{stack}/layers_{i}/{name}': (shape, axes) for i in range(depth)}
  return table


def abstract_params(config):
  tokens = jnp.ones((1, 2), jnp.int32)
  init = models.Transformer(config).init
  return jax.eval_shape(init, jax.random.key(0), tokens, tokens)['params']


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('version', ['1.0', '1.1', 'umt5'])
def test_names_shapes_axes_and_dtypes(tiny, version, scanned):
  params = abstract_params(
    tiny(
      version, num_encoder_layers=2, num_decoder_layers=3, scan_layers=scanned, dtype='bfloat16'
    )
  )
  boxed = jax.tree_util.tree_leaves_with_path(
    params, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )
  found = {}
  for path, leaf in boxed:
    assert isinstance(leaf, nn.LogicallyPartitioned), path
    found['/'.join(k.key for k in path)] = (leaf.value.shape, tuple(leaf.names))
    assert leaf.value.dtype == jnp.float32, path
  assert found == expected_table(version, scanned)


@pytest.mark.parametrize('version, size, count', [
  ('1.1', 'small', 76_961_152), ('1.1', 'base', 247_577_856), ('1.1', 'large', 783_150_080),
  ('1.1', 'xl', 2_849_757_184), ('1.1', 'xxl', 11_135_332_352),
  ('1.0', 'small', 60_506_624), ('1.0', 'base', 222_903_552), ('1.0', 'large', 737_668_096),
  ('1.0', '3b', 2_851_598_336), ('1.0', '11b', 11_307_321_344),
])
def test_published_parameter_counts(version, size, count):
  params = abstract_params(models.t5_config(version, size, scan_layers=True))
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == count


def test_initial_values_have_t5x_scales(tiny):
  config = tiny(
    '1.1', emb_dim=64, num_heads=8, head_dim=16, mlp_dim=256, vocab_size=500,
    num_encoder_layers=1, num_decoder_layers=1, scan_layers=True,
  )
  tokens = jnp.ones((1, 2), jnp.int32)
  params = jax.jit(models.Transformer(config).init)(jax.random.key(0), tokens, tokens)['params']
  params = models.unstack_layers(nn.unbox(params))
  attention = params['decoder']['layers_0']['self_attention']
  mlp = params['decoder']['layers_0']['mlp']
  # Standard deviation of each kernel: fan-in, and the attention scale inside the query.
  for value, std in (
      (params['token_embedder']['embedding'], 1.0),
      (attention['query']['kernel'], 64**-0.5 * 16**-0.5),
      (attention['key']['kernel'], 64**-0.5),
      (attention['out']['kernel'], 128**-0.5),
      (mlp['wi_0']['kernel'], 64**-0.5),
      (mlp['wo']['kernel'], 256**-0.5),
      (params['decoder']['logits_dense']['kernel'], 64**-0.5),
      # fan_avg over [heads, buckets]: variance 1 / ((8 + 32) / 2).
      (params['encoder']['relpos_bias']['rel_embedding'], 20**-0.5),
  ):
    assert np.std(value) == pytest.approx(std, rel=0.12)
  assert np.all(np.asarray(params['encoder']['encoder_norm']['scale']) == 1.0)


def test_the_models_import_nothing_but_jax():
  code = (
    'import sys, dss_jax.models; '
    "print([m for m in ('tensorflow', 'seqio', 'gin', 't5x') if m in sys.modules])"
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
