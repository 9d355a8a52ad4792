"""Rows to read: JSON lines, JSON lists, CSV, TSV, Parquet, lines of text, Hugging Face datasets.

One reader for whatever a command takes rows from: the teacher's inputs, recorded answers, and
what a student is asked.
"""

import bisect
import csv
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax import errors
from dss_jax.rows import files, hugging_face, json_copy, opening
from dss_jax.rows.files import File as File
from dss_jax.rows.files import inner_list as inner_list
from dss_jax.rows.opening import STDIN as STDIN


class Rows(Sequence[Any]):
  """The rows of all files that a name stands for, in natural order of the files' names.

  Attributes:
    path: the name.
    files: one by one.
    size: bytes, uncompressed.
    sha256: of the file; of several, of their checksums.
  """

  def __init__(self, path: str, flag: str, columns: Mapping[str, str] | None = None):
    """Opens them.

    Args:
      path: a file, a glob, `-` for stdin, `hf://OWNER/NAME:SPLIT`, a folder of `save_to_disk`.
      flag: what the user set it with, e.g. '--inputs', for messages.
      columns: see `parse_columns`.

    Raises:
      UserError: what cannot be read or has no rows.
    """
    self.path = path
    # The split of a dataset may have brackets, 'train[:100]'.
    names = [path] if hugging_face.is_dataset(path) else opening.paths(path, flag)
    self.files = [_open(name, flag, columns) for name in names]
    self.size = sum(file.size for file in self.files)

  @property
  def done(self) -> int:
    """Bytes that the last walk through the rows has read."""
    return sum(file.done for file in self.files)

  @property
  def sha256(self) -> str:
    if len(self.files) == 1:
      return self.files[0].sha256
    return hashlib.sha256(' '.join(file.sha256 for file in self.files).encode()).hexdigest()

  def __len__(self) -> int:
    return self._ends[-1]

  def __iter__(self) -> Iterator[Any]:
    return itertools.chain.from_iterable(self.files)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    file, index = self._place(index)
    return file[index]

  def where(self, index: int) -> str:
    """'x.json, line 3': where row `index` stands."""
    file, index = self._place(index)
    return file.where(index)

  @functools.cached_property
  def _ends(self) -> list[int]:
    return list(itertools.accumulate(len(file) for file in self.files))

  def _place(self, index: int) -> tuple[files.File, int]:
    ends = self._ends
    if not 0 <= index < ends[-1]:  # Sequence iterates until IndexError.
      raise IndexError(index)
    number = bisect.bisect_right(ends, index)
    return self.files[number], index - ends[number] + len(self.files[number])


def parse_columns(
    text: str | None, flag: str = '--columns', known: Sequence[str] = ()) -> dict[str, str]:
  """'input=text,label=intent' -> {'input': 'text', 'label': 'intent'}: field = column.

  A name with a comma is put into quotes: 'input=text,"label=what, if any"'.

  Args:
    text: the flag's value.
    flag: its name.
    known: the fields that are read, where it is known.

  Raises:
    UserError: not in this form, a field twice, or one that nothing reads.
  """
  found: dict[str, str] = {}
  for part in next(csv.reader([text], skipinitialspace=True)) if text else ():
    field, _, column = (side.strip() for side in part.partition('='))
    if not field or not column or field in found:
      raise errors.UserError(f'{flag}={text}: give FIELD=COLUMN,..., each field once: '
                             'input=text,label=intent')
    if known and field not in known:
      raise errors.UserError(f'{flag}={text}: no field {field!r}: '
                             f'{errors.did_you_mean(field, known)}; write FIELD=COLUMN')
    found[field] = column
  return found


def _open(path: str, flag: str, columns: Mapping[str, str] | None) -> files.File:
  if hugging_face.is_dataset(path):
    file = hugging_face.copy(path, flag)
    return files.Copied(opening.Opened(file, file, path), path, flag, columns)
  opened = opening.open_file(path, flag)
  if opened.name.endswith('.parquet') or opened.starts_with(b'PAR1'):
    copy = json_copy.parquet(opened.file, path, flag)
    return files.Copied(opening.Opened(copy, opened.stored, path), path, flag, columns)
  first = opened.first()
  if opened.name.endswith('.txt'):
    return files.Lines(opened, path, flag, columns)
  # Without an ending, what comes through a pipe above all, what is inside tells.
  unnamed = '.' not in opened.name.rpartition('/')[2]
  if opened.name.endswith(('.csv', '.tsv')) or (unnamed and first and first not in b'{["'):
    return files.Table(opened, path, flag, columns)
  return (files.JsonList if first == b'[' else files.JsonLines)(opened, path, flag, columns)
