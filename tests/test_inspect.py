"""`dss inspect` shows a row as record, text, tokens and packed; `dss vocab` says how to use it."""

import html
import re

import pytest

from dss_jax import errors, records, vocab
from dss_jax.inspect import __main__ as inspect


def test_a_row_raw_tokenized_packed_and_back(toy_records, toy_vocabulary, capsys):
  assert inspect.main([
      '--task=dss_toy', f'--records_dir={toy_records}', f'--vocabulary={toy_vocabulary}',
      '--rows=1', '--inputs_length=64', '--targets_length=24']) == 0
  raw, packed = capsys.readouterr().out.split('=== packed row 0')
  text = raw.split("input: '")[1].split("'")[0]
  rationale = raw.split("rationale: '")[1].split("'")[0]
  label = raw.split("label: '")[1].split("'")[0]
  assert 'dss_toy_label' in raw and 'dss_toy_rationale' in raw and '1</s>' in raw
  assert f"label     '[label] {text}' -> '{label}'" in packed
  assert f"rationale '[rationale] {text}' -> '{rationale}'" in packed


def of_run(toy_records, toy_vocabulary, *words):
  return inspect.main(['--method=dss', '--dataset=toy', f'--records_dir={toy_records}', '--rows=1',
                       f'--vocabulary={toy_vocabulary}', *words])


@pytest.mark.parametrize('shared', [False, True])
def test_a_row_as_a_run_has_it(toy_records, toy_vocabulary, capsys, shared):
  assert of_run(toy_records, toy_vocabulary, '--gin.PACK=True', f'--gin.SHARED_ENCODER={shared}',
                "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}") == 0
  raw, packed = capsys.readouterr().out.split('=== packed row 0')
  text, label, rationale = (raw.split(f"{field}: '")[1].split("'")[0]
                            for field in (' input', ' label', ' rationale'))
  if shared:
    assert f"label     '{text}' -> '[label]' '{label}'" in packed
    assert f"rationale '{text}' -> '[rationale]' '{rationale}'" in packed
  else:
    assert f"label     '[label] {text}' -> '{label}'" in packed
    assert f"rationale '[rationale] {text}' -> '{rationale}'" in packed


def test_a_run_that_does_not_pack_or_is_none(toy_records, toy_vocabulary, capsys):
  assert of_run(toy_records, toy_vocabulary, '--split=test',
                '--gin.MIXTURE_OR_TASK_NAME=toy_distill') == 0
  said = capsys.readouterr().out
  assert 'toy_distill' in said and 'packed row' not in said and 'PACK=False' in said
  for words, says in ((['--task=dss_toy'], '--task and --html are of records'),
                      (['--gin.SEEED=1'], "--gin.SEEED: .*did you mean 'SEED'"),
                      (['--gin.RECORDS_DIR=nowhere'], 'nowhere/manifest.json does not exist')):
    with pytest.raises(errors.UserError, match=says):
      of_run(toy_records, toy_vocabulary, *words)
  with pytest.raises(errors.UserError, match='of which run?'):
    inspect.main(['--task=dss_toy', '--gin.SEED=1'])


@pytest.fixture
def flawed_records(tmp_path):
  """A folder whose flaws are known."""
  def row(i, split, **changes):
    return records.RationaleRecord(**{
        'id': f'{split}{i}', 'input': f'Where is <{i}>?', 'label': ('left', 'right')[i % 2],
        'teacher_label': 'left', 'rationale': 'word ' * (i + 1), 'split': split, **changes})
  train = [row(i, 'train') for i in range(20)]
  train[7] = row(7, 'train', input='where  IS <3>?')
  train[8] = row(8, 'train', parse_status='no_answer_phrase', teacher_label='', rationale='')
  records.write_records(str(tmp_path), 'toy', 'train', train)
  records.write_records(str(tmp_path), 'toy', 'test', [
      row(i, 'test', input=f'Where is <{i}>?') for i in range(18, 22)])
  return tmp_path


def test_a_page_about_the_records_names_their_flaws(flawed_records, tmp_path, capsys):
  path = tmp_path / 'page.html'
  assert inspect.main([f'--html={path}', f'--records_dir={flawed_records}', '--vocabulary=bytes',
                       '--inputs_length=32', '--targets_length=60']) == 0
  said, page = capsys.readouterr().out, path.read_text()
  for line in (
      "toy-train: 1 of 20 rows have parse status 'no_answer_phrase', such as train8; they have no",
      'toy-train: 1 rows repeat the input of an earlier row, such as train7 of train3',
      'toy-test: 2 inputs are in toy-train, too (case and spaces aside), such as test18 = train18, '
      'test19 = train19',
      'toy-train: 9 of 19 rationales (47 %) are longer than 60 tokens'):  # 9 of 19: 5 n + 1 > 60
    assert line in said and html.escape(line) in page
  assert 'accuracy 50.00 %' in page and '<script' not in page and page.count('<svg') == 2
  assert '<td class=number>50.0 %</td>' in page


