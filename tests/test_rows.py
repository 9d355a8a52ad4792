"""Rows as strangers have them: every format, its oddities, and errors that name the place."""

import bz2
import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import textwrap

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dss_jax import errors, rows

ROWS = [{'text': 'Twice charged;\r\n"really", é\u2028', 'intent': 'billing'},
        {'text': 'It closes, again', 'intent': None}, {'text': '007', 'intent': '1.0'}]


def as_csv(values=ROWS, **how):
  file = io.StringIO(newline='')
  writer = csv.DictWriter(file, list(values[0]), **how)
  writer.writeheader()
  writer.writerows(values)
  return file.getvalue()


def as_lines(values=ROWS):
  return ''.join(json.dumps(value, ensure_ascii=False) + '\n' for value in values)


def as_parquet(values=ROWS, **how):
  file = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), file, **how)
  return file.getvalue()


def zstd(data):
  return pyarrow.compress(data, codec='zstd', asbytes=True)


FORMATS = {  # name: bytes
    'csv': as_csv(), 'bom.csv': '\ufeff' + as_csv(), 'lf.csv': as_csv(lineterminator='\n'),
    'quoted.CSV': as_csv(quoting=csv.QUOTE_ALL), 'tsv': as_csv(delimiter='\t'),
    'semicolon.csv': as_csv(delimiter=';'), 'tabs.csv': as_csv(delimiter='\t'),
    'jsonl': as_lines(), 'crlf.jsonl': as_lines().replace('\n', '\r\n'),
    'bom.json': '\ufeff' + as_lines(), 'list.json': json.dumps(ROWS, indent=2),
    'parquet': as_parquet(), 'groups.parquet': as_parquet(row_group_size=1)}
FORMATS = {f'in.{name}': data.encode() if isinstance(data, str) else data
           for name, data in FORMATS.items()}
FORMATS |= {'in.csv.gz': gzip.compress(FORMATS['in.csv']), 'in.csv.zst': zstd(FORMATS['in.csv']),
            'in.jsonl.gz': gzip.compress(FORMATS['in.jsonl']),
            'in.json.zst': zstd(FORMATS['in.list.json']),
            'parts.tsv.gz': gzip.compress(FORMATS['in.tsv'][:30]) + gzip.compress(
                FORMATS['in.tsv'][30:]),  # as `cat a.gz b.gz` makes it
            'in.parquet.gz': gzip.compress(FORMATS['in.parquet']),
            'in.csv.bz2': bz2.compress(FORMATS['in.csv']),
            'in.csv.xz': lzma.compress(FORMATS['in.csv']), 'misnamed.csv': zstd(FORMATS['in.csv']),
            'no_ending': FORMATS['in.csv'], 'no_ending_json': FORMATS['in.jsonl']}


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_has_the_same_rows(tmp_path, name):
  (tmp_path / name).write_bytes(FORMATS[name])
  read = rows.Rows(str(tmp_path / name), '--input')
  assert list(read) == ROWS and read.done == read.size  # In order, without an index,
  assert len(read) == 3 and [read[i] for i in (2, 0, 1)] == [ROWS[i] for i in (2, 0, 1)]
  assert read[1:] == ROWS[1:] and read.where(2).startswith(f'{tmp_path / name}, ')
  with pytest.raises(IndexError):
    read[3]


@pytest.mark.parametrize('name', ['in.csv', 'in.jsonl', 'in.list.json', 'in.parquet', 'in.csv.gz'])
def test_stdin_is_told_by_what_is_inside(name):
  code = ("import json; from dss_jax import rows; read = rows.Rows('-', '--input'); "
          'print(json.dumps([list(read), read[2], read.sha256]))')
  done = subprocess.run([sys.executable, '-c', code], input=FORMATS[name], capture_output=True,
                        check=True)
  found, third, digest = json.loads(done.stdout)
  assert found == ROWS and third == ROWS[2] and len(digest) == 64


