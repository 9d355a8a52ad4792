"""What a run computes, built from its config: network, optimizer and the compiled train step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from dss_jax import families, models
from dss_jax import sharding as sharding_lib
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import rngs as rngs_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Compute:
  """The parts of a run that touch no file.

  Attributes:
    model, optimizer: the student and its update.
    state_sharding: NamedSharding of every leaf of the TrainState.
    init: () -> TrainState at step 0, not sharded.
    train_step: (TrainState, batch) -> (TrainState, metrics), jitted; donates the state.
  """

  model: models.Network
  optimizer: optax.GradientTransformation
  state_sharding: Any
  init: Callable[[], state_lib.TrainState]
  train_step: Callable[..., Any]


def build(config: config_lib.TrainConfig, sharding: sharding_lib.Sharding) -> Compute:
  """For the mesh of `sharding`; nothing is compiled yet."""
  model = families.network(config.model)
  schedule = optimizer_lib.make_schedule(config.optimizer, config.steps)
  optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule)
  rngs = rngs_lib.Rngs(config.seed, config.rngs)
  state_sharding = state_lib.sharding(sharding, model, optimizer)
  train_step = sharding.jit(
      step_lib.make_train_step(
          model, optimizer, schedule, objectives=config.objectives,
          microbatches=config.microbatches, rngs=rngs, loss_chunk=config.loss_chunk,
          terms=config.terms),
      donate_argnums=0, out_shardings=(state_sharding, sharding.replicated))
  return Compute(model, optimizer, state_sharding,
                 lambda: state_lib.init_state(model, optimizer, rngs), train_step)
