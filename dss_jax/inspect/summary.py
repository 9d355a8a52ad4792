"""What a record set holds, counted: for `dss inspect --html`."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from dss_jax import datasets, metrics, records
from dss_jax.data import coverage as coverage_lib
from dss_jax.inspect import leftovers as leftovers_lib

FIELDS = ('input', 'label', 'rationale')  # those whose tokens are counted


@dataclasses.dataclass(frozen=True)
class Summary:
  """One record set.

  Attributes:
    name: 'cqa-train'.
    rows: how many inputs.
    samples: records beside the first of an input, of which only the rationale counts.
    status: rows by parse status, 'ok' among them.
    failures: by status other than 'ok', ids of the first few.
    labels, teacher_labels: rows by label, commonest first.
    teacher: the dataset's metrics of teacher labels against gold ones, percent; an unreadable
      answer is wrong; {} without either.
    lengths: of FIELDS, int [n] tokens with EOS, of rows that have the field.
    coverage: of FIELDS, what the vocabulary lacks of the same rows.
    leftovers: in the rationales of the same rows.
    sampled: rows whose tokens were counted.
    inputs: fingerprint of an input, case and spaces aside -> id of the first row with it.
    duplicates: (id, id of an earlier row with the same input) of the first few, and
    num_duplicates: of all.
  """

  name: str
  rows: int
  samples: int
  status: Mapping[str, int]
  failures: Mapping[str, Sequence[str]]
  labels: Mapping[str, int]
  teacher_labels: Mapping[str, int]
  teacher: Mapping[str, float]
  lengths: Mapping[str, np.ndarray]
  coverage: Mapping[str, coverage_lib.Coverage]
  leftovers: leftovers_lib.Leftovers
  sampled: int
  inputs: Mapping[bytes, str]
  duplicates: Sequence[tuple[str, str]]
  num_duplicates: int

  def cut(self, field: str, limit: int) -> float:
    """Share of the sampled rows whose `field` is longer than `limit` tokens."""
    lengths = self.lengths[field]
    return float(np.mean(lengths > limit)) if len(lengths) else 0.0


def summarize(
    name: str, rows: Iterable[records.RationaleRecord], dataset: datasets.Dataset | None,
    count_tokens: Callable[[Sequence[str]], Sequence[int]],
    cover: Callable[[Sequence[str]], coverage_lib.Coverage], sample: int = 20_000, few: int = 5,
) -> Summary:
  """Reads all rows once.

  Args:
    name: of the set.
    rows: its records, with all samples.
    dataset: whose metric scores the teacher; None for a set of an unregistered dataset.
    count_tokens: texts -> how many tokens each has, EOS included.
    cover: texts -> what the vocabulary lacks of them.
    sample: tokens are counted of so many rows, spread evenly over the set.
    few: how many examples of failures and duplicates to keep.
  """
  status: collections.Counter[str] = collections.Counter()
  labels: collections.Counter[str] = collections.Counter()
  teacher_labels: collections.Counter[str] = collections.Counter()
  failures: dict[str, list[str]] = {}
  inputs: dict[bytes, str] = {}
  duplicates: list[tuple[str, str]] = []
  scored: list[tuple[str, str]] = []
  kept = _Evenly(sample)
  num_duplicates = samples = 0
  for row in rows:
    if row.sample:
      samples += 1
      kept.add(row)
      continue
    status[row.parse_status] += 1
    if row.parse_status != records.PARSED and len(failures.setdefault(row.parse_status, [])) < few:
      failures[row.parse_status].append(row.id)
    labels[row.label] += 1
    teacher_labels[row.teacher_label] += 1
    scored.append((row.label, row.teacher_label))
    earlier = inputs.setdefault(fingerprint(row.input), row.id)
    if earlier != row.id:
      num_duplicates += 1
      if len(duplicates) < few:
        duplicates.append((row.id, earlier))
    kept.add(row)
  texts = {field: [text for row in kept.rows if (text := getattr(row, field)) and (
      field == 'rationale' or not row.sample)] for field in FIELDS}
  return Summary(
      name, sum(status.values()), samples, dict(status.most_common()), failures,
      dict(labels.most_common()), dict(teacher_labels.most_common()),
      _teacher(dataset, scored), {field: np.array(count_tokens(found), np.int64)
                                  for field, found in texts.items()},
      {field: cover(found) for field, found in texts.items()},
      leftovers_lib.count(kept.rows, dataset), len(kept.rows), inputs, duplicates, num_duplicates)


def fingerprint(text: str) -> bytes:
  """The same for texts that differ in case and spaces only."""
  return hashlib.blake2b(' '.join(text.lower().split()).encode(), digest_size=16).digest()


def shared(first: Summary, second: Summary) -> list[tuple[str, str]]:
  """(id in the first, id in the second) of inputs that both have: leakage, if one is test."""
  return [(one, second.inputs[key]) for key, one in first.inputs.items() if key in second.inputs]


class _Evenly:
  """At most about `most` of a stream whose length nobody knows, evenly spread: every k-th."""

  def __init__(self, most: int):
    self._most, self._every, self._seen = most, 1, 0
    self.rows: list[records.RationaleRecord] = []

  def add(self, row: records.RationaleRecord) -> None:
    if self._seen % self._every == 0:
      self.rows.append(row)
      if len(self.rows) > self._most:
        self.rows, self._every = self.rows[::2], 2 * self._every
    self._seen += 1


def _teacher(
    dataset: datasets.Dataset | None, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
  gold = [pair for pair in pairs if pair[0]]
  if dataset is None or not any(answer for _, answer in gold):
    return {}
  found: dict[str, float] = {}
  for score in metrics.for_dataset(dataset):
    found |= score([label for label, _ in gold], [answer for _, answer in gold])
  return found
