"""`dss_jax.load(...).predict(...)`: what it answers and what it refuses."""

import dataclasses
import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

import dss_jax
from dss_jax import decode, errors, models, student_info
from dss_jax.train import config as config_lib

INPUTS = ['the ball is left', 'a', 'where is it? ' * 3, 'right</s>left', '', 'ünï ' * 30]


@pytest.fixture(scope='module')
def student(student_folders):
  return dss_jax.load(str(student_folders / 'native'))


@pytest.fixture(scope='module')
def predictions(student):
  return student.predict(INPUTS)


@functools.cache
def full_forward(model):
  return jax.jit(
      lambda params, *tokens: jax.nn.log_softmax(model.apply({'params': params}, *tokens)))


def padded(ids, length):
  return np.asarray([[*ids, *[0] * (length - len(ids))]], np.int32)


def log_prob(student, prompt, ids):
  """Of a token list, by one forward pass over all of it."""
  targets = padded(ids, 12)
  log_probs = full_forward(student.model)(
      student.params, padded(prompt, 64), np.pad(targets, ((0, 0), (1, 0)))[:, :-1])
  return sum(float(log_probs[0, i, token]) for i, token in enumerate(ids))


def prompt_of(student, text, prefix='[label] '):
  return [*student.tokenizer.encode(prefix + text)[:63], 1]


def test_outputs_vary_and_probabilities_are_those_of_the_text(student, predictions):
  assert len({p.label for p in predictions}) > 2
  greedy = jax.jit(lambda params, tokens: decode.greedy_decode(student.model, params, tokens, 12))
  for text, prediction in zip(INPUTS, predictions):
    prompt = prompt_of(student, text)
    ids = greedy(student.params, padded(prompt, 64))[0].tolist()
    ids = ids[:ids.index(1) + 1] if 1 in ids else ids
    assert prediction.label == student.tokenizer.decode(ids)
    assert np.log(prediction.probability) == pytest.approx(
        log_prob(student, prompt, ids), rel=1e-4)


@pytest.mark.parametrize('to', ['hf', 't5x'])
def test_every_format_answers_the_same(student_folders, predictions, to):
  assert dss_jax.load(str(student_folders / to)).predict(INPUTS) == predictions


def test_batches_and_meshes_change_nothing(student_folders, student, predictions):
  one_by_one = student.predict(INPUTS, batch_size=8)
  split = dss_jax.load(str(student_folders / 'native'), mesh=config_lib.MeshConfig(2, 2, 2))
  for other in (one_by_one, split.predict(INPUTS)):
    assert [p.label for p in other] == [p.label for p in predictions]
    assert [p.probability for p in other] == pytest.approx(
        [p.probability for p in predictions], rel=1e-4)


def test_rationales_come_from_the_other_prefix(student, predictions):
  found = student.predict(INPUTS, rationale=True)
  assert [p.label for p in found] == [p.label for p in predictions]
  swapped = dss_jax.load(student_folder(student), label_prefix='[rationale] ')
  assert [p.rationale for p in found] == [p.label for p in swapped.predict(INPUTS)]


def student_folder(student):
  return student.path.rpartition('/')[0]


def test_beams_find_nothing_less_likely_than_greedy(student, predictions):
  found = student.predict(INPUTS, beams=4, length_penalty=0.0)
  assert all(b.probability >= g.probability * 0.999 for b, g in zip(found, predictions))


def test_ranking_is_the_share_among_the_labels(student):
  for text, found in zip(INPUTS, student.predict(INPUTS, rank=True, rank_by='sum')):
    scores = {label: log_prob(student, prompt_of(student, text),
                              [*student.tokenizer.encode(label), 1])
              for label in ('left', 'right')}
    total = np.logaddexp(*scores.values())
    assert found.scores == pytest.approx(
        {label: np.exp(score - total) for label, score in scores.items()}, rel=1e-3)
    assert found.label == max(scores, key=scores.get)
    assert found.probability == pytest.approx(max(found.scores.values()))


def test_ranking_per_token_and_against_an_empty_input(student, make_folder):
  """A label's own tokens and its score under an empty input count, as the way says."""
  labels = ('left', 'longer than')
  def scores(text):
    return np.array([log_prob(student, prompt_of(student, text),
                              [*student.tokenizer.encode(label), 1]) for label in labels])
  for way, raw in (('mean', lambda text: scores(text) / (5, 12)),
                   ('pmi', lambda text: scores(text) - scores(''))):
    for text, found in zip(INPUTS, student.predict(INPUTS, rank=True, labels=labels, rank_by=way)):
      expected = np.exp(raw(text) - np.logaddexp(*raw(text)))
      assert list(found.scores.values()) == pytest.approx(list(expected), rel=1e-3)
  chosen = dss_jax.load(make_folder(ranking='mean'))
  assert chosen.predict(INPUTS, rank=True, labels=labels) == student.predict(
      INPUTS, rank=True, labels=labels, rank_by='mean')