def test_a_pipe_is_read_once_and_at_any_place():
  read, write = os.pipe()
  os.write(write, FORMATS['in.csv'])
  os.close(write)
  found = rows.Rows(f'/dev/fd/{read}', '--input')
  os.close(read)
  assert found[2] == ROWS[2] and list(found) == ROWS


def test_a_glob_is_read_in_natural_order(tmp_path):
  for name, i in (('x_10.jsonl', 2), ('x_9.csv', 1), ('x_1.parquet', 0)):
    make = {'jsonl': as_lines, 'csv': as_csv, 'parquet': as_parquet}[name.partition('.')[2]]
    data = make([ROWS[i]])
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
  found = rows.Rows(str(tmp_path / 'x_*'), '--input')
  assert list(found) == ROWS and [found[i] for i in range(3)] == ROWS
  assert [found.where(i).rpartition('/')[2] for i in range(3)] == [
      'x_1.parquet, row 1', 'x_9.csv, row 1', 'x_10.jsonl, line 1']
  assert found.done == found.size == sum(file.size for file in found.files)
  one = rows.Rows(str(tmp_path / 'x_9.csv'), '--input')
  assert one.sha256 != found.sha256
  with pytest.raises(errors.UserError, match=r'--input=.*y_\*: no such file; quote the pattern'):
    rows.Rows(str(tmp_path / 'y_*'), '--input')


def test_more_files_than_a_shell_lets_open(tmp_path):
  for i in range(300):
    (tmp_path / f'x_{i}.jsonl').write_text('{"text": "a"}\n')
  code = ("import resource, sys; limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
          'resource.setrlimit(resource.RLIMIT_NOFILE, (128, limit)); from dss_jax import rows; '
          "print(sum(1 for row in rows.Rows(sys.argv[1], '--inputs')))")
  done = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'x_*')], capture_output=True,
                        text=True, check=True)
  assert done.stdout == '300\n'


def test_a_name_with_brackets_that_is_there_is_no_glob(tmp_path):
  (tmp_path / 'in[1].csv').write_bytes(FORMATS['in.csv'])
  assert list(rows.Rows(str(tmp_path / 'in[1].csv'), '--input')) == ROWS


def test_columns(tmp_path):
  (tmp_path / 'in.csv').write_bytes(FORMATS['in.csv'])
  columns = rows.parse_columns('input=text, label=intent')
  found = rows.Rows(str(tmp_path / 'in.csv'), '--input', columns)
  assert [(row['input'], row['label']) for row in found] == [
      (row['text'], row['intent']) for row in ROWS]
  assert rows.parse_columns('input=text,"label=what, if any",id=a=b') == {
      'input': 'text', 'label': 'what, if any', 'id': 'a=b'}
  assert rows.parse_columns(None) == {}
  with pytest.raises(errors.UserError, match=r"in.csv, row 1: no column 'txt'.*mean 'text'"):
    next(iter(rows.Rows(str(tmp_path / 'in.csv'), '--input', {'input': 'txt'})))
  with pytest.raises(errors.UserError, match=r"row 1: no column 'body'.*known: intent, text"):
    next(iter(rows.Rows(str(tmp_path / 'in.csv'), '--input', {'input': 'body'})))
  for text in ('input', 'input=', '=text', 'input=a,input=b', 'input=a,'):
    with pytest.raises(errors.UserError, match='--columns=input|--columns=='):
      rows.parse_columns(text)


