"""A wrong config fails when it is written, and says what to do."""

import jax.numpy as jnp
import pytest

from dss_jax import models


@pytest.mark.parametrize('field, value, fix', [
  ('vocab_size', 0, 'at least 1'),
  ('num_heads', 2.0, 'integer'),
  ('mlp_dim', True, 'integer'),
  ('mlp_activations', 'relu', 'non-empty sequence'),
  ('mlp_activations', (), 'non-empty sequence'),
  ('mlp_activations', ('gelu', 'tanh'), 'silu'),
  ('dropout_rate', 1.0, '[0, 1)'),
  ('dropout_rate', '0.1', '[0, 1)'),
  ('dtype', 'float16', 'bfloat16'),
  ('dtype', 'floaty', 'bfloat16'),
  ('dtype', None, 'bfloat16'),
  ('relpos_num_buckets', 30, 'multiple of 4'),
  ('relpos_max_distance', 16, 'above relpos_num_buckets / 2 = 16'),
  ('remat', 'all', "'dots'"),
  ('attention', 'flash', "'pallas'"),
  ('scan_layers', 'yes', 'True or False'),
])
def test_errors_name_the_field_the_value_and_the_fix(field, value, fix):
  with pytest.raises(ValueError) as error:
    models.T5Config(**{field: value})
  message = str(error.value)
  assert f'T5Config.{field} is {value!r}' in message
  assert fix in message


def test_dtypes_and_lists_are_normalised_and_the_config_is_hashable():
  from_text = models.T5Config(dtype='bfloat16', mlp_activations=['relu'])
  from_types = models.T5Config(dtype=jnp.bfloat16, mlp_activations=('relu',))
  assert from_text == from_types
  assert hash(from_text) == hash(from_types)
  assert from_text.dtype == jnp.bfloat16


@pytest.mark.parametrize('version, size, nearest', [
  ('1.1', 'bse', 'base'), ('1.1', '3b', 'xl'), ('1.0', 'XXL', '11b'), ('1.1', 'xlarge', 'large'),
])
def test_an_unknown_size_suggests_the_nearest(version, size, nearest):
  with pytest.raises(ValueError, match=f'did you mean {nearest!r}'):
    models.t5_config(version, size)


def test_sizes_take_overrides_and_reject_unknown_names():
  config = models.t5_config('1.1', 'Base', dropout_rate=0.0, vocab_size=100)
  assert (config.emb_dim, config.num_heads, config.mlp_dim) == (768, 12, 2048)
  assert (config.dropout_rate, config.vocab_size) == (0.0, 100)
  assert models.t5_config('1.0', 'small').logits_via_embedding
  assert models.t5_config('1.0', 'small').vocab_size == 32128
  with pytest.raises(ValueError, match="no field 'dropout'"):
    models.t5_config('1.1', 'base', dropout=0.0)
  with pytest.raises(ValueError, match="version is '2'"):
    models.t5_config('2', 'base')
