"""How probable a closed set's labels were, from the probabilities of the answer's tokens."""

import collections
import dataclasses
import functools
import json
import math
import random
import re

import hypothesis
import pytest
import streams
import test_teacher_answers
from hypothesis import strategies as st

from dss_jax import datasets
from dss_jax.teacher import protocol
from dss_jax.teacher.read import logprobs, parsing, shares, voting

EXAMPLE = datasets.Example('1', 'The app crashes.')
SAY = 'It fails. So the answer is'


def made(labels, kind='class'):
  return datasets.Dataset('mine', datasets.read_plain_row, labels=tuple(labels),
                          completion=datasets.CompletionFormat(label_kind=kind))


def of(stream, labels, text=None, layout=streams.chat, kind='class', choices=(), **said):
  """Label -> probability of an answer, as a job reads it."""
  dataset = made(labels, kind)
  example = dataclasses.replace(EXAMPLE, choices=tuple(choices))
  completion = protocol.Completion(
      (streams.text(stream) if text is None else text).strip(), 'stop', logprobs=layout(stream),
      **said)
  read = functools.partial(parsing.read, example=example, dataset=dataset)
  found = read(completion)
  assert found.ok, found
  return shares.of(completion, found.label, example, dataset, read)


def answer(*label, before=SAY, after='.'):
  return [*streams.words(before), *label, *streams.words(after)]


BUG = (b' bug', 0.7, {b' billing': 0.2, b' a': 0.05, b' Bug': 0.05})


def test_alternatives_are_labels():
  assert of(answer(BUG), ('billing', 'bug', 'other')) == pytest.approx(
      {'bug': 0.75 / 0.95, 'billing': 0.2 / 0.95})


@pytest.mark.parametrize('layout', [
    streams.chat, functools.partial(streams.chat, with_bytes=False), streams.legacy,
    lambda stream: json.loads(json.dumps(logprobs.kept(streams.chat(stream)))),
    lambda stream: logprobs.kept(streams.legacy(stream))])
def test_every_layout_says_the_same(layout):
  assert of(answer(BUG), ('billing', 'bug'), layout=layout) == pytest.approx(
      {'bug': 0.75 / 0.95, 'billing': 0.2 / 0.95}, rel=1e-4)


@pytest.mark.parametrize('labels', [
    ('entailment', 'neutral', 'contradiction'), ('duplicate', 'not duplicate', 'unclear'),
    ('positive', 'possible', 'pose', 'negative'), ('Fehler', 'größe', 'übergabe', 'gruß'),
    ('Ошибка', 'Оплата', 'сбой'), ('错误', '错过', '账单', '其他')])
@pytest.mark.parametrize('seed', range(12))
def test_random_tokens_give_the_distribution_that_made_them(labels, seed):
  """Labels that leave the answer's path with the same piece have the sum of theirs."""
  draw = random.Random(seed)
  weights = [draw.random() ** 3 for _ in labels]
  wanted = {label: weight / sum(weights) for label, weight in zip(labels, weights)}
  unclear = True
  while unclear:  # A piece that begins another label as well: see the tests of it.
    pieces = {label: random_pieces(f' {label}', draw) for label in labels}
    chosen = draw.choice(labels)
    groups = collections.defaultdict(list)
    for label in labels:
      groups[leaves(pieces[label], pieces[chosen])].append(label)
    unclear = any(begins(at, other) and other not in group
                  for at, group in groups.items() for other in labels if group != [chosen])
  found = of(answer(*streams.paths(wanted, pieces, chosen)), labels)
  assert sum(found.values()) == pytest.approx(1)
  for group in groups.values():
    assert sum(found.get(one, 0.0) for one in group) == pytest.approx(
        sum(wanted[one] for one in group)), (group, pieces, chosen)


def random_pieces(text, draw):
  """A text cut at random bytes, characters or not."""
  whole = text.encode()
  cuts = sorted(draw.sample(range(1, len(whole)), draw.randrange(min(4, len(whole)))))
  return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])]


def leaves(pieces, path):
  """All up to the piece with which they part."""
  far = next((i for i, (a, b) in enumerate(zip(pieces, path)) if a != b), len(path))
  return b''.join(pieces[:far + 1])


def begins(piece, label):
  return any(way.encode().lower().startswith(piece.lstrip().lower())
             for way in (label, label.lower(), label.upper(), label.capitalize()))


