"""Tables that the job reads: CSV, TSV and Parquet, row by row as objects."""

import csv
import hashlib
import io
from collections.abc import Sequence
from typing import Any

from etils import epath

from dss_jax import errors

ENDINGS = ('.csv', '.tsv', '.parquet')


class Table(Sequence[Any]):
  """The rows of a table, as a `json_files.JsonFile` has those of JSON lines; read whole.

  An empty cell of CSV is null.
  """

  is_list = False

  def __init__(self, path: str, flag: str):
    """Reads it.

    Raises:
      UserError: no such file, not what its ending says, no rows; names the flag and the path.
    """
    self.path = path
    try:
      data = epath.Path(path).expanduser().read_bytes()
      self.sha256 = hashlib.sha256(data).hexdigest()
      self._rows = _parquet(data) if path.lower().endswith('.parquet') else _csv(
          data, '\t' if path.lower().endswith('.tsv') else ',')
    except OSError as error:  # Also of pyarrow, for a file that is no Parquet.
      raise errors.UserError(f'{flag}={path}: cannot be read ({error.strerror or error}); check '
                             'the path') from error
    except (ValueError, csv.Error) as error:
      raise errors.UserError(f'{flag}={path}: not a table as its name says ({error}); write CSV in '
                             'UTF-8 with a line of column names, or JSON lines') from error
    if not self._rows:
      raise errors.UserError(f'{flag}={path}: the table has no rows')

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    return self._rows[index]

  def where(self, index: int) -> str:
    return f'{self.path}, row {index + 1}'


def _csv(data: bytes, delimiter: str) -> list[dict[str, Any]]:
  csv.field_size_limit(1 << 30)  # A teacher that thinks writes long cells.
  rows = csv.DictReader(io.StringIO(data.decode('utf-8-sig'), newline=''), delimiter=delimiter,
                        strict=True)
  found = []
  for number, row in enumerate(rows, 1):
    if None in row:
      raise ValueError(f'row {number} has more cells than there are columns')
    found.append({name: value or None for name, value in row.items()})
  return found


def _parquet(data: bytes) -> list[dict[str, Any]]:
  import pyarrow  # Of TensorFlow Datasets' dependencies.
  import pyarrow.parquet
  return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
