"""Vocabularies by name; a task holds one before its file is read."""

import functools
import hashlib
import json

import seqio
import tensorflow as tf
from google.protobuf import message

from dss_jax import datasets, errors, tokenizer
from dss_jax.data import settings


@functools.cache
def named(spec: str) -> seqio.Vocabulary:
  """What `load` returns, the same object, before anybody has looked whether the file is there."""
  if spec == settings.BYTES:
    return seqio.ByteVocabulary()
  extra_ids = datasets.SENTINELS if spec == settings.T5_VOCABULARY else 0
  return seqio.SentencePieceVocabulary(spec, extra_ids=extra_ids)


@functools.cache
def with_sentinels(spec: str) -> seqio.Vocabulary:
  """As `named`, with T5's sentinels as the last ids, which are rows beyond a model's pieces."""
  if spec == settings.BYTES:
    return seqio.ByteVocabulary(extra_ids=datasets.SENTINELS)
  return seqio.SentencePieceVocabulary(spec, extra_ids=datasets.SENTINELS)


@functools.cache
def load(spec: str, eos_id: int | None = tokenizer.EOS_ID) -> seqio.Vocabulary:
  """The vocabulary that `spec` names.

  Args:
    spec: 'bytes', or the path (local or `gs://`) of a SentencePiece model.
    eos_id: the network's; None if it is not known.

  Raises:
    UserError: the path does not exist or is not a SentencePiece model, or its ids are others.
  """
  vocabulary = named(spec)
  if spec == settings.BYTES:
    if eos_id not in (None, vocabulary.eos_id):
      raise tokenizer.other_eos(f'VOCABULARY={spec}', vocabulary.eos_id, eos_id)
    return vocabulary
  try:
    _ = vocabulary.vocab_size  # Reads the file.
  except (OSError, RuntimeError, tf.errors.OpError, message.DecodeError) as error:
    why = _what_instead(spec) or (
        f"{_one_line(error)}; give the path of a .model file, 'bytes', or train one with "
        '`dss vocab`')
    raise errors.UserError(
        f'DataSettings.vocabulary={spec}: not a readable SentencePiece model: {why}') from error
  tokenizer.check_ids(vocabulary.tokenizer, f'DataSettings.vocabulary={spec}', eos_id)
  return vocabulary


def current() -> seqio.Vocabulary:
  """The one that the tasks read with; see `load`."""
  return load(settings.current().vocabulary, None)


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
    raise errors.UserError(
        f'DataSettings.vocabulary={spec} cannot be read ({_one_line(error)})') from error


def describe(chosen: settings.DataSettings) -> str:
  """What the tokens of a row depend on besides the row: vocabulary, prefixes, subset."""
  described: dict[str, object] = {'vocabulary': fingerprint(chosen.vocabulary)[:12],
                                  'prefixes': [row.prefix + row.inputs.removeprefix('{input}')
                                               for row in chosen.table()]}
  if chosen.shared_encoder:
    described['shared_encoder'] = True
  if chosen.train_fraction < 1.0:
    described['train_fraction'] = [chosen.train_fraction, chosen.train_fraction_seed]
  if not chosen.of_sample_0:
    described['rationales'] = [chosen.rationales, chosen.agreeing]
  if chosen.soft_labels:
    described['soft_labels'] = chosen.soft_labels
  if chosen.token_distributions:
    described['token_distributions'] = True
  return json.dumps(described)


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())[:160]
