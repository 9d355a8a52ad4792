"""From what a student writes to its answer: training, prediction and export read alike.

A vocabulary may write a label otherwise than it is spelt: SentencePiece's normalisation makes
'ﬁne' 'fine' and joins spaces, and a character without a piece becomes ' ⁇ '. In a closed set the
answer is the label that is written so; an open answer is taken as it stands.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from dss_jax import errors

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads decoded text; made by `reader`.

  Attributes:
    labels: of a closed set, label by the text that the vocabulary makes of it; {} if open.
    phrase: the words between rationale and label, where both are one target; else ''.
  """

  labels: Mapping[str, str]
  phrase: str = ''

  def read(self, text: str) -> str:
    """The answer: 'fine' -> 'ﬁne' of ('ﬁne', 'bad'); '' where the phrase is missing."""
    return self.split(text)[1]

  def split(self, text: str) -> tuple[str, str]:
    """(rationale, answer) at the last phrase.

    'Birds nest. So the answer is nest' -> ('Birds nest.', 'nest'); without the phrase all of it
    is rationale.
    """
    if not self.phrase:
      return '', self.labels.get(text, text)
    rationale, found, answer = text.rpartition(self.phrase)
    if not found:
      return text, ''
    answer = answer.strip()
    return rationale.strip(), self.labels.get(answer, answer)


def reader(
    labels: Iterable[str], encode: Encode, decode: Decode, phrase: str = '', *,
    dataset: str = '', max_tokens: int = 0,
) -> Reader:
  """What reads the answers of a student with this vocabulary.

  Args:
    labels: the closed set, or nothing for open answers.
    encode: text -> ids without EOS.
    decode: ids -> text.
    phrase: see `Reader`.
    dataset: whose labels they are, for errors.
    max_tokens: of a label, EOS included; 0 for any number.

  Raises:
    UserError: the vocabulary writes two labels alike or one as nothing, cannot write the phrase,
      or a label is too long; by name.
  """
  of = f' of {dataset!r}' if dataset else ''
  if phrase and phrase not in decode(encode(f'a {phrase} b')):
    raise errors.UserError(
        f'the vocabulary cannot write the answer phrase {phrase!r}{of}: it becomes '
        f'{decode(encode(phrase))!r}, so no label would be found behind it (only the task '
        f'rationale_then_label writes it); {FIX}, or choose a phrase of plain words')
  read: dict[str, str] = {}
  for label in labels:
    ids = encode(label)
    text = decode(ids).strip() if phrase else decode(ids)
    if not text:
      raise errors.UserError(f'the vocabulary writes label {label!r}{of} as nothing; {FIX}')
    if (other := read.setdefault(text, label)) != label:
      raise errors.UserError(
          f'labels {other!r} and {label!r}{of} are both {text!r} in this vocabulary, so no student '
          f'can tell them apart; {FIX}, or spell the labels otherwise')
    if max_tokens and not phrase and len(ids) >= max_tokens:
      raise errors.UserError(
          f'label {label!r}{of} has {len(ids) + 1} tokens and would be cut at {max_tokens}: raise '
          "TASK_FEATURE_LENGTHS['targets']")
  return Reader(read, phrase)


FIX = ("use one that has its characters (`dss vocab` makes one of your records, labels and "
        "phrase; VOCABULARY='bytes' has all)")