def test_leftovers_in_rationales_are_counted(tmp_path, capsys):
  def row(i, rationale, status='ok', label='left'):
    return records.RationaleRecord(
        id=f'r{i}', input=f'Where {i}?', label=label, teacher_label=label, rationale=rationale,
        split='train', parse_status=status)
  records.write_records(str(tmp_path), 'toy', 'train', [
      row(0, '<think>Hm.</think> It turns left.'), row(1, 'It **leftward** turns.'),
      row(2, 'It turns left, <|channel|>'), row(3, 'Plain leftovers.'),
      row(4, '', 'ambiguous_label')])
  records.write_records(str(tmp_path), 'other', 'test', [row(9, '')])  # Gold labels alone.
  path = tmp_path / 'page.html'
  assert inspect.main([f'--html={path}', f'--records_dir={tmp_path}', '--vocabulary=bytes']) == 0
  said, page = capsys.readouterr().out, path.read_text()
  assert ("toy-train: 2 of 4 rationales hold a thinking model's marks, such as that of r0, r2"
          ) in said
  assert 'toy-train: 1 of 4 rationales hold Markdown or tags, such as that of r1' in said
  cells = re.findall(r'<td[^>]*>([^<]*)</td>', page.split('<h2>Rationales</h2>')[1])
  assert cells[:6] == ['toy-train', '4', '50.00 %', '25.00 %', '50.00 %', '20.00 %']
  assert cells[6] != 'other-test'
  other = next(svg for svg in re.findall(r'<svg.*?</svg>', page, re.DOTALL)
               if 'rationale' not in svg)  # No panel for what is not there.
  assert other.count('id="axes_') == 2 and 'None.' not in page


def test_inputs_and_samples_are_counted_apart(tmp_path, capsys):
  rows = [one for i in range(3) for one in records.numbered([records.RationaleRecord(
      id=f'r{i}', input=f'Where {i}?', label='left', teacher_label='left', teacher_model='b',
      rationale=f'It turns {"far " * sample}{i}.') for sample in range(1 + i)])]
  records.write_records(str(tmp_path), 'toy', 'train', rows)
  flags = [f'--records_dir={tmp_path}', '--vocabulary=bytes']
  assert inspect.main([f'--html={tmp_path}/page.html', '--targets_length=18', *flags]) == 0
  said = capsys.readouterr().out
  assert 'repeat the input' not in said and 'toy-train: 1 of 6 rationales (17 %) are longer' in said
  page = (tmp_path / 'page.html').read_text()
  cells = re.findall(r'<td[^>]*>([^<]*)</td>', page.split('further samples')[1])
  assert cells[:6] == ['toy-train', '3', '3', '3', '0', '1']
  assert inspect.main(['--task=dss_toy', '--rows=2', *flags]) == 0
  said = capsys.readouterr().out
  assert said.count('=== record') == 2
  assert "sample 1: 'It turns far 1.' -> 'left' (b)" in said


def test_a_vocabulary_covers_all_samples(tmp_path):
  rows = records.numbered([records.RationaleRecord(
      id='r', input='Where?', label='left', rationale=text) for text in ('turns', 'zigzag')])
  records.write_records(str(tmp_path), 'toy', 'train', rows)
  vocab.train(str(tmp_path), f'{tmp_path}/v.model', vocab_size=64, model_type='word')
  pieces = vocab.sentencepiece.SentencePieceProcessor(model_file=f'{tmp_path}/v.model')
  assert pieces.unk_id() not in pieces.encode('zigzag turns')


def test_a_page_needs_records(tmp_path):
  with pytest.raises(errors.UserError, match='holds no finished record set'):
    inspect.main([f'--html={tmp_path}/x.html', f'--records_dir={tmp_path}', '--vocabulary=bytes'])
  with pytest.raises(errors.UserError, match='--task=dss_cqa, a run, .*, or --html'):
    inspect.main([f'--records_dir={tmp_path}'])


def test_an_unknown_task_and_a_bad_count_are_named(toy_records):
  with pytest.raises(errors.UserError, match="did you mean 'dss_toy'"):
    inspect.main(['--task=dss_tyo', f'--records_dir={toy_records}'])
  with pytest.raises(errors.UserError, match="'0' is not a whole number"):
    inspect.main(['--task=dss_toy', '--rows=0'])


def test_a_vocabulary_has_t5s_ids_and_is_the_same_each_time(toy_records, tmp_path, capsys):
  paths = [tmp_path / name for name in ('a.model', 'b.model')]
  for path in paths:
    assert vocab.main([f'--records_dir={toy_records}', f'--output={path}', '--vocab_size=128',
                       '--model_type=word']) == 0
  assert '--gin.VOCAB_SIZE=128' in capsys.readouterr().out
  models = [vocab.sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in paths]
  pieces = [[m.id_to_piece(i) for i in range(m.vocab_size())] for m in models]
  assert pieces[0] == pieces[1] and pieces[0][:3] == ['<pad>', '</s>', '<unk>']
  with pytest.raises(errors.UserError, match='holds no finished record set'):
    vocab.main([f'--records_dir={tmp_path}', f'--output={tmp_path}/c.model'])


def test_a_vocabulary_covers_further_objectives(toy_records, tmp_path):
  rows = "(('premise', '<premise>', 'teacher_label', 0.2),)"
  flags = [f'--records_dir={toy_records}', f'--output={tmp_path}/v.model', '--vocab_size=64',
           '--model_type=char']
  for more, known in (([], False), ([f'--objectives={rows}'], True)):
    assert vocab.main([*flags, *more]) == 0
    model = vocab.sentencepiece.SentencePieceProcessor(model_file=f'{tmp_path}/v.model')
    assert (model.unk_id() not in model.encode('<premise>')) == known
