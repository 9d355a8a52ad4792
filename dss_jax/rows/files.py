"""Files of JSON and of CSV, a row at a time and in any order."""

import array
import contextlib
import csv
import functools
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax import errors, fields
from dss_jax.rows import opening

_LONGEST_CELL = 1 << 24  # bytes; a quote that is never closed must not read the rest of a file


class File(Sequence[Any]):
  """The rows of one file, which stay in it.

  Going through them in order costs no memory; what is asked for by number, or how many there are,
  is found by an index of 12 bytes a row. `where(i)` says where row i stands, for messages:
  'x.json, line 3'.

  Attributes:
    path: as given.
    size: bytes, uncompressed.
    done: of them, how many were read by the last walk through the rows.
    is_list: whether it is one JSON list.
  """

  is_list = False
  _unit = 'row'

  def __init__(self, opened: opening.Opened, path: str, flag: str,
               columns: Mapping[str, str] | None = None):
    """`columns`: a row's field -> the column that it is read from; see `rows.parse_columns`."""
    self.path = path
    self._flag, self._opened, self._columns = flag, opened, columns or {}
    self._lock = threading.Lock()
    self._start = len(opening.BOM) if opened.starts_with(opening.BOM) else 0
    self.size = opened.file.seek(0, 2)
    self.done = 0
    if not opened.first():
      raise errors.UserError(f'{flag}={path}: the file is empty; expected JSON lines, a JSON list, '
                             'or a table with a line of column names')

  @functools.cached_property
  def sha256(self) -> str:
    """Of the file's bytes, as they are stored."""
    with self._lock:
      self._opened.stored.seek(0)
      return hashlib.file_digest(self._opened.stored, 'sha256').hexdigest()  # type: ignore

  def __len__(self) -> int:
    return len(self._index[0])

  def __getitem__(self, index):
    """Row `index`; UserError if it cannot be read."""
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    return self._row(*(part[index] for part in self._index))

  def __iter__(self) -> Iterator[Any]:
    for offset, number in self._places():
      self.done = offset
      yield self._row(offset, number)
    self.done = self.size

  def where(self, index: int) -> str:
    return self._where(self._index[1][index])

  def _where(self, number: int) -> str:
    return f'{self.path}, {self._unit} {number}'

  @functools.cached_property
  def _index(self) -> tuple[Sequence[int], Sequence[int]]:
    offsets, numbers = array.array('q'), array.array('I')
    for offset, number in self._places():
      offsets.append(offset)
      numbers.append(number)
    return offsets, numbers

  def _row(self, offset: int, number: int) -> Any:
    row = self._value(offset, number)
    if not self._columns or not isinstance(row, dict):
      return row
    if missing := [column for column in self._columns.values() if column not in row]:
      raise errors.UserError(
          f'{self._where(number)}: no column {missing[0]!r}, which the columns of {self._flag} '
          f'name: {errors.did_you_mean(missing[0], row)}')
    return row | {field: row[column] for field, column in self._columns.items()}

  def _lines(self, offset: int) -> Iterator[tuple[int, bytes]]:
    """Each line with its place."""
    while True:
      with self._lock:  # Shards are read and written by several threads.
        self._opened.file.seek(offset)
        line = self._opened.file.readline()
      if not line:
        return
      yield offset, line
      offset += len(line)

  def _places(self) -> Iterator[tuple[int, int]]:
    """(byte offset, number for messages, from 1) of each row."""
    raise NotImplementedError

  def _value(self, offset: int, number: int) -> Any:
    raise NotImplementedError


def inner_list(row: Mapping[str, Any]) -> str:
  """Where the rows may be, of a file that is one object: ", with a list 'data'"; '' if nowhere."""
  found = [key for key, value in row.items() if isinstance(value, list) and value
           and isinstance(value[0], Mapping)]
  return f', with a list {found[0]!r}' if found else ''


class JsonLines(File):
  """A value in each line; blank lines are passed over."""

  _unit = 'line'

  def _places(self) -> Iterator[tuple[int, int]]:
    # Bytes: a JSON string may hold U+2028.
    for number, (offset, line) in enumerate(self._lines(self._start), 1):
      if line.strip():
        yield offset, number

  def _value(self, offset: int, number: int) -> Any:
    line = next(self._lines(offset))[1]
    try:
      return fields.parse_json(line.decode('utf-8'))
    except UnicodeDecodeError as error:
      raise self._not_utf8(offset, number, error) from error
    except ValueError as error:
      raise errors.UserError(f'{self._where(number)}: not JSON ({error}); {self._advice(line)}'
                             ) from error

  def _not_utf8(self, offset: int, number: int, error: UnicodeDecodeError) -> errors.UserError:
    return errors.UserError(f'{self._where(number)}: not UTF-8 (byte {offset + error.start}); save '
                            f'{self._flag}={self.path} as UTF-8')

  def _advice(self, line: bytes) -> str:
    if not line.lstrip().startswith(b'{'):
      return 'each line must be one object; a table is told by its name, .csv or .tsv'
    try:
      with self._lock:
        self._opened.file.seek(self._start)
        whole = fields.parse_json(self._opened.file.read().decode('utf-8'))
    except ValueError:
      return 'each line must be one object'
    return f'the file is one object{inner_list(whole)}: write its rows to a file of their own'


