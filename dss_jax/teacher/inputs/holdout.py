"""Which training rows become the validation split of a dataset that has none."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from dss_jax import errors

FRACTION = 0.1


def validation_rows(how: str, ids: Sequence[str]) -> frozenset[int]:
  """Row numbers, from 0, of the 10 % that are held out.

  Args:
    how: 'permutation': the first ceil(0.1 n) of numpy's `default_rng(0).permutation(n)`, the
      rows that the released code's `train_test_split(test_size=0.1, seed=0)` takes; or 'hash':
      the ceil(0.1 n) rows whose id has the smallest SHA-256, whatever the order of the file.
    ids: of all training rows, in the file's order.

  Raises:
    UserError: fewer than two rows.
  """
  n = len(ids)
  count = math.ceil(FRACTION * n)  # In floating point, as there: 0.1 * 70 gives 8.
  if count >= n:
    raise errors.UserError(
        f'{n} row(s) are too few to hold out a validation split; use --holdout=none')
  if how == 'permutation':
    return frozenset(np.random.default_rng(0).permutation(n)[:count].tolist())
  # Salted, so that it is independent of the hash that draws nested training fractions.
  digests = [hashlib.sha256(f'holdout:{i}'.encode()).digest() for i in ids]
  return frozenset(sorted(range(n), key=digests.__getitem__)[:count])
