"""What a vocabulary lacks: pieces of the texts, and labels that it cannot write."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import seqio

from dss_jax import answers, datasets, errors, metrics, objective
from dss_jax.data import preprocessors

SHOWN, SHOWN_LENGTH = 5, 20  # examples in a message, characters of each


@dataclasses.dataclass(frozen=True)
class Coverage:
  """Of some texts.

  Attributes:
    texts: how many were looked at.
    unknown: how many of them hold an unknown piece.
    pieces: the commonest of these, as they stand in the texts: ('{', '}').
    lacking, counted: unknown pieces, and pieces in all.
  """

  texts: int
  unknown: int
  pieces: tuple[str, ...]
  lacking: int = 0
  counted: int = 0

  @property
  def share(self) -> float:
    """Of texts with an unknown piece, in [0, 1]."""
    return self.unknown / self.texts if self.texts else 0.0

  @property
  def piece_share(self) -> float:
    """Of unknown pieces, in [0, 1]."""
    return self.lacking / self.counted if self.counted else 0.0

  def __str__(self) -> str:
    """'12 of 400 (3 %) hold what the vocabulary lacks, such as '{', '}''."""
    return (f'{self.unknown:,} of {self.texts:,} ({100 * self.share:.3g} %) hold what the '
            f'vocabulary lacks, such as {", ".join(map(repr, self.pieces))}')


def coverage(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> Coverage:
  """Counts texts with unknown pieces; a vocabulary of bytes knows all."""
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return Coverage(len(texts), 0, ())
  unknown = lacked = counted = 0
  found = collections.Counter[str]()
  parts = [text.split(preprocessors.EOS_MARKER) for text in texts]
  for some in parts:
    lacking = []
    for part in some:
      proto = vocabulary.tokenizer.encode(part, out_type='immutable_proto')  # Holds its pieces.
      counted += len(proto.pieces)
      lacking += [piece.surface[:SHOWN_LENGTH] for piece in proto.pieces
                  if piece.id == vocabulary.unk_id]
    lacked += len(lacking)
    unknown += bool(lacking)
    found.update(dict.fromkeys(lacking, 1))
  return Coverage(len(texts), unknown, tuple(piece for piece, _ in found.most_common(SHOWN)),
                  lacked, counted)


def check_open_labels(
    counts: Mapping[str, int], dataset: datasets.Dataset, vocabulary: seqio.Vocabulary
) -> str:
  """What to say of labels that come out of the vocabulary as other answers; '' if none does.

  'ﬁne' is written 'fine', which is not the record's label, so it never counts as right.

  Args:
    counts: rows by label, of a dataset without closed set.
    dataset: whose metric says what is another answer.
    vocabulary: of the student.

  Raises:
    UserError: no label can be written, or two differ only in what the vocabulary lacks.
  """
  written = {label: vocabulary.decode(vocabulary.encode(label)) for label in counts}
  lost = [label for label in counts if _is_right(dataset, label, label)
          and not _is_right(dataset, label, written[label])]
  if not lost:
    return ''
  shown = ', '.join(f'{label!r} (as {written[label]!r})' for label in lost[:SHOWN])
  if len(lost) == len(counts):
    raise errors.UserError(
        f'{dataset.name}: the vocabulary can write none of the labels: {shown}; every answer would '
        f'be wrong; {answers.FIX}, or spell them otherwise')
  by_text: dict[str, str] = {}
  for label in counts:
    other = by_text.setdefault(written[label], label)
    if other != label and vocabulary.unk_id in (*vocabulary.encode(label),
                                                *vocabulary.encode(other)):
      raise errors.UserError(
          f'{dataset.name}: labels {other!r} and {label!r} are both {written[label]!r} in this '
          f'vocabulary, so no student can tell them apart; {answers.FIX}, or spell them '
          'otherwise')
  rows = sum(counts[label] for label in lost)
  return (f'{dataset.name}: {rows:,} of {sum(counts.values()):,} labels come out of the vocabulary '
          f'as another text and always count as wrong, such as {shown}; name the closed set with '
          'register(labels=...), or spell them as the vocabulary does')


def check_prefixes(rows: Iterable[objective.Objective], vocabulary: seqio.Vocabulary) -> None:
  """UserError if two objectives have the same tokens before the same inputs.

  A vocabulary without the characters of either prefix would make both tasks one.
  """
  found: dict[tuple[str | int, ...], objective.Objective] = {}
  for row in rows:
    other = found.setdefault((row.inputs, *vocabulary.encode(row.prefix)), row)
    if other.name != row.name and other.prefix == row.prefix:
      raise errors.UserError(
          f'{other.name} and {row.name} have the same prefix, {row.prefix!r}, so no student tells '
          'them apart: give each its own (LABEL_PREFIX, RATIONALE_PREFIX, DSS_OBJECTIVES)')
    if other.name != row.name:
      raise errors.UserError(
          f'the prefixes {other.prefix!r} of {other.name} and {row.prefix!r} of {row.name} are the '
          f'same in this vocabulary, so no student can tell the tasks apart; {answers.FIX}, or '
          'choose others with --gin.LABEL_PREFIX and --gin.RATIONALE_PREFIX')


def _is_right(dataset: datasets.Dataset, label: str, answer: str) -> bool:
  return all(score([label], [answer])['accuracy'] == 100.0
             for score in metrics.for_dataset(dataset))
