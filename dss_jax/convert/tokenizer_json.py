"""tokenizer.json, all that transformers 5 saves of a T5's tokenizer -> a SentencePiece model.

The same pieces at the same ids, with the same scores and normalisation, so it splits a text as the
model that the file was made from. (`tokenizers` chooses otherwise between equally likely splits.)
"""

import base64
import re
from typing import Any

from etils import epath
from sentencepiece import sentencepiece_model_pb2 as spm

from dss_jax import errors
from dss_jax.convert.hugging_face_files import read_json

FILE = 'tokenizer.json'
_SENTINEL = re.compile(r'<extra_id_\d+>')
_SPACE = '\u2581'


def to_sentencepiece(path: epath.Path) -> bytes:
  """The SentencePiece model that a tokenizer.json was made from; T5's sentinels are left out.

  Raises:
    UserError: it is no unigram model of SentencePiece's kind, or cannot be read.
  """
  found = read_json(path)
  try:
    return _model(found).SerializeToString()
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
        f'{path} is no unigram tokenizer as T5 has ({error}): put the spiece.model that it was '
        'made from beside it') from error


def _model(found: dict[str, Any]) -> spm.ModelProto:
  kind = found['model']['type']
  if kind != 'Unigram' or found['model'].get('byte_fallback'):
    raise ValueError(f'its model is {kind}' + ', with bytes' * (kind == 'Unigram'))
  pieces, unknown = found['model']['vocab'], found['model']['unk_id']
  while _SENTINEL.fullmatch(pieces[-1][0]):
    pieces = pieces[:-1]
  added = {one['id']: one for one in found.get('added_tokens') or ()}
  types = spm.ModelProto.SentencePiece
  proto = spm.ModelProto()
  for i, (piece, score) in enumerate(pieces):
    kind = (types.UNKNOWN if i == unknown else types.NORMAL if i not in added
            else types.CONTROL if added[i]['special'] else types.USER_DEFINED)
    proto.pieces.add(piece=piece, score=score, type=kind)
  trainer, ids = proto.trainer_spec, {piece: i for i, (piece, _) in enumerate(pieces)}
  trainer.model_type, trainer.vocab_size, trainer.unk_id = trainer.UNIGRAM, len(pieces), unknown
  trainer.pad_id, trainer.eos_id, trainer.bos_id = ids['<pad>'], ids['</s>'], ids.get('<s>', -1)
  proto.normalizer_spec.name = 'precompiled'
  proto.normalizer_spec.precompiled_charsmap = _charsmap(found.get('normalizer'))
  _check_spaces(found.get('pre_tokenizer'))
  return proto


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
  """The table that SentencePiece normalises by; beside it only runs of spaces may be replaced."""
  if normalizer is None:
    return b''
  if normalizer['type'] == 'Precompiled':
    return base64.b64decode(normalizer['precompiled_charsmap'])
  if normalizer['type'] != 'Sequence':
    raise ValueError(f'its normalizer is {normalizer["type"]}')
  tables = b''
  for one in normalizer['normalizers']:
    is_spaces = one['type'] == 'Strip' or (
        one['type'] == 'Replace' and one['content'] in (' ', _SPACE))
    tables += b'' if is_spaces else _charsmap(one)
  return tables


def _check_spaces(pre_tokenizer: dict[str, Any] | None) -> None:
  """A space becomes one character, and one more is put before a text."""
  parts = (pre_tokenizer or {}).get('pretokenizers', [pre_tokenizer])
  spaces = [one for one in parts if one and one['type'] == 'Metaspace']
  others = [one['type'] for one in parts if one and one['type'] not in (
      'Metaspace', 'WhitespaceSplit')]
  if len(spaces) != 1 or others:
    raise ValueError(f'its pre-tokenizer is {others or "none"}')
  first = spaces[0].get('prepend_scheme', 'always')
  if spaces[0]['replacement'] != _SPACE or first not in ('always', 'first'):
    raise ValueError(f'its spaces are {spaces[0]["replacement"]!r}, put before a text {first!r}')
