"""Everything that defines a training run, as plain dataclasses.

gin fills them (`train/gin_config.py`), `run.json` stores them, and a second start in the same
MODEL_DIR is compared with them (`train/identity.py`). A field marked `_FREE` may differ between
two starts of one run: it changes where or how often, not what is computed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import data as data_lib
from dss_jax import errors, models, objective, valid
from dss_jax.sharding import MeshConfig
from dss_jax.train.rngs import RngConfig

OPTIMIZERS = ('adamw', 'adamw_transformers4', 'adafactor')
# Matrices, embedding table, scales of norms, relative position biases: T5 has no other parameters.
PARAMETER_NAMES = ('kernel', 'embedding', 'scale', 'rel_embedding')

AUTO = 'auto'
PAPERS_LENGTHS = {'inputs': 1024, 'targets': 256}
_FREE = {'free': True}


def _free(default):
  return dataclasses.field(default=default, metadata=_FREE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(data_lib.DataSettings):
  """What the student reads: what every task does, see `DataSettings`, and what one run does.

  Attributes:
    mixture_or_task: a registered SeqIO name, e.g. 'dss_cqa' or 'cqa_finetune'.
    feature_lengths: {'inputs': ..., 'targets': ...} in tokens, the size of a row, where an example
      is cut at the latest; or 'auto': as the data has it, see `data/row_lengths.py`. Then
      `example_lengths` are the paper's, 1,024 / 256, if nothing else is said.
    batch_size: rows of a global batch; with packing a row holds several examples. 'auto': so many
      that they hold `batch_inputs`, about.
    batch_inputs: of a batch, each with all of its examples, where the rows are found.
    pack: several examples per row. Exact without dropout, whose masks are a row's: only padding
      is saved.
    seed: order of the examples.
    verify_records: compare the shards' checksums with the manifest before training.
  """

  mixture_or_task: str
  feature_lengths: Mapping[str, int] | Any  # or AUTO
  batch_size: int | Any  # or AUTO
  batch_inputs: int = 64
  pack: bool = True
  seed: int = 0
  verify_records: bool = _free(True)

  def __post_init__(self):
    super().__post_init__()
    valid.text(**valid.fields(self, 'mixture_or_task'))
    if self.feature_lengths != AUTO:
      valid.lengths(**valid.fields(self, 'feature_lengths'))
    elif self.example_lengths is None:  # Resolved here, so that run.json says where they are cut.
      object.__setattr__(self, 'example_lengths', dict(PAPERS_LENGTHS))
    valid.whole(1, **valid.fields(
        self, *(['batch_size'] if self.batch_size != AUTO else []), 'batch_inputs'))
    valid.flag(**valid.fields(self, 'pack', 'verify_records'))
    valid.whole(0, **valid.fields(self, 'seed'))

  @property
  def is_measured(self) -> bool:
    """Whether the rows are numbers."""
    return AUTO not in (self.feature_lengths, self.batch_size)

  @property
  def limits(self) -> Mapping[str, int]:
    """Where an example is cut when it is alone: evaluated, or asked of the student."""
    return self.example_lengths or self.feature_lengths

  @property
  def cut(self) -> Mapping[str, int]:
    """Where an example is cut in training: no row is longer."""
    row = self.limits if self.feature_lengths == AUTO else self.feature_lengths
    return {side: min(row[side], length) for side, length in self.limits.items()}

  def unmeasured(self) -> 'DataConfig':
    """For a plan without the data: eight rows of one example's limits, or an input's two in two."""
    return dataclasses.replace(
        self, feature_lengths=self.limits if self.feature_lengths == AUTO else self.feature_lengths,
        batch_size=(8 if self.pack else 2 * self.batch_inputs) if self.batch_size == AUTO
        else self.batch_size)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The update. Defaults are the paper's, but for where AdamW has its epsilon.

  Attributes:
    name: 'adamw'; 'adamw_transformers4', the released code's (see `optimizer.make_optimizer`);
      or 'adafactor', T5's.
    learning_rate: the peak.
    schedule: 'linear' to 0 (the paper's), 'cosine' to 0, 'constant' (T5 fine-tuning),
      'rsqrt': learning_rate / sqrt(max(step, warmup_steps)) (T5 pre-training).
    warmup_steps: linear warm-up from 0; for 'rsqrt' the length of the plateau.
    weight_decay: decoupled; multiplied by the learning rate, whatever the optimizer.
    no_decay: names of parameters that do not decay, of `PARAMETER_NAMES`; transformers leaves
      out ('scale', 'rel_embedding'). None: all decay.
    clip_norm: global norm of the gradient, 0 for none. None: 1.0 with AdamW, as in the released
      code; none with Adafactor, which clips its updates (T5 and T5X clip nothing else).
    beta1, beta2, epsilon: AdamW's.
    ema_decay: of a moving average of the parameters, which is evaluated, kept and tested in their
      place, see `train/average.py`; 0 for none.
  """

  name: str = 'adamw'
  learning_rate: float = 5e-5
  schedule: str = 'linear'
  warmup_steps: int = 0
  weight_decay: float = 0.0
  no_decay: Sequence[str] | None = None
  clip_norm: float | None = None
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  ema_decay: float = 0.0

  def __post_init__(self):
    valid.one_of(OPTIMIZERS, **valid.fields(self, 'name'))
    valid.one_of(('linear', 'cosine', 'constant', 'rsqrt'), **valid.fields(self, 'schedule'))
    if self.clip_norm is None:  # Resolved here, so that run.json says what was done.
      object.__setattr__(self, 'clip_norm', 0.0 if self.name == 'adafactor' else 1.0)
    valid.whole(0, **valid.fields(self, 'warmup_steps'))
    valid.number(lambda x: x >= 0, 'of at least 0',
                 **valid.fields(self, 'learning_rate', 'weight_decay', 'clip_norm'))
    valid.number(lambda x: 0 <= x < 1, 'in [0, 1)',
                 **valid.fields(self, 'beta1', 'beta2', 'ema_decay'))
    valid.number(lambda x: x > 0, 'above 0', **valid.fields(self, 'epsilon'))
    if not isinstance(self.no_decay, (tuple, list, type(None))):
      raise errors.UserError(f'OptimizerConfig.no_decay={self.no_decay!r}: give a tuple of names, '
                             "such as ('scale', 'rel_embedding')")
    for name in self.no_decay or ():
      valid.one_of(PARAMETER_NAMES, **{'OptimizerConfig.no_decay': name})


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Validation while training, test once at the end.

  Attributes:
    every: steps between evaluations on validation; 0 for none.
    batch_size: rows decoded at a time.
    num_examples: at most this many per task; 0 for all.
    metric: of the validation, which chooses the best checkpoint: 'accuracy' (where a mixture
      has label tasks of several datasets, the mean over them), '<task>/accuracy' of one of them,
      'macro_f1' or 'weighted_f1' of a closed label set, 'token_f1' of metric 'normalized_text',
      or a loss; the larger, the better, of a loss the smaller.
    early_stopping: training ends, by the schedule of all steps, when so many evaluations in a row
      were no better than the best before them; 0 for never.
    test_with: which parameters are tested, ranked and the student's: 'best' by the metric, or
      'last', of which no best/ is kept.
    test_at_end: evaluate them on test when training is done.
  """

  every: int = 250
  batch_size: int = _free(64)
  num_examples: int = 0
  metric: str = 'accuracy'
  early_stopping: int = 0
  test_with: str = 'best'
  test_at_end: bool = _free(True)

  def __post_init__(self):
    valid.whole(0, **valid.fields(self, 'every', 'num_examples', 'early_stopping'))
    valid.whole(1, **valid.fields(self, 'batch_size'))
    valid.one_of(('best', 'last'), **valid.fields(self, 'test_with'))
    valid.flag(**valid.fields(self, 'test_at_end'))
    if self.early_stopping and not self.every:
      raise errors.UserError(f'EvalConfig.early_stopping={self.early_stopping}: it waits for '
                             'evaluations, and EvalConfig.every=0 makes none; set both, or none')


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Attributes: `every` steps a checkpoint is written (0: at the end), the last `keep` are kept."""

  every: int = 250
  keep: int = 2

  def __post_init__(self):
    valid.whole(0, **valid.fields(self, 'every'))
    valid.whole(1, **valid.fields(self, 'keep'))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One run.

  Attributes:
    model_dir: where everything of the run is written, local or `gs://`.
    steps: optimizer steps in total.
    model: the student.
    data, optimizer, rngs, mesh, evaluation, checkpoints: see their classes.
    alpha: weight of the label loss (DESIGN: loss = alpha * label + (1 - alpha) * rationale);
      1.0 for the single-task baselines.
    label_smoothing, z_loss: of the loss that is differentiated, see `objective.Terms`; what is
      logged and evaluated stays the plain cross entropy.
    token_distribution_weight: what part of a token's loss `data.token_distributions` is, in
      (0, 1]; the rest is its cross entropy.
    microbatches: parts that a batch is computed in, one after the other; same update, but for
      what dropout draws. 'auto': the fewest that fit the devices, see
      `precompile.advice.fewest_microbatches`; those of the run that is continued.
    loss_chunk: target positions whose logits are in memory at a time; 0 for all; same update.
    seed: of all random streams, see `train/rngs.py`.
    initial_checkpoint_path: parameters to start from: a model's name at the Hugging Face hub, a
      Hugging Face folder, a run's or a converted folder or a T5X checkpoint, local or `gs://`; ''
      starts from scratch.
    log_every: steps between two lines of metrics.
    profile_steps: so many steps, once the first have run, are traced for TensorBoard's (XProf's)
      profile page; 0 for none.
    log_to: 'wandb' or 'mlflow', besides TensorBoard, see `train/trackers.py`; or ''.
  """

  model_dir: str = dataclasses.field(metadata=_FREE)
  data: DataConfig
  steps: int = 10_000
  model: models.Config = models.T5Config()
  optimizer: OptimizerConfig = OptimizerConfig()
  rngs: RngConfig = RngConfig()
  mesh: MeshConfig = _free(MeshConfig())
  evaluation: EvalConfig = EvalConfig()
  checkpoints: CheckpointConfig = _free(CheckpointConfig())
  alpha: float = 0.5
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  token_distribution_weight: float = 0.5
  microbatches: int | Any = _free(1)  # or AUTO
  loss_chunk: int = _free(0)
  seed: int = 0
  initial_checkpoint_path: str = ''
  log_every: int = _free(10)
  profile_steps: int = _free(0)
  log_to: str = _free('')

  def __post_init__(self):
    if not self.model_dir:
      raise errors.UserError('TrainConfig.model_dir is not set: name a folder')
    valid.path(**valid.fields(self, 'model_dir'))
    valid.path(hub=True, **valid.fields(self, 'initial_checkpoint_path'))
    for field in dataclasses.fields(self):
      if dataclasses.is_dataclass(field.type) and not isinstance(
          getattr(self, field.name), field.type):
        raise errors.UserError(f'TrainConfig.{field.name} is not a {field.type.__name__}: set its '
                               'fields, not itself')
    valid.weight(**valid.fields(self, 'alpha'))
    _ = self.objectives, self.terms  # Refuse what is none.
    valid.whole(1, **valid.fields(self, 'steps', 'log_every'))
    valid.whole(0, **valid.fields(self, 'loss_chunk', 'seed', 'profile_steps'))
    if self.microbatches != AUTO:
      valid.whole(1, **valid.fields(self, 'microbatches'))
    if AUTO not in (self.microbatches, self.data.batch_size) and (
        self.data.batch_size % int(self.microbatches)):
      raise errors.UserError(
          f'DataConfig.batch_size={self.data.batch_size} cannot be split into '
          f'TrainConfig.microbatches={self.microbatches} equal parts')
    warmup = self.optimizer.warmup_steps
    if warmup > self.steps and self.optimizer.schedule != 'rsqrt':  # There it is a plateau.
      raise errors.UserError(
          f'OptimizerConfig.warmup_steps={warmup}: the run ends before, at '
          f'TrainConfig.steps={self.steps}; use at most {self.steps}')

  @property
  def objectives(self) -> objective.Objectives:
    """The table: what is learnt, and what each weighs."""
    data = self.data
    return objective.table(
        self.alpha, data.label_prefix, data.rationale_prefix, data.objectives)

  @property
  def terms(self) -> objective.Terms:
    return objective.Terms(self.label_smoothing, self.z_loss, self.data.token_distributions,
                           self.token_distribution_weight)


def as_dict(config: TrainConfig) -> dict[str, Any]:
  """The resolved config with JSON-able leaves."""
  def plain(value):
    if isinstance(value, Mapping):
      return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
      return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
  return plain(dataclasses.asdict(config))