def test_labels_that_begin_alike_part_on_the_path():
  stream = answer((b' pos', 0.8, {b' neg': 0.2}), (b'itive', 0.75, {b'sible': 0.25}))
  assert of(stream, ('positive', 'possible', 'negative')) == pytest.approx(
      {'positive': 0.6, 'possible': 0.2, 'negative': 0.2})


def test_off_the_path_they_are_divided_evenly():
  stream = answer((b' neg', 0.6, {b' pos': 0.4}), (b'ative', 1.0, {}))
  assert of(stream, ('positive', 'possible', 'negative')) == pytest.approx(
      {'positive': 0.2, 'possible': 0.2, 'negative': 0.6})


def test_what_could_be_any_label_says_nothing():
  stream = answer((b' not', 0.5, {b' no': 0.25, b' ': 0.125, b' yes': 0.125}), (b'hing', 1.0, {}))
  assert of(stream, ('nothing', 'none')) == {'nothing': 1.0}
  assert of(answer((b' (', 0.9, {b' "': 0.1}), (b'a', 0.5, {b'b': 0.5}), (b')', 1.0, {})),
            ('ant', 'bee'), kind='choice', choices=('ant', 'bee')) == {'ant': 0.5, 'bee': 0.5}


def test_a_label_that_another_begins_with():
  labels = ('no', 'no idea', 'yes')
  stream = answer((b' no', 0.8, {b' yes': 0.2}), (b'.', 0.75, {b' idea': 0.25}), after='')
  assert of(stream, labels) == pytest.approx({'no': 0.6, 'no idea': 0.2, 'yes': 0.2})
  stream = answer((b' no', 0.8, {b' yes': 0.2}), (b' idea', 0.25, {b'.': 0.7}))
  assert of(stream, labels) == pytest.approx({'no': 0.6, 'no idea': 0.2, 'yes': 0.2})
  stream = answer((b' no', 0.8, {b' yes': 0.2}), (b'', 0.5, {}), (b' idea', 0.25, {b'.': 0.7}))
  assert of(stream, labels) == pytest.approx({'no': 0.6, 'no idea': 0.2, 'yes': 0.2})
  stream = answer((b' C', 0.5, {b' C++.': 0.25, b' D.': 0.25}), (b'.', 1.0, {}), after='')
  assert of(stream, ('C', 'C++', 'D')) == {'C': 0.5, 'C++': 0.25, 'D': 0.25}
  stream = answer((b' yes', 0.5, {b' no': 0.3, b' no idea': 0.2}))
  assert of(stream, labels) == pytest.approx({'yes': 0.5, 'no': 0.3, 'no idea': 0.2})
  assert of(answer((b' no', 0.8, {b' yes': 0.2}), after=''), labels) == pytest.approx(
      {'no': 0.8, 'yes': 0.2})  # It ends there.


@pytest.mark.parametrize('stream, wanted', [
    # A token that begins before the label, or goes beyond it.
    (answer((b'is bug', 0.7, {b'is billing': 0.2, b'as billing': 0.1}),
            before='It fails. So the answer '), (7, 2)),
    (answer((b' ', 0.8, {b' billing': 0.2}), (b'bug', 0.75, {b'billing': 0.25})), (6, 4)),
    (answer((b' bug.', 0.7, {b' billing.': 0.1, b' billing': 0.2, b' bugs': 0.5}), after=''),
     (7, 3)),
    (answer((b' **', 0.9, {b' billing': 0.1}), (b'bug', 0.6, {b'billing': 0.4}), (b'**', 1.0, {})),
     (6, 4)),
    # The answer phrase's own words, in a thought, in what follows.
    (answer(BUG, before='A bug or billing? No bill. So the answer is', after='. That is a bug.'),
     (15, 4)),
    (answer(BUG, before='<think>Is it a bug? The answer is bug.</think>It fails. So the answer is'),
     (15, 4)),
    # The last place that could have been another label, where it is said twice.
    (answer((b' bug', 0.5, {b' billing': 0.5}), before='The label is',
            after=', I think. Wait, no: really, the answer is billing. Wait, no: the answer is')
     + [(b' bug', 0.8, {b' billing': 0.2}), (b'.', 1.0, {})], (8, 2)),
    (answer(BUG, before='Label:', after='\nIt fails and fails.'), (15, 4)),
])
def test_where_the_label_stands(stream, wanted):
  found = of(stream, ('bug', 'billing'))
  bug, billing = wanted
  assert found == pytest.approx({'bug': bug / sum(wanted), 'billing': billing / sum(wanted)})


