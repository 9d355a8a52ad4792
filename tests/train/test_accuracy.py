"""A reported accuracy is true: training, `dss predict` and the exported student agree on it."""

import importlib.util
import json
import re

import pytest

import dss_jax
from dss_jax import data, errors, metrics, records, vocab
from dss_jax.export import __main__ as export_main
from dss_jax.predict import __main__ as predict_main
from dss_jax.train import gin_config, loop

SETS = {
    'ascii': ('yes', 'no', 'a {b}', 'a < b'),
    'emoji': ('\U0001f44d', '\U0001f44e', '\U0001f600 ok'),
    'cjk': ('\u597d\u8bc4\uff08\u5f3a\uff09', '\u5dee\u8bc4', '\u4e00\u822c'),
    'cyrillic': ('\u0434\u0430', '\u043d\u0435\u0442', '\u043d\u0435 \u0437\u043d\u0430\u044e'),
    'nfd': ('cafe\u0301', '\ufb01ne', 'two  spaces', ' lead', 'line\nbreak'),
    'numbers': ('-1', '0', '1', '1.0', '1e3')}
# What a vocabulary of T5's kind, without `{ } < ~` and other scripts, cannot tell apart.
LOST_IN_T5S_KIND = ('emoji', 'cjk', 'cyrillic')
WORDS = ('apple', 'brick', 'cloud', 'drum', 'eagle')


