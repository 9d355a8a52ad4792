"""Prediction reads text as training did."""

import dataclasses
import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from dss_jax import data, errors, models, student_info, tokenizer
from dss_jax.data import pipeline, vocabularies

INFO = student_info.StudentInfo(model=models.T5Config(), vocabulary='vocabulary.model')
BYTES = student_info.StudentInfo(model=models.T5Config(), vocabulary='bytes')


def of_file(path):
  with open(path, 'rb') as f:
    return tokenizer.make(INFO, f.read(), 'here')


def fed(task, split):
  """The encoder tokens of every row, with its text."""
  rows = pipeline.make_dataset(task, split, {'inputs': 512, 'targets': 256}, pack=False,
                               shuffle=False, seed=0, num_epochs=1)
  texts = [text for text, _ in raw(task, split)]
  return zip(texts, ([int(i) for i in row['encoder_input_tokens'] if i]
                     for row in rows.as_numpy_iterator()), strict=True)


def raw(task, split):
  from dss_jax import records
  name = task.split('_')[1]
  for record in records.read_records(data.settings.records_dir(), name, split):
    yield record.input, record.label


def test_toy_inputs_are_tokenized_as_in_training(toy_data, toy_vocabulary):
  ours = of_file(toy_vocabulary)
  count = 0
  for text, ids in fed('dss_toy_label', 'train'):
    assert [*ours.encode(f'[label] {text}'), tokenizer.EOS_ID] == ids
    count += 1
  assert count == 96


@given(st.text(max_size=60))
def test_bytes_as_seqio(text):
  theirs, ours = vocabularies.load('bytes'), tokenizer.make(BYTES, None, 'here')
  without = text.replace(tokenizer.EOS_MARKER, '')
  assert ours.encode(without) == list(theirs.encode(without))
  assert ours.decode(ours.encode(without)) == without


@given(text=st.text(max_size=60))
def test_sentencepiece_as_seqio(text, toy_vocabulary):
  theirs, ours = vocabularies.load(toy_vocabulary), of_file(toy_vocabulary)
  without = text.replace(tokenizer.EOS_MARKER, '')
  assert ours.encode(without) == list(theirs.encode(without))


@given(ids=st.lists(st.integers(0, 400), max_size=12))
def test_decoding_as_seqio(ids, toy_vocabulary):
  """Up to the first EOS, padding left out, ids beyond the pieces as unknown."""
  theirs, ours = vocabularies.load(toy_vocabulary), of_file(toy_vocabulary)
  kept = [i for i in ids if i]
  assert ours.decode(ids) == theirs.decode(kept)


def test_markers_become_the_eos_id():
  ours = tokenizer.make(BYTES, None, 'here')
  assert ours.encode('a</s>b') == [100, 1, 101]
  assert ours.decode(np.array([100, 0, 101, 1, 102])) == 'ab'


def test_no_vocabulary_or_a_damaged_one():
  with pytest.raises(errors.UserError, match='here has no vocabulary'):
    tokenizer.make(INFO, None, 'here')
  with pytest.raises(errors.UserError, match='here: the vocabulary is not a SentencePiece model'):
    tokenizer.make(INFO, b'not a model', 'here')


@pytest.mark.parametrize(('ids', 'rows', 'message'), [
    ({'pad_id': -1, 'unk_id': 0, 'eos_id': 2}, 32128, r'at \[-1, 2, 0\], T5'),
    ({'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}, 16, 'the embedding only 16 rows')])
def test_a_vocabulary_with_other_ids_or_more_of_them_is_refused(tmp_path, ids, rows, message):
  """The first are SentencePiece's defaults."""
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['a quick brown fox'] * 9), model_writer=file, vocab_size=24,
      hard_vocab_limit=False, minloglevel=2, **ids)
  info = dataclasses.replace(INFO, model=models.T5Config(vocab_size=rows))
  with pytest.raises(errors.UserError, match=message):
    tokenizer.make(info, file.getvalue(), 'here')
  (tmp_path / 'x.model').write_bytes(file.getvalue())
  if ids['pad_id']:
    with pytest.raises(errors.UserError, match=message):
      vocabularies.load(str(tmp_path / 'x.model'))


def test_madlads_ids_go_with_a_network_that_ends_with_2(tmp_path):
  """In training as here; with T5's network they are refused, above."""
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['a quick brown fox'] * 9), model_writer=file, vocab_size=24,
      hard_vocab_limit=False, minloglevel=2)
  (tmp_path / 'x.model').write_bytes(file.getvalue())
  theirs = vocabularies.load(str(tmp_path / 'x.model'), 2)
  info = dataclasses.replace(INFO, model=models.T5Config(eos_id=2))
  ours = tokenizer.make(info, file.getvalue(), 'here')
  ids = ours.encode('a fox</s>a')
  assert ours.eos_id == theirs.eos_id == 2 and ids.count(2) == 1
  assert ours.encode('a fox') == list(theirs.encode('a fox'))
  assert ours.decode([*ours.encode('a fox'), 2, 5, 0]) == 'a fox'
  with pytest.raises(errors.UserError, match='bytes ends a text with id 1, the network with 2'):
    tokenizer.make(dataclasses.replace(info, vocabulary='bytes'), None, 'here')
  with pytest.raises(errors.UserError, match='VOCABULARY=bytes ends a text with id 1'):
    vocabularies.load('bytes', 2)


def test_bytes_need_their_rows():
  with pytest.raises(errors.UserError, match='259 ids, the embedding only 256 rows'):
    tokenizer.make(dataclasses.replace(BYTES, model=models.T5Config(vocab_size=256)), None, 'here')


@pytest.mark.parametrize(('name', 'contents', 'why'), [
    ('v.model', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'),
    ('tokenizer.json', b'{"version": "1.0"}', 'JSON, such as tokenizer.json; give the .model'),
    ('v.model', b'', 'it is empty'),
    ('v.model', b'anything else', 'SentencePiece model: ')])
def test_what_is_no_model_is_named(tmp_path, name, contents, why):
  """In training, too, which reads it through SeqIO."""
  path = tmp_path / name
  path.write_bytes(contents)
  with pytest.raises(errors.UserError, match=rf'--vocabulary={path} is not a .*{why}'):
    tokenizer.read_model(str(path), '--vocabulary')
  with pytest.raises(errors.UserError, match=f'DataSettings.vocabulary={path}: not a .*{why}'):
    vocabularies.load(str(path))


def test_a_model_that_cannot_be_read(tmp_path):
  for path, why in ((tmp_path, 'Is a directory'), (tmp_path / 'no', 'does not exist'),
                    ('s3://b/v.model', 's3:// cannot be read')):
    with pytest.raises(errors.UserError, match=f'--vocabulary={path}.*{why}'):
      tokenizer.read_model(str(path), '--vocabulary')
