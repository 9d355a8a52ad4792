"""Rows in, JSON lines out: files larger than memory, and no work lost to a kill.

Rows are taken a window at a time; each finished window is a file of its own beside the output:

  Y.jsonl.parts/settings.json   what the run is; another command may not go on with it
  Y.jsonl.parts/000000.jsonl    predictions of the first window, whole or absent

The same windows are cut however often the job is restarted, so the batches, and with them the
last bits of the probabilities, are those of an uninterrupted run. At the end the parts become
the output.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from etils import epath

from dss_jax import errors, files
from dss_jax import rows as rows_lib

_SETTINGS = 'settings.json'
_COPY_BYTES = 1 << 24
Row = Mapping[str, Any]


def parts_folder(output: str) -> epath.Path:
  return epath.Path(f'{output}.parts')


def run(
    source: rows_lib.Rows,
    output_path: str,
    predict: Callable[[Sequence[Row], int], Sequence[Row]],
    *,
    settings: Mapping[str, Any],
    window: int,
) -> int:
  """Predicts all rows; the same call again goes on where it was stopped.

  Args:
    source: the rows to predict.
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
  names: list[str] = []
  count = read = 0
  with (_removed_if_empty(parts), tqdm.tqdm(
      total=source.size, unit='B', unit_scale=True, desc='predicting', delay=2) as bar):
    for start, rows in _windows(source, window):
      part = parts / f'{len(names):06d}.jsonl'
      names.append(part.name)
      if not part.exists():
        predicted = predict(rows, start)
        files.write(str(part), ''.join(map(as_line, predicted)))
      count = start + len(rows)
      bar.update(source.done - read)
      bar.set_postfix_str(f'{count:,} rows')
      read = source.done
  _join(parts, names, epath.Path(output_path))
  parts.rmtree()
  return count


def as_line(row: Row) -> str:
  """A line of output; UserError for a number that is none."""
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


def _windows(source: rows_lib.Rows, window: int) -> Iterator[tuple[int, list[Row]]]:
  """(number of the first row, rows) of each window."""
  rows: list[Row] = []
  start = 0
  for number, row in enumerate(source):
    rows.append(_object(row, source, number))
    if len(rows) == window:
      yield start, rows
      start, rows = start + window, []
  if rows:
    yield start, rows


def check(source: rows_lib.Rows, use: Callable[[Row, int], Any]) -> None:
  """Reads all rows once, and hands each, with its number from 0, to `use`.

  Raises:
    UserError: rows that are none, or that `use` refuses; lists the first ten.
  """
  wrong = errors.Collected(f'rows of {source.path}')
  for number in range(len(source)):  # By number: one that cannot be read does not end it.
    with wrong:
      use(_object(source[number], source, number), number)
  wrong.check()


def _object(row: Any, source: rows_lib.Rows, number: int) -> Row:
  if not isinstance(row, dict):
    raise errors.UserError(f'{source.where(number)}: {type(row).__name__} instead of an object '
                           'with fields')
  return row
