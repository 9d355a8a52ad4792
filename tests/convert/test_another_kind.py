"""Checkpoints that look like ours and are not: read right, or refused by name."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
import sentencepiece
from t5x_weights import Given

import dss_jax
from dss_jax import errors, families, models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, hugging_face, own_vocabulary, safetensors_file, t5, t5x
from dss_jax.convert import weights as weights_lib
from dss_jax.teacher.ask import t5_client

GELU, SILU = ('gelu', 'linear'), ('silu', 'linear')


def edit(file, **changes):
  """Sets fields of a JSON file; None takes one out."""
  fields = {**(json.loads(file.read_text()) if file.exists() else {}), **changes}
  file.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def write(folder, to='hf', weights=None):
  """A folder as strangers have it: without student.json."""
  weights = weights or Given()
  convert_main.convert(weights, str(folder), to,
                       info=student_info.StudentInfo(model=weights.config))
  (folder / 'student.json').unlink()
  return folder


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  return write(tmp_path_factory.mktemp('kept') / 'hf')


@pytest.fixture
def hf(kept, tmp_path):
  return shutil.copytree(kept, tmp_path / 'hf')


def make_vocabulary(words='apple brick cloud red old new green blue', **options):
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(**{
      'sentence_iterator': iter([words] * 9), 'model_writer': file, 'vocab_size': 48,
      'model_type': 'unigram', 'hard_vocab_limit': False, 'pad_id': 0, 'eos_id': 1, 'unk_id': 2,
      'bos_id': -1, 'num_threads': 1, 'minloglevel': 2, **options})
  return file.getvalue()


# config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('changes', 'message'), [
    ({'eos_token_id': 2}, "config.json: eos_token_id is 2; only T5's 1"),
    ({'eos_token_id': [1, 5]}, r'eos_token_id is \[1, 5\]'),
    ({'pad_token_id': 1}, "pad_token_id is 1; only T5's 0"),
    ({'decoder_start_token_id': 5}, "decoder_start_token_id is 5; only T5's 0"),
    ({'forced_bos_token_id': 7}, 'forced_bos_token_id is 7'),
    ({'dense_act_fn': 'gelu'}, "feed_forward_proj is 'gated-gelu', dense_act_fn is 'gelu'"),
    ({'dense_act_fn': 'silu'}, "dense_act_fn is 'silu'.*contradict"),
    ({'is_gated_act': False}, 'is_gated_act is False.*contradict'),
    ({'model_type': 'longt5'}, r"'longt5' \(LongT5, .* which this project does not have; give"),
    ({'model_type': 'switch_transformers'}, r'\(Switch Transformers, a mixture of experts\)'),
    ({'model_type': 't5gemma'}, r"'t5gemma' \(T5Gemma, .*\(t5, mt5, umt5: .*Flan-T5, mT5, umT5"),
    ({'model_type': 't5gemma2'}, r"'t5gemma2' \(T5Gemma 2, "),
    ({'architectures': ['T5EncoderModel']}, "'T5EncoderModel', which does not .*encoder alone"),
    ({'architectures': ['T5ForTokenClassification']}, 'or another head'),
    ({'is_encoder_decoder': False}, 'is_encoder_decoder is False'),
    ({'quantization_config': {'bits': 8}}, 'quantization_config.*quantized'),
    ({'relative_attention_num_buckets': 30}, r'relpos_num_buckets is 30.*multiple of 4'),
    ({'d_model': 'wide'}, "d_model 'wide'"),
    ({'model_type': 'mt5', 'tie_word_embeddings': True}, 'transformers 4 scales its output'),
])
def test_a_config_of_another_kind_is_refused(hf, changes, message):
  edit(hf / 'config.json', **changes)
  with pytest.raises(errors.UserError, match=message):
    formats.open_weights(str(hf))


def test_ids_of_generation_config_count_too(hf):
  edit(hf / 'generation_config.json', eos_token_id=[1], decoder_start_token_id=None)
  formats.open_weights(str(hf))
  edit(hf / 'generation_config.json', eos_token_id=3)
  with pytest.raises(errors.UserError, match='generation_config.json: eos_token_id is 3'):
    formats.open_weights(str(hf))


@pytest.mark.parametrize('tied', [True, None])
def test_a_missing_head_is_the_embedding_only_where_it_was_left_out(hf, tied):
  """A model without a head, or one of transformers 4 that lost it, has none."""
  weights = Given()
  keep = {families.of(weights.config).their_name(name): x for name, x in weights.values.items()
          if 'logits' not in name}
  rewrite(hf / 'model.safetensors', keep)
  changes = {'tie_word_embeddings': True, 'scale_decoder_outputs': False} if tied else {}
  edit(hf / 'config.json', **changes)
  if tied:
    found = formats.open_weights(str(hf))
    assert np.array_equal(found.read('decoder/logits_dense/kernel'),
                          weights.values['token_embedder/embedding'].T)
    edit(hf / 'config.json', architectures=['T5Model'])
  with pytest.raises(errors.UserError, match='decoder/logits_dense/kernel.*not found'):
    formats.open_weights(str(hf))


# Files ----------------------------------------------------------------------------------------


def rewrite(file, arrays):
  """A safetensors file of our arrays under Hugging Face's names."""
  arrays = {name: x.T if x.ndim == 2 and name != 'shared.weight' else x
            for name, x in arrays.items()}
  specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
  safetensors_file.write(str(file), specs, arrays.__getitem__)


