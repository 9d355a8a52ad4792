"""usage: python student.py TEXT...

Prints the probability and the label of every text. From Python:

    import student
    student.Student().predict(['an input', 'another'])  # [(label, probability), ...]

Needs no more than: pip install jax numpy sentencepiece flatbuffers
(sentencepiece only where vocabulary.model lies beside this file). `dss export` wrote the folder.
"""

import json
import math
import pathlib
import sys

INSTALL = 'pip install jax numpy sentencepiece flatbuffers'

if __name__ == '__main__' and sys.argv[1:] in ([], ['-h'], ['--help']):
  print(__doc__, end='', file=sys.stdout if sys.argv[1:] else sys.stderr)
  sys.exit(0 if sys.argv[1:] else 2)


def _missing(error):
  text = f'student.py needs {error.name}, which is not installed: {INSTALL}'
  return SystemExit(text) if __name__ == '__main__' else ImportError(text, name=error.name)


try:
  import flatbuffers  # noqa: F401  jax.export reads files with it; jax does not install it.
  import jax
  import numpy as np
  from jax import export
except ModuleNotFoundError as error:
  raise _missing(error) from None

PAD_ID = 0
BYTE_OFFSET = 3  # of the bytes vocabulary
EOS_MARKER = '</s>'


class Student:
  """The folder's student.

  Args:
    folder: decode.jaxexport, params.npz, export.json, and vocabulary.model unless the
      vocabulary is bytes.
  """

  def __init__(self, folder=pathlib.Path(__file__).parent):
    folder = pathlib.Path(folder)
    self.info = json.loads((folder / 'export.json').read_text())
    self._decode = jax.jit(export.deserialize((folder / 'decode.jaxexport').read_bytes()).call)
    with np.load(folder / 'params.npz') as arrays:
      self._params = {name: jax.device_put(self._read(arrays[name])) for name in arrays.files}
    self._eos_id = self.info.get('eos_id', 1)
    self._labels = None
    self._pieces = None
    if self.info['vocabulary'] != 'bytes':
      self._pieces = folder / 'vocabulary.model'

  def _read(self, array):
    # npz has no bfloat16: its two bytes are stored as uint16.
    return array.view(jax.numpy.bfloat16) if self.info['dtype'] == 'bfloat16' else array

  def predict_tokens(self, tokens):
    """int32 [b, s], EOS at the end, 0-padded -> (int32 [b, length], float32 [b] log probability).

    Any b and s; each new shape is compiled once.
    """
    return self._decode(self._params, np.asarray(tokens, np.int32))

  def predict(self, texts, prefix=None):
    """Texts -> [(label, probability)].

    Args:
      texts: a list of inputs as in training; of none there are no answers.
      prefix: before every input; by default the one that asks for the label. What the model
        writes after another one is given as it is. Of a student with a shared encoder there is
        no other: the label's is given to the decoder, in the program.
    """
    if isinstance(texts, str):
      raise TypeError('predict takes a list of inputs, not one string')
    texts = list(texts)
    if not texts:
      return []
    read = self.read if prefix is None else str
    if self.info.get('shared_encoder'):
      if prefix is not None:
        raise ValueError(f'prefix={prefix!r}: this program asks for the label alone, by a prefix '
                         'that it gives to its decoder: leave it out')
      prefix = ''
    prefix = self.info['label_prefix'] if prefix is None else prefix
    limit = self.info['input_length']
    rows = [[*self.encode(prefix + text)[:limit - 1], self._eos_id] for text in texts]
    width = -(-max(map(len, rows)) // 32) * 32  # Few shapes, few compilations.
    tokens = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
      tokens[i, :len(row)] = row
    ids, log_probs = jax.device_get(self.predict_tokens(tokens))
    return [(read(self.decode(row)), math.exp(p)) for row, p in zip(ids.tolist(), log_probs)]

  def read(self, text):
    """What the model wrote -> the label: behind the answer phrase, spelt as in the closed set."""
    phrase = self.info['answer_phrase']
    if phrase:
      _, found, text = text.rpartition(phrase)
      text = text.strip() if found else ''
    if self._labels is None:
      written = {label: self.decode(self._encode(label)) for label in self.info['labels']}
      self._labels = {(w.strip() if phrase else w): label for label, w in written.items()}
    return self._labels.get(text, text)

  def encode(self, text):
    """Ids without the EOS at the end; `</s>` becomes EOS."""
    parts = [[*self._encode(part), self._eos_id] for part in text.split(EOS_MARKER)]
    return [i for part in parts for i in part][:-1]

  def _encode(self, text):
    if self._pieces is None:
      return [b + BYTE_OFFSET for b in text.encode('utf-8')]
    return self._processor().encode(text)

  def decode(self, ids):
    """Text up to the first EOS."""
    ids = ids[:ids.index(self._eos_id)] if self._eos_id in ids else ids
    ids = [i for i in ids if i != PAD_ID]
    if self._pieces is None:
      values = [i - BYTE_OFFSET for i in ids]
      return bytes(v for v in values if 0 <= v < 256).decode('utf-8', errors='ignore')
    pieces = self._processor()
    known, unknown = pieces.vocab_size(), pieces.unk_id()
    return pieces.decode([i if i < known else unknown for i in ids])

  def _processor(self):
    if isinstance(self._pieces, pathlib.Path):
      try:
        import sentencepiece
      except ModuleNotFoundError as error:
        raise _missing(error) from None
      self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(self._pieces))
    return self._pieces


if __name__ == '__main__':
  try:
    answers = Student().predict(sys.argv[1:])
  except (OSError, ValueError) as error:  # Files that are not beside this one, another platform.
    sys.exit(f'student.py: {" ".join(str(error).split())}')
  for label, probability in answers:
    print(f'{probability:.4f}\t{label}')
