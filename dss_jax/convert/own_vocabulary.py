"""The vocabulary that a checkpoint was trained with, as far as its folder tells.

Every id is a row of the embedding: with another vocabulary the same rows mean other texts, and
nothing fails. So where a checkpoint has its own, no other is taken for it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import sentencepiece
from etils import epath

from dss_jax import errors, student_info
from dss_jax.convert import hugging_face

_MODELS = (student_info.VOCABULARY_FILE, hugging_face.TOKENIZER_FILE)
_ADDED, _CONFIG, _FAST, _MAP = (
    'added_tokens.json', 'tokenizer_config.json', 'tokenizer.json', 'special_tokens_map.json')
_ROLES = ('pad_token', 'eos_token', 'unk_token')  # by id
_SENTINEL = re.compile(r'<extra_id_\d+>')  # T5's, beyond the pieces; no text of ours holds one.
_SPARE_ROWS = 1024  # more than any public table has beyond its pieces
_SPECIAL = ('<pad>', '</s>', '<unk>')  # by id


@dataclasses.dataclass(frozen=True)
class Own:
  """A checkpoint's vocabulary.

  Attributes:
    where: its file, or the folder.
    model: contents of the SentencePiece model; None for bytes.
    added: tokens beside the model's, by id, and the file that says so.
  """

  where: str
  model: bytes | None
  added: Mapping[int, tuple[str, str]] = dataclasses.field(default_factory=dict)


def find(path: str, info: student_info.StudentInfo) -> Own | None:
  """What lies with the checkpoint at `path`; None if there is no vocabulary.

  Raises:
    UserError: two different ones, or files of a tokenizer that are not understood.
  """
  if info.vocabulary == student_info.BYTES:
    return Own(f'{path} ({student_info.BYTES})', None)
  for folder in student_info.folders(path):
    models = {name: (folder / name).read_bytes() for name in _MODELS if (folder / name).exists()}
    if len(set(models.values())) > 1:
      raise errors.UserError(f'{folder} holds two vocabularies, {" and ".join(models)}: remove the '
                             'one that is not meant')
    for name, model in models.items():
      return Own(str(folder / name), model, dict(_added(folder)))
  return None


def is_bytes(path: str) -> bool:
  """Whether a Hugging Face folder says that its tokenizer is ByT5's; public ones in config.json."""
  files = [epath.Path(path) / name for name in (_CONFIG, hugging_face.CONFIG_FILE)]
  return any(hugging_face.read_json(file).get('tokenizer_class') == 'ByT5Tokenizer'
             for file in files if file.exists())


def _added(folder: epath.Path) -> Iterator[tuple[int, tuple[str, str]]]:
  """Every token that the files beside a SentencePiece model give an id, or a role of T5's."""
  found = {name: hugging_face.read_json(folder / name)
           for name in (_ADDED, _CONFIG, _FAST, _MAP) if (folder / name).exists()}
  try:
    for name in (_CONFIG, _MAP):
      for i, role in enumerate(_ROLES):
        token = found.get(name, {}).get(role)
        if token := token['content'] if isinstance(token, dict) else token:
          yield i, (token, name)
    for token, i in found.get(_ADDED, {}).items():
      yield int(i), (token, _ADDED)
    for i, token in found.get(_CONFIG, {}).get('added_tokens_decoder', {}).items():
      yield int(i), (token['content'], _CONFIG)
    for token in found.get(_FAST, {}).get('added_tokens') or ():
      yield int(token['id']), (token['content'], _FAST)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(f'{folder}: the added tokens of {", ".join(found)} cannot be read '
                           f'({error!r})') from error


def pieces(model: bytes, where: str) -> list[str]:
  """The pieces of a SentencePiece model by id.

  Raises:
    UserError: it is none.
  """
  try:
    loaded = sentencepiece.SentencePieceProcessor(model_proto=model)
  except RuntimeError as error:
    raise errors.UserError(f'{where}: the vocabulary is not a SentencePiece model') from error
  return [loaded.id_to_piece(i) for i in range(loaded.vocab_size())]


def check_added(own: Own, model: bytes, where: str, fix: str) -> None:
  """UserError if tokens that the checkpoint has beside its pieces are none of `model`'s."""
  if not own.added:
    return
  known = dict(enumerate(pieces(model, where)))
  for i, (token, file) in sorted(own.added.items()):
    in_place = known.get(i) == token or _SPECIAL[i:i + 1] == (token,)
    if not in_place and not _SENTINEL.fullmatch(token):
      raise errors.UserError(
          f'{epath.Path(own.where).parent / file}: {token!r} is id {i}, which {where} has not: it '
          f'would be read, or written, as other tokens: {fix}')


def check_same(own: Own, given: str, model: bytes | None, *, name: str, longer: bool = False
               ) -> None:
  """Compares a vocabulary with the checkpoint's own.

  Args:
    own: see `find`.
    given: 'bytes', or the path of `model`.
    model: contents of the SentencePiece model, None for bytes.
    name: of the flag or macro, for the message.
    longer: whether more pieces may follow the checkpoint's.

  Raises:
    UserError: names both.
  """
  def differ(how: str) -> errors.UserError:
    return errors.UserError(
        f'{name}={given} is another vocabulary than that of the checkpoint, {own.where}: {how}; '
        "use the checkpoint's own")
  if (model is None) != (own.model is None):
    raise differ('bytes are no SentencePiece model')
  if model is None or own.model is None:
    return
  if model != own.model:
    theirs, ours = pieces(own.model, own.where), pieces(model, given)
    for i, (one, other) in enumerate(zip(theirs, ours)):
      if one != other:
        raise differ(f'id {i} is {other!r}, there {one!r}')
    has_added = len(theirs) < len(ours) and (longer or own.added)
    if len(theirs) != len(ours) and not has_added:
      raise differ(f'it has {len(ours):,} pieces, there {len(theirs):,}')
  check_added(own, model, given, f'give {name} a SentencePiece model that has it at that id')


def check_rows(
    given: str, model: bytes | None, rows: int, *, name: str, full: bool = False) -> None:
  """Compares the size of a vocabulary with a checkpoint that has none beside it.

  Args:
    given, model, name: see `check_same`.
    rows: of the embedding.
    full: whether a large table must have an id for half of its rows, as every public one has.

  Raises:
    UserError: an id has no row, or too few rows have an id.
  """
  if model is None:
    return
  count = len(pieces(model, given))
  if count > rows or (full and rows - count > max(_SPARE_ROWS, count)):
    raise errors.UserError(
        f'{name}={given} has {count:,} pieces, the embedding of the checkpoint {rows:,} rows: it '
        'is not the vocabulary that these were trained with (if it is, put it beside the '
        f'checkpoint as {student_info.VOCABULARY_FILE})')