def write_shards(folder):
  hugging_face.write_hugging_face(str(folder), Given(), max_shard_bytes=20_000)
  return json.loads((folder / 'model.safetensors.index.json').read_text())['weight_map']


def test_an_index_of_files_that_are_gone_says_nothing(hf):
  for file in set(write_shards(hf).values()):
    (hf / file).unlink()
  assert formats.open_weights(str(hf)).read('encoder/encoder_norm/scale').shape == (16,)


def test_two_checkpoints_in_one_folder_are_refused(hf):
  write_shards(hf)
  with pytest.raises(errors.UserError, match='holds two checkpoints, model.safetensors and the'):
    formats.open_weights(str(hf))


def test_an_index_of_other_shards_is_refused(hf):
  weight_map = write_shards(hf)
  (hf / 'model.safetensors').unlink()
  formats.open_weights(str(hf))
  edit(hf / 'model.safetensors.index.json', weight_map={
      **weight_map, 'shared.weight': weight_map['decoder.final_layer_norm.weight']})
  with pytest.raises(errors.UserError, match='index.json is not of the files beside it.*shared'):
    formats.open_weights(str(hf))


def test_a_dtype_that_is_not_read_is_named(hf):
  data = (hf / 'model.safetensors').read_bytes()
  (hf / 'model.safetensors').write_bytes(data.replace(b'"F32"', b'"I8" ', 1))
  with pytest.raises(errors.UserError, match='a tensor of dtype I8, which is not read'):
    formats.open_weights(str(hf))


def test_an_adapter_is_not_left_out(hf):
  edit(hf / 'adapter_config.json', peft_type='LORA')
  (hf / 'model.safetensors').rename(hf / 'adapter_model.safetensors')
  for _ in range(2):
    with pytest.raises(errors.UserError, match='adapter_config.json: an adapter.*merge'):
      formats.open_weights(str(hf))
    (hf / 'config.json').unlink(missing_ok=True)  # As peft saves it.


# T5X, and what shapes do not tell -----------------------------------------------------------------


