"""Token lists in, token ids and log probabilities out: batches by length over the devices."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax import models
from dss_jax.train import sharding as sharding_lib

Prompts = Sequence[Sequence[int]]


class BatchDecoder:
  """Decodes with one network. Each set of options is compiled once.

  Args:
    model: the network.
    params: its parameters, on the devices.
    sharding: rows of a batch are split over its mesh's data and fsdp axes.
  """

  def __init__(self, model: models.Transformer, params: Any, sharding: sharding_lib.Sharding):
    self._model = model
    self._params = params
    self._sharding = sharding
    self._shards = math.prod(sharding.mesh.shape[axis] for axis in ('data', 'fsdp'))
    # As many entries as options are used. Decorated methods would keep the parameters for ever.
    self._decoder = functools.cache(self._make_decoder)
    self._sampler = functools.cache(self._make_sampler)

  def search(
      self, prompts: Prompts, batch_size: int, input_length: int, target_length: int,
      beams: int = 1, length_penalty: float = 1.0) -> list[tuple[list[int], float]]:
    """(ids, log probability) of the greedy (beams=1) or beam search's best, in order."""
    found: list[Any] = [None] * len(prompts)
    decode = self._decoder(target_length, beams, length_penalty)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      ids, log_probs = jax.device_get(decode(self._params, tokens))
      for row, row_ids, log_prob in zip(rows, ids, log_probs):
        found[row] = (row_ids.tolist(), float(log_prob))
    return found

  def sample(
      self, prompts: Prompts, numbers: Sequence[int], batch_size: int, input_length: int,
      target_length: int, samples: int, temperature: float, top_k: int, top_p: float, seed: int,
  ) -> list[list[tuple[list[int], float]]]:
    """For each prompt `samples` pairs of (ids, log probability at temperature 1).

    `numbers` gives each prompt's random key: its samples do not depend on the other prompts.
    """
    found: list[Any] = [None] * len(prompts)
    draw = self._sampler(target_length, samples, temperature, top_k, top_p, seed)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      keys = np.zeros(tokens.shape[0], np.uint32)
      keys[:len(rows)] = [numbers[row] for row in rows]
      ids, log_probs = jax.device_get(draw(self._params, tokens, self._put(keys)))
      for row, row_ids, row_log_probs in zip(rows, ids, log_probs):
        found[row] = list(zip(row_ids.tolist(), row_log_probs.tolist()))
    return found

  def score(
      self, prompts: Prompts, targets: Sequence[Prompts], batch_size: int, input_length: int
  ) -> list[list[float]]:
    """Log probability of each of a prompt's targets (token lists with EOS)."""
    found: list[Any] = [None] * len(prompts)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      padded = _pad_targets([targets[row] for row in rows], tokens.shape[0])
      scores = jax.device_get(self._scorer(self._params, tokens, self._put(padded)))
      for row, row_scores in zip(rows, scores):
        found[row] = row_scores[:len(targets[row])].tolist()
    return found

  def _batches(self, prompts: Prompts, batch_size: int, input_length: int):
    """(rows, tokens on the devices) of each batch."""
    size = -(-batch_size // self._shards) * self._shards
    for rows, tokens in models.batches_by_length(prompts, size, input_length):
      yield rows, self._put(tokens)

  def _put(self, array: np.ndarray) -> jax.Array:
    return self._sharding.put({'rows': array})['rows']

  def _make_decoder(self, length: int, beams: int, length_penalty: float) -> Callable:
    def decode(params, tokens):
      if beams == 1:
        result = models.greedy_search(self._model, params, tokens, length)
        return result.tokens, result.log_probs
      found = models.beam_search(self._model, params, tokens, length, num_beams=beams,
                                 length_penalty=length_penalty)
      return found.tokens[:, 0], found.log_probs[:, 0]
    return self._sharding.jit(decode)

  def _make_sampler(
      self, length: int, samples: int, temperature: float, top_k: int, top_p: float, seed: int
  ) -> Callable:
    def draw(params, tokens, numbers):
      keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
      found = models.sample(self._model, params, tokens, length, keys, num_samples=samples,
                            temperature=temperature, top_k=top_k, top_p=top_p)
      return found.tokens, found.log_probs
    return self._sharding.jit(draw)

  @functools.cached_property
  def _scorer(self) -> Callable:
    return self._sharding.jit(
        lambda params, tokens, targets: models.score_targets(self._model, params, tokens, targets))


def _pad_targets(targets: Sequence[Prompts], rows: int) -> np.ndarray:
  """int32 [rows, K, T]; T is a multiple of 8, so that few shapes are compiled."""
  most = max(len(one) for one in targets)
  longest = max(len(ids) for one in targets for ids in one)
  padded = np.zeros((rows, most, -(-longest // 8) * 8), np.int32)
  for row, one in enumerate(targets):
    for k, ids in enumerate(one):
      padded[row, k, :len(ids)] = ids
  return padded
