"""Everything that defines a training run, as plain dataclasses.

gin fills them (`train/gin_config.py`), `run.json` stores them, and a second start in the same
MODEL_DIR is compared with them. A field marked `_FREE` may differ between two starts of one
run: it changes where or how often, not what is computed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import errors, models

OPTIMIZERS = ('adamw', 'adamw_transformers4', 'adafactor')
# Matrices, embedding table, scales of norms, relative position biases: T5 has no other parameters.
PARAMETER_NAMES = ('kernel', 'embedding', 'scale', 'rel_embedding')

_FREE = {'free': True}


def _free(default):
  return dataclasses.field(default=default, metadata=_FREE)


def _positive(name: str, value: Any) -> None:
  if not isinstance(value, int) or value < 1:
    raise errors.UserError(f'{name}={value!r}: use a whole number of at least 1')


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise errors.UserError(f'{name}={value!r}: {errors.did_you_mean(str(value), known)}')


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What the student reads.

  Attributes:
    mixture_or_task: a registered SeqIO name, e.g. 'dss_cqa' or 'cqa_finetune'.
    feature_lengths: {'inputs': ..., 'targets': ...} in tokens: where sequences are cut, and
      the size of a row.
    batch_size: rows of a global batch; with packing a row holds several examples.
    pack: several examples per row. Exact without dropout, whose masks are a row's: only padding
      is saved.
    records_dir: folder of the records; default `$DSS_DATA_DIR`.
    vocabulary: path of a SentencePiece model, or 'bytes'.
    label_prefix, rationale_prefix: '[label] ' and '[rationale] ' in the paper.
    train_fraction, train_fraction_seed: a nested subset of the training inputs.
    seed: order of the examples.
    verify_records: compare the shards' checksums with the manifest before training.
  """

  mixture_or_task: str
  vocabulary: str
  feature_lengths: Mapping[str, int]
  batch_size: int
  pack: bool = True
  records_dir: str = _free('')
  label_prefix: str = '[label] '
  rationale_prefix: str = '[rationale] '
  train_fraction: float = 1.0
  train_fraction_seed: int = 0
  seed: int = 0
  verify_records: bool = _free(True)

  def __post_init__(self):
    if sorted(self.feature_lengths) != ['inputs', 'targets']:
      raise errors.UserError(
          f'TASK_FEATURE_LENGTHS={dict(self.feature_lengths)}: give exactly '
          "{'inputs': ..., 'targets': ...}")
    _positive('BATCH_SIZE', self.batch_size)
    for side, length in self.feature_lengths.items():
      _positive(f"TASK_FEATURE_LENGTHS['{side}']", length)


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

  def __post_init__(self):
    _one_of('OPTIMIZER', self.name, OPTIMIZERS)
    _one_of('SCHEDULE', self.schedule, ('linear', 'cosine', 'constant', 'rsqrt'))
    if isinstance(self.no_decay, str):
      raise errors.UserError(
          f"NO_DECAY={self.no_decay!r}: give a tuple of names, such as ('scale', 'rel_embedding')")
    for name in self.no_decay or ():
      _one_of('NO_DECAY', name, PARAMETER_NAMES)
    if self.clip_norm is None:  # Resolved here, so that run.json says what was done.
      object.__setattr__(self, 'clip_norm', 0.0 if self.name == 'adafactor' else 1.0)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis of the mesh; -1 takes what the others leave.

  Attributes:
    data: copies of the parameters, each reads its share of the batch.
    fsdp: the batch is split here too, and so are parameters and optimizer state.
    model: heads, MLP and vocabulary are split (tensor parallelism).
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Validation while training, test once at the end.

  Attributes:
    every: steps between evaluations on validation; 0 for none.
    batch_size: rows decoded at a time.
    num_examples: at most this many per task; 0 for all.
    metric: the metric of the label task that chooses the best checkpoint, larger is better.
    test_at_end: evaluate the best checkpoint on test when training is done.
  """

  every: int = 250
  batch_size: int = _free(64)
  num_examples: int = 0
  metric: str = 'accuracy'
  test_at_end: bool = _free(True)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Attributes: `every` steps a checkpoint is written, the last `keep` are kept."""

  every: int = 250
  keep: int = 2


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One run.

  Attributes:
    model_dir: where everything of the run is written, local or `gs://`.
    steps: optimizer steps in total.
    model: the student.
    data, optimizer, mesh, evaluation, checkpoints: see their classes.
    alpha: weight of the label loss (DESIGN: loss = alpha * label + (1 - alpha) * rationale);
      1.0 for the single-task baselines.
    microbatches: parts that a batch is computed in, one after the other; same update
      without dropout, whose masks are drawn for each part.
    loss_chunk: target positions whose logits are in memory at a time; 0 for all; same update.
    seed: initial parameters and dropout.
    initial_checkpoint_path: parameters to start from: a run's or a converted folder, a Hugging
      Face folder or a T5X checkpoint, local or `gs://`; '' starts from scratch.
    log_every: steps between two lines of metrics.
  """

  model_dir: str = dataclasses.field(metadata=_FREE)
  data: DataConfig
  steps: int = 10_000
  model: models.T5Config = models.T5Config()
  optimizer: OptimizerConfig = OptimizerConfig()
  mesh: MeshConfig = _free(MeshConfig())
  evaluation: EvalConfig = EvalConfig()
  checkpoints: CheckpointConfig = _free(CheckpointConfig())
  alpha: float = 0.5
  microbatches: int = _free(1)
  loss_chunk: int = _free(0)
  seed: int = 0
  initial_checkpoint_path: str = ''
  log_every: int = _free(10)

  def __post_init__(self):
    if not self.model_dir:
      raise errors.UserError('MODEL_DIR is not set: give --gin.MODEL_DIR=DIR')
    if not 0.0 <= self.alpha <= 1.0:
      raise errors.UserError(f'DSS_ALPHA={self.alpha}: the weight of the label loss is in [0, 1]')
    _positive('TRAIN_STEPS', self.steps)
    _positive('MICROBATCHES', self.microbatches)
    if self.loss_chunk:
      _positive('LOSS_CHUNK', self.loss_chunk)
    if self.data.batch_size % self.microbatches:
      raise errors.UserError(
          f'BATCH_SIZE={self.data.batch_size} cannot be split into MICROBATCHES='
          f'{self.microbatches} equal parts')


def as_dict(config: TrainConfig) -> dict[str, Any]:
  """The resolved config with JSON-able leaves."""
  def plain(value):
    if isinstance(value, Mapping):
      return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
      return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
  return plain(dataclasses.asdict(config))


def identity(config: Any, prefix: str = '') -> dict[str, Any]:
  """Flat {'optimizer.learning_rate': 5e-5, ...} of the fields that define the run."""
  found: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    if field.metadata.get('free'):
      continue
    value, name = getattr(config, field.name), f'{prefix}{field.name}'
    if dataclasses.is_dataclass(value):
      found |= identity(value, f'{name}.')
    elif isinstance(value, Mapping):
      found |= {f'{name}.{key}': item for key, item in value.items()}
    else:
      plain = (str, int, float, bool, type(None))
      found[name] = value if isinstance(value, plain) else str(value)
  return found
