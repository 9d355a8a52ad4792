"""Rows of other programs as lines of JSON: Parquet, Hugging Face datasets, TFDS."""

import datetime
import decimal
import json
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from dss_jax import errors, fields


def lines(rows: Iterable[Mapping[str, Any]], whose: str = 'the source') -> Iterator[str]:
  """Each row as a line of JSON; UserError, with its number, for what is none."""
  for number, row in enumerate(rows, 1):
    if not isinstance(row, Mapping):
      raise errors.UserError(f'row {number} of {whose} is {fields.describe(row)}: give a dict '
                             'with fields')
    line = {}
    for key, value in row.items():
      try:
        line[key] = json.dumps(_plain(value))
      except (TypeError, ValueError) as error:  # Also of the decoding.
        raise errors.UserError(f'row {number} of {whose}, field {key!r}: cannot be written as '
                               f'JSON ({error}); make it a text, or leave it out') from error
    yield '{' + ', '.join(f'{json.dumps(str(key))}: {line[key]}' for key in line) + '}\n'


def copy(rows: Iterable[Mapping[str, Any]], whose: str) -> IO[bytes]:
  """The lines in a temporary file."""
  file = tempfile.TemporaryFile()  # noqa: SIM115  It lives as long as the rows.
  for line in lines(rows, whose):
    file.write(line.encode())
  return file


def parquet(file: IO[bytes], path: str, flag: str) -> IO[bytes]:
  """The rows of a Parquet file, some at a time."""
  import pyarrow  # Late: other verbs do without its 150 MB; TensorFlow Datasets asks for it.
  import pyarrow.parquet
  file.seek(0)
  try:
    table = pyarrow.parquet.ParquetFile(file)
  except pyarrow.ArrowException as error:
    raise errors.UserError(f'{flag}={path}: not Parquet ({error})') from error
  names = table.schema_arrow.names
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise errors.UserError(f'{flag}={path}: column {twice[0]!r} is there twice; rename one')
  if not table.metadata.num_rows:
    raise errors.UserError(f'{flag}={path}: the table has no rows')
  try:
    return copy((row for batch in table.iter_batches(1024) for row in batch.to_pylist()), path)
  except (pyarrow.ArrowException, OSError) as error:
    if getattr(error, 'errno', None):  # Of the disk that it is copied to.
      raise
    raise errors.UserError(f'{flag}={path}: damaged Parquet ({error})') from error


def _plain(value: Any) -> Any:
  """bytes, NumPy scalars and arrays, dates as JSON values."""
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.floating):
    return float(str(value))  # 0.1 in 32 bits is 0.1, not 0.10000000149011612.
  if isinstance(value, np.ndarray):
    return [_plain(one) for one in value] if value.ndim else _plain(value[()])
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, Mapping):
    return {key: _plain(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(one) for one in value]
  if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal,
                        uuid.UUID)):
    return str(value)
  return value
