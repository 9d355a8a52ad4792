"""One vocabulary object for all tasks, resolved from the settings when it is first used."""

import functools
import hashlib
import json

import seqio
import tensorflow as tf
from google.protobuf import message

from dss_jax import errors, tokenizer
from dss_jax.data import settings

T5_EXTRA_IDS = 100  # T5's sentinels <extra_id_0>..<extra_id_99>


@functools.cache
def load(spec: str) -> seqio.Vocabulary:
  """The vocabulary that `spec` names.

  Args:
    spec: 'bytes', or the path (local or `gs://`) of a SentencePiece model.

  Raises:
    UserError: the path does not exist or is not a SentencePiece model.
  """
  if spec == settings.BYTES:
    return seqio.ByteVocabulary()
  extra_ids = T5_EXTRA_IDS if spec == settings.T5_VOCABULARY else 0
  try:
    vocabulary = seqio.SentencePieceVocabulary(spec, extra_ids=extra_ids)
    _ = vocabulary.vocab_size  # Reads the file.
  except (OSError, RuntimeError, tf.errors.OpError, message.DecodeError) as error:
    why = _what_instead(spec) or (
        f"{_one_line(error)}; give the path of a .model file, 'bytes', or train one with "
        '`python -m dss_jax.vocab`')
    raise errors.UserError(
        f'VOCABULARY={spec}: not a readable SentencePiece model: {why}') from error
  tokenizer.check_ids(vocabulary.tokenizer, f'VOCABULARY={spec}')
  return vocabulary


def _what_instead(spec: str) -> str:
  """What the file holds, as far as it can be read."""
  try:
    with tf.io.gfile.GFile(spec, 'rb') as f:
      return tokenizer.what_instead(f.read(200))
  except (OSError, tf.errors.OpError):
    return ''


def fingerprint(spec: str) -> str:
  """sha256 of the model file, or 'bytes': whether two runs read the same vocabulary."""
  if spec == settings.BYTES:
    return settings.BYTES
  try:
    with tf.io.gfile.GFile(spec, 'rb') as f:
      return hashlib.sha256(f.read()).hexdigest()
  except tf.errors.OpError as error:
    raise errors.UserError(f'VOCABULARY={spec} cannot be read ({_one_line(error)})') from error


def describe_settings() -> str:
  """What the tokens of a row depend on besides the row: vocabulary, prefixes, subset."""
  now = settings.current()
  described: dict[str, object] = {'vocabulary': fingerprint(now.vocabulary)[:12],
               'prefixes': [now.label_prefix, now.rationale_prefix]}
  if now.train_fraction < 1.0:
    described['train_fraction'] = [now.train_fraction, now.train_fraction_seed]
  return json.dumps(described)


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())[:160]


class ConfiguredVocabulary(seqio.Vocabulary):
  """Stands for `load(settings.current().vocabulary)`.

  Registered tasks hold this object: importing them reads nothing, and one process may train
  with several vocabularies in turn (sweeps, tests). Equal to the vocabulary it stands for, from
  either side: SeqIO compares the vocabularies of a mixture's tasks, and asks theirs about ours.
  """

  @property  # type: ignore[misc]
  def __class__(self):
    """Once it is said which one it stands for, `isinstance` takes it for that."""
    return type(self.loaded) if settings.is_configured() else ConfiguredVocabulary

  def __getstate__(self):
    """By which SeqIO compares SentencePiece vocabularies."""
    return self.loaded.__getstate__()

  def __reduce__(self):
    return 'VOCABULARY'  # There is one: copies and pickles are it.

  def __getattr__(self, name):
    """What only that vocabulary has, such as `sp_model`."""
    if name.startswith('__') or not settings.is_configured():
      raise AttributeError(name)
    return getattr(self.loaded, name)

  def __init__(self):
    super().__init__(extra_ids=0)

  @property
  def loaded(self) -> seqio.Vocabulary:
    return load(settings.current().vocabulary)

  @property
  def extra_ids(self):
    return self.loaded.extra_ids

  @property
  def bos_id(self):
    return self.loaded.bos_id

  @property
  def eos_id(self):
    return self.loaded.eos_id

  @property
  def unk_id(self):
    return self.loaded.unk_id

  @property
  def pad_id(self):
    return self.loaded.pad_id

  @property
  def vocab_size(self):
    return self.loaded.vocab_size

  @property
  def _base_vocab_size(self):
    return self.loaded._base_vocab_size

  def encode(self, s):
    return self.loaded.encode(s)

  def decode(self, ids):
    return self.loaded.decode(ids)

  def encode_tf(self, s):
    return self.loaded.encode_tf(s)

  def decode_tf(self, ids):
    return self.loaded.decode_tf(ids)

  # The four methods above replace the base class's, which would call these:
  def _encode(self, s):
    return self.loaded.encode(s)

  def _decode(self, ids):
    return self.loaded.decode(ids)

  def _encode_tf(self, s):
    return self.loaded.encode_tf(s)

  def _decode_tf(self, ids):
    return self.loaded.decode_tf(ids)

  def __eq__(self, other):
    if self is other or type(other) is ConfiguredVocabulary:
      return True
    return self.loaded == other

  def __hash__(self):
    return hash(ConfiguredVocabulary)

  def __str__(self):
    return f'ConfiguredVocabulary({settings.current().vocabulary})'


VOCABULARY = ConfiguredVocabulary()
