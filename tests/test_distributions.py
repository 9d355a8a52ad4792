"""`dss distributions`: what a T5 teacher would have written at each token of records' targets."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dss_jax
import dss_jax.tasks
from dss_jax import data, distributions, divergence, errors, models, records, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.data import checks, pipeline
from dss_jax.precompile import compiled
from dss_jax.train import config, step

FAILED = {'parse_status': 'truncated', 'rationale': '', 'teacher_label': ''}
CONFIG = models.T5Config(
    vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1,
    num_decoder_layers=1, mlp_dim=32, dtype='float32')
INFO = student_info.StudentInfo(
    CONFIG, vocabulary='bytes', label_prefix='[label] ', rationale_prefix='[rationale] ',
    input_length=40, target_length=12)
TOP_K = 5
LENGTHS = {'inputs': 48, 'targets': 24}


@pytest.fixture(scope='module')
def make_teacher(random_weights, tmp_path_factory):
  """The folder of a student of bytes with random weights, and of what its student.json says."""
  def make(**changes):
    folder = str(tmp_path_factory.mktemp('teacher') / 'native')
    convert_main.convert(random_weights(CONFIG, seed=3), folder, 'native',
                         info=dataclasses.replace(INFO, **changes))
    return folder
  return make


def row(key, **changes):
  return dataclasses.replace(records.RationaleRecord(
      id=key, input=f'parcel {key}, which is rather long ' + 'x' * (7 * int(key)), label='left',
      teacher_label='right' if int(key) % 2 else 'left', rationale=f'as {key} is ' + 'y' * int(key),
      dataset='toy', split='train'), **changes)


ROWS = [row('0'), row('1', **FAILED), row('2', label=''),
        *records.numbered([row('3'), row('3', rationale='or else', teacher_label='left')], (1, 1)),
        *(row(str(i)) for i in range(4, 9))]
ROWS = [dataclasses.replace(one, schema_version=2) for one in ROWS]


@pytest.fixture(scope='module')
def written(tmp_path_factory, make_teacher):
  """Folder of the records, of those with distributions, and the teacher's."""
  folder, teacher = tmp_path_factory.mktemp('records'), make_teacher()
  for split in ('train', 'test'):
    records.write_records(str(folder / 'plain'), 'toy', split, ROWS, num_shards=3,
                          provenance={'teacher': {'model': 'scripted'}})
  assert distributions.main([str(folder / 'plain'), f'--model_dir={teacher}', '--batch_size=3',
                             f'--output={folder / "stored"}', f'--top_k={TOP_K}']) == 0
  return str(folder / 'plain'), str(folder / 'stored'), teacher


def read(folder, split='train'):
  return list(records.read_records(folder, 'toy', split, samples=True, verify=True))


def test_log_probabilities_are_those_of_a_forward_pass(written):
  """Each target alone, by the network itself and in NumPy."""
  student = dss_jax.load(written[2])
  apply = jax.jit(lambda *tokens: student.model.apply({'params': student.params}, *tokens))
  targets = 0
  for one in read(written[1]):
    for target, packed in one.distributions.items():
      prefix = '[rationale] ' if target == 'rationale' else '[label] '
      text = student.encode(prefix + one.input)
      inputs = text[:39] + [1] if len(text) > 40 else text
      ids = student.encode(getattr(one, target))
      shown = [jnp.array([one + [0] * (40 - len(one))]) for one in (inputs, [0, *ids[:-1]])]
      logits = np.float64(apply(*shown))[0, :len(ids)]
      log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
      found, log_probs = divergence.unpack(packed, TOP_K)
      assert found.shape == (len(ids), TOP_K) and found.max() < student.tokenizer.size
      np.testing.assert_allclose(log_probs, np.take_along_axis(log_p, found, -1), atol=1e-5)
      best = -np.sort(-log_p[:, :student.tokenizer.size], -1)[:, :TOP_K]
      np.testing.assert_allclose(log_probs, best, atol=1e-5)
      targets += 1
  assert targets == 8 + 8 + 9  # The labels, those of the teacher, and two rationales of one.


def test_what_has_nothing_to_learn_has_none_and_all_else_stays(written):
  plain, stored, _ = written
  for split in ('train', 'test'):
    assert [dataclasses.replace(one, distributions={}) for one in read(stored, split)] == [
        dataclasses.replace(one, dataset='toy', split=split) for one in read(plain, split)]
  by_key = {(one.id, one.sample): set(one.distributions) for one in read(stored)}
  assert by_key['1', 0] == {'label'} and by_key['2', 0] == {'teacher_label', 'rationale'}
  assert by_key['3', 0] == {'label', 'teacher_label', 'rationale'}
  assert by_key['3', 1] == {'rationale'}
  assert not any(one.distributions for one in read(stored, 'test'))
  before, after = (records.find_set(folder, 'toy', 'train').entry for folder in (plain, stored))
  assert (after['distributions']['top_k'], after['distributions']['vocabulary_sha256']) == (
      TOP_K, 'bytes')
  for name in ('teacher', 'num_inputs', 'max_samples', 'parse_status', 'schema_version'):
    assert after[name] == before[name]