UNREADABLE = {
    'empty.csv': (b'', 'file is empty'), 'blank.csv': (b'\n\r\n', 'file is empty'),
    'head.csv': (b'text,label\n', r'no rows below its column names \(text, label\)'),
    'twice.csv': (b'text,text\na,b\n', "column 'text' is there twice"),
    'long.csv': (b'text,label\n"a\nb",c\n\nd,e,f\n', r'row 2: 3 cell\(s\), but there are 2 colum'),
    'short.csv': (b'text,label\na,b\nc\n', r'row 2: 1 cell\(s\), but there are 2.*\(text, label\)'),
    'open.csv': (b'text,label\na,b\n"c,d\ne,f\n', r'open.csv, row 2 \(byte 15\): .*unexpected end'),
    'quote.csv': (b'text,label\n"a" b,c\n', 'row 1 .*: not a table as its name says'),
    'latin.csv': ('text,label\na,b\ncafé,d\n'.encode('latin-1'),
                  r"row 2, column 'text': not UTF-8 \(byte 0xe9 at character 3\); save.*iconv"),
    'latin_name.csv': ('téxt,label\na,b\n'.encode('latin-1'), 'column name .*not UTF-8'),
    'utf16.csv': ('text,label\na,b\n'.encode('utf-16'), 'is UTF-16; save it as UTF-8'),
    'cr.csv': (b'text,label\ra,b\rc,d\r', 'new-line character'),
    'latin.jsonl': ('{"text": "a"}\n{"text": "é"}\n'.encode('latin-1'), 'line 2: not UTF-8'),
    'bad.jsonl': (b'{"text": "a"}\n{"text": \n', 'line 2: not JSON'),
    'table.json': (b'text,label\na,b\n', 'line 1: not JSON .*table is told by its name, .csv'),
    'nested.json': (json.dumps({'version': 1, 'data': ROWS}, indent=1).encode(),
                    "the file is one object, with a list 'data': write its rows to a file"),
    'half.json': (b'[{"text": "a"}, ', 'not a JSON list'), 'none.json': (b'[]', 'list is empty'),
    'feather.arrow': (b'ARROW1\0\0', 'Arrow or Feather file; write Parquet'),
    'book.xlsx': (b'PK\x03\x04rest', 'spreadsheet .*save the table as CSV'),
    'cut.csv.gz': (gzip.compress(random.Random(0).randbytes(999))[:500], 'cut off or damaged'),
    'cut.csv.zst': (zstd(random.Random(0).randbytes(999))[:500], 'cut off or damaged'),
    'cut.csv.xz': (lzma.compress(random.Random(0).randbytes(999))[:500], 'cut off or damaged'),
    'bad.csv.gz': (b'\x1f\x8b\x08' + b'\0' * 7 + b'junk junk', 'cut off or damaged'),
    'text.parquet': (b'text,label\n', 'not Parquet'),
    'cut.parquet': (as_parquet()[:90], 'not Parquet'),
    'none.parquet': (b'', 'not Parquet'),
    'image.parquet': (as_parquet([{'text': 'a', 'png': b'\x89\xff'}]),
                      "row 1 of .*field 'png': cannot be written as JSON.*leave it out")}


@pytest.mark.parametrize('name', UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, name):
  data, message = UNREADABLE[name]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(errors.UserError, match=message) as error:
    list(rows.Rows(str(tmp_path / name), '--input'))
  assert name in str(error.value) and '\n' not in str(error.value)


def test_parquet_without_rows_or_with_a_name_twice(tmp_path):
  path = tmp_path / 'in.parquet'
  pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.array([], 'string')}), path)
  with pytest.raises(errors.UserError, match=r'in.parquet: the table has no rows'):
    rows.Rows(str(path), '--input')
  pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=['a', 'a']), path)
  with pytest.raises(errors.UserError, match=r"in.parquet: column 'a' is there twice"):
    rows.Rows(str(path), '--input')


def test_types_of_parquet(tmp_path):
  made = {'i': 1, 'f': 1.0, 'd': decimal.Decimal('1.50'), 'on': datetime.date(2024, 2, 29),
          'list': ['a', 'b'], 'struct': {'text': ['x']}, 'null': None, 'bytes': b'ok'}
  (tmp_path / 'in.parquet').write_bytes(as_parquet([made]))
  found, = rows.Rows(str(tmp_path / 'in.parquet'), '--input')
  assert found == {**made, 'd': '1.50', 'on': '2024-02-29', 'bytes': 'ok'}
  assert str(found['i']) == '1' and str(found['f']) == '1.0'


