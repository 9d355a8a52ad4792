"""An input's examples stay together: in every epoch, packed, sharded, resumed, cached or not."""

import collections
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

import dss_jax.tasks  # noqa: F401
from dss_jax import data, errors, objective, records
from dss_jax.data import pipeline

LENGTHS = {'inputs': 64, 'targets': 40}
ROWS = 330
EPOCHS = 3
LABEL, RATIONALE = objective.LABEL, objective.RATIONALE


def row(name, number):
  """Of svamp or asdiv: every seventh failed, every eleventh has no gold label."""
  failed = number % 7 == 3
  return records.RationaleRecord(
      id=str(number), input=f'{name} {number}', label='' if number % 11 == 5 else '( 1.0 + 2.0 )',
      teacher_label='' if failed else '( 2.0 )', rationale='' if failed else f'of {name} {number}',
      parse_status='no_answer_phrase' if failed else 'ok', dataset=name, split='train')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = str(tmp_path_factory.mktemp('pairs'))
  for name, rows, shards in (('svamp', ROWS, 4), ('asdiv', 50, 3)):
    records.write_records(made, name, 'train', [row(name, i) for i in range(rows)],
                          num_shards=shards)
  return made


@pytest.fixture
def configured(folder):
  data.configure(records_dir=folder, vocabulary='bytes')
  return folder


def wanted(mixture, sets=(('svamp', ROWS),)):
  """Input -> the objectives of its examples, of all inputs that have any."""
  found = {}
  for name, rows in sets:
    for number in range(rows):
      one = row(name, number)
      label = one.teacher_label if 'teacher' in mixture else one.label
      tasks = {task for task, text in ((LABEL, label), (RATIONALE, one.rationale)) if text}
      if tasks:
        found[one.input] = tasks
  return found


def text_of(tokens):
  text = bytes(int(token) - 3 for token in tokens if token > 2).decode()
  return text.replace('[label] ', '').replace('[rationale] ', '')


def inputs_in_order(examples):
  """[(input, its objectives)] of a stream of examples; neighbours are taken together."""
  stream = ((text_of(ex['inputs']), int(ex['objective'][0])) for ex in examples)
  return [(text, [task for _, task in of_one])
          for text, of_one in itertools.groupby(stream, lambda pair: pair[0])]


def assert_together(examples, expected, epochs):
  """Each input once an epoch, with all that it has, side by side."""
  groups = inputs_in_order(examples)
  assert len(groups) == epochs * len(expected)
  for first in range(0, len(groups), len(expected)):
    epoch = groups[first:first + len(expected)]
    assert {text: set(tasks) for text, tasks in epoch} == expected
    assert sum(len(tasks) for _, tasks in epoch) == sum(map(len, expected.values()))


@pytest.mark.parametrize('mixture', ['dss_svamp', 'dss_svamp_teacher', 'dss_svamp_shuffled'])
def test_neighbours_in_every_epoch(configured, mixture):
  examples = list(seqio.get_mixture_or_task(mixture).get_dataset(
      LENGTHS, shuffle=True, seed=3, num_epochs=EPOCHS).as_numpy_iterator())
  assert_together(examples, wanted(mixture), EPOCHS)
  assert len({text_of(ex['targets']) for ex in examples if ex['objective'][0] == RATIONALE}) == len(
      [tasks for tasks in wanted(mixture).values() if RATIONALE in tasks])


@pytest.mark.parametrize('arguments', [
    {'shuffle': False, 'num_epochs': 1}, {'shuffle': False, 'num_epochs': 2},
    {'seed': None, 'num_epochs': 1}, {'seed': None, 'num_epochs': 2}])
def test_neighbours_in_any_order(configured, arguments):
  examples = seqio.get_mixture_or_task('dss_svamp').get_dataset(LENGTHS, **arguments)
  assert_together(examples.as_numpy_iterator(), wanted('dss_svamp'), arguments['num_epochs'])


def test_several_record_sets_with_the_same_ids(configured):
  examples = seqio.get_mixture_or_task('dss_asdiv').get_dataset(LENGTHS, seed=1, num_epochs=2)
  assert_together(examples.as_numpy_iterator(),
                  wanted('dss_asdiv', (('svamp', ROWS), ('asdiv', 50))), 2)


def test_a_fraction(folder):
  data.configure(records_dir=folder, vocabulary='bytes', train_fraction=0.4)
  groups = inputs_in_order(seqio.get_mixture_or_task('dss_svamp').get_dataset(
      LENGTHS, seed=1, num_epochs=1).as_numpy_iterator())
  expected = wanted('dss_svamp')
  assert all(set(tasks) == expected[text] for text, tasks in groups)
  assert 120 < len(groups) == len(dict(groups)) <= 132


@pytest.mark.parametrize('hosts', [2, pytest.param(6, marks=pytest.mark.slow)])  # of four files
def test_every_host_has_whole_inputs(configured, hosts):
  groups = []
  for index in range(hosts):
    rows = seqio.get_mixture_or_task('dss_svamp').get_dataset(
        LENGTHS, seed=5, num_epochs=1, shard_info=seqio.ShardInfo(index, hosts))
    groups += inputs_in_order(rows.as_numpy_iterator())
  assert {text: set(tasks) for text, tasks in groups} == wanted('dss_svamp')
  assert len(groups) == len(wanted('dss_svamp'))


