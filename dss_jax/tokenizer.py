"""Text to ids and back at prediction time, without TensorFlow.

The same ids as the SeqIO tasks give in training (tested on real data): SentencePiece encodes
the parts between `</s>` markers one by one, the markers become the EOS id.
"""

from collections.abc import Iterable
from typing import Protocol

import sentencepiece

from dss_jax import errors, student_info

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2  # T5's, and those of seqio.ByteVocabulary
EOS_MARKER = '</s>'
_BYTE_OFFSET = 3  # seqio.ByteVocabulary: byte b is id b + 3, as in ByT5.


class Tokenizer(Protocol):
  """Encodes without the EOS at the end; decodes up to the first EOS."""

  def encode(self, text: str) -> list[int]:
    ...

  def encode_target(self, text: str) -> list[int]:
    """As targets are encoded in training: `</s>` is text there."""

  def decode(self, ids: Iterable[int]) -> str:
    ...


class SentencePieceTokenizer:
  """Of a SentencePiece model, given as the bytes of its file."""

  def __init__(self, model: bytes):
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

  def encode(self, text: str) -> list[int]:
    """'a premise</s>a hypothesis' -> [12, 5, 1, 12, 9]."""
    ids = [[*self._pieces.encode(part), EOS_ID] for part in text.split(EOS_MARKER)]
    return [i for part in ids for i in part][:-1]

  def encode_target(self, text: str) -> list[int]:
    return self._pieces.encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    # T5's sentinels and the rows that pad its embedding are beyond the model's pieces.
    known = self._pieces.vocab_size()
    return self._pieces.decode([i if i < known else UNK_ID for i in _until_eos(ids)])


class ByteTokenizer:
  """UTF-8 bytes."""

  def encode(self, text: str) -> list[int]:
    ids = [[*self.encode_target(part), EOS_ID] for part in text.split(EOS_MARKER)]
    return [i for part in ids for i in part][:-1]

  def encode_target(self, text: str) -> list[int]:
    return [b + _BYTE_OFFSET for b in text.encode('utf-8')]

  def decode(self, ids: Iterable[int]) -> str:
    values = [i - _BYTE_OFFSET for i in _until_eos(ids)]
    return bytes(v for v in values if 0 <= v < 256).decode('utf-8', errors='ignore')


def _until_eos(ids: Iterable[int]) -> list[int]:
  kept = []
  for i in ids:
    if i == EOS_ID:
      break
    if i != PAD_ID:
      kept.append(int(i))
  return kept


def make(info: student_info.StudentInfo, vocabulary: bytes | None, where: str) -> Tokenizer:
  """The tokenizer of a student.

  Args:
    info: its student.json.
    vocabulary: contents of its SentencePiece model, if there is one.
    where: the student's folder, for messages.

  Raises:
    UserError: there is none, or it is damaged.
  """
  if info.vocabulary == student_info.BYTES:
    return ByteTokenizer()
  if vocabulary is None:
    raise errors.UserError(
        f'{where} has no vocabulary (vocabulary.model or spiece.model): copy the SentencePiece '
        'model of its training there, or give it with --vocabulary')
  try:
    return SentencePieceTokenizer(vocabulary)
  except RuntimeError as error:
    raise errors.UserError(f'{where}: the vocabulary is not a SentencePiece model') from error
