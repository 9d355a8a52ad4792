"""Self-consistency (Wang et al. 2023): of several samples, the label that most of them reach."""

import itertools
from collections.abc import Mapping, Sequence

from dss_jax import datasets, equations, metrics
from dss_jax.teacher.read import parsed


def choose(samples: Sequence[parsed.Parsed], dataset: datasets.Dataset) -> tuple[int, int]:
  """The first sample with the most frequent label.

  Labels are compared as the dataset's metric does: equations by their value. Samples that did not
  parse have no vote; of equally frequent labels the one that came first wins.

  Returns: (its index, how many samples share its label); (0, 0) if none parsed.
  """
  votes: dict[object, list[int]] = {}
  for index, sample in enumerate(samples):
    if sample.ok:
      votes.setdefault(_same(sample.label, dataset), []).append(index)
  if not votes:
    return 0, 0
  winners = max(votes.values(), key=len)  # The first of equals: a dict keeps its order.
  return winners[0], len(winners)


def counts(
    samples: Sequence[parsed.Parsed], dataset: datasets.Dataset,
    shares: Sequence[Mapping[str, float] | None] = (),
) -> tuple[float, ...]:
  """How many samples reach each label of a closed set, in its order; () if none of them does.

  ['bug', 'other', 'bug', failed] of the set ('billing', 'bug', 'other') -> (0.0, 2.0, 1.0)

  Args:
    samples: all of an input.
    dataset: whose labels they are.
    shares: for each sample how its one vote is divided, None where it is not.
  """
  found = dict.fromkeys(dataset.labels or (), 0.0)
  for sample, share in itertools.zip_longest(samples, shares):
    for label, part in (share or {sample.label: 1.0}).items():
      if sample.ok and label in found:
        found[label] += part
  return tuple(found.values()) if any(found.values()) else ()


def _same(label: str, dataset: datasets.Dataset) -> object:
  if dataset.metric == 'normalized_text':
    return metrics.normalized(label)
  if dataset.metric != 'equation':
    return label
  try:
    return round(equations.evaluate(label), 6)
  except ValueError:  # A 'text' label that the equation parser did not check.
    return label