@pytest.mark.parametrize('parts', [
    ['dss_svamp', 'dss_cqa'], ['dss_svamp_label', 'dss_svamp_rationale', 'dss_cqa_label']])
def test_two_datasets_take_turns(folder, tmp_path, parts):
  records.write_records(str(tmp_path), 'svamp', 'train', [row('svamp', i) for i in range(40)])
  records.write_records(str(tmp_path), 'cqa', 'train', [row('cqa', i) for i in range(40)])
  data.configure(records_dir=str(tmp_path), vocabulary='bytes')
  both = data.DssMixture('both', parts, default_rate=1.0)
  examples = list(both.get_dataset(LENGTHS, seed=0, num_epochs=1).as_numpy_iterator())
  expected = wanted('dss_svamp', [('svamp', 40), ('cqa', 40)])
  if 'dss_cqa_label' in parts:
    expected = {text: tasks & ({LABEL} if 'cqa' in text else tasks)
                for text, tasks in expected.items()}
    expected = {text: tasks for text, tasks in expected.items() if tasks}
  assert_together(examples, expected, 1)
  early = collections.Counter(text.split()[0] for text, _ in inputs_in_order(examples[:40]))
  assert min(early.values()) > 8


def test_unequal_rates_are_refused():
  with pytest.raises(errors.UserError, match="'uneven' gives its tasks different rates.*1:1"):
    data.DssMixture('uneven', [('dss_svamp_label', 1.0), ('dss_svamp_rationale', 2.0)])


def test_a_task_by_itself_has_only_what_it_uses(configured):
  for name, task in (('dss_svamp_label', LABEL), ('dss_svamp_rationale', RATIONALE)):
    examples = list(seqio.get_mixture_or_task(name).get_dataset(
        LENGTHS, seed=0, num_epochs=1).as_numpy_iterator())
    assert set(examples[0]) == {'id', 'inputs', 'targets', 'label', 'objective'}
    assert sorted(text_of(ex['inputs']) for ex in examples) == sorted(
        text for text, tasks in wanted('dss_svamp').items() if task in tasks)


def test_a_stock_converter_takes_the_mixture(configured):
  for pack in (True, False):
    rows = seqio.get_dataset('dss_svamp', LENGTHS, seqio.EncDecFeatureConverter(pack=pack),
                             shuffle=True, seed=0, verbose=False)
    assert 'decoder_target_tokens' in next(rows.as_numpy_iterator())


def shares(batches, expected, epochs, examples):
  """Of the inputs in a batch that have label and rationale: how many have both there, per epoch."""
  seen, together = 0, [[] for _ in range(epochs)]
  while seen < epochs * examples:
    batch, found = pipeline.to_numpy(next(batches)), collections.defaultdict(set)
    segments = batch.get('encoder_segment_ids', batch['encoder_input_tokens'] > 0).astype(int)
    targets = batch.get('decoder_segment_ids', batch['decoder_target_tokens'] > 0).astype(int)
    epoch = together[seen // examples]
    for tokens, inside, tasks, which in zip(
        batch['encoder_input_tokens'], segments, batch['decoder_objective'], targets):
      for segment in range(1, inside.max() + 1):
        found[text_of(tokens[inside == segment])].add(tasks[which == segment][0])
        seen += 1
    epoch += [tasks == expected[text] for text, tasks in found.items() if len(expected[text]) == 2]
  return [np.mean(epoch) for epoch in together]


@pytest.mark.parametrize('pack, batch_size, least', [(True, 4, 1.0), (False, 64, 0.95)])
def test_in_one_batch_in_every_epoch(configured, pack, batch_size, least):
  """Packed they share a row. Else a batch may end between the two, of one input in its 35."""
  lengths = {'inputs': 256, 'targets': 160} if pack else LENGTHS
  expected = wanted('dss_svamp')
  batches = pipeline.train_iterator(
      'dss_svamp', lengths, batch_size=batch_size, pack=pack, seed=0)
  found = shares(batches, expected, EPOCHS, sum(map(len, expected.values())))
  assert min(found) >= least and len(found) == EPOCHS


def test_a_position_in_the_middle_of_an_epoch(configured, tmp_path):
  def batches():
    return pipeline.train_iterator('dss_svamp', {'inputs': 256, 'targets': 160}, batch_size=4,
                                   pack=True, seed=2)
  whole = batches()
  for _ in range(17):
    next(whole)
  saved = tf.train.Checkpoint(iterator=whole).write(str(tmp_path / 'position'))
  resumed = batches()
  tf.train.Checkpoint(iterator=resumed).read(saved).assert_consumed()
  for _ in range(60):
    ours, theirs = pipeline.to_numpy(next(whole)), pipeline.to_numpy(next(resumed))
    for name, value in ours.items():
      np.testing.assert_array_equal(theirs[name], value)
