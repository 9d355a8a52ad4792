"""Where the SeqIO tasks read from: settings that are looked up when a task is *used*.

Tasks are registered at import and must not touch a file then, so they hold no path. The
native trainer and `t5x_engine.data` call `configure(...)`.
"""

import dataclasses
import os
from typing import Any

from dss_jax import errors, files, valid

# The public SentencePiece model of T5 v1.0 and v1.1 (32,000 pieces; 100 sentinels are extra ids).
T5_VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'
BYTES = 'bytes'


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """What every task of the package reads.

  Attributes:
    records_dir: folder of the rationale records, local or `gs://`; default `$DSS_DATA_DIR`.
    vocabulary: path of a SentencePiece model, or 'bytes'.
    label_prefix: put before the input of a `*_label` task. The paper's; the released code
      uses 'predict: '.
    rationale_prefix: likewise for `*_rationale` (released code: 'explain: ').
    train_fraction: share of the training inputs to use, in (0, 1]; subsets of one seed are
      nested (12.5 % is inside 25 %).
    train_fraction_seed: which subset.
  """

  records_dir: str = dataclasses.field(default='', metadata={'free': True})  # see train/config.py
  vocabulary: str = T5_VOCABULARY
  label_prefix: str = '[label] '
  rationale_prefix: str = '[rationale] '
  train_fraction: float = 1.0
  train_fraction_seed: int = 0

  def __post_init__(self):
    valid.path(VOCABULARY=self.vocabulary, RECORDS_DIR=self.records_dir)
    valid.text(LABEL_PREFIX=self.label_prefix, RATIONALE_PREFIX=self.rationale_prefix)
    valid.share(TRAIN_FRACTION=self.train_fraction)
    valid.whole(0, TRAIN_FRACTION_SEED=self.train_fraction_seed)


_configured: DataSettings | None = None


def configure(**overrides: Any) -> DataSettings:
  """Sets what the tasks read from now on; settings that are not named get their defaults."""
  global _configured
  _configured = DataSettings(**overrides)
  return _configured


def is_configured() -> bool:
  """Whether `configure` was called in this process."""
  return _configured is not None


def current() -> DataSettings:
  """What `configure` set, else the defaults."""
  return _configured or DataSettings()


def records_dir() -> str:
  """The records folder; UserError that says how to name one if there is none."""
  folder = current().records_dir or os.environ.get('DSS_DATA_DIR', '')
  if not folder:
    raise errors.UserError(
        'no folder of records: give --records_dir=DIR, --gin.RECORDS_DIR=DIR or set DSS_DATA_DIR')
  files.check_path('RECORDS_DIR' if current().records_dir else 'DSS_DATA_DIR', folder)
  return folder