@pytest.mark.parametrize(('gin', 'where'), [
    ("network.T5Config.mlp_activations = ('silu', 'linear')", '.'),
    ("ACTS = ('swish', 'linear')\ndense.MlpBlock.activations = %ACTS", '.'),
    ("network.T5Config:\n  mlp_activations = \\\n    ('silu', 'linear')  # UL2", 'checkpoint_0'),
])
def test_t5x_reads_the_activation_in_config_gin(tmp_path, gin, where):
  folder = write(tmp_path / 'ul2', 't5x', Given(mlp_activations=SILU))
  (folder / where / 'config.gin').write_text(f'A.max_distance = 64\n{gin}\nEPS = 1e-6\n')
  for path in (folder, folder / 'checkpoint_0'):
    weights = formats.open_weights(str(path))
    assert formats.find_info(str(path), weights).model.mlp_activations == SILU
    assert weights.config.relpos_max_distance == 64


def test_a_gate_of_unknown_activation_is_refused(tmp_path):
  for version in ('1.0', '1.1'):
    folder = write(tmp_path / version, 't5x', Given(version))
    weights = formats.open_weights(str(folder))
    if version == '1.0':
      assert formats.find_info(str(folder), weights).model.mlp_activations == ('relu',)
  with pytest.raises(errors.UserError, match='GELU .* or SiLU .*config.gin'):
    formats.find_info(str(folder), weights)
  for gin, message in (("A.activations = @f\n", 'A.activations = @f is not understood'),
                       ("a.activations = ('relu',)\nb.activations = ('gelu',)", 'are both')):
    (folder / 'config.gin').write_text(gin)
    with pytest.raises(errors.UserError, match=message):
      formats.open_weights(str(folder))


def test_sizes_of_published_models_tell_the_activation():
  ul2 = models.T5Config(**t5._UL2)
  inferred = families.infer_config(weights_lib.expected_specs(ul2))
  assert inferred.mlp_activations == SILU and t5.is_published(inferred)
  base = models.t5_config('1.1', 'base')
  assert families.infer_config(weights_lib.expected_specs(base)) == base
  assert t5.is_published(base) and not t5.is_published(Given().config)


@pytest.mark.parametrize('to', ['native', 't5x', 'hf'])
def test_student_json_of_another_network_is_refused(tmp_path, to):
  weights = Given(mlp_activations=SILU)
  folder = write(tmp_path / to, to, weights)
  info = student_info.StudentInfo(model=weights.config)
  (folder / 'student.json').write_text(info.as_json())
  found = formats.open_weights(str(folder))
  assert formats.find_info(str(folder), found).model.mlp_activations == SILU
  with pytest.raises(errors.UserError, match=(
      r"mlp_activations=\('silu', 'linear'\), the network has \('gelu', 'linear'\)")):
    weights_lib.check_network(found, Given().config)
  with pytest.raises(errors.UserError, match='relpos_max_distance=128, the network has 99'):
    weights_lib.check_network(found, Given(relpos_max_distance=99, mlp_activations=SILU).config)
  if to == 'hf':
    edit(folder / 'config.json', relative_attention_max_distance=64)
    found = formats.open_weights(str(folder))
    with pytest.raises(errors.UserError, match='relpos_max_distance=64, the network has 128'):
      formats.find_info(str(folder), found)


# NaN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('to', ['hf', 'native', 't5x'])
@pytest.mark.parametrize(('value', 'kind'), [(np.nan, 'NaN'), (-np.inf, 'infinite')])
def test_a_tensor_without_numbers_is_named(tmp_path, to, value, kind):
  weights = Given()
  name = 'decoder/layers_1/mlp/wo/kernel'
  weights.values[name][3, 4:6] = value
  folder = write(tmp_path / 'a', to, weights)
  (folder / 'student.json').write_text(student_info.StudentInfo(weights.config).as_json())
  found = formats.open_weights(str(folder))
  stored = families.of(weights.config).their_name(name) if to == 'hf' else name
  message = rf'a.*: {stored} holds 2 values of 384 that are no numbers \({kind}\)'
  with pytest.raises(errors.UserError, match=message):
    weights_lib.load_params(found, found.config)
  with pytest.raises(errors.UserError, match=message):
    convert_main.main([f'--input={folder}', f'--output={tmp_path / "b"}', '--to=hf'])
  assert not (tmp_path / 'b').exists()