class Lines(JsonLines):
  """A text in each line, which becomes a row's `input`; blank lines are passed over."""

  def _value(self, offset: int, number: int) -> Any:
    line = next(self._lines(offset))[1]
    try:
      return {'input': line.decode('utf-8').strip()}
    except UnicodeDecodeError as error:
      raise self._not_utf8(offset, number, error) from error


class Copied(JsonLines):
  """Rows of another kind of file, as `json_copy` wrote them."""

  _unit = 'row'


class JsonList(File):
  """A file that is one JSON list; read whole."""

  is_list = True
  _unit = 'item'

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    if not self._values:
      raise errors.UserError(f'{self._flag}={self.path}: the JSON list is empty')

  @functools.cached_property
  def _values(self) -> list[Any]:
    self._opened.file.seek(0)
    try:
      return fields.parse_json(self._opened.file.read().decode('utf-8-sig'))
    except UnicodeDecodeError as error:
      raise errors.UserError(f'{self._flag}={self.path}: not UTF-8 (byte {error.start}); '
                             'save it as UTF-8') from error
    except ValueError as error:
      raise errors.UserError(f'{self.path}: not a JSON list ({error})') from error

  def __iter__(self) -> Iterator[Any]:
    for i in range(len(self._values)):
      self.done = self.size * i // len(self._values)
      yield self._row(i, i + 1)
    self.done = self.size

  def _places(self) -> Iterator[tuple[int, int]]:
    return ((i, i + 1) for i in range(len(self._values)))

  def _value(self, offset: int, number: int) -> Any:
    return self._values[offset]


class Table(File):
  """CSV or TSV with a line of column names; every cell is text, an empty one null.

  Commas, or where the column names have none semicolons or tabs, part the cells. A column without
  a name is passed over. Row 1 is the first below the names.
  """

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    csv.field_size_limit(_LONGEST_CELL)
    self._delimiter = self._find_delimiter('\t' if self._opened.name.endswith('.tsv') else ',')
    self._first, names = next(self._records(self._start, self._delimiter))[1:]
    self._names = [name.strip() for name in names]
    self._check_names()
    if next(self._places(), None) is None:
      raise errors.UserError(f'{self._flag}={self.path}: the table has no rows below its column '
                             f'names ({", ".join(self._names)})')

  def _find_delimiter(self, usual: str) -> str:
    for delimiter in dict.fromkeys((usual, ';', '\t')):
      with contextlib.suppress(errors.UserError):  # Names in quotes that another one parts.
        if len(next(self._records(self._start, delimiter))[2]) > 1:
          return delimiter
    return usual

  def _check_names(self) -> None:
    named = [name for name in self._names if name]
    for name in named:
      self._check_utf8(name, f'{self.path}: column name {name!a}')
    if twice := sorted({name for name in named if named.count(name) > 1}):
      raise errors.UserError(f'{self._flag}={self.path}: column {twice[0]!r} is there twice; '
                             'rename one')

  def _records(self, offset: int, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """(start, end, cells) of each record that is not blank; a record may have several lines."""
    at = end = offset

    def text() -> Iterator[str]:
      nonlocal end
      for start, line in self._lines(offset):
        end = start + len(line)
        yield line.decode('utf-8', 'surrogateescape')  # What is no UTF-8 is found in its cell.

    reader, number = csv.reader(text(), delimiter=delimiter, strict=True), 0
    while True:
      try:
        cells = next(reader)
      except StopIteration:
        return
      except csv.Error as error:
        where = self._where(number + 1) if offset > self._start else f'{self.path}, column names'
        fix = (r'its lines end as those of old Macs did, with \r alone: write them with \n'
               if 'new-line character' in str(error) else
               'put "..." around a cell with quotes or line breaks, and double the quotes inside')
        raise errors.UserError(
            f'{where} (byte {at}): not a table as its name says ({error}); {fix}') from error
      number += bool(cells)
      if cells:
        yield at, end, cells
      at = end

  def _places(self) -> Iterator[tuple[int, int]]:
    records = self._records(self._first, self._delimiter)
    return ((start, number) for number, (start, _, _) in enumerate(records, 1))

  def _value(self, offset: int, number: int) -> dict[str, str | None]:
    cells = next(self._records(offset, self._delimiter))[2]
    if len(cells) != len(self._names):
      raise errors.UserError(
          f'{self._where(number)}: {len(cells)} cell(s), but there are {len(self._names)} column '
          f'names ({", ".join(self._names)}); put "..." around a cell with {self._delimiter!r}')
    for name, cell in zip(self._names, cells):
      self._check_utf8(cell, f'{self._where(number)}, column {name!r}')
    return {name: cell or None for name, cell in zip(self._names, cells) if name}

  def _check_utf8(self, cell: str, where: str) -> None:
    try:
      cell.encode('utf-8')
    except UnicodeEncodeError as error:
      byte = ord(cell[error.start]) - 0xdc00
      raise errors.UserError(
          f'{where}: not UTF-8 (byte 0x{byte:02x} at character {error.start}); save the file as '
          f'UTF-8: iconv -f LATIN1 -t UTF-8 FILE') from error
