"""How much arithmetic a step needs, counted on paper.

Only matrix products count, and only for tokens that are not padding: what an implementation
spends on padding, masked pairs or recomputation lowers its figure. Per example of S input and
T target tokens, with 2 operations per multiply-add, a forward pass needs

    2 * (S * P_enc + T * P_dec)                            products with weights
    + 4 * H*K * (L_enc * S^2 + L_dec * (T*(T+1)/2 + S*T))  scores and contexts

and training three times that, since the backward pass costs twice the forward pass.

P_enc counts the kernels that an input token goes through: the encoder's layers, and the key and
value projections of the decoder's cross-attention. P_dec counts those of a target token: the
rest of the decoder's layers, and the head. The embedding is a look-up and counts nothing.
H*K is heads * head_dim; a target attends to itself and what came before, T*(T+1)/2 pairs.
"""

import numpy as np
from numpy.typing import ArrayLike

from dss_jax.models.config import Config


def matmul_parameters(config: Config) -> tuple[int, int]:
  """(P_enc, P_dec) of the formula above."""
  projection = config.emb_dim * config.num_heads * config.head_dim
  mlp = (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim
  encoder = config.num_encoder_layers * (4 * projection + mlp)
  cross_keys_values = config.num_decoder_layers * 2 * projection
  decoder = config.num_decoder_layers * (6 * projection + mlp)
  return encoder + cross_keys_values, decoder + config.emb_dim * config.vocab_size


def forward_flops(
    config: Config, input_lengths: ArrayLike, target_lengths: ArrayLike,
    read_lengths: ArrayLike | None = None
) -> float:
  """Operations of one forward pass over examples of these lengths, [n] each.

  Also of greedy decoding with a cache: each target token is computed once.

  Args:
    config: of the network.
    input_lengths: tokens that are encoded; 0 for an example that shares another's input.
    target_lengths: tokens that are decoded.
    read_lengths: of the input that the target attends to; by default `input_lengths`.
  """
  read = input_lengths if read_lengths is None else read_lengths
  source, target, read = (
      np.asarray(lengths, np.float64) for lengths in (input_lengths, target_lengths, read))
  per_input, per_target = matmul_parameters(config)
  weights = 2 * (source.sum() * per_input + target.sum() * per_target)
  decoder_pairs = np.sum(target * (target + 1) / 2 + read * target)
  pairs = (config.num_encoder_layers * np.sum(source**2)
           + config.num_decoder_layers * decoder_pairs)
  return float(weights + 4 * config.num_heads * config.head_dim * pairs)


def training_flops(
    config: Config, input_lengths: ArrayLike, target_lengths: ArrayLike,
    read_lengths: ArrayLike | None = None
) -> float:
  """Operations of one forward and backward pass over examples, see `forward_flops`."""
  return 3 * forward_flops(config, input_lengths, target_lengths, read_lengths)
