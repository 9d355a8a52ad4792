"""Files the job reads: local paths, or anything TensorFlow opens (`gs://...`)."""

import dataclasses
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from dss_jax import errors


@dataclasses.dataclass(frozen=True)
class JsonFile:
  """The values of a JSON-lines file, or of a file that is one JSON list.

  `places` says where each value stands, for messages: 'line 3' or 'item 3', from 1.
  """

  path: str
  values: tuple[Any, ...]
  places: tuple[str, ...]
  is_list: bool
  sha256: str

  def where(self, index: int) -> str:
    return f'{self.path}, {self.places[index]}'


def read_json(path: str, flag: str) -> JsonFile:
  """Reads JSON lines (blank lines are skipped) or one JSON list.

  Args:
    path: the file.
    flag: what the user set it with, e.g. '--inputs', for messages.

  Raises:
    UserError: no such file, not UTF-8, empty, or bad JSON, with its line.
  """
  data = _read_bytes(path, flag)
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise errors.UserError(
        f'{flag}={path}: not UTF-8 (byte {error.start}); save it as UTF-8') from error
  if not text.strip():
    raise errors.UserError(f'{flag}={path}: the file is empty; expected JSON lines or a JSON list')
  is_list = text.lstrip().startswith('[')
  values, places = zip(*(_items(text, path) if is_list else _lines(text, path)), strict=True)
  return JsonFile(path, values, places, is_list, hashlib.sha256(data).hexdigest())


def natural_glob(pattern: str) -> list[str]:
  """Matching files, with numbers in names in numeric order: `x_10.json` after `x_9.json`."""
  if '://' in pattern:
    import tensorflow as tf  # Slow to import; `--help` and local files need none of it.
    found = tf.io.gfile.glob(pattern)
  else:
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
  return sorted(found, key=_natural_key)


def _natural_key(path: str) -> list[tuple[int, str]]:
  return [(int(part), '') if part.isdecimal() else (-1, part)
          for part in re.split(r'([0-9]+)', path)]


def _items(text: str, path: str) -> Iterator[tuple[Any, str]]:
  try:
    values = json.loads(text)
  except ValueError as error:
    raise errors.UserError(f'{path}: not a JSON list ({error})') from error
  if not values:
    raise errors.UserError(f'{path}: the JSON list is empty')
  return ((value, f'item {i}') for i, value in enumerate(values, 1))


def _lines(text: str, path: str) -> Iterator[tuple[Any, str]]:
  # Not splitlines(): JSON strings may hold U+2028 and friends as they are.
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      try:
        yield json.loads(line), f'line {number}'
      except ValueError as error:
        raise errors.UserError(
            f'{path}, line {number}: not JSON ({error}); each line must be one object') from error


def _read_bytes(path: str, flag: str) -> bytes:
  if '://' in path:
    import tensorflow as tf
    try:
      with tf.io.gfile.GFile(path, 'rb') as f:
        return f.read()
    except tf.errors.OpError as error:
      raise errors.UserError(f'{flag}={path}: cannot be read ({error.message})') from error
  try:
    with open(os.path.expanduser(path), 'rb') as f:
      return f.read()
  except OSError as error:
    raise errors.UserError(
        f'{flag}={path}: cannot be read ({error.strerror}); check the path') from error
