"""Named random streams of a run, all folded from its one seed."""

import dataclasses

import jax

from dss_jax import valid

IMPLEMENTATIONS = ('threefry2x32', 'rbg')  # of `jax.random.key`


@dataclasses.dataclass(frozen=True)
class RngConfig:
  """The generator of each stream, fixed here so that no setting of JAX's changes what is drawn.

  Attributes:
    params: of the initial parameters.
    dropout: of its masks; threefry costs several percent of a step.
  """

  params: str = 'threefry2x32'
  dropout: str = 'rbg'

  def __post_init__(self):
    valid.one_of(IMPLEMENTATIONS, **valid.fields(self, 'params', 'dropout'))


@dataclasses.dataclass(frozen=True)
class Rngs:
  """The streams of the run with this seed.

  What is folded in, besides these: a parameter's path (by Flax) and a microbatch's number (by the
  step). The order of the data is `DataConfig.seed`'s.
  """

  seed: int = 0
  config: RngConfig = RngConfig()

  def params(self) -> jax.Array:
    """The key of the initial parameters."""
    return jax.random.key(self.seed, impl=self.config.params)

  def dropout(self, step: jax.Array | int) -> jax.Array:
    """The key of a step's masks, which a resumed run repeats."""
    return jax.random.fold_in(jax.random.key(self.seed, impl=self.config.dropout), step)
