"""From decoded text to the answer: every label is itself, whatever the vocabulary makes of it."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax import answers, errors


def pieces(*texts, **options):
  """A SentencePiece model of these texts, with T5's ids and normalisation."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([*texts] * 9), model_writer=model, vocab_size=200,
      hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0,
      minloglevel=2, **options)
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


ENGLISH = pieces('So the answer is yes, no, left or right; is it fine? plain 0 1 2 3 - + / ( ) = .',
                 'abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ')


def read_all(labels, model=ENGLISH, phrase=''):
  reader = answers.reader(labels, model.encode, model.decode, phrase)
  behind = f'Because. {phrase} ' if phrase else ''
  return [reader.read(model.decode(model.encode(behind + label))) for label in labels]


@pytest.mark.parametrize('labels', [
    ('yes', 'no'), ('\ufb01ne', 'plain'), ('very  good', 'tab\there', 'line\nbreak', ' lead'),
    ('\u597d\u8bc4\uff08\u5f3a\uff09', 'plain'), ('a < b', 'a = b'), ('cafe\u0301', 'plain'),
    ('-1', '0', '1'), ('\u2460 one', '2 two'), ('\U0001f44d yes', '\U0001f44e no'), ('1.0', '1')])
@pytest.mark.parametrize('phrase', ['', 'So the answer is'])
def test_what_the_vocabulary_makes_of_a_label_is_read_as_the_label(labels, phrase):
  assert read_all(labels, phrase=phrase) == list(labels)


@pytest.mark.parametrize('labels', [
    ('\U0001f44d', '\U0001f44e'), ('a < b', 'a ~ b'), ('\u0434\u0430', '\u043d\u0435\u0442'),
    ('\ufb01ne', 'fine'), ('very good', 'very  good'), ('caf\u00e9', 'cafe\u0301'),
    ('plain', 'plain ')])
def test_labels_that_the_vocabulary_cannot_tell_apart_are_refused_by_name(labels):
  with pytest.raises(errors.UserError) as refused:
    read_all(labels)
  assert all(repr(label) in str(refused.value) for label in labels)
  own = pieces(*labels, *ENGLISH.decode([[i] for i in range(3, 60)]),
               normalization_rule_name='identity', remove_extra_whitespaces=False)
  if own.encode(labels[0]) != own.encode(labels[1]):  # With these characters they are themselves.
    assert read_all(labels, own) == list(labels)


def test_a_label_of_nothing_and_one_that_is_cut_are_refused():
  with pytest.raises(errors.UserError, match=r"writes label '\\u200b' of 'd' as nothing"):
    answers.reader(['\u200b', 'a'], ENGLISH.encode, ENGLISH.decode, dataset='d')
  with pytest.raises(errors.UserError, match="label 'plain yes' has .* cut at 2: raise TASK_FEAT"):
    answers.reader(['plain yes'], ENGLISH.encode, ENGLISH.decode, max_tokens=2)


@pytest.mark.parametrize('phrase', ['\nAnswer:', '=> {', '\u7b54\u6848\u662f', 'two  spaces'])
def test_a_phrase_that_does_not_survive_is_refused_by_name(phrase):
  with pytest.raises(errors.UserError, match='cannot write the answer phrase') as refused:
    answers.reader(['yes'], ENGLISH.encode, ENGLISH.decode, phrase)
  assert repr(phrase) in str(refused.value)


def test_the_last_phrase_counts_and_without_one_there_is_no_answer():
  reader = answers.Reader({'nest': 'Nest'}, 'So the answer is')
  assert reader.split('A. So the answer is b? So the answer is nest ') == (
      'A. So the answer is b?', 'Nest')
  assert reader.split('no phrase here') == ('no phrase here', '')
  assert answers.Reader({}).split('as it is ') == ('', 'as it is ')


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4, unique=True))
def test_any_labels_are_read_as_themselves_or_refused(labels):
  """What is decoded right is never another label, never a right answer by accident."""
  try:
    assert read_all(labels) == labels
  except errors.UserError:
    written = [ENGLISH.decode(ENGLISH.encode(label)) for label in labels]
    assert len(set(written)) < len(written) or '' in written
