"""The checkpoint says what its network and its vocabulary are; the gin files need not."""

import base64
import json
import shutil

import pytest
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2 as spm

from dss_jax import errors, models, student_info, vocab
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import tokenizer_json
from dss_jax.train import __main__ as train_main
from dss_jax.train import gin_config

NETWORKS = {
    'v1.1': models.T5Config(vocab_size=128, emb_dim=24, num_heads=3, head_dim=8, mlp_dim=40,
                            num_encoder_layers=2, num_decoder_layers=1),
    'v1.0': models.T5Config(vocab_size=128, emb_dim=24, num_heads=2, head_dim=8, mlp_dim=40,
                            num_encoder_layers=1, num_decoder_layers=2, mlp_activations=('relu',),
                            logits_via_embedding=True, relpos_max_distance=64),
    'umT5': models.T5Config(vocab_size=128, emb_dim=24, num_heads=2, head_dim=8, mlp_dim=40,
                            num_encoder_layers=2, num_decoder_layers=2, relpos_per_layer=True),
}


@pytest.fixture(scope='module')
def unigram(toy_records, tmp_path_factory):
  path = tmp_path_factory.mktemp('vocabulary') / 'toy.model'
  vocab.train(str(toy_records), str(path), vocab_size=90, model_type='unigram')
  return path


@pytest.fixture
def made(random_weights, unigram, tmp_path):
  """Makes a Hugging Face folder of a network, with its vocabulary."""
  def make(name='v1.1'):
    config = NETWORKS[name]
    info = student_info.StudentInfo(model=config, vocabulary=student_info.VOCABULARY_FILE)
    convert_main.convert(random_weights(config), str(tmp_path / 'hf'), 'hf', info=info,
                         vocabulary=unigram.read_bytes())
    (tmp_path / 'hf' / student_info.FILE).unlink()
    return tmp_path / 'hf'
  return make


def parse(*bindings, files=('gin/native/dss.gin',)):
  return gin_config.parse(files, ['DATASET=cqa', 'MODEL_DIR=run', *bindings])


@pytest.mark.parametrize('name', NETWORKS)
def test_the_checkpoint_says_its_size_and_vocabulary(made, name):
  folder = made(name)
  config = parse(f'INITIAL_CHECKPOINT_PATH={folder}', 'DTYPE=float32', 'SCAN_LAYERS=False')
  assert config.model == NETWORKS[name]
  assert config.data.vocabulary in map(str, folder.glob('*.model'))


@pytest.mark.parametrize('given, same, error', [
    ('T5Config.emb_dim=512', 'T5Config.emb_dim=24', r'T5Config.emb_dim=512, .*hf has 24: leave'),
    ('VOCAB_SIZE=256', 'VOCAB_SIZE=128', r'VOCAB_SIZE=256, .*hf has 128: leave'),
    ("T5Config.mlp_activations=['relu']", "T5Config.mlp_activations=['gelu', 'linear']",
     r"T5Config.mlp_activations=\['relu'\], .* has \('gelu', 'linear'\)")])
def test_a_size_that_is_not_the_checkpoints_is_refused_with_both(made, given, same, error):
  folder = made()
  with pytest.raises(errors.UserError, match=error):
    parse(f'INITIAL_CHECKPOINT_PATH={folder}', given)
  assert parse(f'INITIAL_CHECKPOINT_PATH={folder}', same).model.emb_dim == 24


def test_a_size_file_does_for_a_checkpoint_that_is_elsewhere():
  """As in a plan on a machine that has no weights."""
  with pytest.raises(errors.UserError, match='INITIAL_CHECKPOINT_PATH=/away does not exist'):
    parse('INITIAL_CHECKPOINT_PATH=/away')
  files = ['gin/native/dss.gin', 'gin/native/models/t5_1_0_small.gin']
  assert parse('INITIAL_CHECKPOINT_PATH=/away', files=files).model.logits_via_embedding


def test_from_scratch_the_vocabulary_says_how_many_rows(unigram):
  base = {**models.NAMED['t5_1_1_base'], 'vocab_size': 32128}
  assert {name: getattr(parse().model, name) for name in base} == base
  assert parse('VOCABULARY=bytes').model.vocab_size == 384  # as ByT5
  assert parse(f'VOCABULARY={unigram}').model.vocab_size == 128
  assert parse(f'VOCABULARY={unigram}', 'VOCAB_SIZE=90').model.vocab_size == 90
  assert parse('VOCABULARY=/away.model').model.vocab_size == 32128


