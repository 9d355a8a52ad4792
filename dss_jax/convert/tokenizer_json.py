"""tokenizer.json, all that transformers 5 saves of a T5's tokenizer <-> a SentencePiece model.

The same pieces at the same ids, with the same scores and normalisation, so both split a text alike.
(`tokenizers` chooses otherwise between equally likely splits.)
"""

import base64
import json
import re
from typing import Any

from etils import epath
from sentencepiece import sentencepiece_model_pb2 as spm

from dss_jax import errors
from dss_jax.convert.hugging_face_files import read_json

FILE = 'tokenizer.json'
_SENTINEL = re.compile(r'<extra_id_\d+>')
_BYTE = re.compile(r'<0x[0-9A-F]{2}>$')
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
  if (kind := found['model']['type']) != 'Unigram':
    raise ValueError(f'its model is {kind}')
  bytes_ = bool(found['model'].get('byte_fallback'))
  pieces, unknown = found['model']['vocab'], found['model']['unk_id']
  while _SENTINEL.fullmatch(pieces[-1][0]):
    pieces = pieces[:-1]
  added = {one['id']: one for one in found.get('added_tokens') or ()}
  types = spm.ModelProto.SentencePiece
  proto = spm.ModelProto()
  for i, (piece, score) in enumerate(pieces):
    kind = (types.UNKNOWN if i == unknown else types.CONTROL if i in added and added[i]['special']
            else types.USER_DEFINED if i in added else types.BYTE if bytes_ and _BYTE.match(piece)
            else types.NORMAL)
    proto.pieces.add(piece=piece, score=score, type=kind)
  trainer, ids = proto.trainer_spec, {piece: i for i, (piece, _) in enumerate(pieces)}
  trainer.model_type, trainer.vocab_size, trainer.unk_id = trainer.UNIGRAM, len(pieces), unknown
  trainer.pad_id, trainer.bos_id = ids.get('<pad>', -1), ids.get('<s>', -1)
  trainer.eos_id, trainer.byte_fallback = ids['</s>'], bytes_
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


def from_sentencepiece(model: bytes) -> str:
  """The contents of a tokenizer.json that ends a text with EOS; see `why_not` for which models."""
  proto = spm.ModelProto.FromString(model)
  trainer, types = proto.trainer_spec, spm.ModelProto.SentencePiece
  is_special = {types.CONTROL: True, types.UNKNOWN: True, types.USER_DEFINED: False}
  added = [{'id': i, 'content': one.piece, 'special': is_special[one.type], 'single_word': False,
            'lstrip': False, 'rstrip': False, 'normalized': False}
           for i, one in enumerate(proto.pieces) if one.type in is_special]
  eos = proto.pieces[trainer.eos_id].piece
  end = {'SpecialToken': {'id': eos, 'type_id': 0}}
  first, second = ({'Sequence': {'id': name, 'type_id': 0}} for name in 'AB')
  spaces = {'type': 'Metaspace', 'replacement': _SPACE, 'prepend_scheme': 'always', 'split': True}
  table = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
  return json.dumps({
      'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': added,
      'normalizer': {'type': 'Sequence', 'normalizers': [
          *([{'type': 'Precompiled', 'precompiled_charsmap': table}] if table else []),
          {'type': 'Strip', 'strip_left': True, 'strip_right': True},
          {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': ' '}]},
      'pre_tokenizer': spaces,
      'post_processor': {
          'type': 'TemplateProcessing', 'single': [first, end], 'pair': [first, end, second, end],
          'special_tokens': {eos: {'id': eos, 'ids': [trainer.eos_id], 'tokens': [eos]}}},
      'decoder': {'type': 'Sequence', 'decoders': [{'type': 'ByteFallback'}, spaces]},
      'model': {'type': 'Unigram', 'unk_id': trainer.unk_id, 'byte_fallback': trainer.byte_fallback,
                'vocab': [[one.piece, one.score] for one in proto.pieces]}}, ensure_ascii=False)


def why_not(model: bytes) -> str:
  """Why `tokenizers` would read a SentencePiece model wrongly; '' if it would not."""
  proto = spm.ModelProto.FromString(model)
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  if trainer.model_type != trainer.UNIGRAM:
    return 'it is not a unigram model (`dss vocab --model_type=unigram`)'
  plain = (normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces
           and normalizer.escape_whitespaces and not trainer.treat_whitespace_as_suffix)
  return '' if plain else 'it keeps spaces in another way than T5'