def test_calibration_is_of_the_predictions(student):
  gold = ['left', 'right'] * 3
  for way, found in student.calibrate(INPUTS, gold).items():
    predicted = student.predict(INPUTS, rank=True, rank_by=way)
    assert found.accuracy == pytest.approx(
        100 * np.mean([p.label == g for p, g in zip(predicted, gold)]))
    assert found.loss == pytest.approx(
        -np.mean([np.log(p.scores[g]) for p, g in zip(predicted, gold)]), rel=1e-5)
  with pytest.raises(errors.UserError, match="row 2 has label 'up', none of left, right"):
    student.calibrate(INPUTS[:2], ['left', 'up'])


def test_ranking_among_labels_of_each_row(student):
  labels = [('a', 'b', 'c'), ('longer than', 'x'), ('only',), *[('p', 'q')] * 3]
  found = student.predict(INPUTS, rank=True, labels=labels)
  assert all(set(p.scores) == set(allowed) for p, allowed in zip(found, labels))
  assert found[2].probability == 1.0
  assert all(sum(p.scores.values()) == pytest.approx(1) for p in found)


def test_a_label_twice_is_one_label(student):
  once = student.predict(['a'], rank=True, labels=[('p', 'q')])
  assert student.predict(['a'], rank=True, labels=[('p', 'q', 'p')]) == once


def test_labels_that_cannot_be_scored_are_named(student, toy_vocabulary, make_folder):
  with pytest.raises(errors.UserError, match=r"'far too long a label' \(row 8\) has 21 tokens"):
    student.predict(['a'], rank=True, labels=['far too long a label', 'b'], first_row=7)
  with pytest.raises(errors.UserError, match='a list of labels, not one string'):
    student.predict(['a'], rank=True, labels='yes')
  with pytest.raises(errors.UserError, match='every input needs allowed labels'):
    student.predict(['a', 'b'], rank=True, labels=[('a', 'b'), 'yes'])
  words = dss_jax.load(make_folder(vocabulary=''), vocabulary=toy_vocabulary)
  with pytest.raises(errors.UserError, match="'\U0001f44d' and '\U0001f44e' .* same tokens"):
    words.predict(['a'], rank=True, labels=['left', '\U0001f44d', '\U0001f44e'])


def test_answers_are_members_of_the_closed_set(make_folder, toy_vocabulary):
  student = dss_jax.load(make_folder(labels=('left  lane', 'right'), vocabulary=''),
                         vocabulary=toy_vocabulary)
  ids = student.tokenizer.encode_target('left lane')
  assert student._read([*ids, 1], -1.0).label == 'left  lane'
  with pytest.raises(errors.UserError, match="labels 'a  b' and 'a b' are both"):
    dss_jax.load(make_folder(labels=('a  b', 'a b'), vocabulary=''), vocabulary=toy_vocabulary)


def test_a_student_of_several_datasets_is_asked_for_one(make_folder):
  one = {'label_prefix': '[label] ', 'rationale_prefix': None, 'answer_phrase': '',
         'labels': ('a', 'b'), 'metric': 'text'}
  other = {**one, 'labels': (), 'metric': 'equation'}
  folder = make_folder(datasets={'first': one, 'second': other}, labels=(), metric='')
  assert dss_jax.load(folder, dataset='first').info.labels == ('a', 'b')
  assert dss_jax.load(folder, dataset='second').info.metric == 'equation'
  assert dss_jax.load(folder).info.closed_set() == ()
  with pytest.raises(errors.UserError, match="did not learn dataset 'frist': did you mean 'first'"):
    dss_jax.load(folder, dataset='frist')
  apart = make_folder(datasets={'first': one, 'second': {**one, 'label_prefix': ''}})
  with pytest.raises(errors.UserError, match='learnt first, second, which differ in label_prefix'):
    dss_jax.load(apart)


def test_samples_depend_on_the_seed_and_the_rows_number_alone(student):
  options = {'samples': 3, 'temperature': 1.5, 'seed': 4}
  everything = student.predict(INPUTS, **options)
  assert len({s.label for p in everything for s in p.samples}) > 6
  alone = [student.predict([text], first_row=i, **options)[0] for i, text in enumerate(INPUTS)]
  assert [[s.label for s in p.samples] for p in alone] == [
      [s.label for s in p.samples] for p in everything]
  other = student.predict(INPUTS, **{**options, 'seed': 5})
  assert [p.samples for p in other] != [p.samples for p in everything]
  assert [p.label for p in other] == [p.label for p in everything]