def test_a_killed_job_goes_on_and_a_finished_one_is_left(written, tmp_path, monkeypatch):
  plain, stored, teacher = written
  words = [plain, f'--model_dir={teacher}', f'--output={tmp_path / "out"}', f'--top_k={TOP_K}',
           '--batch_size=3']
  real, asked = distributions.with_distributions, []
  def killed(rows, *more):
    asked.append([one.id for one in rows])
    if len(asked) == 3:
      raise KeyboardInterrupt
    return real(rows, *more)
  monkeypatch.setattr(distributions, 'with_distributions', killed)
  with pytest.raises(KeyboardInterrupt):
    distributions.main(words)
  assert 'toy-train' not in records.set_names(str(tmp_path / 'out'))
  assert distributions.main(words) == 0
  assert asked[3:] == asked[2:3]
  assert distributions.main(words) == 0 and len(asked) == 4
  shards = [json.dumps(records.find_set(folder, 'toy', 'train').entry['shards'])
            for folder in (stored, str(tmp_path / 'out'))]
  assert shards[0] == shards[1]
  # Asked otherwise, they are others.
  assert distributions.main([*words, '--label_prefix=[x] ']) == 0 and len(asked) == 7
  entry = records.find_set(str(tmp_path / 'out'), 'toy', 'train').entry
  assert json.dumps(entry['shards']) != shards[0]
  assert entry['distributions']['prefixes'] == {'label': '[x] ', 'rationale': '[rationale] '}
  assert not list((tmp_path / 'out').glob('.toy*'))


@pytest.mark.parametrize('words, says', [
    (['--top_k=0'], '--top_k=0: use'), (['--top_k=260'], '--top_k=260: use .* from 1 to 259'),
    (['--output=plain'], '--output=plain is the folder that is read')])
def test_what_cannot_be_written_is_refused(written, monkeypatch, words, says):
  plain, _, teacher = written
  monkeypatch.chdir(plain.removesuffix('plain'))
  with pytest.raises(errors.UserError, match=says):
    distributions.main(['plain', f'--model_dir={teacher}', '--output=other', *words])


def test_a_teacher_of_labels_alone_gives_no_rationales(written, make_teacher, tmp_path):
  for changes, says in (({'label_prefix': '', 'rationale_prefix': None}, None),
                        ({'answer_phrase': 'so it is'}, 'writes its rationale before the label')):
    words = [written[0], f'--model_dir={make_teacher(**changes)}', f'--output={tmp_path / "out"}']
    if says:
      with pytest.raises(errors.UserError, match=says):
        distributions.main(words)
    else:
      assert distributions.main(words) == 0
  assert {name for one in read(str(tmp_path / 'out')) for name in one.distributions} == {
      'label', 'teacher_label'}


# --- As training reads them ----------------------------------------------------------------------


def configure(folder, **settings):
  data.configure(**{'records_dir': folder, 'vocabulary': 'bytes',
                    'token_distributions': 'forward', **settings})


def by_target(name, lengths=None, **arguments):
  """{(id, target's text): stored rows of its tokens} of a task's training examples."""
  task = pipeline.get_mixture_or_task(name)
  decode = task.output_features['targets'].vocabulary.decode
  found = {}
  for one in task.get_dataset(lengths, split='train', **arguments).as_numpy_iterator():
    assert one['distribution'].shape == (len(one['targets']), 2 * TOP_K)
    found[one['id'].decode(), decode(one['targets'].tolist())] = one['distribution']
  return found


def wanted(folder, target):
  return {(one.id, getattr(one, target)):
          np.frombuffer(one.distributions[target], np.int32).reshape(-1, 2 * TOP_K)
          for one in read(folder) if target in one.distributions}


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, err_msg=str(name))


def test_each_token_has_its_own(written):
  configure(written[1])
  assert_same(by_target('dss_toy_label'), wanted(written[1], 'label'))
  assert_same(by_target('toy_distill'), wanted(written[1], 'teacher_label'))
  first = {key: value for key, value in wanted(written[1], 'rationale').items()
           if key != ('3', 'or else')}
  assert_same(by_target('dss_toy_rationale'), first)
  configure(written[1], rationales='all')
  assert_same(by_target('dss_toy_rationale'), wanted(written[1], 'rationale'))
  configure(written[1], rationales='cycle')
  assert ('3', 'or else') in by_target('dss_toy_rationale', num_epochs=2)


