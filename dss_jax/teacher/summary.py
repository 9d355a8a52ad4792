"""Counts over the rows of a shard, or of a set: what the report and the manifest say."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, metrics, records
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsing


@dataclasses.dataclass
class Summary:
  """Sums, so that shards add up.

  Attributes:
    rows: number of inputs.
    status: parse_status -> rows.
    gold: rows with a gold label.
    points: metric -> sum of percents over the gold rows, where a teacher was asked.
    samples: completions; of them `voting` have their row's label.
    prompts: hashes of the prompts that were used.
    records: of the rows, with the samples that were kept beside the vote's choice.
    max_samples: records of one row, at most; 0: the vote's choice alone was kept.
    weighed: completions whose label was weighed by the probabilities of its tokens, and those
      that parsed but counted whole: `unweighed`.
  """

  rows: int = 0
  status: dict[str, int] = dataclasses.field(default_factory=dict)
  gold: int = 0
  points: dict[str, float] = dataclasses.field(default_factory=dict)
  samples: int = 0
  voting: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  prompts: list[str] = dataclasses.field(default_factory=list)
  records: int = 0
  max_samples: int = 0
  weighed: int = 0
  unweighed: int = 0

  @property
  def accuracy(self) -> dict[str, float]:
    """The teacher's labels by the student's metrics, in percent; {} without gold or teacher.

    A failed row counts as wrong: its teacher label is ''.
    """
    return {name: total / self.gold for name, total in self.points.items()}

  @property
  def asked(self) -> int:
    """Rows for which there was a teacher."""
    return self.rows - self.status.get(parsing.NO_TEACHER, 0)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def from_json(values: Mapping[str, Any]) -> Summary:
  return Summary(**values)


def of(
    dataset: datasets.Dataset,
    rows: Sequence[records.RationaleRecord],
    completions: Sequence[Sequence[protocol.Completion]] = (),
    voting: int = 0,
) -> Summary:
  """The summary of some rows, with their completions if there were any."""
  used = [one for samples in completions for one in samples]
  scored = [row for row in rows if row.label]
  points = {}
  if scored and any(row.parse_status != parsing.NO_TEACHER for row in scored):
    for metric in metrics.for_dataset(dataset):
      shares = metric([row.label for row in scored], [row.teacher_label for row in scored])
      points.update({name: share * len(scored) for name, share in shares.items()})
  return Summary(
      rows=len(rows),
      status=dict(collections.Counter(row.parse_status for row in rows)),
      gold=len(scored),
      points=points,
      samples=len(used),
      voting=voting,
      prompt_tokens=sum(one.prompt_tokens for one in used),
      completion_tokens=sum(one.completion_tokens for one in used),
      prompts=sorted({one.prompt_sha256 for one in used}))


def total(parts: Sequence[Summary]) -> Summary:
  """Shards added up."""
  whole = Summary()
  for part in parts:
    for name in ('rows', 'records', 'gold', 'samples', 'voting', 'prompt_tokens',
                 'completion_tokens', 'weighed', 'unweighed'):
      setattr(whole, name, getattr(whole, name) + getattr(part, name))
    for reason, count in part.status.items():
      whole.status[reason] = whole.status.get(reason, 0) + count
    for metric, points in part.points.items():
      whole.points[metric] = whole.points.get(metric, 0.0) + points
    whole.prompts = sorted({*whole.prompts, *part.prompts})
    whole.max_samples = max(whole.max_samples, part.max_samples)
  return whole
