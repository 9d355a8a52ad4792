"""The hyperparameters of a network, checked once, when they are written down."""

import dataclasses
from typing import Any

import jax.numpy as jnp

ACTIVATIONS = ('gelu', 'linear', 'relu', 'silu')
DTYPES = ('float32', 'bfloat16')
REMAT = ('auto', 'none', 'scores', 'dots', 'full')
ATTENTION = ('auto', 'xla', 'pallas', 'cudnn')
_SAME_NUMBERS = {'free': True}  # It may change within a run; see train/config.py.
_POSITIVE = (
  'vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'num_encoder_layers', 'num_decoder_layers',
  'mlp_dim', 'eos_id',
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What the network of every family says of itself; a family adds fields of its own.

  Parameters are always float32; `dtype` is that of the activations. Softmax, norms and logits
  are computed in float32 whatever `dtype` says.

  Attributes:
    vocab_size: rows of the embedding table (T5 pads 32,100 pieces to 32,128).
    emb_dim: width of the residual stream (Hugging Face `d_model`).
    num_heads: attention heads.
    head_dim: width of a head; heads * head_dim need not equal emb_dim (`d_kv`).
    num_encoder_layers, num_decoder_layers: depth of the two stacks.
    mlp_dim: width inside the MLP (`d_ff`).
    mlp_activations: one name per input projection, their products are multiplied:
      ('gelu', 'linear') is v1.1's gated GELU, ('relu',) is v1.0.
    dropout_rate: in [0, 1), used at every dropout place when not deterministic.
    logits_via_embedding: True ties the output head to the embedding (v1.0).
    dtype: 'float32' or 'bfloat16' (or the jax.numpy types); kept as a numpy dtype.
    eos_id: the token that ends a sequence.
    start_id: what the decoder reads first.
    pad_id: what fills up rows elsewhere, for whoever reads an exported folder; here that is 0,
      which nothing attends to.
    scan_layers: one compiled layer run by `nn.scan` over stacked parameters, instead of
      unrolled layers. Compiles much faster; same numbers.
    remat: what the backward pass recomputes: 'none'; 'scores', or 'auto' (nothing is kept but
      queries, keys, values, contexts and the products inside the MLP: less memory, and on a CPU
      faster as well); 'dots' (everything but the products with weights); 'full' (all of a layer).
    attention: what computes it over whole sequences: 'xla', 'pallas' (a kernel that writes no
      matrix of scores; a TPU's), 'cudnn' (a GPU's; bfloat16, even lengths), or 'auto': 'pallas' on
      a TPU and 'xla' elsewhere, since nothing was run on a GPU. Same numbers; see `attend.py`.
    one_hot_embedding: look embeddings up with a matrix product instead of a gather; same
      numbers. Slower off TPU; a choice for tables that are sharded over the vocabulary.

  Raises:
    ValueError: names the field, its value and the fix.
  """

  vocab_size: int = 32128
  emb_dim: int = 512
  num_heads: int = 6
  head_dim: int = 64
  num_encoder_layers: int = 8
  num_decoder_layers: int = 8
  mlp_dim: int = 1024
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  dtype: Any = 'float32'
  eos_id: int = 1
  start_id: int = 0
  pad_id: int = 0
  scan_layers: bool = False
  remat: str = dataclasses.field(default='auto', metadata=_SAME_NUMBERS)
  attention: str = dataclasses.field(default='auto', metadata=_SAME_NUMBERS)
  one_hot_embedding: bool = dataclasses.field(default=False, metadata=_SAME_NUMBERS)

  def __post_init__(self):
    for field in _POSITIVE:
      self._check_whole(field, 1)
    for field in ('start_id', 'pad_id'):
      self._check_whole(field, 0)
    for field in ('logits_via_embedding', 'scan_layers', 'one_hot_embedding'):
      self._check_flag(field)
    if self.remat not in REMAT:
      self._fail('remat', f'use one of {REMAT}')
    if self.attention not in ATTENTION:
      self._fail('attention', f'use one of {ATTENTION}')
    if not isinstance(self.dropout_rate, (int, float)) or not 0.0 <= self.dropout_rate < 1.0:
      self._fail('dropout_rate', 'use a number in [0, 1)')
    # Configuration files hand over lists and strings; a frozen, hashable config is what
    # jit and the remat'ed modules need.
    object.__setattr__(self, 'mlp_activations', self._checked_activations())
    object.__setattr__(self, 'dtype', self._checked_dtype())

  def _fail(self, field: str, fix: str):
    raise ValueError(f'{type(self).__name__}.{field} is {getattr(self, field)!r}: {fix}.')

  def _check_whole(self, field: str, least: int):
    value = getattr(self, field)
    if not _is_int(value) or value < least:
      self._fail(field, f'use an integer of at least {least}')

  def _check_flag(self, field: str):
    if not isinstance(getattr(self, field), bool):
      self._fail(field, 'use True or False')

  def _checked_activations(self) -> tuple[str, ...]:
    names = self.mlp_activations
    if (isinstance(names, str) or not isinstance(names, (tuple, list)) or not names
        or any(name not in ACTIVATIONS for name in names)):
      self._fail('mlp_activations', f'use a non-empty sequence of {ACTIVATIONS}, such as '
                 "('gelu', 'linear') or ('relu',)")
    return tuple(names)

  def _checked_dtype(self):
    try:
      checked = jnp.dtype(self.dtype)
    except TypeError:
      checked = None
    if self.dtype is None or checked is None or checked.name not in DTYPES:
      self._fail('dtype', f'use one of {DTYPES} (float16 overflows in T5)')
    return checked


@dataclasses.dataclass(frozen=True)
class T5Config(Config):
  """A T5 encoder-decoder (T5, Raffel et al. 2020, section 2.1), v1.0 or v1.1, or an umT5.

  Attributes: those of `Config`, and
    relpos_num_buckets, relpos_max_distance: relative position buckets, section 2.1.
    relpos_per_layer: every layer has a position bias of its own (umT5, Chung et al. 2023),
      instead of one for all layers of a stack.
  """

  relpos_num_buckets: int = 32
  relpos_max_distance: int = 128
  relpos_per_layer: bool = False

  def __post_init__(self):
    super().__post_init__()
    self._check_flag('relpos_per_layer')
    buckets, distance = self.relpos_num_buckets, self.relpos_max_distance
    # The encoder halves the buckets by sign, and half of each half counts single steps.
    if not _is_int(buckets) or buckets < 4 or buckets % 4:
      self._fail('relpos_num_buckets', 'use a multiple of 4 (T5 has 32)')
    if not _is_int(distance) or distance <= buckets // 2:
      self._fail('relpos_max_distance',
                 f'use an integer above relpos_num_buckets / 2 = {buckets // 2} (T5 has 128)')


def _is_int(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)
