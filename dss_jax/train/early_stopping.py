"""EARLY_STOPPING: the best evaluation so far, and how many since then were no better."""

import dataclasses
from collections.abc import Mapping


def is_better(metric: str, value: float, than: float) -> bool:
  """The larger, the better; of a loss the smaller."""
  return value < than if metric.endswith('loss') else value > than


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a run's evaluations came to; it is in every checkpoint, so that a resumed run knows.

  Attributes:
    best: of the metric that chooses checkpoints; None before the first evaluation.
    step: of the best one, the first where several are as good.
    waited: evaluations since then.
    newest: all metrics of the last one.
  """

  best: float | None = None
  step: int = 0
  waited: int = 0
  newest: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def after(self, step: int, metric: str, found: Mapping[str, float]) -> 'Progress':
    """With the evaluation of one more step."""
    if self.best is None or is_better(metric, found[metric], self.best):
      return Progress(found[metric], step, 0, dict(found))
    return Progress(self.best, self.step, self.waited + 1, dict(found))