def test_what_is_cut_keeps_those_of_the_tokens_that_are_left(written):
  configure(written[1])
  whole = {key: value for (key, _), value in by_target('dss_toy_rationale').items()}
  for (key, _), rows in by_target('dss_toy_rationale', {'inputs': 48, 'targets': 10}).items():
    kept = min(len(rows), len(whole[key])) - (len(rows) < len(whole[key]))
    np.testing.assert_array_equal(rows[:kept], whole[key][:kept])
    assert kept == len(rows) or not rows[kept:].any()  # The end is not the teacher's.


@pytest.mark.parametrize('shared', [False, True])
def test_packed_and_plain_rows_hold_the_same(written, shared):
  """The mixture's batches, told apart by token, objective and distribution."""
  configure(written[1], shared_encoder=shared, example_lengths={'inputs': 40, 'targets': 30})
  found = []
  for pack in (True, False):
    rows = pipeline.make_dataset('dss_toy', 'train', {'inputs': 80, 'targets': 64}, pack=pack,
                                 shuffle=False, seed=0, num_epochs=1)
    assert rows.element_spec['decoder_distribution'].shape == (64, 2 * TOP_K)
    tokens = np.concatenate([np.column_stack([
        one['decoder_target_tokens'], one['decoder_objective'], one['decoder_distribution']])
        for one in rows.as_numpy_iterator()])
    found.append(sorted(map(tuple, tokens[tokens[:, 0] > 0].tolist())))
  assert found[0] == found[1] and len(found[0]) > 100
  assert sum(any(one[2:]) for one in found[0]) > 100
  assert all(not any(one[2:]) for one in found[0] if not one[1])  # Prompts.


@pytest.mark.parametrize('pack', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_step_is_planned_with_them(written, pack):
  configure(written[1])
  batch = next(pipeline.train_iterator('dss_toy', LENGTHS, batch_size=2, pack=pack, seed=0))
  planned = compiled.features(config.DataConfig(
      mixture_or_task='dss_toy', vocabulary='bytes', token_distributions='forward',
      feature_lengths=LENGTHS, batch_size=2, pack=pack))
  shapes = {name: rows.shape for name, rows in step.features(pipeline.to_numpy(batch)).items()}
  assert shapes.pop('decoder_distribution') == (2, 24, 2 * TOP_K)
  assert planned == {**shapes, 'decoder_distribution': (2, 24, 2 * divergence.TOP_K)}


def test_validation_and_runs_without_them_do_not_read_them(written):
  configure(written[1])
  batch = next(pipeline.eval_batches('dss_toy', 'test', LENGTHS, batch_size=4, pack=False))
  assert 'decoder_distribution' not in batch
  configure(written[1], token_distributions='')
  batch = next(pipeline.eval_batches('dss_toy', 'train', LENGTHS, batch_size=4, pack=True))
  assert 'decoder_distribution' not in batch


def test_an_objective_of_another_input_keeps_its_cross_entropy(written):
  configure(written[1], objectives=(('given', '', 'label', 0.5, '{input} {rationale}'),))
  found = by_target('dss_toy_given')
  assert found and not any(rows.any() for rows in found.values())


def test_what_does_not_fit_is_refused(written, toy_vocabulary, tmp_path):
  plain, stored, teacher = written
  def check(name='dss_toy', folder=stored, **settings):
    configure(folder, **settings)
    checks.check_distributions(name)
    checks.measure(name, 'train')
  check()
  for arguments, says in (
      ({'folder': plain}, "token_distributions='forward': toy-train of .* `dss distributions"),
      ({'vocabulary': toy_vocabulary}, 'are of another vocabulary, that of .*native'),
      ({'token_distributions': 'up'}, "token_distributions='up': "),
      ({'soft_labels': 1.0}, "soft_labels=1.0: .*token_distributions='forward': set one"),
      ({'name': 'dss_toy_shuffled'}, 'each alone, and the targets of dss_toy_shuffled_rationale'),
      ({'name': 'toy_rationale_then_label'}, 'the targets of toy_rationale_then_label are others'),
      ({'name': 'toy_pretrain'}, 'the targets of toy_pretrain are others')):
    with pytest.raises(errors.UserError, match=says):
      check(**arguments)
  short = [dataclasses.replace(one, label='leftmost') for one in read(stored)]
  records.write_records(str(tmp_path), 'toy', 'train', short, provenance={
      'distributions': records.find_set(stored, 'toy', 'train').entry['distributions']})
  with pytest.raises(Exception, match='distributions of a record are not of its tokens'):
    check('dss_toy_label', str(tmp_path))


def test_a_merged_folder_has_none(written, tmp_path):
  from dss_jax import merge
  merge.merge([written[1], written[0]], str(tmp_path))
  assert not any(one.distributions for one in read(str(tmp_path)))
