"""Where T5X keeps a T5's parameters: their names, axes, and places on disk.

Upstream t5x/examples/t5/network.py has our unrolled names and shapes, joined by '.' on disk.
Upstream t5x/examples/scalable_t5/network.py scans: one array per stack, layers along axis 1, heads
apart, and a position bias in every layer, as umT5 has; that of a T5, which its layers share, is
there in copies:

  ours                                       scalable_t5
  encoder/layers_{i}/*norm/scale             encoder/encoder/*norm/scale      [embed, layers]
  encoder/layers_{i}/attention/query/kernel  encoder/encoder/attention/query/kernel
    (key, value)                                             [embed, layers, heads, head_dim]
  encoder/layers_{i}/attention/out/kernel    encoder/encoder/attention/out/kernel
                                                             [heads, layers, head_dim, embed]
  encoder/layers_{i}/mlp/wi_0/kernel         encoder/encoder/mlp/wi_0/kernel  [embed, layers, mlp]
    (wi, wi_1)
  encoder/layers_{i}/mlp/wo/kernel           encoder/encoder/mlp/wo/kernel    [mlp, layers, embed]
  encoder/relpos_bias/rel_embedding          encoder/encoder/relpos_bias/rel_embedding
                                                             [heads, layers, buckets]

and the same for the decoder (self_attention, encoder_decoder_attention). Names outside the stacks
are the same. Without scan_layers, scalable_t5 has encoder/layers_{i}/relpos_bias/rel_embedding,
which is umT5's name here.
"""

import os
import re
from typing import Any

from dss_jax import models

LAYERS_AXIS = 1
RELPOS = 'relpos_bias/rel_embedding'
TARGET = 'target'  # The parameters in T5X's train state; the rest is the optimizer's.
LEGACY_FILE = 'checkpoint'  # The msgpack file of T5X's own format.
ORBAX_FOLDER = 'state'

_SCANNED = re.compile(r'(encoder|decoder)/\1/(.+)')
_OWN_RELPOS = re.compile(rf'(encoder|decoder)/layers_\d+/{RELPOS}')
_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.+)')
_AXES = {
    'query': ('embed', 'heads', 'kv'), 'key': ('embed', 'heads', 'kv'),
    'value': ('embed', 'heads', 'kv'), 'out': ('heads', 'kv', 'embed'),
    'wi': ('embed', 'mlp'), 'wi_0': ('embed', 'mlp'), 'wi_1': ('embed', 'mlp'),
    'wo': ('mlp', 'embed'), 'relpos_bias': ('heads', 'relpos_buckets'),
}


def axes(name: str) -> tuple[str, ...]:
  """Axes of a parameter inside a layer of scalable_t5, without that of the layers."""
  return ('embed',) if name.endswith('/scale') else _AXES[name.split('/')[-2]]


def axis_sizes(config: models.T5Config) -> dict[str, int]:
  return {'embed': config.emb_dim, 'heads': config.num_heads, 'kv': config.head_dim,
          'mlp': config.mlp_dim, 'relpos_buckets': config.relpos_num_buckets}


def to_scanned(name: str, config: models.Config) -> tuple[str, range] | None:
  """Our name -> scalable_t5's and the layers that it fills; None where the names are the same."""
  if match := _LAYER.fullmatch(name):
    side, index, rest = match[1], int(match[2]), match[3]
    return f'{side}/{side}/{rest}', range(index, index + 1)
  side = name.split('/')[0]
  if name == f'{side}/{RELPOS}':
    return f'{side}/{side}/{RELPOS}', range(num_layers(name, config))
  return None


def num_layers(name: str, config: models.Config) -> int:
  """Of the stack that a parameter is in."""
  in_encoder = name.startswith('encoder/')
  return config.num_encoder_layers if in_encoder else config.num_decoder_layers


def from_stored(name: str, shape: tuple[int, ...]) -> list[tuple[str, int | None]]:
  """A stored name -> each of ours that it holds, and the layer along LAYERS_AXIS if it is one."""
  if match := _SCANNED.fullmatch(name):
    side, rest = match.groups()
    return [(f'{side}/layers_{i}/{rest}', i) for i in range(shape[LAYERS_AXIS])]
  return [(name, None)]


def shared(name: str) -> str | None:
  """'encoder/layers_3/relpos_bias/rel_embedding' -> the name of a bias that the layers share."""
  match = _OWN_RELPOS.fullmatch(name)
  return f'{match[1]}/{RELPOS}' if match else None


def joined_heads(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """[embed, heads, head_dim] -> [embed, heads * head_dim]; the other way round for `out`."""
  if len(shape) != 3:
    return shape
  first, second, third = shape
  return (first * second, third) if name.endswith('/out/kernel') else (first, second * third)


def kvstore_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
  """A folder, local or gs://bucket/..., as TensorStore's key-value store."""
  text = os.fspath(path)
  if text.startswith('gs://'):
    bucket, _, key = text.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': f'{key.rstrip("/")}/' if key else ''}
  return {'driver': 'file', 'path': f'{os.path.abspath(text)}/'}


def zarr_spec(kvstore: dict[str, Any]) -> dict[str, Any]:
  return {'driver': 'zarr', 'kvstore': kvstore}
