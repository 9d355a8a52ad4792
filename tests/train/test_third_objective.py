"""A third objective is one row of the config: DSS_OBJECTIVES."""

import json
import subprocess

import programs
import pytest

import dss_jax
from dss_jax import errors, student_info

ROW = "(('answer', '[answer] ', 'teacher_label', 0.2),)"
pytestmark = pytest.mark.slow  # Whole runs; its sums are test_objective.py's and test_step.py's.
NAMES = ('label_loss', 'rationale_loss', 'answer_loss')


@pytest.fixture
def train(toy_records, toy_vocabulary, tmp_path):
  """Trains on three objectives; returns the lines of metrics.jsonl that have `name`."""
  run = programs.trainer(toy_records, toy_vocabulary, TRAIN_STEPS=3, EVAL_PERIOD=3,
                         DROPOUT_RATE=0, BATCH_SIZE=16, DSS_OBJECTIVES=ROW)
  def of(name, folder, **settings):
    assert run(tmp_path / folder, **settings) == 0
    lines = map(json.loads, (tmp_path / folder / 'metrics.jsonl').read_text().splitlines())
    return [line for line in lines if name in line]
  return of


def test_it_is_trained_weighed_and_reported(train, tmp_path):
  packed = train('train/loss', 'packed')
  assert [line['step'] for line in packed] == [1, 2, 3]
  for line in packed:
    label, rationale, answer = (line[f'train/{name}'] for name in NAMES)
    assert line['train/loss'] == pytest.approx(0.5 * label + 0.5 * rationale + 0.2 * answer,
                                               rel=1e-5)
    assert line['train/answer_tokens'] > 0
  parts = train('train/loss', 'in_parts', MICROBATCHES=2, LOSS_CHUNK=5)
  for one, other in zip(packed, parts, strict=True):
    for name in ('loss', *NAMES):
      assert other[f'train/{name}'] == pytest.approx(one[f'train/{name}'], rel=2e-4)
  info = student_info.find(str(tmp_path / 'packed'))
  assert (info.label_prefix, info.rationale_prefix) == ('[label] ', '[rationale] ')
  assert info.prefixes == {'answer': '[answer] '}
  student = dss_jax.load(str(tmp_path / 'packed'))
  (found,), (prompted,) = (student.predict([text], **asked) for text, asked in (
      ('a bird', {'tasks': ['answer'], 'rationale': True}), ('a bird', {})))
  ids, = student.generate([student.encode('[answer] a bird')], max_tokens=24)
  assert found.tasks == {'answer': ids.text} and found.label == prompted.label
  assert not prompted.tasks and found.rationale is not None
  with pytest.raises(errors.UserError, match="^tasks: .* 'anwser': did you mean 'answer'"):
    student.predict(['a bird'], tasks=['anwser'])
  saved = json.loads((tmp_path / 'packed' / 'run.json').read_text())
  assert saved['config']['data']['objectives'] == [['answer', '[answer] ', 'teacher_label', 0.2]]


def test_packed_equals_unpacked(train):
  """The validation of the same parameters, over the same examples."""
  packed, unpacked = (
      train('validation/loss', str(pack), PACK=pack, LEARNING_RATE=0, TRAIN_STEPS=1,
            EVAL_METRIC='answer_loss')[0] for pack in (True, False))
  for name in ('loss', *NAMES):
    assert packed[f'validation/{name}'] == pytest.approx(unpacked[f'validation/{name}'], rel=1e-5)


def test_an_input_of_two_fields_and_a_weight_of_the_step(train, tmp_path):
  row = "(('conditioned', '[answer] ', 'label', ((0, 1.0), (2, 0.0)), '{input} {rationale}'),)"
  lines = train('train/loss', 'run', DSS_OBJECTIVES=row)
  for weight, line in zip((1.0, 0.5, 0.0), lines, strict=True):
    label, rationale, conditioned = (
        line[f'train/{name}_loss'] for name in ('label', 'rationale', 'conditioned'))
    assert line['train/loss'] == pytest.approx(
        0.5 * label + 0.5 * rationale + weight * conditioned, rel=1e-5)
    assert line['train/conditioned_tokens'] == line['train/label_tokens']
  assert student_info.find(str(tmp_path / 'run')).prefixes == {}  # Nobody has its input then.


def test_another_row_is_another_run(train, capsys):
  train('train/loss', 'run', TRAIN_STEPS=1, EVAL_PERIOD=0)
  with pytest.raises(Exception, match='other settings: data.objectives was'):
    train('train/loss', 'run', TRAIN_STEPS=1, EVAL_PERIOD=0, DSS_OBJECTIVES=None)


def test_the_command_prints_its_loss(toy_records, toy_vocabulary, tmp_path):
  command = programs.words(tmp_path / 'run', toy_records, toy_vocabulary, TRAIN_STEPS=1,
                           EVAL_PERIOD=1, DSS_OBJECTIVES=ROW)
  done = subprocess.run(command, cwd=programs.REPO, capture_output=True, text=True, timeout=600,
                        check=True)
  assert 'answer_loss ' in done.stdout + done.stderr
