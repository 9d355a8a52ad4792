"""JSON lines in, JSON lines out: files larger than memory, and no work lost to a kill.

Rows are taken a window at a time; each finished window is a file of its own beside the output:

  Y.jsonl.parts/settings.json   what the run is; another command may not go on with it
  Y.jsonl.parts/000000.jsonl    predictions of the first window, whole or absent

The same windows are cut however often the job is restarted, so the batches, and with them the
last bits of the probabilities, are those of an uninterrupted run. At the end the parts become
the output.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from etils import epath

from dss_jax import errors, fields, files

_SETTINGS = 'settings.json'
_COPY_BYTES = 1 << 24
Row = Mapping[str, Any]


def parts_folder(output: str) -> epath.Path:
  return epath.Path(f'{output}.parts')


def run(
    input_path: str,
    output_path: str,
    predict: Callable[[Sequence[Row], int], Sequence[Row]],
    *,
    settings: Mapping[str, Any],
    window: int,
) -> int:
  """Predicts all rows of a file; the same call again goes on where it was stopped.

  Args:
    input_path: JSON lines, or one JSON list.
    output_path: must not exist yet.
    predict: (rows, number of the first, from 0) -> output rows.
    settings: what the output depends on; compared with those of the parts that are there.
    window: rows that are predicted, and lost at most, at a time.

  Returns: the number of rows.

  Raises:
    UserError: unreadable input, the output exists, or its parts are of another job.
  """
  parts = parts_folder(output_path)
  _claim(parts, epath.Path(output_path), settings)
  total = epath.Path(input_path).stat().length
  names: list[str] = []
  count = read = 0
  with (_removed_if_empty(parts),
        tqdm.tqdm(total=total, unit='B', unit_scale=True, desc='predicting', delay=2) as bar):
    for start, rows, end in _windows(input_path, window):
      part = parts / f'{len(names):06d}.jsonl'
      names.append(part.name)
      if not part.exists():
        predicted = predict(rows, start)
        files.write(str(part), ''.join(_line(row) for row in predicted))
      count = start + len(rows)
      bar.update(end - read)
      bar.set_postfix_str(f'{count:,} rows')
      read = end
  _join(parts, names, epath.Path(output_path))
  parts.rmtree()
  return count


def _line(row: Row) -> str:
  for name, value in row.items():
    try:
      json.dumps(value, allow_nan=False)
    except ValueError as error:
      raise errors.UserError(
          f'row {row.get("id")!r}: {name} is {value}, which is no JSON: the network overflowed; '
          'try --dtype=float32') from error
  return json.dumps(row, ensure_ascii=False) + '\n'


def _claim(parts: epath.Path, output: epath.Path, settings: Mapping[str, Any]) -> None:
  now = json.loads(json.dumps(settings))
  file = parts / _SETTINGS
  if file.exists():
    earlier = json.loads(file.read_text())
    changed = [f'{name} was {earlier.get(name)!r}, is {now.get(name)!r}'
               for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]
    if changed:
      raise errors.UserError(
          f'{parts} holds an unfinished run with other settings: {"; ".join(changed)}. Finish it '
          'with its own, or remove the folder to start anew')
    return
  if output.exists():
    raise errors.UserError(f'--output={output} exists: name another file, or remove it')
  parts.mkdir(parents=True, exist_ok=True)
  files.write(str(file), json.dumps(now, indent=2) + '\n')


@contextlib.contextmanager
def _removed_if_empty(parts: epath.Path) -> Iterator[None]:
  """Removes the folder of parts where an error came before the first part: nobody needs it."""
  try:
    yield
  except BaseException:
    if not list(parts.glob('*.jsonl')):
      parts.rmtree(missing_ok=True)
    raise


def _join(parts: epath.Path, names: Sequence[str], output: epath.Path) -> None:
  with files.whole(output) as aside, aside.open('wb') as out:
    for name in names:
      with (parts / name).open('rb') as f:
        while data := f.read(_COPY_BYTES):
          out.write(data)


def _windows(path: str, window: int) -> Iterator[tuple[int, list[Row], int]]:
  """(number of the first row, rows, bytes read so far) of each window."""
  rows: list[Row] = []
  start = end = 0
  for row, end in read_rows(path):
    rows.append(row)
    if len(rows) == window:
      yield start, rows, end
      start, rows = start + window, []
  if rows:
    yield start, rows, end
  elif not start:
    raise _no_rows(path)


def _no_rows(path: str, flag: str = '--input') -> errors.UserError:
  return errors.UserError(f'{flag}={path}: no rows; expected JSON lines or a JSON list')


def read_rows(path: str) -> Iterator[tuple[Row, int]]:
  """Each JSON object of a file, with the bytes read up to it.

  JSON lines are read one by one. A file that is one JSON list is read whole.

  Raises:
    UserError: no such file, not UTF-8, not JSON, or not objects; names the line.
  """
  for read, end in _values(path):
    yield read(), end


def check(path: str, use: Callable[[Row, int], Any], flag: str = '--input') -> None:
  """Reads all rows once, and hands each, with its number from 0, to `use`.

  `flag` is what the user set the path with.

  Raises:
    UserError: rows that are none, or that `use` refuses; lists the first ten.
  """
  wrong = errors.Collected(f'rows of {path}')
  number = -1
  for number, (read, _) in enumerate(_values(path, flag)):
    with wrong:
      use(read(), number)
  wrong.check()
  if number < 0:
    raise _no_rows(path, flag)


def _values(path: str, flag: str = '--input') -> Iterator[tuple[Callable[[], Row], int]]:
  """What parses each row, so that one that is none does not hide those after it; bytes so far."""
  def line_of(line: bytes, where: str) -> Row:
    return _object(_parse(line, where), where)

  try:
    with epath.Path(path).open('rb') as f:
      if _is_list(f):
        f.seek(0)
        yield from _list_rows(path, f.read())
        return
      f.seek(0)
      end = 0
      for number, line in enumerate(f, 1):
        end += len(line)
        if line.strip():
          yield functools.partial(line_of, line, f'{path}, line {number}'), end
  except OSError as error:
    raise errors.UserError(f'{flag}={path}: cannot be read ({error}); check the path') from error


def _is_list(f) -> bool:
  while byte := f.read(1):
    if byte not in b' \t\r\n\xef\xbb\xbf':
      return byte == b'['
  return False


def _list_rows(path: str, data: bytes) -> Iterator[tuple[Callable[[], Row], int]]:
  values = _parse(data, path)
  for number, value in enumerate(values, 1):
    yield (functools.partial(_object, value, f'{path}, item {number}'),
           len(data) * number // len(values))


def _parse(data: bytes, where: str) -> Any:
  try:
    return fields.parse_json(data.decode('utf-8-sig'))
  except ValueError as error:  # Also of the decoding.
    raise errors.UserError(f'{where}: not JSON in UTF-8 ({error})') from error


def _object(value: Any, where: str) -> Row:
  if not isinstance(value, dict):
    raise errors.UserError(f'{where}: {type(value).__name__} instead of an object with fields')
  return value
