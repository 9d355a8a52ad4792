"""The vocabulary in the files that a Hugging Face tokenizer is made from."""

import json
from typing import Any

from etils import epath
from sentencepiece import sentencepiece_model_pb2

from dss_jax import families, student_info
from dss_jax.convert import hugging_face, own_vocabulary, tokenizer_json

_CONFIG = 'tokenizer_config.json'
_OF_T5TOKENIZER = ('t5', 'mt5')
_T5_PIECES, _T5_SENTINELS = 32000, 100  # T5's public vocabulary, and <extra_id_0> ...


def write(path: str, info: student_info.StudentInfo, vocabulary: bytes | None) -> None:
  """Writes what transformers makes a tokenizer from; nothing if `tokenizer_json.why_not`.

  spiece.model for T5Tokenizer, ByT5's config for bytes, tokenizer.json for what neither reads:
  other ids, byte fallback, and an umT5's, of which transformers does not look at the class.
  """
  folder = epath.Path(path)
  common: dict[str, Any] = {'model_max_length': info.input_length}
  names = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}
  if info.vocabulary == student_info.BYTES:
    config = {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': 0, **common, **names}
  elif vocabulary is None or tokenizer_json.why_not(vocabulary):
    return
  elif _is_t5s(vocabulary) and _model_type(info) in _OF_T5TOKENIZER:
    (folder / hugging_face.TOKENIZER_FILE).write_bytes(vocabulary)
    extra_ids = _T5_SENTINELS if len(own_vocabulary.pieces(vocabulary, path)) == _T5_PIECES else 0
    config = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': extra_ids, **common, **names}
  else:
    (folder / tokenizer_json.FILE).write_text(tokenizer_json.from_sentencepiece(vocabulary))
    pieces = own_vocabulary.pieces(vocabulary, path)
    ids = {'eos_token': info.model.eos_id, 'pad_token': info.model.pad_id,
           'unk_token': _trainer(vocabulary).unk_id}
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', **common,
              **{name: pieces[i] for name, i in ids.items()}}
  (folder / _CONFIG).write_text(json.dumps(config, indent=2) + '\n')


def _model_type(info: student_info.StudentInfo) -> str:
  return families.of(info.model).to_hugging_face(info.model)['model_type']


def _trainer(vocabulary: bytes) -> sentencepiece_model_pb2.TrainerSpec:
  return sentencepiece_model_pb2.ModelProto.FromString(vocabulary).trainer_spec


def _is_t5s(vocabulary: bytes) -> bool:
  """Whether T5Tokenizer reads it as it is."""
  trainer = _trainer(vocabulary)
  return not trainer.byte_fallback and [
      trainer.pad_id, trainer.eos_id, trainer.unk_id] == [0, 1, 2]