def test_large_numbers_are_numbers():
  weights = Given(dtype=np.float64)
  weights.values['encoder/encoder_norm/scale'][:] = 1e308  # Their sum is infinite.
  assert weights_lib.FiniteWeights(weights).read('encoder/encoder_norm/scale')[0] == 1e308


# Vocabularies ---------------------------------------------------------------------------------


@pytest.fixture
def student(hf):
  """(path, info, its spiece.model) of a folder with a vocabulary."""
  model = make_vocabulary()
  (hf / 'spiece.model').write_bytes(model)
  return str(hf), formats.find_info(str(hf), formats.open_weights(str(hf))), model


def check(student, model, **options):
  own = own_vocabulary.find(*student[:2])
  own_vocabulary.check_same(own, 'given.model', model, name='VOCABULARY', **options)


def test_another_vocabulary_is_refused_with_both_paths(student, tmp_path):
  path, info, model = student
  check(student, model)
  same = tmp_path / 'same.model'
  same.write_bytes(with_pieces(model, prefix='x'))  # Other bytes, the same pieces.
  assert same.read_bytes() != model
  assert formats.find_vocabulary(path, info, str(same)) == same.read_bytes()
  (tmp_path / 'other.model').write_bytes(make_vocabulary('ten green bottles hang on the wall'))
  with pytest.raises(errors.UserError, match=r'--vocabulary=.*other.model is another.*spiece.mode'):
    formats.find_vocabulary(path, info, str(tmp_path / 'other.model'))
  with pytest.raises(errors.UserError, match='--vocabulary=bytes is another.*spiece.model'):
    formats.find_vocabulary(path, info, 'bytes')
  with pytest.raises(errors.UserError, match='does not exist'):
    formats.find_vocabulary(path, info, str(tmp_path / 'nowhere'))


def test_two_vocabularies_in_one_folder_are_refused(student, tmp_path):
  (tmp_path / 'hf' / 'vocabulary.model').write_bytes(student[2])
  assert formats.find_vocabulary(*student[:2]) == student[2]
  (tmp_path / 'hf' / 'vocabulary.model').write_bytes(make_vocabulary('ten green bottles'))
  with pytest.raises(errors.UserError, match='two vocabularies, vocabulary.model and spiece.model'):
    formats.find_vocabulary(*student[:2])


def with_pieces(model, *texts, prefix='', count=None):
  """The model with more pieces at the end, or with the first `count` alone."""
  from sentencepiece import sentencepiece_model_pb2 as pb2
  proto = pb2.ModelProto.FromString(model)
  proto.trainer_spec.model_prefix = prefix
  del proto.pieces[count or len(proto.pieces):]
  for text in texts:
    proto.pieces.add(piece=text, score=-99, type=pb2.ModelProto.SentencePiece.USER_DEFINED)
  return proto.SerializeToString()


def test_pieces_may_follow_the_checkpoints_in_training(student):
  longer = with_pieces(student[2], '{')
  check(student, longer, longer=True)
  for model, options in ((longer, {}), (with_pieces(student[2], count=9), {'longer': True})):
    with pytest.raises(errors.UserError, match=r'it has \d+ pieces, there \d+'):
      check(student, model, **options)


@pytest.mark.parametrize('file', ['added_tokens.json', 'tokenizer_config.json', 'tokenizer.json'])
def test_added_tokens_are_not_left_out(student, tmp_path, file):
  path, info, model = student
  count = len(own_vocabulary.pieces(model, ''))
  tokens = {'<pad>': 0, '</s>': 1, '<extra_id_0>': 47}
  write_added(tmp_path / 'hf' / file, tokens)
  assert formats.find_vocabulary(path, info) == model
  write_added(tmp_path / 'hf' / file, {**tokens, '{': count})
  with pytest.raises(errors.UserError, match=rf"{file}: '{{' is id {count}, which .*spiece.model"):
    formats.find_vocabulary(path, info)
  with pytest.raises(errors.UserError, match=rf"'{{' is id {count}"):
    check(student, model, longer=True)
  longer = with_pieces(model, '{')
  (tmp_path / 'all.model').write_bytes(longer)
  assert formats.find_vocabulary(path, info, str(tmp_path / 'all.model')) == longer