def test_a_label_behind_a_rationale(make_folder):
  student = dss_jax.load(make_folder(answer_phrase='So the answer is', label_prefix='',
                                     rationale_prefix=None))
  read = student._read([*student.tokenizer.encode('It rolls. So the answer is left'), 1], -0.5)
  assert (read.label, read.rationale) == ('left', 'It rolls.')
  assert student._read(student.tokenizer.encode('It rolls'), -1.0).label == ''
  with pytest.raises(errors.UserError, match='^rank: a student that writes its rationale first'):
    student.predict(['x'], rank=True)


def test_what_a_student_cannot_do(make_folder):
  student = dss_jax.load(make_folder(rationale_prefix=None, labels=()))
  with pytest.raises(errors.UserError, match='not trained to write any'):
    student.predict(['x'], rationale=True)
  with pytest.raises(errors.UserError, match='closed set of labels'):
    student.predict(['x'], rank=True)
  with pytest.raises(errors.UserError, match='every input needs allowed labels'):
    student.predict(['x', 'y'], rank=True, labels=[('a',), ()])
  with pytest.raises(errors.UserError, match='a list of inputs'):
    student.predict('x')
  assert student.predict([]) == []
  for inputs, said in ((['x', None], r'inputs\[1\] is null'), ([b'x'], r'inputs\[0\] is'),
                       ([{'input': 'x'}], r'inputs\[0\] is'), ([float('nan')], r'inputs\[0\] is'),
                       (['x\ud800'], r'inputs\[0\] holds half of a surrogate pair')):
    with pytest.raises(errors.UserError, match=said):
      student.predict(inputs)
  assert student.predict([5]) == student.predict(['5'])
  with pytest.raises(errors.UserError, match="^rnak: did you mean 'rank'"):
    student.predict(['x'], rnak=True)
  with pytest.raises(errors.UserError, match='^labels: they are what rank scores'):
    student.predict(['x'], labels=['a', 'b'])


@pytest.mark.parametrize(('option', 'value'), [
    ('temperature', 0.0), ('top_p', 0.0), ('top_k', -1), ('beams', 0), ('samples', -1),
    ('batch_size', 0), ('max_input_length', 1), ('max_target_length', 0),
    ('length_penalty', float('nan')), ('temperature', float('inf')), ('beams', 1.5)])
def test_options_that_mean_nothing(student, option, value):
  with pytest.raises(errors.UserError, match=rf'^{option}={value}: use'):
    student.predict(['x'], **{option: value})


def test_loading_what_is_not_there(student_folders, make_folder, tmp_path):
  with pytest.raises(errors.UserError, match='does not exist'):
    dss_jax.load(str(tmp_path / 'nowhere'))
  with pytest.raises(errors.UserError, match="no field 'colour'"):
    dss_jax.load(str(student_folders / 'native'), colour=1)
  with pytest.raises(errors.UserError, match='has no vocabulary'):
    dss_jax.load(make_folder(vocabulary=''))
  assert dss_jax.load(make_folder(vocabulary=''), vocabulary='bytes').predict(['x'])


def test_no_tensorflow_is_imported(student_folders):
  code = ('import sys, dss_jax; '
          f'print(dss_jax.load({str(student_folders / "native")!r}).predict(["x"], rank=True)); '
          "assert not {'tensorflow', 'seqio', 'gin', 't5x'} & set(sys.modules)")
  subprocess.run([sys.executable, '-c', code], check=True, timeout=600)


def test_further_objectives_are_in_student_json_where_there_are_any():
  info = student_info.StudentInfo(model=models.T5Config())
  assert 'prefixes' not in info.as_json() and 'ranking' not in info.as_json()
  more = dataclasses.replace(info, prefixes={'premise': '[premise] '}, ranking='pmi')
  for one in (info, more):
    assert student_info.from_json(one.as_json(), 'here') == one


def test_a_task_that_was_not_learnt_is_named(make_folder):
  student = dss_jax.load(make_folder(prefixes={'premise': '[premise] '}))
  found, = student.predict(['a bird'], tasks=['premise'])
  assert set(found.tasks) == {'premise'}
  with pytest.raises(errors.UserError, match="^tasks: .* 'premiss': did you mean 'premise'"):
    student.predict(['a bird'], tasks=['premiss'])
