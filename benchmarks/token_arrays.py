"""Token arrays: what the benchmarks read. NumPy only.

A file is an .npz of four ragged arrays, each stored as two int32 vectors:

    label_inputs, label_targets, rationale_inputs, rationale_targets   token ids end to end
    label_inputs_lengths, ...                                          tokens of each row

Row i of an `_inputs` goes with row i of its `_targets`. Ids are at least 1 (0 is padding), and
sequences end with EOS, as the trainer feeds them. `make_tokens.py` writes one from records;
`synthetic` needs no data.
"""

import zipfile
from typing import Any, NamedTuple

import numpy as np

from dss_jax import errors

EOS_ID = 1


class TokenArrays(NamedTuple):
  """Label rows and rationale rows; every field is a list of int32 [length]."""

  label_inputs: list[np.ndarray]
  label_targets: list[np.ndarray]
  rationale_inputs: list[np.ndarray]
  rationale_targets: list[np.ndarray]

  def describe(self) -> str:
    """'label 512 rows, 45.9 / 2.6 tokens (longest 97 / 5); ...', inputs / targets."""
    parts = []
    for task in ('label', 'rationale'):
      sides = [np.array([len(row) for row in getattr(self, f'{task}_{side}')])
               for side in ('inputs', 'targets')]
      parts.append(f'{task} {len(sides[0]):,} rows, {sides[0].mean():.1f} / {sides[1].mean():.1f}'
                   f' tokens (longest {sides[0].max()} / {sides[1].max()})')
    return '; '.join(parts)


def save(path: str, arrays: TokenArrays) -> None:
  """Writes the file; the name should end in .npz, or NumPy appends it."""
  stored: dict[str, Any] = {}
  for name, rows in arrays._asdict().items():
    stored[name] = np.concatenate(rows).astype(np.int32)
    stored[f'{name}_lengths'] = np.array([len(row) for row in rows], np.int32)
  np.savez_compressed(path, **stored)


def load(path: str, vocab_size: int) -> TokenArrays:
  """Reads a file of `save`.

  Raises:
    UserError: no such file, not of this format, or ids that the model has no embedding for.
  """
  try:
    with np.load(path) as stored:
      fields = {name: _rows(stored[name], stored[f'{name}_lengths'])
                for name in TokenArrays._fields}
  except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
        f'--tokens={path}: {error}; write one with benchmarks/make_tokens.py') from error
  for task in ('label', 'rationale'):
    counts = [len(fields[f'{task}_{side}']) for side in ('inputs', 'targets')]
    if counts[0] != counts[1] or not counts[0]:
      raise errors.UserError(
          f'--tokens={path}: {counts[0]} {task} inputs and {counts[1]} targets; give as many')
  ids = np.concatenate([row for rows in fields.values() for row in rows])
  if ids.min() < 1 or ids.max() >= vocab_size:
    raise errors.UserError(
        f'--tokens={path}: ids from {ids.min()} to {ids.max()}; the model has 1 to '
        f'{vocab_size - 1}')
  return TokenArrays(**fields)


def _rows(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
  if lengths.sum() != len(values) or (lengths < 1).any():
    raise ValueError(f'lengths of sum {lengths.sum()} do not cut up {len(values)} tokens')
  return np.split(values, np.cumsum(lengths)[:-1])


def synthetic(seed: int, n: int, vocab_size: int) -> TokenArrays:
  """n examples with the lengths of CommonsenseQA and random ids.

  Tokens with EOS: inputs 45.9 on average and 100 at most, labels 2.6, rationales 28.9. The
  spread gives batches of 64 about the padding of the real data (a third to a half). An
  example's two inputs differ in the first token, the task prefix.
  """
  rng = np.random.default_rng(seed)

  def sequences(lengths):
    rows = np.split(rng.integers(EOS_ID + 1, vocab_size, lengths.sum(), dtype=np.int32),
                    np.cumsum(lengths)[:-1])
    for row in rows:
      row[-1] = EOS_ID
    return rows
  label_inputs = sequences(np.clip(24 + rng.gamma(4.6, 4.87, n), 20, 100).astype(np.int64))
  rationale_inputs = [row.copy() for row in label_inputs]
  for row in rationale_inputs:
    row[0] = EOS_ID + 1
  return TokenArrays(
      label_inputs=label_inputs, label_targets=sequences(2 + rng.poisson(0.6, n)),
      rationale_inputs=rationale_inputs,
      rationale_targets=sequences(
          np.clip(12 + rng.gamma(6.9, 2.53, n), 6, 80).astype(np.int64)))