def as_tokenizer_json(path, unigram):
  """What transformers 5 saves of a T5Tokenizer, with two of T5's sentinels."""
  proto = spm.ModelProto.FromString(unigram.read_bytes())
  special = [{'id': i, 'content': token, 'special': True} for i, token in enumerate(
      ('<pad>', '</s>', '<unk>'))]
  path.write_text(json.dumps({
      'added_tokens': special, 'pre_tokenizer': {
          'type': 'Metaspace', 'replacement': '\u2581', 'prepend_scheme': 'always', 'split': True},
      'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': base64.b64encode(
          proto.normalizer_spec.precompiled_charsmap).decode()},
      'model': {'type': 'Unigram', 'unk_id': 2, 'byte_fallback': False, 'vocab': [
          *([piece.piece, piece.score] for piece in proto.pieces),
          ['<extra_id_1>', 0.0], ['<extra_id_0>', 0.0]]}}))


@pytest.mark.parametrize('text', ['the first fact', ' two  spaces ', '\ufb01ne \u00bd', '',
                                  'a\tb\n', '<pad> </s> <unk> <extra_id_0>', '\u65e5\u672c b'])
def test_a_tokenizer_json_splits_as_the_model_that_it_was_made_from(unigram, tmp_path, text):
  as_tokenizer_json(tmp_path / 'tokenizer.json', unigram)
  model = tokenizer_json.to_sentencepiece(epath.Path(tmp_path / 'tokenizer.json'))
  found = sentencepiece.SentencePieceProcessor(model_proto=model)
  own = sentencepiece.SentencePieceProcessor(model_file=str(unigram))
  assert found.encode(text) == own.encode(text)
  assert found.decode(found.encode(text)) == own.decode(own.encode(text))
  assert [found.id_to_piece(i) for i in range(found.vocab_size())] == [
      own.id_to_piece(i) for i in range(own.vocab_size())]


@pytest.mark.parametrize('change, why', [
    ({'model': {'type': 'BPE'}}, 'its model is BPE'), ({'model': {}}, "'type'"),
    ({'normalizer': {'type': 'Lowercase'}}, 'its normalizer is Lowercase'),
    ({'pre_tokenizer': {'type': 'ByteLevel'}}, 'its pre-tokenizer is .*ByteLevel'),
    ({'pre_tokenizer': None}, 'its pre-tokenizer is none')])
def test_another_tokenizer_is_refused(unigram, tmp_path, change, why):
  path = epath.Path(tmp_path / 'tokenizer.json')
  as_tokenizer_json(path, unigram)
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(errors.UserError, match=f'no unigram tokenizer as T5 has .*{why}'):
    tokenizer_json.to_sentencepiece(path)


@pytest.mark.slow
def test_a_run_needs_the_name_alone_and_goes_on_without_its_checkpoint(
    made, unigram, toy_records, tmp_path, capsys):
  folder = made()
  as_tokenizer_json(folder / 'tokenizer.json', unigram)
  (folder / 'spiece.model').unlink()
  command = ['--gin_file=gin/native/dss.gin', '--gin_file=gin/recipes/unpacked.gin', *(
      f'--gin.{binding}' for binding in (
          'DATASET=asdiv', 'MIXTURE_OR_TASK_NAME=dss_toy', f'RECORDS_DIR={toy_records}',
          f'MODEL_DIR={tmp_path / "run"}', f'INITIAL_CHECKPOINT_PATH={folder}', 'DTYPE=float32',
          "TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 64}", 'BATCH_SIZE=8', 'EVAL_PERIOD=2',
          'CHECKPOINT_PERIOD=2', 'SCHEDULE=constant'))]
  assert train_main.main([*command, '--gin.TRAIN_STEPS=2']) == 0
  assert (tmp_path / 'run' / 'vocabulary.model').exists()
  shutil.rmtree(folder)
  assert train_main.main([*command, '--gin.TRAIN_STEPS=4']) == 0
  assert 'done: 4 steps' in capsys.readouterr().out
