"""What rationales hold that no student should learn to write; how often they give the label."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from dss_jax import datasets, records
from dss_jax.teacher.read import markup, thoughts
from dss_jax.teacher.read import table as table_lib


@dataclasses.dataclass(frozen=True)
class Leftovers:
  """Of some rows with a rationale.

  Attributes:
    rationales: how many.
    thoughts: ids of those with a thinking model's marks, such as <think> or <|channel|>.
    markup: ids of those with Markdown (bold, headings, quotes, code) or answer tags.
    repeats: how many hold the row's label word for word.
  """

  rationales: int
  thoughts: Sequence[str]
  markup: Sequence[str]
  repeats: int


def count(
    rows: Iterable[records.RationaleRecord], dataset: datasets.Dataset | None) -> Leftovers:
  """By the marks that the teacher's answers are read with, its data set's own among them."""
  table = table_lib.of(dataset.completion if dataset else datasets.CompletionFormat())
  with_rationale = [row for row in rows if row.rationale]
  return Leftovers(
      len(with_rationale),
      [row.id for row in with_rationale if _has_thoughts(row.rationale, table)],
      [row.id for row in with_rationale if markup.plain(row.rationale, table) != row.rationale],
      sum(_holds(row.rationale, row.teacher_label or row.label) for row in with_rationale))


def _has_thoughts(text: str, table: table_lib.Table) -> bool:
  found, rest, is_open = thoughts.part(text, table)
  return bool(found) or is_open or rest.strip() != text.strip()


def _holds(text: str, label: str) -> bool:
  """Word for word: 'It is a nest.' holds 'nest', 'nesting' does not."""
  return bool(label) and bool(re.search(rf'(?<!\w){re.escape(label)}(?!\w)', text))
