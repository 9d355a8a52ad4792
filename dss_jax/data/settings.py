"""What the SeqIO tasks read: `configure` hands it to them.

They are registered at import, with the defaults, and touch no file before they are used. Both
engines call `configure`; a user's own program does so before it reads.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import errors, files, valid

if TYPE_CHECKING:
  from dss_jax import objective

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
    objectives: rows (name, prefix, field of the record, weight) beside these two, see
      `objective.table`: each is a task `dss_D_<name>` more in the mixtures of every dataset.
    shared_encoder: a prefix is no part of the input but the first tokens of the target, which
      are given: so the tasks of an input have it encoded once, see docs/methods.md.
    example_lengths: {'inputs': ..., 'targets': ...}, where an example is cut, in tokens with EOS
      (and prefix); None: where a row ends.
    train_fraction: share of the training inputs to use, in (0, 1]; subsets of one seed are
      nested (12.5 % is inside 25 %).
    train_fraction_seed: which subset.
    rationales: which samples of a training input are learnt, where the records hold several:
      'first', 'cycle' (another one each epoch) or 'all', see `samples.rows`.
    agreeing: of them 'any', or those whose label is that of the field: 'label' (gold) or
      'teacher_label' (the vote's).
    soft_labels: 0: the teacher's label is the one that most of its samples have. Above: all that
      it voted for, each with its share of the votes at this temperature (1: the shares
      themselves), in training and where the records have votes over a closed set.
    token_distributions: 'forward' or 'reverse': each training token is also learnt from what the
      teacher would have written there, by that divergence, see docs/methods.md; '': it is not.
  """

  records_dir: str = dataclasses.field(default='', metadata={'free': True})  # see train/config.py
  vocabulary: str = T5_VOCABULARY
  label_prefix: str = '[label] '
  rationale_prefix: str = '[rationale] '
  objectives: Sequence[Any] | None = None
  shared_encoder: bool = False
  example_lengths: Mapping[str, int] | None = None
  train_fraction: float = 1.0
  train_fraction_seed: int = 0
  rationales: str = 'first'
  agreeing: str = 'any'
  soft_labels: float = 0.0
  token_distributions: str = ''

  def __post_init__(self):
    valid.path(**valid.fields(self, 'vocabulary', 'records_dir'))
    valid.text(**valid.fields(self, 'label_prefix', 'rationale_prefix'))
    valid.flag(**valid.fields(self, 'shared_encoder'))
    valid.share(**valid.fields(self, 'train_fraction'))
    if self.example_lengths is not None:
      valid.lengths(**valid.fields(self, 'example_lengths'))
    valid.whole(0, **valid.fields(self, 'train_fraction_seed'))
    valid.one_of(('first', 'cycle', 'all'), **valid.fields(self, 'rationales'))
    valid.one_of(('any', 'label', 'teacher_label'), **valid.fields(self, 'agreeing'))
    valid.number(lambda x: x >= 0, 'of at least 0', **valid.fields(self, 'soft_labels'))
    valid.one_of(('', 'forward', 'reverse'), **valid.fields(self, 'token_distributions'))
    if self.soft_labels and self.token_distributions:
      raise errors.UserError(
          f'DataSettings.soft_labels={self.soft_labels}: labels that the teacher voted for have no '
          f'DataSettings.token_distributions={self.token_distributions!r}: set one of the two')

  @property
  def of_sample_0(self) -> bool:
    """Whether an input is its first sample and no more."""
    return (self.rationales, self.agreeing, self.soft_labels) == ('first', 'any', 0)

  def table(self) -> 'objective.Objectives':
    """The table of objectives; their weights are the trainer's to choose."""
    from dss_jax import objective  # Late: it loads JAX, which describing a dataset goes without.
    return objective.table(label_prefix=self.label_prefix, rationale_prefix=self.rationale_prefix,
                           rows=self.objectives)

  def folder(self) -> str:
    """The records folder; UserError that says how to name one if there is none."""
    folder = self.records_dir or os.environ.get('DSS_DATA_DIR', '')
    if not folder:
      raise errors.UserError('no folder of records: give --records_dir=DIR, '
                             '--gin.RECORDS_DIR=DIR or set DSS_DATA_DIR')
    files.check_path('DataSettings.records_dir' if self.records_dir else 'DSS_DATA_DIR', folder)
    return folder


_current = DataSettings()


def configure(**overrides: Any) -> DataSettings:
  """Registers all datasets anew, to read this; settings that are not named get their defaults.

  Mixtures that were made before read it too: a name keeps its task, with other contents.

  Raises:
    UserError: rows of `objectives` that are none, or that would be another dataset's task.
  """
  from dss_jax.data import registration  # Late: it loads TensorFlow and SeqIO.
  global _current
  chosen = DataSettings(**overrides)
  registration.add_all(chosen)
  _current = chosen
  return chosen


def current() -> DataSettings:
  """What the tasks read."""
  return _current


def records_dir() -> str:
  """See `DataSettings.folder`."""
  return _current.folder()
