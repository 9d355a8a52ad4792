"""Answers with the probabilities of their tokens, in the layouts of real servers.

A stream is a list of (token, probability, {alternative: probability}), tokens as bytes.
"""

import itertools
import math


def words(text):
  """A stream of sure tokens, as byte-pair encodings make them: 'So', ' the', ' answer'."""
  pieces = text.replace(' ', '\0 ').split('\0')
  return [(piece.encode(), 1.0, {}) for piece in pieces if piece]


def text(stream):
  return b''.join(token for token, *_ in stream).decode()


def chat(stream, most=20, with_bytes=True):
  """Of /chat/completions: {'content': [...]}."""
  def named(token, probability):
    return {'token': token.decode('utf-8', 'backslashreplace'), 'logprob': _log(probability),
            'bytes': list(token) if with_bytes else None}
  return {'content': [
      {**named(token, probability), 'top_logprobs': [
          named(*one) for one in _top(token, probability, others)[:most]]}
      for token, probability, others in stream], 'refusal': None}


def legacy(stream, most=5):
  """Of /completions: tokens, their log probabilities and the likeliest, side by side."""
  def named(token):
    try:
      return token.decode()
    except UnicodeDecodeError:
      return 'bytes:' + ''.join(f'\\x{one:02x}' for one in token)
  return {
      'tokens': [named(token) for token, *_ in stream],
      'token_logprobs': [_log(probability) for _, probability, _ in stream],
      'top_logprobs': [{named(other): _log(value) for other, value in _top(*one)[:most]}
                       for one in stream],
      'text_offset': list(itertools.accumulate((len(token) for token, *_ in stream[:-1]),
                                               initial=0))}


def _top(token, probability, others):
  return sorted([(token, probability), *others.items()], key=lambda one: -one[1])


def _log(probability):
  return math.log(probability) if probability else -9999.0


def paths(shares, pieces, chosen):
  """The stream of a label, from a teacher that would write each with its probability.

  Args:
    shares: label -> probability.
    pieces: label -> its tokens, in order; no label's tokens begin another's.
    chosen: the label that it wrote.
  """
  stream, before = [], []
  for piece in pieces[chosen]:
    here = {label: share for label, share in shares.items()
            if pieces[label][:len(before)] == before}
    nexts = {}
    for label, share in here.items():
      token = pieces[label][len(before)]
      nexts[token] = nexts.get(token, 0.0) + share / sum(here.values())
    stream.append((piece, nexts.pop(piece), nexts))
    before = [*before, piece]
  return stream
