"""Our side: the trainer's own step and the package's decoders, compiled ahead of time."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import machine
import numpy as np
from flax import linen as nn

from dss_jax import decode, families, models, objective
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import rngs
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib

ALPHA = {'dss': 0.5, 'standard': 1.0}  # weight of the label loss
_TABLES = {kind: objective.table(alpha) for kind, alpha in ALPHA.items()}
_STEPS = 10_000  # of the learning-rate schedule


class Trainer:
  """One model and its optimizer state, which the steps of all settings share and change."""

  def __init__(self, config: models.Config, microbatches: int = 1):
    self._microbatches = microbatches
    self._model = families.network(config)
    settings = config_lib.OptimizerConfig()  # The paper's: AdamW, 5e-5, clipping at 1.
    self._schedule = optimizer_lib.make_schedule(settings, _STEPS)
    self._optimizer = optimizer_lib.make_optimizer(settings, self._schedule)
    init = functools.partial(state_lib.init_state, self._model, self._optimizer, rngs.Rngs())
    self._state = jax.jit(init)()
    self._metrics: Any = None

  def parameters(self) -> int:
    """How many parameters the model has."""
    return sum(leaf.size for leaf in jax.tree.leaves(self._state.params))

  def loss(self, batch: dict[str, np.ndarray], kind: str) -> float:
    """The objective on one batch, without dropout and without a step."""
    sums = jax.jit(step_lib.make_eval_step(self._model, _TABLES[kind]))(self._state.params, batch)
    return float(objective.summarize(sums, _TABLES[kind])['loss'])

  def prepare(self, kind: str, batches: Sequence[dict[str, np.ndarray]]) -> 'PreparedSteps':
    """Compiles the step of 'dss' or 'standard' for all shapes of the batches."""
    step = jax.jit(step_lib.make_train_step(
        self._model, self._optimizer, self._schedule, objectives=_TABLES[kind],
        microbatches=self._microbatches), donate_argnums=0)
    on_device = [jax.device_put(batch) for batch in batches]
    compiled: dict[Any, Any] = {}
    began = time.perf_counter()
    for batch in on_device:
      if _shapes(batch) not in compiled:
        compiled[_shapes(batch)] = step.lower(self._state, batch).compile()
    seconds = time.perf_counter() - began

    def run(steps: int | None = None):
      for batch in on_device[:steps]:
        self._state, self._metrics = compiled[_shapes(batch)](self._state, batch)
      jax.block_until_ready((self._state, self._metrics))
    return PreparedSteps(run, seconds, list(compiled.values()))


class PreparedSteps:
  """Compiled work: `run(steps)` does the first steps (None: all) and waits for the result."""

  def __init__(self, run: Callable[[int | None], None], compile_seconds: float,
               compiled: list[Any]):
    self.run = run
    self.compile_seconds = compile_seconds
    self.executables = len(compiled)
    known = [size for size in map(machine.step_memory, compiled) if size is not None]
    self.memory = max(known, default=None)  # bytes of the largest executable


def _shapes(batch: dict[str, Any]) -> tuple:
  return tuple(sorted((name, array.shape) for name, array in batch.items()))


NO_EOS = -1  # no id: every row runs on to the last token


class Decoder:
  """A model with random weights that always decodes `max_decode_length` tokens per row."""

  def __init__(self, config: models.Config, max_decode_length: int, beams: int):
    self._model = families.network(config)
    self._params = nn.unbox(
        jax.jit(lambda: models.init_params(self._model, jax.random.key(0)))())
    self._length, self._search = max_decode_length, _search(beams)

  def prepare(self, batches: Sequence[np.ndarray]) -> PreparedSteps:
    """Compiles decoding for the shapes of int32 [B, S] batches."""
    decode = jax.jit(lambda params, tokens: self._search(
        self._model, params, tokens, self._length))
    on_device = [jax.device_put(batch) for batch in batches]
    compiled: dict[Any, Any] = {}
    began = time.perf_counter()
    for batch in on_device:
      if batch.shape not in compiled:
        compiled[batch.shape] = decode.lower(self._params, batch).compile()
    seconds = time.perf_counter() - began

    def run(steps: int | None = None):
      jax.block_until_ready([compiled[batch.shape](self._params, batch)
                             for batch in on_device[:steps]])
    return PreparedSteps(run, seconds, list(compiled.values()))


def _search(beams: int) -> Callable[..., Any]:
  """(model, params, tokens, max_decode_length) -> result, greedy or with a beam, without end."""
  if beams == 1:
    return functools.partial(decode.greedy_decode, eos_id=NO_EOS)
  return functools.partial(decode.beam_search, num_beams=beams, eos_id=NO_EOS)