def test_numbers_and_blanks_of_csv_stay_as_they_are_written(tmp_path):
  (tmp_path / 'in.csv').write_text('n,,s,e\n1,x, 1.0 ,\n1e3,y,NA,""\n')
  assert list(rows.Rows(str(tmp_path / 'in.csv'), '--input')) == [
      {'n': '1', 's': ' 1.0 ', 'e': None}, {'n': '1e3', 's': 'NA', 'e': None}]


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(st.tuples(*[st.text(
    st.characters(exclude_categories=['Cs'], exclude_characters='\0'))] * 2), min_size=1),
    delimiter=st.sampled_from(',;\t'), how=st.sampled_from([
        # Before Python 3.13 a writer of '\n' puts no quotes around '\r'.
        (csv.QUOTE_ALL, '\n'), (csv.QUOTE_ALL, '\r\n'), (csv.QUOTE_MINIMAL, '\r\n')]))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, table, delimiter, how):
  path = tmp_path_factory.mktemp('table') / 'in.csv'
  made = [dict(zip(('text', 'b'), cells)) for cells in table]
  path.write_text(as_csv(made, delimiter=delimiter, quoting=how[0], lineterminator=how[1]),
                  encoding='utf-8', newline='')
  wanted = [{key: cell or None for key, cell in row.items()} for row in made]
  read = rows.Rows(str(path), '--input')
  assert list(read) == wanted and [read[i] for i in range(len(read))] == wanted


MEMORY = '''
    import resource, sys
    from dss_jax import rows
    import dss_jax.rows.json_copy, pyarrow.parquet, gzip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for row in rows.Rows(sys.argv[1], '--input') if row['text'])
    print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
'''


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['csv', 'jsonl', 'jsonl.gz', 'parquet'])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
  """200 MB of rows, read in less than a quarter of that."""
  path, count = tmp_path / f'in.{ending}', 200_000
  text = ' '.join(map(str, range(220)))[:1000]
  if ending == 'parquet':
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema([('text', 'string')])) as writer:
      for part in range(20):
        texts = [f'{part} {i} {text}' for i in range(count // 20)]
        writer.write_table(pyarrow.table({'text': texts}))
  else:
    with (gzip.open if ending.endswith('gz') else open)(path, 'wt') as f:
      f.write('id,text\n' if ending == 'csv' else '')
      for i in range(count):
        f.write(f'{i},"{i} {text}"\n' if ending == 'csv' else f'{{"text": "{i} {text}"}}\n')
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(MEMORY), str(path)],
                        capture_output=True, text=True, check=True)
  found, megabytes = map(int, done.stdout.split())
  assert found == count and megabytes < 50, megabytes


def test_what_is_heavy_is_loaded_when_it_is_needed():
  code = ("import sys, dss_jax.rows; "
          "assert not {'pyarrow', 'datasets', 'pandas', 'tensorflow'} & set(sys.modules)")
  subprocess.run([sys.executable, '-c', code], check=True)


def test_the_line_ends_of_old_macs(tmp_path):
  (tmp_path / 'mac.csv').write_bytes(b'input,label\ra,x\rb,y\r')
  with pytest.raises(errors.UserError, match=r'lines end as those of old Macs did, with .r alone'):
    list(rows.Rows(str(tmp_path / 'mac.csv'), '--input'))


def test_a_field_that_nothing_reads():
  assert rows.parse_columns('input=a', known=('id', 'input')) == {'input': 'a'}
  with pytest.raises(errors.UserError, match="^--columns=inptu=a: no field 'inptu': .* 'input'"):
    rows.parse_columns('inptu=a', known=('id', 'input'))