@pytest.mark.parametrize('layout', [
    '{{"rationale": "It fails.", "label": "{}"}}',
    '```json\n{{"label": "{}", "explanation": "It fails."}}\n```',
    '{{"label": "{}", "rationale": "It is a bug, so it fails."}}',
    '{{"label": "{}", "rationale": "It fails. The answer is bug."}}',
    '{{"rationale": "It fails. The answer is {}.", "label": "bug"}}'])
def test_json(layout):
  before, after = layout.replace('{{', '{').replace('}}', '}').split('{}')
  assert of(answer((b'bug', 0.7, {b'billing': 0.3}), before=before, after=after),
            ('bug', 'billing')) == pytest.approx({'bug': 0.7, 'billing': 0.3})


CHOICES = ('fly', 'run', 'swim')


@pytest.mark.parametrize('stream', [
    answer((b' (', 1, {}), (b'b', 0.5, {b'a': 0.25, b'c': 0.125, b'f': 0.125}), (b') run', 1, {})),
    answer((b' (b', 0.5, {b' (a': 0.25, b' (c': 0.125, b' fly': 0.125}), (b')', 1, {})),
    answer((b' B', 0.5, {b' A': 0.25, b' C': 0.125, b' All': 0.125}), (b') run', 1, {})),
    answer((b' b', 0.5, {b' a': 0.25, b' c': 0.125}), after=''),
    answer((b' run', 0.5, {b' fly': 0.25, b' swim': 0.125, b' (': 0.125})),
    answer((b' (b', 0.5, {b' (a': 0.25, b' (c': 0.125}), (b') runs', 1, {}))])
def test_choices(stream):
  found = of(stream, CHOICES, kind='choice', choices=CHOICES)
  assert found == pytest.approx({'run': 4 / 7, 'fly': 2 / 7, 'swim': 1 / 7})


def test_other_names_of_labels():
  labels = ('entailment', 'neutral', 'contradiction')
  stream = answer((b' entail', 0.6, {b' neutral': 0.3, b' contrad': 0.1}), (b'ment', 1.0, {}))
  assert of(stream, labels) == pytest.approx(
      {'entailment': 0.6, 'neutral': 0.3, 'contradiction': 0.1})
  stream = answer((b' contradict', 0.5, {b' entail': 0.5}), (b'ory', 1.0, {}))
  assert of(stream, labels) == {'entailment': 0.5, 'contradiction': 0.5}


def test_capitals():
  stream = answer((b' E', 1.0, {}), ('Ä'.encode(), 0.75, {'Ö'.encode(): 0.25}))
  assert of(stream, ('EÄ', 'EÖ')) == {'EÄ': 0.75, 'EÖ': 0.25}


def test_bytes_in_legacy_names():
  stream = answer((b' \xc3', 1.0, {}), (b'\x84', 0.75, {b'\x96': 0.25}))
  assert of(stream, ('Ä', 'Ö'), layout=streams.legacy) == pytest.approx({'Ä': 0.75, 'Ö': 0.25})


def test_tokens_of_thoughts_that_the_server_parted():
  stream = [*answer((b' bug', 0.5, {b' billing': 0.5})), (b'</think>', 1.0, {}), *answer(BUG),
            (b'<|im_end|>', 1.0, {})]
  assert of(stream, ('bug', 'billing'), text=f'{SAY} bug.', thoughts='I see') == pytest.approx(
      {'bug': 15 / 19, 'billing': 4 / 19})


def test_half_characters_that_a_server_cannot_write():
  broken = [('\ufffd'.encode(), 1.0, {})] * 2
  stream = [*broken, *answer(BUG, before=' It fails, says the customer. So the answer is')]
  text = '🐞 It fails, says the customer. So the answer is bug.'
  assert of(stream, ('bug', 'billing'), text=text) == pytest.approx(
      {'bug': 15 / 19, 'billing': 4 / 19})


@pytest.mark.parametrize('found', [
    None, {}, [], 'x', {'content': None}, {'content': []}, {'content': [{'token': 'a'}]},
    {'content': [{'token': 1, 'logprob': 0.0}]}, {'tokens': ['a'], 'token_logprobs': []},
    {'tokens': ['a'], 'token_logprobs': [None]}, {'kept': [['a']]},
    streams.chat(streams.words('Something else.'))])
