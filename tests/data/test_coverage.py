"""What the vocabulary lacks is counted, named and, where no answer could be right, refused."""

import collections

import pytest
import seqio

from dss_jax import data, datasets, errors, records, vocab
from dss_jax.data import checks, coverage, description

OPEN = datasets.Dataset('open', datasets.read_plain_row)
SUMS = datasets.Dataset('sums', datasets.read_plain_row, metric='equation')


@pytest.fixture(scope='module')
def english(tmp_path_factory):
  """A vocabulary of lower-case English letters and digits."""
  folder = tmp_path_factory.mktemp('english')
  records.write_records(str(folder), 'words', 'train', [
      records.RationaleRecord(id=str(i), input=text, label='yes', rationale=text)
      for i, text in enumerate(['abcdefghijklm', 'Snopqrstuvwxyz', '0123456789 + / ( ) .'])])
  vocab.train(str(folder), str(folder / 'v.model'), vocab_size=100)
  return str(folder / 'v.model')


@pytest.fixture
def vocabulary(english):
  return seqio.SentencePieceVocabulary(english, extra_ids=0)


def test_texts_with_unknown_pieces_are_counted(vocabulary):
  found = coverage.coverage(['plain', 'a {b}', 'premise</s>{x}', '\u043d\u0435\u0442'], vocabulary)
  assert (found.texts, found.unknown, found.share) == (4, 3, 0.75)
  assert found.pieces == ("{", "}", "\u043d\u0435\u0442")
  assert found.lacking == 5 < found.counted and found.piece_share == 5 / found.counted
  assert str(found).startswith('3 of 4 (75 %) hold what the vocabulary lacks, such as ')
  assert coverage.coverage(['\u043d\u0435\u0442'], seqio.ByteVocabulary()).unknown == 0


def check(dataset, vocabulary, *labels):
  return coverage.check_open_labels(collections.Counter(labels), dataset, vocabulary)


def test_open_labels_that_come_out_as_others_are_told(vocabulary):
  assert check(OPEN, vocabulary, 'yes', 'no') == ''
  said = check(OPEN, vocabulary, 'yes', '\ufb01ne', 'two  spaces', 'yes')
  assert '2 of 4 labels come out of the vocabulary as another text' in said
  assert "'\ufb01ne' (as 'fine')" in said and 'register(labels=...)' in said
  assert check(SUMS, vocabulary, '( 8 / 2 )', '(8/2)') == ''
  assert check(SUMS, vocabulary, 'no sum') == ''  # Not the vocabulary's fault.


@pytest.mark.parametrize(('dataset', 'labels', 'why'), [
    (OPEN, ('\U0001f44d', '\U0001f44e'), 'can write none of the labels'),
    (OPEN, ('\u0434\u0430', '\u043d\u0435\u0442', 'yes'), 'no student can tell them apart'),
    (OPEN, ('a < b', 'a ~ b', 'a'), "'a < b' and 'a ~ b' are both"),
    (SUMS, ('( 2 * 3 )', '7 - 1'), 'can write none of the labels')])
def test_open_labels_that_cannot_be_right_are_refused(vocabulary, dataset, labels, why):
  with pytest.raises(errors.UserError, match=why):
    check(dataset, vocabulary, *labels)


@pytest.fixture
def registered(english, tmp_path):
  """Writes records of a dataset with these labels, and makes them what the tasks read."""
  def make(labels, closed=True, **arguments):
    description.register('marks', labels=labels if closed else None, **arguments)
    records.write_records(str(tmp_path), 'marks', 'train', [
        records.RationaleRecord(id=str(i), input=f'word {i} {{', label=labels[i % len(labels)],
                                teacher_label=labels[0], rationale='a ~ b')
        for i in range(12)])
    data.configure(records_dir=str(tmp_path), vocabulary=english)
  return make


def test_before_the_first_step(registered):
  registered(('yes', 'no'))
  checks.check_answers('marks_rationale_then_label', 8)
  said = checks.check_coverage('dss_marks', 'train')
  assert said == [
      "marks: of the inputs, 12 of 12 (100 %) hold what the vocabulary lacks, such as '{'",
      "marks: of the rationales, 12 of 12 (100 %) hold what the vocabulary lacks, such as '~'"]
  registered(('\U0001f44d', '\U0001f44e'))
  for task in ('dss_marks', 'marks_finetune', 'marks_distill', 'dss_marks_teacher'):
    with pytest.raises(errors.UserError, match="'\U0001f44d' and '\U0001f44e' of 'marks' are both"):
      checks.check_answers(task, 8)
  registered(('\U0001f44d', '\U0001f44e'), closed=False)
  with pytest.raises(errors.UserError, match='marks: the vocabulary can write none of the labels'):
    checks.check_coverage('dss_marks', 'train')


def test_a_phrase_matters_only_to_the_task_that_writes_it(registered):
  registered(('yes', 'no'), completion=datasets.CompletionFormat(
      answer_phrase='\nAnswer:', label_kind='class'))
  checks.check_answers('dss_marks', 8)
  with pytest.raises(errors.UserError, match=r"cannot write the answer phrase '\\nAnswer:' of"):
    checks.check_answers('marks_rationale_then_label', 8)


def test_a_vocabulary_covers_registered_labels_and_phrase(tmp_path):
  description.register('marks', labels=('\U0001f44d', '\U0001f44e', '\u9009'),
                       completion=datasets.CompletionFormat(answer_phrase='=> {',
                                                            label_kind='class'))
  records.write_records(str(tmp_path), 'marks', 'train', [
      records.RationaleRecord(id='1', input='some words', label='\U0001f44d')])
  vocab.train(str(tmp_path), str(tmp_path / 'v.model'), vocab_size=100)
  data.configure(records_dir=str(tmp_path), vocabulary=str(tmp_path / 'v.model'))
  checks.check_answers('marks_rationale_then_label')
  description.register('marks', labels=('\ufb01ne', 'fine'))
  with pytest.raises(errors.UserError, match="'\ufb01ne' and 'fine' of 'marks' are both 'fine'"):
    vocab.train(str(tmp_path), str(tmp_path / 'w.model'), vocab_size=100)
  assert not (tmp_path / 'w.model').exists()


@pytest.mark.parametrize('shared', [False, True])
def test_prefixes_that_the_vocabulary_cannot_tell_apart_are_refused(
    registered, english, tmp_path, shared):
  registered(('yes', 'no'))
  chosen = {'records_dir': str(tmp_path), 'vocabulary': english, 'shared_encoder': shared,
            'label_prefix': '\u4e0b '}
  data.configure(**chosen, rationale_prefix='\u4e0aa ')
  checks.check_answers('dss_marks')
  data.configure(**chosen, rationale_prefix='\u4e0a ')
  with pytest.raises(errors.UserError, match="'\u4e0b ' of label and '\u4e0a ' of rationale"):
    checks.check_answers('dss_marks')
  checks.check_answers('marks_finetune')  # It has none.
  for same in ({'rationale_prefix': '\u4e0b '},
               {'objectives': (('third', '\u4e0b ', 'teacher_label', 0.5),)}):
    data.configure(**chosen, **same)
    with pytest.raises(errors.UserError, match="have the same prefix, '\u4e0b '"):
      checks.check_answers('dss_marks')
