"""Token lists in, token ids and log probabilities out: the one place where decoding is jitted.

Validation and test, prediction, a T5 that teaches and `dss precompile` all decode with it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax import models
from dss_jax import sharding as sharding_lib
from dss_jax.decode.batching import batches_by_length
from dss_jax.decode.beam import beam_search
from dss_jax.decode.greedy import greedy_search
from dss_jax.decode.sampling import Sampling, sample
from dss_jax.decode.scoring import score_targets, target_distributions

Prompts = Sequence[Sequence[int] | np.ndarray]
Given = tuple[int, ...]  # tokens that the decoder of every row begins with, no part of its answer


@dataclasses.dataclass(frozen=True)
class Shapes:
  """What batches are padded to where no other programs than a few may be compiled.

  Attributes:
    widths: tokens of the prompts, ascending; () for all multiples of 32.
    candidates: targets of a prompt in `score`, at least.
    candidate_width: tokens of a target in `score`, at least.
  """

  widths: tuple[int, ...] = ()
  candidates: int = 1
  candidate_width: int = 8


class BatchDecoder:
  """Decodes with one network, in batches by length over the devices.

  Each set of options is compiled once. Prompts are token ids with EOS, at most `input_length`
  of them; `params` lie as `sharding.params` says.

  Args:
    model: the network.
    sharding: rows of a batch are split over its mesh's data and fsdp axes.

  Attributes:
    shapes: what batches are padded to; may be set.
  """

  def __init__(self, model: models.Network, sharding: sharding_lib.Sharding):
    platform = sharding.mesh.devices.flat[0].platform
    # A scan copies the cache and the weights of every layer at every token: on CPUs half of a
    # step. On accelerators compiling each layer alone takes minutes.
    self._unrolls = model.config.scan_layers and platform == 'cpu'
    if self._unrolls:
      model = model.clone(config=dataclasses.replace(model.config, scan_layers=False))
    self._model = model
    self._sharding = sharding
    self.shapes = Shapes()
    # As many entries as options are used. Decorated methods would keep the network for ever.
    self.searcher = functools.cache(self._searcher)
    self._sampler = functools.cache(self._make_sampler)
    self._scorer = functools.cache(self._make_scorer)
    self._distributor = functools.cache(self._make_distributor)

  def search_batches(
      self, params: Any, prompts: Prompts, batch_size: int, input_length: int,
      target_length: int, beams: int = 1, length_penalty: float = 1.0, given: Given = (),
  ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Of each batch: the prompts' numbers, int32 ids [rows, length], float32 log probs [rows]."""
    search = self.searcher(target_length, beams, length_penalty, given)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      ids, log_probs = jax.device_get(search(params, tokens))
      yield rows, ids[:len(rows)], log_probs[:len(rows)]

  def search(self, params: Any, prompts: Prompts, *args: Any) -> list[tuple[list[int], float]]:
    """(ids, log probability) of the greedy (beams=1) or beam search's best, in order.

    The other arguments are those of `search_batches`.
    """
    found: list[Any] = [None] * len(prompts)
    for rows, ids, log_probs in self.search_batches(params, prompts, *args):
      for row, row_ids, log_prob in zip(rows, ids, log_probs):
        found[row] = (row_ids.tolist(), float(log_prob))
    return found

  def sample(
      self, params: Any, prompts: Prompts, numbers: Sequence[int], batch_size: int,
      input_length: int, target_length: int, sampling: Sampling, seed: int, given: Given = (),
  ) -> list[list[tuple[list[int], float]]]:
    """For each prompt `sampling.num_samples` pairs of (ids, log probability at temperature 1).

    `numbers` gives each prompt's random key: its samples do not depend on the other prompts.
    """
    found: list[Any] = [None] * len(prompts)
    draw = self._sampler(target_length, sampling, seed, given)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      keys = np.zeros(tokens.shape[0], np.uint32)
      keys[:len(rows)] = [numbers[row] for row in rows]
      ids, log_probs = jax.device_get(draw(params, tokens, self._sharded(keys)))
      for row, row_ids, row_log_probs in zip(rows, ids, log_probs):
        found[row] = list(zip(row_ids.tolist(), row_log_probs.tolist()))
    return found

  def score(
      self, params: Any, prompts: Prompts, targets: Sequence[Prompts], batch_size: int,
      input_length: int, given: Given = ()) -> list[list[float]]:
    """Log probability of each of a prompt's targets (token lists with EOS)."""
    found: list[Any] = [None] * len(prompts)
    scorer = self._scorer(given)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      padded = _pad_targets([targets[row] for row in rows], tokens.shape[0], self.shapes)
      scores = jax.device_get(scorer(params, tokens, self._sharded(padded)))
      for row, row_scores in zip(rows, scores):
        found[row] = row_scores[:len(targets[row])].tolist()
    return found

  def distributions(
      self, params: Any, prompts: Prompts, targets: Prompts, batch_size: int, input_length: int,
      top_k: int, size: int, given: Given = ()
  ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each prompt, batch by batch: its number, then of its target (token ids) what
    `target_distributions` finds: int32 ids and float32 log probabilities [T, k], and float32 [T].
    """
    distribute = self._distributor(top_k, size, given)
    for rows, tokens in self._batches(prompts, batch_size, input_length):
      longest = max(len(targets[row]) for row in rows)
      padded = np.zeros((tokens.shape[0], max(8, 1 << (longest - 1).bit_length())), np.int32)
      for place, row in enumerate(rows):
        padded[place, :len(targets[row])] = targets[row]
      found = jax.device_get(distribute(params, tokens, self._sharded(padded)))
      for place, row in enumerate(rows):
        ids, log_probs, own = (one[place, :len(targets[row])] for one in found)
        yield row, ids, log_probs, own

  def _batches(self, prompts: Prompts, batch_size: int, input_length: int):
    """(rows, tokens on the devices) of each batch."""
    for rows, tokens in batches_by_length(
        prompts, self._sharding.whole(batch_size), input_length, widths=self.shapes.widths):
      yield rows, self._sharded(tokens)

  def _sharded(self, array: np.ndarray) -> jax.Array:
    return self._sharding.shard_batch({'rows': array})['rows']

  def _searcher(
      self, length: int, beams: int = 1, length_penalty: float = 1.0, given: Given = (),
  ) -> sharding_lib.Jitted:
    """(params, int32 tokens [rows, S]) -> ids [rows, length] and log probs [rows]."""
    def search(params, tokens):
      params = self._laid_out(params)
      if beams == 1:
        result = greedy_search(self._model, params, tokens, length, given=given)
        return result.tokens, result.log_probs
      found = beam_search(self._model, params, tokens, length, num_beams=beams,
                          length_penalty=length_penalty, given=given)
      return found.tokens[:, 0], found.log_probs[:, 0]
    return self._jit(search)

  def _make_sampler(
      self, length: int, sampling: Sampling, seed: int, given: Given) -> sharding_lib.Jitted:
    def draw(params, tokens, numbers):
      # Whatever JAX's default is: of rbg, a row's draws would depend on its batch.
      root = jax.random.key(seed, impl='threefry2x32')
      keys = jax.vmap(lambda n: jax.random.fold_in(root, n))(numbers)
      found = sample(self._model, self._laid_out(params), tokens, length, keys, sampling,
                     given=given)
      return found.tokens, found.log_probs
    return self._jit(draw)

  def _make_scorer(self, given: Given) -> sharding_lib.Jitted:
    return self._jit(lambda params, tokens, targets: score_targets(
        self._model, self._laid_out(params), tokens, targets, given))

  def _make_distributor(self, top_k: int, size: int, given: Given) -> sharding_lib.Jitted:
    return self._jit(lambda params, tokens, targets: target_distributions(
        self._model, self._laid_out(params), tokens, targets, top_k, size, given))

  def _laid_out(self, params: Any) -> Any:
    return models.unstack_layers(params) if self._unrolls else params

  def _jit(self, function: Any) -> sharding_lib.Jitted:
    # Replicated, so that every process can read what all rows got.
    return self._sharding.jit(function, out_shardings=self._sharding.replicated)


def _pad_targets(targets: Sequence[Prompts], rows: int, shapes: Shapes) -> np.ndarray:
  """int32 [rows, K, T]; T is a multiple of 8, so that few shapes are compiled."""
  most = max(shapes.candidates, *(len(one) for one in targets))
  longest = max(shapes.candidate_width, *(len(ids) for one in targets for ids in one))
  padded = np.zeros((rows, most, -(-longest // 8) * 8), np.int32)
  for row, one in enumerate(targets):
    for k, ids in enumerate(one):
      padded[row, k, :len(ids)] = ids
  return padded
