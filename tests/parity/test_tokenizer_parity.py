"""Folders that transformers makes its own tokenizer of: the ids are SentencePiece's."""

import dataclasses
import io

import pytest
import sentencepiece
from etils import epath

from dss_jax import models, records, student_info
from dss_jax.convert import tokenizer_files, tokenizer_json

WHY = "parity with PyTorch: pip install -e '.[parity]'"
transformers = pytest.importorskip('transformers', reason=WHY)

T5 = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
MADLAD = {'unk_id': 0, 'bos_id': 1, 'eos_id': 2}
SMALL = models.t5_config('1.1', 'small')
UMT5 = models.t5_config('umt5', 'small')
ODD = ['  two  spaces ', '\U0001f600 emoji', '\u65e5\u672c x', 'na\u00efve \ufb01ne \u00bd',
       'a\tb\nc', '', 'zzz~~', '\u00a0x\u3000y', '{"a": [1]}']


def train(texts, **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts), model_writer=model, vocab_size=400, num_threads=1,
      hard_vocab_limit=False, minloglevel=2, **options)
  return model.getvalue()


@pytest.mark.parametrize('config, options, file', [
    (SMALL, T5, 'spiece.model'),
    (SMALL, {**T5, 'byte_fallback': True}, 'tokenizer.json'),  # as mT5's
    (UMT5, T5, 'tokenizer.json'), (UMT5, {**T5, 'byte_fallback': True}, 'tokenizer.json'),
    (dataclasses.replace(SMALL, eos_id=2, pad_id=1), MADLAD, 'tokenizer.json')])
def test_the_ids_are_sentencepieces(toy_records, tmp_path, config, options, file):
  texts = [text for row in records.read_records(str(toy_records), 'toy', 'train')
           for text in (row.input, row.rationale, row.label)]
  model = train([*texts, 'na\u00efve \u00fcber stra\u00dfe'] * 2, **options)
  info = student_info.StudentInfo(model=config, vocabulary='vocabulary.model')
  tokenizer_files.write(str(tmp_path), info, model)
  assert (tmp_path / file).exists()
  config_type = {SMALL: 't5', UMT5: 'umt5'}.get(config, 't5')
  (tmp_path / 'config.json').write_text(f'{{"model_type": "{config_type}"}}')
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  own = sentencepiece.SentencePieceProcessor(model_proto=model)
  for text in [*texts, *ODD]:
    assert theirs(text).input_ids == [*own.encode(text), own.eos_id()], text
  for text in texts:
    assert theirs.decode(own.encode(text), skip_special_tokens=True) == own.decode(own.encode(text))
  assert (theirs.eos_token_id, theirs.pad_token_id) == (config.eos_id, config.pad_id)
  theirs.save_pretrained(tmp_path / 'again')  # tokenizer.json alone, which we read.
  back = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_json.to_sentencepiece(
      epath.Path(tmp_path / 'again' / 'tokenizer.json')))
  for text in [*texts, *ODD]:
    assert back.encode(text) == own.encode(text), text


def test_what_tokenizers_reads_otherwise_is_named(toy_records):
  texts = [row.input for row in records.read_records(str(toy_records), 'toy', 'train')]
  for options, why in (({'model_type': 'bpe'}, 'not a unigram'),
                       ({'remove_extra_whitespaces': False}, 'keeps spaces')):
    assert why in tokenizer_json.why_not(train(texts, **T5, **options))
