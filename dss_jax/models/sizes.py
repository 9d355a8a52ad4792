"""The published sizes of T5 v1.0, v1.1 (and so of Flan-T5 and mT5) and umT5."""

import difflib

from dss_jax.models.config import T5Config


def _dims(emb_dim, num_heads, head_dim, num_layers, mlp_dim):
  return {
    'emb_dim': emb_dim, 'num_heads': num_heads, 'head_dim': head_dim, 'mlp_dim': mlp_dim,
    'num_encoder_layers': num_layers, 'num_decoder_layers': num_layers,
  }


# Raffel et al. 2020, section 3.7 (v1.0), and the released checkpoints' configs (v1.1).
SIZES = {
  '1.0': {
    'small': _dims(512, 8, 64, 6, 2048),
    'base': _dims(768, 12, 64, 12, 3072),
    'large': _dims(1024, 16, 64, 24, 4096),
    '3b': _dims(1024, 32, 128, 24, 16384),
    '11b': _dims(1024, 128, 128, 24, 65536),
  },
  '1.1': {
    'small': _dims(512, 6, 64, 8, 1024),
    'base': _dims(768, 12, 64, 12, 2048),
    'large': _dims(1024, 16, 64, 24, 2816),
    'xl': _dims(2048, 32, 64, 24, 5120),
    'xxl': _dims(4096, 64, 64, 24, 10240),
  },
  'umt5': {
    'small': _dims(512, 6, 64, 8, 1024),
    'base': _dims(768, 12, 64, 12, 2048),
    'xl': _dims(2048, 32, 64, 24, 5120),
    'xxl': _dims(4096, 64, 64, 24, 10240),
  },
}
_FAMILY = {
  '1.0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  '1.1': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False},
  'umt5': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False,
           'relpos_per_layer': True},
}
# What `gin/native/models/NAME.gin` sets, by NAME: 't5_1_1_base', 'umt5_small', ...
NAMED = {
  f'{"" if "t5" in version else "t5_"}{version.replace(".", "_")}_{size}': {
    **dims, **_FAMILY[version]}
  for version, sizes in SIZES.items() for size, dims in sizes.items()
}
# Big enough to learn the toy set's rationales, small enough for seconds on a CPU.
NAMED['toy'] = {**_dims(32, 2, 16, 2, 64), **_FAMILY['1.1'],
                'num_decoder_layers': 1, 'mlp_activations': ('relu',)}
# One model has two names: 3 and 11 billion parameters in v1.0, xl and xxl in v1.1.
_TWINS = {'xl': '3b', 'xxl': '11b', '3b': 'xl', '11b': 'xxl'}


def t5_config(version: str = '1.1', size: str = 'small', **overrides) -> T5Config:
  """Returns the config of a published size, with fields replaced by `overrides`.

  t5_config('1.1', 'base', dtype='bfloat16').emb_dim == 768

  Args:
    version: '1.0', '1.1' or 'umt5'.
    size: a key of `SIZES[version]`; upper case is fine.
    **overrides: any field of T5Config.

  Raises:
    ValueError: for an unknown version, size (with the nearest one) or field.
  """
  if version not in SIZES:
    raise ValueError(f'version is {version!r}: use one of {sorted(SIZES)}.')
  table, key = SIZES[version], str(size).lower()
  if key not in table:
    nearest = _nearest(key, table)
    raise ValueError(
      f'T5 {version} has no size {size!r}: did you mean {nearest!r}? It has {list(table)}.'
    )
  unknown = sorted(set(overrides) - set(T5Config.__dataclass_fields__))
  if unknown:
    raise ValueError(
      f'T5Config has no field {unknown[0]!r}: use one of {list(T5Config.__dataclass_fields__)}.'
    )
  return T5Config(**{**{'vocab_size': 32128}, **_FAMILY[version], **table[key], **overrides})


def _nearest(key: str, table) -> str:
  if _TWINS.get(key) in table:
    return _TWINS[key]
  return difflib.get_close_matches(key, list(table), n=1, cutoff=0.0)[0]