def write_records(folder, labels):
  """A word decides the label."""
  def rows(split, count):
    for i in range(count):
      k = (i * 7 + i // 5) % len(labels)
      yield records.RationaleRecord(
          id=f'{split}{i}', input=f'{WORDS[k]} {WORDS[i % 3]}', label=labels[k],
          teacher_label=labels[k], rationale=f'It says {WORDS[k]}.', split=split)
  for split, count in (('train', 60), ('validation', 10), ('test', 20)):
    records.write_records(str(folder), 'odd', split, list(rows(split, count)), num_shards=1)


def t5s_kind(folder):
  """A vocabulary made of English text alone."""
  text = folder / 'english'
  letters = 'abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 - + . , : ?'
  records.write_records(str(text), 'english', 'train', [
      records.RationaleRecord(id=str(i), input=words, label='is')
      for i, words in enumerate([' '.join(WORDS), letters, 'So the answer is It says'])])
  vocab.train(str(text), str(folder / 'v.model'), vocab_size=120)
  return str(folder / 'v.model')


def own(folder):
  vocab.train(str(folder / 'records'), str(folder / 'v.model'), vocab_size=300)
  return str(folder / 'v.model')


def train(folder, make_vocabulary, labels, steps, task='odd_finetune', closed=True):
  data.register('odd', labels=labels if closed else None)
  write_records(folder / 'records', labels)
  targets = 16 if task == 'odd_finetune' else 48  # With a rationale before the label.
  bindings = {
      'DATASET': 'toy', 'MIXTURE_OR_TASK_NAME': task, 'RECORDS_DIR': folder / 'records',
      'TRAIN_STEPS': steps,
      'VOCABULARY': make_vocabulary(folder), 'VOCAB_SIZE': 384, 'MODEL_DIR': folder / 'run',
      'TASK_FEATURE_LENGTHS': f"{{'inputs': 32, 'targets': {targets}}}", 'BATCH_SIZE': 8,
      'EVAL_PERIOD': steps, 'CHECKPOINT_PERIOD': steps, 'LEARNING_RATE': 3e-3,
      'WARMUP_STEPS': min(50, steps - 1)}
  return loop.train(gin_config.parse(
      ['gin/native/finetune.gin'], [f'{k}={v}' for k, v in bindings.items()]))


def by_predict(folder, capsys, *flags):
  """Accuracy that `dss predict` prints for the test rows, and its answers."""
  rows = list(records.read_records(str(folder / 'records'), 'odd', 'test'))
  (folder / 'test.jsonl').write_text(''.join(
      json.dumps({'id': r.id, 'input': r.input, 'label': r.label}) + '\n' for r in rows))
  output = folder / f'answers{len(flags)}.jsonl'
  predict_main.main([f'--model_dir={folder / "run"}', f'--input={folder / "test.jsonl"}',
                     f'--output={output}', *flags])
  answers = [json.loads(line)['predicted_label'] for line in output.open(encoding='utf-8')]
  printed = re.search(r'accuracy ([\d.]+) % of', capsys.readouterr().out)[1]
  scored = metrics.text_accuracy([r.label for r in rows], answers)['accuracy']
  assert float(printed) == pytest.approx(scored, abs=0.005)
  return scored, answers, rows


def by_export(folder, rows):
  """Answers of the exported student, run by the file that lies with it."""
  export_main.main([f'--model_dir={folder / "run"}', f'--output={folder / "exported"}',
                    '--platforms=cpu'])
  spec = importlib.util.spec_from_file_location('exported', folder / 'exported' / 'student.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return [label for label, _ in module.Student().predict([r.input for r in rows])]


def check_all_agree(folder, capsys, make_vocabulary, labels, steps):
  result = train(folder, make_vocabulary, labels, steps)
  accuracy, answers, rows = by_predict(folder, capsys)
  assert result.test['accuracy'] == pytest.approx(accuracy, abs=1e-6)
  assert by_export(folder, rows) == answers
  ranked, chosen, _ = by_predict(folder, capsys, '--rank')
  assert set(chosen) <= set(labels)
  return result.test['accuracy'], ranked, answers


@pytest.mark.slow
def test_odd_labels_score_alike_everywhere(tmp_path, capsys):
  """Normalised, spaced and unknown labels at once, with a vocabulary that has none of them."""
  labels = ('cafe\u0301', '\ufb01ne', 'two  spaces', 'a < b', '-1')
  accuracy, ranked, answers = check_all_agree(tmp_path, capsys, t5s_kind, labels, 200)
  assert accuracy == ranked > 60 and set(answers) <= set(labels)


@pytest.mark.slow
@pytest.mark.parametrize('make_vocabulary', [own, t5s_kind])
@pytest.mark.parametrize('name', SETS)
def test_every_kind_of_label(tmp_path, capsys, name, make_vocabulary):
  if make_vocabulary is t5s_kind and name in LOST_IN_T5S_KIND:
    with pytest.raises(errors.UserError, match=r"labels '.*' and '.*' of 'odd' are both"):
      train(tmp_path, make_vocabulary, SETS[name], 1)
    return
  accuracy, ranked, _ = check_all_agree(tmp_path, capsys, make_vocabulary, SETS[name], 400)
  with capsys.disabled():
    print(f'\n{name} {make_vocabulary.__name__}: train = predict = export {accuracy:.1f} %, '
          f'--rank {ranked:.1f} %')
  assert accuracy == ranked > 60


@pytest.mark.slow
def test_a_label_behind_a_rationale_scores_alike(tmp_path, capsys):
  labels = ('\ufb01ne', 'two  spaces', 'plain')
  result = train(tmp_path, own, labels, 200, task='odd_rationale_then_label')
  accuracy, answers, rows = by_predict(tmp_path, capsys)
  assert result.test['accuracy'] == pytest.approx(accuracy, abs=1e-6)
  assert by_export(tmp_path, rows) == answers and accuracy > 0
  prediction, = dss_jax.load(str(tmp_path / 'run')).predict([rows[0].input])
  assert prediction.rationale.startswith('It says ') and prediction.label == answers[0]


@pytest.mark.slow
def test_a_student_that_knows_nothing_is_not_right(tmp_path, capsys):
  """Open labels that come out as other texts: wrong everywhere, and said before."""
  result = train(tmp_path, t5s_kind, ('cafe\u0301', 'plain', '\ufb01ne'), 1, closed=False)
  accuracy, _, _ = by_predict(tmp_path, capsys)
  assert result.test['accuracy'] == pytest.approx(accuracy, abs=1e-6)