@pytest.mark.parametrize('file', ['special_tokens_map.json', 'tokenizer_config.json'])
def test_another_eos_token_is_refused(student, tmp_path, file):
  path, info, model = student
  edit(tmp_path / 'hf' / file, eos_token={'content': '</s>'}, pad_token='<pad>', unk_token=None)
  assert formats.find_vocabulary(path, info) == model
  edit(tmp_path / 'hf' / file, eos_token='<end>')
  with pytest.raises(errors.UserError, match=f"{file}: '<end>' is id 1, which .*spiece.model"):
    formats.find_vocabulary(path, info)


def _convert(path, **options):
  flags = [f'--{name}={value}' for name, value in options.items()]
  return convert_main.main([f'--input={path}', f'--output={path}.out', '--to=native', *flags])


@pytest.mark.parametrize('reads', [dss_jax.load, _convert, t5_client.T5Endpoint])
def test_whatever_reads_a_checkpoint_refuses(student, tmp_path, reads):
  """Training: tests/train/test_initial.py. Export and predict read by `load`."""
  path = student[0]
  if reads is not t5_client.T5Endpoint:
    (tmp_path / 'other.model').write_bytes(make_vocabulary('ten green bottles'))
    with pytest.raises(errors.UserError, match='other.model is another'):
      reads(path, vocabulary=str(tmp_path / 'other.model'))
  write_added(tmp_path / 'hf' / 'added_tokens.json', {'{': 47})
  with pytest.raises(errors.UserError, match="added_tokens.json: '{' is id 47"):
    reads(path)
  edit(tmp_path / 'hf' / 'generation_config.json', eos_token_id=3)
  with pytest.raises(errors.UserError, match='eos_token_id is 3'):
    reads(path)
  folder = str(write(tmp_path / 'ul2', 't5x', Given(mlp_activations=SILU)))
  with pytest.raises(errors.UserError, match='put the config.gin of its training beside it'):
    reads(folder)


def write_added(file, tokens):
  rows = [{'id': i, 'content': token} for token, i in tokens.items()]
  edit(file, **{'added_tokens.json': tokens, 'tokenizer.json': {'added_tokens': rows},
                'tokenizer_config.json': {'added_tokens_decoder': {
                    str(row['id']): row for row in rows}}}[file.name])


@pytest.mark.parametrize('file', ['tokenizer_config.json', 'config.json'])
def test_a_byt5_folder_reads_bytes(hf, file):
  edit(hf / file, tokenizer_class='ByT5Tokenizer')
  info = formats.find_info(str(hf), formats.open_weights(str(hf)))
  assert info.vocabulary == 'bytes'


def test_without_a_vocabulary_the_size_is_looked_at(hf):
  model = make_vocabulary()
  own_vocabulary.check_rows('v', model, 48, name='VOCABULARY')
  own_vocabulary.check_rows('v', model, 32128, name='--vocabulary')
  for rows, options in ((16, {}), (32128, {'full': True})):
    with pytest.raises(errors.UserError, match=rf'VOCABULARY=v has \d+ pieces, .* {rows:,} rows'):
      own_vocabulary.check_rows('v', model, rows, name='VOCABULARY', **options)


def test_t5x_is_what_it_was(tmp_path):
  """student.json goes before config.gin."""
  folder = tmp_path / 'a'
  convert_main.convert(Given(), str(folder), 't5x',
                       info=student_info.StudentInfo(model=Given().config))
  (folder / 'config.gin').write_text("T5Config.mlp_activations = ('silu', 'linear')")
  assert t5x.T5XWeights(str(folder)).config.mlp_activations == GELU
