"""The vocabulary in the files that a Hugging Face tokenizer is made from."""

import json
from typing import Any

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from dss_jax import student_info
from dss_jax.convert import hugging_face

_CONFIG = 'tokenizer_config.json'
_T5_PIECES, _T5_SENTINELS = 32000, 100  # T5's public vocabulary, and <extra_id_0> ...


def write(path: str, info: student_info.StudentInfo, vocabulary: bytes | None) -> None:
  """Writes spiece.model and tokenizer_config.json, or ByT5's config for the bytes vocabulary.

  A SentencePiece model that T5Tokenizer cannot read (see `why_not`) is left out.
  """
  folder = epath.Path(path)
  common: dict[str, Any] = {
      'model_max_length': info.input_length, 'eos_token': '</s>', 'unk_token': '<unk>',
      'pad_token': '<pad>'}
  if info.vocabulary == student_info.BYTES:
    config = {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': 0, **common}
  elif vocabulary is not None and not why_not(vocabulary):
    (folder / hugging_face.TOKENIZER_FILE).write_bytes(vocabulary)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary).vocab_size()
    extra_ids = _T5_SENTINELS if pieces == _T5_PIECES else 0
    config = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': extra_ids, **common}
  else:
    return
  (folder / _CONFIG).write_text(json.dumps(config, indent=2) + '\n')


def why_not(vocabulary: bytes) -> str:
  """Why transformers' T5Tokenizer would read a SentencePiece model wrongly; '' if it would not."""
  trainer = sentencepiece_model_pb2.ModelProto.FromString(vocabulary).trainer_spec
  if trainer.model_type != trainer.UNIGRAM or trainer.byte_fallback:
    return 'it is not a unigram model without byte fallback (`dss vocab --model_type=unigram`)'
  ids = [trainer.pad_id, trainer.eos_id, trainer.unk_id]
  return '' if ids == [0, 1, 2] else f'it has pad, eos and unk at {ids}, T5 at [0, 1, 2]'