def test_what_has_none(found):
  assert of(answer(BUG), ('bug', 'billing'), layout=lambda stream: found) is None


def test_numbers_that_are_none():
  found = {'content': [{'token': 'bug', 'logprob': 1e-9, 'top_logprobs': [
      {'token': 'billing', 'logprob': value} for value in (-9999.0, -math.inf, math.nan)]}]}
  assert of([(b'Answer: ', 1, {}), (b'bug', 1, {}), (b'\nIt fails.', 1, {})], ('bug', 'billing'),
            layout=lambda stream: {'content': [
                {'token': 'Answer: ', 'logprob': 0.0}, *found['content'],
                {'token': '\nIt fails.', 'logprob': 0.0}]}) == {'bug': 1.0}


def test_the_journal_keeps_what_counts():
  stream = answer((b' bug', 0.7, {b' billing': 0.2999, b' b': 5e-5}), (b'\xf0\x9f', 1.0, {}))
  kept = logprobs.kept(streams.chat(stream))
  assert json.loads(json.dumps(kept)) == kept
  assert kept['kept'][-3] == [' bug', -0.3567, [[' billing', -1.2043]]]
  assert logprobs.tokens(kept)[-2].text == b'\xf0\x9f'
  assert logprobs.kept(kept) == kept


@pytest.mark.parametrize('kind, name', [
    (kind, name) for kind, name in test_teacher_answers.CASES
    if kind not in ('equation', 'text') and test_teacher_answers.ANSWERS[kind][name]['label']])
def test_the_label_is_found_in_answers_as_chat_models_write_them(kind, name):
  case, said = test_teacher_answers.ANSWERS[kind][name], test_teacher_answers.R[kind]
  example = test_teacher_answers.EXAMPLES[kind]
  text = case['text'].replace('{R}', said).strip()
  stream = [(piece.encode(), 1.0, {}) for piece in re.findall(r' ?\w+| ?[^\w\s]|\s', text)]
  dataset = test_teacher_answers.DATASETS[kind]
  dataset = dataclasses.replace(dataset, labels=dataset.labels or example.choices)
  read = functools.partial(parsing.read, example=example, dataset=dataset)
  completion = protocol.Completion(text, 'stop', logprobs=streams.chat(stream))
  assert shares.of(completion, case['label'], example, dataset, read) == {case['label']: 1.0}


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.sampled_from(['choice', 'nested', 'nli', 'tone']),
    st.lists(st.sampled_from(test_teacher_answers.PIECES), min_size=1, max_size=14).map(''.join),
    st.sampled_from([streams.chat, streams.legacy]), st.randoms(use_true_random=False))
def test_any_answer_has_a_distribution_or_none(kind, text, layout, draw):
  example, text = test_teacher_answers.EXAMPLES[kind], text.strip()
  dataset = test_teacher_answers.DATASETS[kind]
  dataset = dataclasses.replace(dataset, labels=dataset.labels or example.choices)
  read = functools.partial(parsing.read, example=example, dataset=dataset)
  if len(text) < 2 or not (label := read(protocol.Completion(text, 'stop')).label):
    return
  others = [label.encode()[:draw.randrange(1, 9)] for label in dataset.labels] + [b' ', b'\xf0']
  stream = [(piece, 0.7, {other: 0.1 for other in draw.sample(others, 3) if other != piece})
            for piece in random_pieces(text, draw)]
  completion = protocol.Completion(text, 'stop', logprobs=layout(stream))
  if found := shares.of(completion, label, example, dataset, read):
    assert sum(found.values()) == pytest.approx(1) and label in found
    assert set(found) <= set(dataset.labels) and min(found.values()) > 0


def test_a_vote_is_divided():
  dataset = made(('billing', 'bug', 'other'))
  samples = [parsing.parse_strict(f'{SAY} {one}.', EXAMPLE, dataset)
             for one in ('bug', 'billing', 'bug')] + [parsing.parse_strict('Hm.', EXAMPLE, dataset)]
  assert voting.counts(samples, dataset, [{'bug': 0.75, 'other': 0.25}, None, {'bug': 1.0}, None]
                       ) == (1.0, 1.75, 0.25)
