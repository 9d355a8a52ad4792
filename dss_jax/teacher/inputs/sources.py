"""Where a job's inputs come from: files, TFDS, a dataset's own function, the Hugging Face hub.

What TFDS or a function gives is written to `<records_dir>/inputs/<dataset>-<split>.jsonl` first,
once: a restarted job reads the same rows in the same order, and you can look at them.
"""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from typing import Any

import tqdm
from etils import epath

from dss_jax import datasets, errors, files
from dss_jax.rows import hugging_face, json_copy
from dss_jax.teacher.inputs import reading

HUB, TFDS = 'hub', 'tfds'


def find(
    dataset: datasets.Dataset, split: str, path: str | None, records_dir: str | None,
    tfds_data_dir: str | None = None, columns: Mapping[str, str] | None = None,
) -> reading.Inputs:
  """The examples of a split, checked.

  Args:
    dataset: names its TFDS dataset or its `load` function, if it has one.
    split: 'train', 'validation' or 'test'.
    path: --inputs, which comes before both; 'hub' for the dataset's rows at the Hugging Face hub,
      'tfds' for those of TFDS.
    records_dir: where rows that are in no file yet are written.
    tfds_data_dir: where TFDS keeps prepared data; by default its own place.
    columns: a row's field -> the column that it is read from.

  Raises:
    UserError: no source, rows that cannot be read, and what `inputs.read_inputs` finds.
  """
  if path == HUB:
    path = _at_the_hub(dataset, split)
  if path and path != TFDS:
    return reading.read_inputs(hugging_face.with_split(path, split), dataset, columns)
  if not dataset.tfds and (path == TFDS or not dataset.load):
    at_hub = ', or --inputs=hub' if dataset.hub else ''
    raise errors.UserError(
        f'dataset {dataset.name!r} is in neither TFDS nor a function load= of register(...): give '
        f'its rows with --inputs=FILE{at_hub} ({dataset.source or "rows with input and label"})')
  if not records_dir:
    raise errors.UserError('give --records_dir=DIR: the rows are written to a file there first')
  there = dataset.tfds_splits.get(split, split)
  if taken := [ours for ours, name in dataset.tfds_splits.items()
               if name == there and ours != split]:
    raise errors.UserError(
        f"--split={split}: TFDS {dataset.tfds} has it as {there!r}, which is this dataset's "
        f'{taken[0]} split; give other rows with --inputs=FILE')
  file = epath.Path(records_dir) / 'inputs' / f'{dataset.name}-{split}.jsonl'
  if not file.exists():
    if dataset.load:
      _write(file, dataset.load(split))
    else:  # In a process of its own, which gives TensorFlow's memory back.
      with concurrent.futures.ProcessPoolExecutor(
          1, multiprocessing.get_context('spawn')) as process:
        process.submit(_write_tfds, str(file), dataset.tfds, there, tfds_data_dir).result()
  return reading.read_inputs(str(file), dataset, columns)


def _at_the_hub(dataset: datasets.Dataset, split: str) -> str:
  if split in dataset.hub:
    return dataset.hub[split]
  known = ', '.join(dataset.hub) or 'no split'
  raise errors.UserError(
      f'--inputs=hub: dataset {dataset.name!r} has {known} at the Hugging Face hub that is known '
      f'here, not {split!r}; give its rows with --inputs=FILE or --inputs=hf://OWNER/NAME:SPLIT')


def _write_tfds(path: str, name: str, split: str, data_dir: str | None) -> None:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import tensorflow_datasets as tfds
  try:
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()  # Nothing, if it is prepared already.
    if split not in builder.info.splits:
      raise errors.UserError(
          f'TFDS {name} has no split {split!r}: {errors.did_you_mean(split, builder.info.splits)}')
    rows = builder.as_dataset(split=split, shuffle_files=False)
  except errors.UserError:
    raise
  except Exception as error:
    raise errors.UserError(
        f'TFDS {name} cannot be prepared here ({type(error).__name__}: {str(error)[:200]}); '
        'prepare it elsewhere and name its folder with --tfds_data_dir, or give the rows as '
        '--inputs=FILE') from None
  _write(epath.Path(path), tfds.as_numpy(rows), builder.info.splits[split].num_examples)


def _write(
    file: epath.Path, rows: Iterable[Mapping[str, Any]], total: int | None = None
) -> None:
  """Writes rows as JSON lines; the file is whole or absent."""
  file.parent.mkdir(parents=True, exist_ok=True)
  bar = tqdm.tqdm(rows, total=total, desc=f'writing {file}', unit='row', delay=3, disable=None)
  with files.whole(file) as aside:
    with aside.open('wb') as f:
      for line in json_copy.lines(bar):
        f.write(line.encode())
      rows_there = f.tell() > 0
    if not rows_there:  # A file without rows would be read again for ever.
      raise errors.UserError(f'{file.stem}: its source has no rows; mend load= of register(...), '
                             'or give --inputs=FILE')

