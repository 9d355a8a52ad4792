"""The table of families: a network of another kind is one row of it."""

import dataclasses
import json

import pytest
from t5x_weights import TINY, Given, assert_same_bits, read_all

from dss_jax import errors, families, models, sharding, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, model_card, t5


@dataclasses.dataclass(frozen=True)
class OtherConfig(models.Config):
  """T5's numbers under a name of its own."""

  relpos_num_buckets: int = 32
  relpos_max_distance: int = 128
  relpos_per_layer: bool = False
  start_id: int = 2


class Other(models.Transformer):
  config: OtherConfig


def make_row():
  def to_hugging_face(config):
    return {'model_type': 'other', 'architectures': ['OtherForConditionalGeneration'],
            'sizes': {name: getattr(config, name) for name in TINY}}

  def from_shapes(specs, **known):
    found = dataclasses.asdict(t5.from_shapes(specs, **known))
    return OtherConfig(**{**found, 'start_id': 2})

  return families.Family(
      model_types=('other',), config=OtherConfig, module=Other,
      names={name: theirs.replace('block', 'layers') for name, theirs in t5.NAMES.items()},
      copies=(), unused=(), from_hugging_face=lambda hf, where: OtherConfig(**hf['sizes']),
      to_hugging_face=to_hugging_face, from_shapes=from_shapes, unseen=(), in_t5x=False)


@pytest.fixture
def weights(monkeypatch):
  monkeypatch.setitem(families.FAMILIES, 'other', make_row())
  given = Given()
  given.config = OtherConfig(**TINY)
  return given


def convert(weights, folder, to):
  convert_main.convert(weights, str(folder), to,
                       info=student_info.StudentInfo(model=weights.config))


@pytest.mark.parametrize('to', ['hf', 'native'])
def test_another_family_is_one_row(weights, tmp_path, to):
  convert(weights, tmp_path / 'a', to)
  found = formats.open_weights(str(tmp_path / 'a'))
  assert found.config == weights.config and formats.find_info(str(tmp_path / 'a'), found)
  assert_same_bits(read_all(found), weights.values)
  info = student_info.find(str(tmp_path / 'a'))
  assert info.model == weights.config and json.loads(info.as_json())['model']['family'] == 'other'
  model = families.network(info.model)
  assert isinstance(model, Other)
  assert sharding.Sharding(sharding.make_mesh(sharding.MeshConfig())).params(model)
  if to == 'hf':
    config = json.loads((tmp_path / 'a/config.json').read_text())
    assert (config['model_type'], config['decoder_start_token_id']) == ('other', 2)
    assert families.of(info.model).their_name('encoder/layers_1/mlp/wo/kernel') == (
        'encoder.layers.1.layer.1.DenseReluDense.wo.weight')
    (tmp_path / 'a/config.json').write_text(json.dumps({**config, 'decoder_start_token_id': 0}))
    with pytest.raises(errors.UserError, match="decoder_start_token_id is 0; only .* 2"):
      formats.open_weights(str(tmp_path / 'a'))


def test_a_family_that_t5x_lacks_is_not_written_for_it(weights, tmp_path):
  with pytest.raises(errors.UserError, match="T5X has no network of the family 'other'"):
    convert(weights, tmp_path / 'a', 't5x')


def test_the_card_of_an_umt5_names_its_classes():
  for version, vocabulary, names in (
      ('1.1', 'bytes', ('AutoTokenizer', 'T5ForConditionalGeneration', 'A T5 v1.1')),
      ('umt5', 'bytes', ('ByT5Tokenizer', 'UMT5ForConditionalGeneration', 'A umT5')),
      ('umt5', 'vocabulary.model', ('AutoTokenizer', 'UMT5ForConditionalGeneration', 'A umT5'))):
    config = models.t5_config(version, 'small')
    text = model_card.text(student_info.StudentInfo(config, vocabulary), 'transformers')
    assert f'import {names[0]}, {names[1]}' in text and names[2] in text
    assert f'= {names[0]}.from_pretrained' in text and f'= {names[1]}.from_pretrained' in text


def test_t5_is_what_student_json_means_that_names_none(tmp_path):
  config = models.t5_config('1.1', 'base')
  text = student_info.StudentInfo(model=config).as_json()
  fields = json.loads(text)
  assert 'family' not in fields['model']
  for name in ('eos_id', 'start_id'):  # Fields of later versions are at their defaults.
    del fields['model'][name]
  assert student_info.from_json(json.dumps(fields), 'x').model == config
