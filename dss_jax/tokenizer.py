"""Text to ids and back at prediction time, without TensorFlow.

The same ids as the SeqIO tasks give in training (tested on real data): SentencePiece encodes
the parts between `</s>` markers one by one, the markers become the EOS id.
"""

from collections.abc import Iterable
from typing import Protocol

import sentencepiece
from etils import epath

from dss_jax import errors, files, student_info

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2  # T5's, and those of seqio.ByteVocabulary
MADLAD_IDS = [-1, 2, 0]  # and a piece for the beginning, 1, that madlad fills rows up with
EOS_MARKER = '</s>'
_BYTE_OFFSET = 3  # seqio.ByteVocabulary: byte b is id b + 3, as in ByT5.


def check_ids(
    pieces: sentencepiece.SentencePieceProcessor, where: str, eos_id: int | None = EOS_ID) -> None:
  """UserError if a SentencePiece model has other ids than those that padding and decoding use.

  Args:
    pieces: the model.
    where: it is, for the message.
    eos_id: the network's; None if it is not known. Madlad's 2 comes with its unknown piece at 0,
      which is then read as padding.
  """
  ids = [pieces.pad_id(), pieces.eos_id(), pieces.unk_id()]
  if ids == MADLAD_IDS and eos_id in (None, ids[1]):
    return
  if eos_id in (None, EOS_ID) and ids != [PAD_ID, EOS_ID, UNK_ID]:
    raise errors.UserError(
        f"{where} has pad, EOS and unknown at {ids}, T5's are at {[PAD_ID, EOS_ID, UNK_ID]}: train "
        'one with `dss vocab`, or with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1 of '
        'SentencePiece')
  if eos_id not in (None, ids[1]):
    raise other_eos(where, ids[1], eos_id)


def other_eos(where: str, found: int, eos_id: int | None) -> errors.UserError:
  """The error to raise where vocabulary and network do not end a text with the same id."""
  return errors.UserError(f'{where} ends a text with id {found}, the network with {eos_id} '
                          "(T5Config.eos_id): use the network's own vocabulary")


class Tokenizer(Protocol):
  """Encodes without the EOS at the end; decodes up to the first EOS.

  Attributes:
    size: ids are below it.
    eos_id: ends a text.
  """

  size: int
  eos_id: int

  def encode(self, text: str) -> list[int]:
    ...

  def encode_target(self, text: str) -> list[int]:
    """As targets are encoded in training: `</s>` is text there."""

  def decode(self, ids: Iterable[int]) -> str:
    ...

  def text_of(self, token: int) -> bytes:
    """What a token adds to a text, which may be half a character; a line break for EOS."""


class SentencePieceTokenizer:
  """Of a SentencePiece model, given as the bytes of its file."""

  def __init__(self, model: bytes, eos_id: int = EOS_ID):
    """Raises UserError if the model's ids are none that can be used; see `check_ids`."""
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    check_ids(self._pieces, 'the vocabulary', eos_id)
    self.size = self._pieces.vocab_size()
    self.eos_id = self._pieces.eos_id()

  def encode(self, text: str) -> list[int]:
    """'a premise</s>a hypothesis' -> [12, 5, 1, 12, 9]."""
    ids = [[*self._pieces.encode(part), self.eos_id] for part in text.split(EOS_MARKER)]
    return [i for part in ids for i in part][:-1]

  def encode_target(self, text: str) -> list[int]:
    return self._pieces.encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    # T5's sentinels and the rows that pad its embedding are beyond the model's pieces.
    known, unknown = self._pieces.vocab_size(), self._pieces.unk_id()
    return self._pieces.decode(
        [i if i < known else unknown for i in _until_eos(ids, self.eos_id)])

  def text_of(self, token: int) -> bytes:
    if token == self.eos_id:
      return b'\n'
    piece = self._pieces.id_to_piece(token if token < self._pieces.vocab_size() else
                                     self._pieces.unk_id())
    if self._pieces.is_byte(token):
      return bytes([int(piece[3:-1], 16)])  # '<0xE2>'
    if self._pieces.is_control(token):
      return b''
    return (' \u2047 ' if self._pieces.is_unknown(token) else piece.replace('\u2581', ' ')).encode()


