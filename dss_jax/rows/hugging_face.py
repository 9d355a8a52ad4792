"""Rows of Hugging Face datasets: `hf://OWNER/NAME` of the hub, and folders of `save_to_disk`."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from dss_jax import errors
from dss_jax.rows import json_copy

SCHEME = 'hf://'
_NAME = re.compile(r'hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w./-]+))?(?::(.+))?')
_FORM = 'hf://OWNER/NAME, with /CONFIG, @REVISION and :SPLIT where they are needed, in this order'


def is_dataset(path: str) -> bool:
  """Whether it is a name at the hub, or a folder that `Dataset.save_to_disk` wrote."""
  folder = os.path.expanduser(path)
  return path.startswith(SCHEME) or any(
      os.path.exists(os.path.join(folder, name)) for name in ('state.json', 'dataset_dict.json'))


def with_split(path: str, split: str) -> str:
  """'hf://a/b' -> 'hf://a/b:train'; a name that has its split, or another path, stays."""
  found = _NAME.fullmatch(path)
  return f'{path}:{split}' if found and not found[4] else path


def copy(path: str, flag: str) -> IO[bytes]:
  """The rows as JSON lines in a temporary file; a class label is written as its name.

  Raises:
    UserError: the extra is not installed, no such dataset, no network, several splits and none
      named, no rows.
  """
  return json_copy.copy(_rows(_load(path, flag)), path)


def _load(path: str, flag: str) -> Any:
  found = _NAME.fullmatch(path)
  if path.startswith(SCHEME) and not found:
    raise errors.UserError(f'{flag}={path}: not the name of a dataset; use {_FORM}')
  try:
    import datasets  # type: ignore[import-not-found]  # Late: an extra of 100 MB.
  except ImportError as error:
    raise errors.UserError(f'{flag}={path}: needs the library of Hugging Face datasets: pip '
                           f"install 'dss_jax[datasets]' ({error})") from error
  datasets.disable_progress_bars()
  try:
    if found:
      name, config, revision, split = found.groups()
      loaded = datasets.load_dataset(name, config, revision=revision, split=split)
    else:
      loaded = datasets.load_from_disk(os.path.expanduser(path))
  except Exception as error:  # Of the hub, of the network, of builders: each has its own.
    says = ' '.join(str(error).split())[:200]
    advice = ('check the name and the network, or load it elsewhere, save it with save_to_disk, '
              'and give that folder' if found else 'it is not whole, or has no rows: save it anew')
    raise errors.UserError(f'{flag}={path}: cannot be loaded ({type(error).__name__}: {says}); '
                           f'{advice}') from error
  if not isinstance(loaded, datasets.DatasetDict):
    return loaded
  if len(loaded) == 1:
    return next(iter(loaded.values()))
  how = f'{path}:{next(iter(loaded))}' if found else os.path.join(path, next(iter(loaded)))
  raise errors.UserError(f'{flag}={path}: has the splits {", ".join(loaded)}: name one, {how}')


def _rows(table: Any) -> Iterator[Mapping[str, Any]]:
  names = {column: feature for column, feature in table.features.items()
           if type(feature).__name__ == 'ClassLabel'}
  for row in table:
    for column, feature in names.items():
      if row[column] is not None:  # -1: there is no label.
        row[column] = feature.int2str(row[column]) if row[column] >= 0 else None
    yield row
