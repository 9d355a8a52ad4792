"""docs/data.md's first half: every cell of its table, as one runs it."""

import gzip
import io
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

import dss_jax.tasks  # noqa: F401  Registered before the tests put a registry of their own there.
from dss_jax import cli, datasets, errors, records
from dss_jax.predict import __main__ as predict_main
from dss_jax.predict import stream
from dss_jax.teacher import __main__ as teacher_main

PAGE, _, _ = (pathlib.Path(__file__).parents[2] / 'docs' / 'data.md').read_text().partition('\n## ')
HEAD, _, *TABLE = [[cell.strip() for cell in line.strip('|').split('|')]
                   for line in PAGE.splitlines() if line.startswith('|')]
# Not the fields' own names: the columns are named by the flags.
ROWS = [{'text': f'Ticket {i},\n"closed"', 'intent': ('left', 'right')[i % 2], 'key': f't{i}',
         'why': f'It says {i}.'} for i in range(6)]
COLUMNS = 'input=text,label=intent,id=key'


def as_table(delimiter):
  import csv
  file = io.StringIO(newline='')
  writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
  writer.writeheader()
  writer.writerows(ROWS)
  return file.getvalue().encode()


def as_lines(rows=ROWS):
  return ''.join(json.dumps(row) + '\n' for row in rows).encode()


def save(folder, kind):
  """Writes the rows in a format of the page; returns what names them."""
  table = pyarrow.Table.from_pylist(ROWS)
  if kind == 'Parquet':
    pyarrow.parquet.write_table(table, folder / 'in.parquet')
    return 'in.parquet'
  if kind.startswith('any of these'):
    (folder / 'in.csv.gz').write_bytes(gzip.compress(as_table(',')))
    return 'in.csv.gz'
  if kind.startswith('a quoted glob'):
    (folder / 'x_9.jsonl').write_bytes(as_lines(ROWS[:4]))
    (folder / 'x_10.jsonl').write_bytes(as_lines(ROWS[4:]))
    return 'x_*'
  if kind.startswith('a folder of'):
    pytest.importorskip('datasets').Dataset(table).save_to_disk(folder / 'saved')
    return 'saved'
  if kind.startswith('`hf://'):  # As from a hub: the library takes a folder of that name, too.
    pytest.importorskip('datasets')
    (folder / 'owner' / 'name').mkdir(parents=True)
    pyarrow.parquet.write_table(table, folder / 'owner' / 'name' / 'train-0.parquet')
    return 'hf://owner/name:train'
  name, data = {'JSON lines': ('in.jsonl', as_lines()), 'CSV': ('in.csv', as_table(',')),
                'JSON list': ('in.json', json.dumps(ROWS).encode()),
                'TSV': ('in.tsv', as_table('\t')), '`-`, stdin': ('piped', as_table(','))}[kind]
  (folder / name).write_bytes(data)
  return name


@pytest.fixture
def tickets(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
  datasets.add(datasets.Dataset('tickets', datasets.read_plain_row, labels=('left', 'right'),
                                completion=datasets.CompletionFormat(label_kind='class'),
                                holdout=None))
  (tmp_path / 'plain.jsonl').write_bytes(as_lines(
      {'id': row['key'], 'input': row['text'], 'label': row['intent']} for row in ROWS))
  return tmp_path


@pytest.fixture
def named(tickets, monkeypatch):
  """Writes a kind of rows; what a flag is given for it."""
  def named(kind):
    name = save(tickets, kind)
    if not kind.startswith('`-`'):
      return name
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO((tickets / name).read_bytes())))
    return '-'
  return named


def test_the_page_has_a_row_for_each_format_and_a_column_for_each_command():
  assert HEAD[1:] == [f'`dss {one}`' for one in (
      'teacher --inputs', 'teacher --completions', 'predict --input', 'predict --calibration')]
  assert len(TABLE) == 10 and all(row[1:] == ['yes'] * 4 for row in TABLE)


@pytest.mark.parametrize('kind', [row[0] for row in TABLE])
def test_inputs_of_a_teacher(kind, named):
  teacher_main.main(['--client=none', '--dataset=tickets', '--split=train', '--records_dir=r',
                     f'--inputs={named(kind)}', f'--columns={COLUMNS}'])
  found = list(records.read_records('r', 'tickets', 'train'))
  assert [(row.id, row.input, row.label) for row in found] == [
      (row['key'], row['text'], row['intent']) for row in ROWS]


@pytest.mark.parametrize('kind', [row[0] for row in TABLE])
def test_completions_of_a_teacher(kind, named):
  teacher_main.main(['--dataset=tickets', '--split=train', '--records_dir=r',
                     '--inputs=plain.jsonl', f'--completions={named(kind)}',
                     '--completion_columns=id=key,rationale=why,label=intent'])
  found = list(records.read_records('r', 'tickets', 'train'))
  assert [(row.id, row.rationale, row.teacher_label) for row in found] == [
      (row['key'], row['why'], row['intent']) for row in ROWS]


@pytest.mark.parametrize('kind', [row[0] for row in TABLE])
def test_input_of_predict(kind, named, student_folders):
  common = [f'--model_dir={student_folders}/native', '--max_target_length=4']
  predict_main.main([*common, f'--input={named(kind)}', f'--columns={COLUMNS}', '--output=a.jsonl'])
  predict_main.main([*common, '--input=plain.jsonl', '--output=b.jsonl'])
  found = pathlib.Path('a.jsonl').read_text()
  assert found == pathlib.Path('b.jsonl').read_text() and len(found.splitlines()) == len(ROWS)