class ByteTokenizer:
  """UTF-8 bytes."""

  size = 256 + _BYTE_OFFSET
  eos_id = EOS_ID

  def encode(self, text: str) -> list[int]:
    ids = [[*self.encode_target(part), EOS_ID] for part in text.split(EOS_MARKER)]
    return [i for part in ids for i in part][:-1]

  def encode_target(self, text: str) -> list[int]:
    return [b + _BYTE_OFFSET for b in text.encode('utf-8')]

  def decode(self, ids: Iterable[int]) -> str:
    values = [i - _BYTE_OFFSET for i in _until_eos(ids, EOS_ID)]
    return bytes(v for v in values if 0 <= v < 256).decode('utf-8', errors='ignore')

  def text_of(self, token: int) -> bytes:
    if token == EOS_ID:
      return b'\n'
    return bytes(v for v in [token - _BYTE_OFFSET] if 0 <= v < 256)


def _until_eos(ids: Iterable[int], eos_id: int) -> list[int]:
  kept = []
  for i in ids:
    if i == eos_id:
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
    UserError: there is none, it is damaged, or an id of it has no row in the embedding.
  """
  tokenizer = _make(info, vocabulary, where)
  if tokenizer.size > info.model.vocab_size:
    raise errors.UserError(
        f'{where}: the vocabulary has {tokenizer.size:,} ids, the embedding only '
        f'{info.model.vocab_size:,} rows: it is not the one that these were trained with')
  return tokenizer


def _make(info: student_info.StudentInfo, vocabulary: bytes | None, where: str) -> Tokenizer:
  if info.vocabulary == student_info.BYTES:
    if info.model.eos_id != ByteTokenizer.eos_id:
      raise other_eos('bytes', ByteTokenizer.eos_id, info.model.eos_id)
    return ByteTokenizer()
  if vocabulary is None:
    raise errors.UserError(
        f'{where} has no vocabulary (vocabulary.model or spiece.model): copy the SentencePiece '
        'model of its training there, or give it with --vocabulary')
  check_model(vocabulary, f'{where}: the vocabulary')
  try:
    return SentencePieceTokenizer(vocabulary, info.model.eos_id)
  except errors.UserError as error:
    raise errors.UserError(f'{where}: {error}') from error


def read_model(path: str, name: str) -> bytes:
  """The contents of a SentencePiece model's file; `name` is the flag that it was given as.

  Raises:
    UserError: it cannot be read, or is something else.
  """
  files.check_path(name, path)
  try:
    data = epath.Path(path).read_bytes()
  except FileNotFoundError as error:
    raise errors.UserError(f'{name}={path} does not exist') from error
  except OSError as error:
    raise errors.UserError(f'{name}={path} cannot be read ({error.strerror or error})') from error
  check_model(data, f'{name}={path}')
  return data


def check_model(data: bytes, where: str) -> None:
  """UserError, with what it is instead, unless these are the contents of a SentencePiece model."""
  try:
    if not data:  # SentencePiece takes nothing for a model that is given later.
      raise ValueError('empty')
    sentencepiece.SentencePieceProcessor(model_proto=data)
  except (RuntimeError, ValueError) as error:
    instead = what_instead(data) or 'give the path of a .model file'
    raise errors.UserError(f'{where} is not a SentencePiece model: {instead}') from error


def what_instead(data: bytes) -> str:
  """What the beginning of a file that is no SentencePiece model tells, and the fix; else ''."""
  if data.startswith(b'version https://git-lfs'):
    return "it is Git LFS's pointer to one; fetch the file itself with `git lfs pull`"
  if data.lstrip()[:1] in (b'{', b'['):
    return ('it is JSON, such as tokenizer.json; give the .model file that belongs to it '
            '(T5: spiece.model)')
  return '' if data else 'it is empty; copy it again'