@pytest.mark.parametrize('kind', [row[0] for row in TABLE])
def test_calibration_of_predict(kind, named, student_folders, capsys):
  predict_main.main([
      f'--model_dir={student_folders}/native', '--input=plain.jsonl', '--output=a.jsonl', '--rank',
      f'--calibration={named(kind)}', f'--calibration_columns={COLUMNS}'])
  assert 'which has the least loss of 6 rows' in capsys.readouterr().out


def test_one_table_with_answers_and_without_ids(tickets):
  """The page's command; two rows have the same input."""
  rows = [*ROWS, {**ROWS[0], 'why': 'Once more.'}]
  (tickets / 'tickets.jsonl').write_bytes(as_lines(rows))
  command, = re.findall(r'```sh\n(.*?)```', PAGE, re.DOTALL)
  words = shlex.split(command.replace('\\\n', ' ').replace('.csv', '.jsonl'))
  assert words[:3] == ['dss', 'teacher', '--import=my_tasks']
  teacher_main.main(words[3:])
  found = list(records.read_records('records', 'tickets', 'train'))
  assert [(row.input, row.rationale, row.label) for row in found] == [
      (row['text'], row['why'], row['intent']) for row in rows]
  made = datasets.made_id(ROWS[0]['text'])
  assert found[0].id == made and found[-1].id == f'{made}-2' and made.startswith('row-')


def test_made_ids_stay_when_rows_are_moved(tickets):
  def ids(rows):
    (tickets / 'in.jsonl').write_bytes(as_lines(rows))
    teacher_main.main(['--client=none', '--dataset=tickets', '--split=train', '--records_dir=r',
                       '--inputs=in.jsonl', '--columns=input=text,label=intent'])
    return {row.input: row.id for row in records.read_records('r', 'tickets', 'train')}
  assert ids(ROWS[1:]) == {k: v for k, v in ids(ROWS[::-1]).items() if k != ROWS[0]['text']}


def test_labels_that_are_not_known_are_empty_cells(tickets):
  (tickets / 'in.csv').write_text('id,input,label\na,x,left\nb,y,\n')
  teacher_main.main(['--client=none', '--dataset=tickets', '--split=train', '--records_dir=r',
                     '--inputs=in.csv'])
  assert [row.label for row in records.read_records('r', 'tickets', 'train')] == ['left', '']


@pytest.mark.parametrize('flags, message', [
    (['--inputs=in.csv'], r"in.csv, row 1: no field 'input'.*\(the row has: text, intent\); "
                          '--columns=input=COLUMN says which'),
    (['--inputs=in.csv', '--columns=input=txt'], "no column 'txt', which the columns of --inputs"),
    (['--inputs=in.csv', '--columns=input'], '--columns=input: give FIELD=COLUMN'),
    (['--inputs=one.json'], r"one.json, line 1: .*\(the row has: n, data, with a list 'data'\); "),
    (['--inputs=none.csv'], '--inputs=none.csv: cannot be read'),
    (['--inputs=s3://a/b.csv'], 's3:// cannot be read'),
])
def test_what_is_wrong_with_inputs_is_one_line(tickets, flags, message):
  (tickets / 'in.csv').write_text('text,intent\nx,left\n')
  (tickets / 'one.json').write_text(json.dumps({'n': [1], 'data': ROWS}))
  with pytest.raises(errors.UserError, match=message):
    teacher_main.main(['--client=none', '--dataset=tickets', '--split=train', '--records_dir=r',
                       *flags])


def test_predict_goes_on_from_stdin_with_the_same_bytes_only(tickets, monkeypatch, student_folders):
  monkeypatch.setattr(predict_main, 'WINDOW_BATCHES', 1)

  def run(data):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
    return predict_main.main([f'--model_dir={student_folders}/native', '--input=-', '--columns='
                              f'{COLUMNS}', '--output=a.jsonl', '--batch_size=2',
                              '--max_target_length=4'])
  bad = as_lines([*ROWS[:4], {'text': 7.5, 'intent': None, 'key': []}])
  with pytest.raises(errors.UserError, match="-, line 5: field 'id' is a list"):
    run(bad)
  assert not (tickets / 'a.jsonl.parts').exists()
  rows, written = as_lines(), []

  def line(row, line=stream.as_line):
    written.append(row)
    if len(written) == 5:
      raise KeyboardInterrupt
    return line(row)
  monkeypatch.setattr(stream, 'as_line', line)
  with pytest.raises(KeyboardInterrupt):
    run(rows)
  assert (tickets / 'a.jsonl.parts' / '000001.jsonl').exists()
  with pytest.raises(errors.UserError, match='input_sha256 was'):
    run(rows.replace(b'Ticket 3', b'Ticket 8'))
  assert run(rows) == 0 and len(written) == len(ROWS) + 1


def test_both_programs_take_hf_names_and_stdin(tmp_path):
  """As processes: the words of the command line are checked before the verb sees them."""
  (tmp_path / 'my_tasks.py').write_text(
      "from dss_jax import data\ndata.register('tickets', holdout=None)\n")
  for flag, data in (('--inputs=-', as_lines()), ('--inputs', as_lines())):
    words = [flag, '-'] if flag == '--inputs' else [flag]
    done = subprocess.run(
        [sys.executable, '-m', 'dss_jax.cli', 'teacher', '--import=my_tasks', '--dataset=tickets',
         '--split=train', '--client=none', f'--columns={COLUMNS}', '--records_dir=r', *words],
        input=data, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
  with pytest.raises(errors.UserError, match='hf:// cannot be read'):
    cli._check_words(['--output=hf://a/b'])
  for flag in ('--inputs', '--completions', '--input', '--calibration'):
    cli._check_words([f'{flag}=hf://a/b:train'])
