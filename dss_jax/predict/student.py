"""A trained student in use: `dss_jax.load(model_dir).predict(['an input', ...])`.

No TensorFlow is imported.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dss_jax import (
  answers,
  compilation_cache,
  decode,
  errors,
  families,
  fields,
  models,
  ranking,
  student_info,
)
from dss_jax import sharding as sharding_lib
from dss_jax import tokenizer as tokenizer_lib
from dss_jax.convert import formats
from dss_jax.convert import weights as weights_lib
from dss_jax.predict.options import Continuation, Options, Prediction, Sample, options_of, ranked


def load(
    path: str,
    *,
    dtype: str | None = None,
    vocabulary: str | None = None,
    dataset: str = '',
    mesh: sharding_lib.MeshConfig | None = None,
    **changes: Any,
) -> 'Student':
  """Loads a student: a run's MODEL_DIR, a converted folder, a Hugging Face folder, T5X.

  Args:
    path: the folder, local or `gs://`; of a run, its best checkpoint, or one step's folder; or a
      model's name at the Hugging Face hub.
    dtype: 'float32' or 'bfloat16' for parameters and activations; by default float32
      parameters and the activations of the training.
    vocabulary: SentencePiece model, or 'bytes', if it is not beside the weights.
    dataset: of a student that learnt several, the one whose labels are asked for.
    mesh: devices along data, fsdp and model; by default all along data.
    **changes: fields of `StudentInfo` to set, such as label_prefix='[label] ' for weights that
      carry no student.json.

  Raises:
    UserError: nothing there that can be read, no vocabulary or another than the checkpoint's own,
      labels that it cannot tell apart, an unknown field or dataset, a parameter with NaN.
  """
  compilation_cache.use()
  weights = formats.open_weights(path)
  info = formats.find_info(weights.path, weights).of(dataset)
  unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(info)})
  if unknown:
    raise errors.UserError(f'StudentInfo has no field {unknown[0]!r}')
  info = dataclasses.replace(info, **changes)
  model_bytes = formats.find_vocabulary(weights.path, info, vocabulary)
  if vocabulary == student_info.BYTES:
    info = dataclasses.replace(info, vocabulary=student_info.BYTES)
  # Unrolled: a scan copies every layer's cache and weights at every token (measured: 10-15 %).
  config = dataclasses.replace(
      info.model, scan_layers=False, dtype=dtype or info.model.dtype)
  sharding = sharding_lib.Sharding(sharding_lib.make_mesh(mesh or sharding_lib.MeshConfig()))
  model = families.network(config)
  places = traverse_util.flatten_dict(sharding.params(model), sep='/')
  params = weights_lib.load_params(
      weights, config, dtype=jnp.dtype(dtype or 'float32'),
      place=lambda name, array: jax.device_put(array, places[name]))
  tokenizer = tokenizer_lib.make(info, model_bytes, path)
  return Student(info, model, params, tokenizer, sharding, weights.path)


class Student:
  """A network with its parameters, tokenizer and prompts. Made by `load`.

  Attributes:
    info: see `StudentInfo`.
    path: of the parameters.
    model, params: for `model.apply({'params': params}, ...)` and for export.
    tokenizer: encodes and decodes as in training.
  """

  def __init__(
      self, info: student_info.StudentInfo, model: models.Network, params: Any,
      tokenizer: tokenizer_lib.Tokenizer, sharding: sharding_lib.Sharding, path: str):
    self.info = info
    self.path = path
    self.model = model
    self.params = params
    self.tokenizer = tokenizer
    self._reader = answers.reader(
        info.closed_set(), tokenizer.encode_target, tokenizer.decode, info.answer_phrase)
    self._encode_label = functools.lru_cache(4096)(tokenizer.encode_target)
    self._decoder = decode.BatchDecoder(model, sharding)

  def __repr__(self) -> str:
    numbers = sum(array.size for array in jax.tree.leaves(self.params))
    labels = f', labels {", ".join(self.info.labels)}' if self.info.labels else ''
    return f'<Student of {numbers / 1e6:.1f}M parameters{labels}, from {self.path}>'

  def predict(
      self,
      inputs: Sequence[str],
      *,
      labels: Sequence[str] | Sequence[Sequence[str]] = (),
      first_row: int = 0,
      **options: Any,
  ) -> list[Prediction]:
    """Labels of inputs, in their order.

      student.predict(['Where do birds live?'], rationale=True)
      -> [Prediction(label='nest', probability=0.93, rationale='Birds build nests.')]

    Args:
      inputs: as in training, without prefix.
      labels: for `rank`: the allowed labels of all inputs, or a list for each; by default the
        student's own closed set.
      first_row: number of the first input, for the samples' keys.
      **options: fields of `Options`.

    Raises:
      UserError: what the student cannot do (no rationales learnt, no closed label set).
    """
    for name, given in (('inputs', inputs), ('labels', labels)):
      if isinstance(given, str):
        raise errors.UserError(f'{name}={given!r}: give a list of {name}, not one string')
    inputs = [fields.unicode(text, f'inputs[{number}]') for number, text in enumerate(inputs)]
    chosen = options_of(**options)
    self._check(chosen)
    if len(labels) and not chosen.rank:
      raise errors.UserError('labels: they are what rank scores: give rank=True, or leave them out')
    prompts = self._prompts(self.info.label_prefix, inputs, chosen)
    if chosen.rank:
      predictions = self._rank(prompts, self._allowed(labels, len(inputs)), first_row, chosen)
    else:
      predictions = [self._read(*answer) for answer in self._search(
          prompts, chosen, self.given(self.info.label_prefix))]
    if chosen.rationale and not self.info.answer_phrase:
      written = self._written(self.info.rationale_prefix or '', inputs, chosen)
      predictions = [dataclasses.replace(prediction, rationale=text)
                     for prediction, text in zip(predictions, written)]
    for task in chosen.tasks or ():
      written = self._written(self.info.prefixes[task], inputs, chosen)
      predictions = [dataclasses.replace(prediction, tasks={**prediction.tasks, task: text})
                     for prediction, text in zip(predictions, written)]
    if chosen.samples:
      drawn = self._sample(prompts, first_row, chosen)
      predictions = [dataclasses.replace(prediction, samples=samples)
                     for prediction, samples in zip(predictions, drawn)]
    return [dataclasses.replace(one, truncated=True) if self.length(text, chosen.rationale) >
            self._input_length(chosen) else one for one, text in zip(predictions, inputs)]

  def check(self, labels: Sequence[str] = (), **options: Any) -> None:
    """Raises the UserError that `predict` would, whatever the inputs; computes nothing."""
    chosen = options_of(**options)
    self._check(chosen)
    if chosen.rank:
      self._candidates(self._allowed(labels, 1)[0], 0, chosen)

  def compile(self, rows: int, width: int, labels: Sequence[str] = (), **options: Any) -> None:
    """Compiles, or reads from disk, what answers `rows` prompts of `width` tokens; runs it once."""
    chosen = options_of(**options, batch_size=rows)
    prompts = [[self.tokenizer.eos_id] * width] * rows
    if chosen.rank:
      self._rank(prompts, self._allowed(labels, rows), 0, chosen)
      return
    prefixes = (self.info.label_prefix, self.info.rationale_prefix or '')
    for given in dict.fromkeys(map(self.given, prefixes)):
      self._search(prompts, chosen, given)

  def pad_to(self, shapes: decode.Shapes) -> None:
    """From now on, what fits into these shapes is padded to them and needs no other program."""
    self._decoder.shapes = shapes

  def calibrate(
      self, inputs: Sequence[str], gold: Sequence[str], *,
      labels: Sequence[str] | Sequence[Sequence[str]] = (), **options: Any,
  ) -> dict[str, ranking.Calibration]:
    """How well each way of ranking does on rows whose label is known; `ranking.best` chooses.

    Args:
      inputs, labels, options: see `predict`.
      gold: the label of each input, one of those allowed for it.
    """
    chosen = options_of(**options, rank=True)
    self._check(chosen)
    allowed = self._allowed(labels, len(inputs))
    if lost := [i for i, (label, names) in enumerate(zip(gold, allowed)) if label not in names]:
      raise errors.UserError(f'calibration: row {lost[0] + 1} has label {gold[lost[0]]!r}, none of '
                             f'{", ".join(allowed[lost[0]])}')
    prompts = self._prompts(self.info.label_prefix, inputs, chosen)
    scores = self._scores(prompts, allowed, 0, chosen, alone=True)
    return ranking.calibrate(scores, [names.index(g) for names, g in zip(allowed, gold)])

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, EOS included; nothing is put before it and nothing cut."""
    return [*self.tokenizer.encode(text), self.tokenizer.eos_id]

  def length(self, text: str, rationale: bool = False) -> int:
    """Tokens of an input with what is put before it, the longer where a rationale is asked for."""
    before = {self.info.label_prefix, (self.info.rationale_prefix or '') * rationale}
    return max(len(self.encode(one + text))
               for one in ([''] if self.info.shared_encoder else before))

  def given(self, prefix: str) -> tuple[int, ...]:
    """What the decoder is given to ask for what the prefix asks for."""
    return tuple(self.tokenizer.encode_target(prefix)) if self.info.shared_encoder else ()

  def generate(
      self, prompts: decode.Prompts, *, seeds: Sequence[int] = (), batch_size: int = 64,
      max_tokens: int = 256, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
  ) -> list[Continuation]:
    """What the network writes after any prompts, in their order; they are not cut.

      student.generate([student.encode('Where do birds live?')])
      -> [Continuation('nest', tokens=2, ended=True)]

    Args:
      prompts: from `encode`.
      seeds: one for each prompt, below 2 ** 32: what is drawn depends on nothing else. By
        default the prompts' numbers.
      batch_size: rows at a time.
      max_tokens: to write at most, EOS included.
      temperature: 0 takes the likeliest token at every step.
      top_k, top_p: see `Options`.
    """
    length = sys.maxsize
    if temperature:
      drawn = self._decoder.sample(
          self.params, prompts, seeds or range(len(prompts)), batch_size, length, max_tokens,
          decode.Sampling(1, temperature, top_k, top_p), 0)
      return [self._continuation(ids) for ((ids, _),) in drawn]
    found = self._decoder.search(self.params, prompts, batch_size, length, max_tokens)
    return [self._continuation(ids) for ids, _ in found]

  def distributions(
      self, inputs: Sequence[str], targets: Sequence[str], prefix: str, *, top_k: int,
      batch_size: int = 64,
  ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """What it would write at each token of given targets, in any order.

    Args:
      inputs: as in training, without prefix; cut as there.
      targets: a text for each, not cut.
      prefix: what asks for them.
      top_k, batch_size: of the likeliest tokens; rows at a time.

    Yields: the number of an input; int32 ids and float32 log probabilities, [T, k] with T the
      tokens of its target and EOS, from the likeliest on.
    """
    written = [[*self.tokenizer.encode_target(text), self.tokenizer.eos_id] for text in targets]
    for number, ids, log_probs, _ in self._decoder.distributions(
        self.params, self._prompts(prefix, inputs, Options()), written, batch_size,
        self.info.input_length, top_k, self.tokenizer.size, self.given(prefix)):
      yield number, ids, log_probs

  def alternatives(
      self, prompts: decode.Prompts, written: Sequence[Continuation], *, top_k: int,
      batch_size: int = 64,
  ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """What it could have written at each token of what `generate` returned for the prompts.

    Yields: as `distributions`; then the log probabilities of its own tokens, float32 [T].
    """
    return self._decoder.distributions(
        self.params, prompts, [one.ids for one in written], batch_size, sys.maxsize,
        min(top_k, self.tokenizer.size), self.tokenizer.size)

  def _check(self, options: Options) -> None:
    info = self.info
    if options.rationale and info.rationale_prefix is None and not info.answer_phrase:
      raise errors.UserError(
          f'rationale: {self.path} was not trained to write any (student.json has no '
          'rationale_prefix): leave it out, or give rationale_prefix')
    for task in options.tasks or ():
      if task not in info.prefixes:
        raise errors.UserError(f'tasks: {self.path} was not trained to write {task!r}: '
                               f'{errors.did_you_mean(task, info.prefixes)}')
    if options.rank and info.answer_phrase:
      raise errors.UserError('rank: a student that writes its rationale first cannot score labels '
                             'alone: leave it out')

  def _allowed(self, labels: Sequence[Any], count: int) -> list[tuple[str, ...]]:
    """The allowed labels of each input, each once."""
    labels = labels or self.info.labels
    if not labels:
      raise errors.UserError(
          'rank needs a closed set of labels: give labels, such as a,b,c, or a list "labels" in '
          'every input row')
    if all(isinstance(one, str) for one in labels):
      return [tuple(dict.fromkeys(labels))] * count
    if len(labels) != count or any(not one or isinstance(one, str) for one in labels):
      raise errors.UserError(
          'rank: every input needs allowed labels: a list "labels" in its row, or labels, such as '
          'a,b,c, for all')
    return [tuple(dict.fromkeys(one)) for one in labels]

  # Between text and tokens --------------------------------------------------------------------

  def _prompts(self, prefix: str, inputs: Sequence[str], options: Options) -> list[list[int]]:
    before = '' if self.info.shared_encoder else prefix
    return [self._encode(before + text, self._input_length(options)) for text in inputs]

  def _encode(self, text: str, length: int) -> list[int]:
    return [*self.tokenizer.encode(text)[:length - 1], self.tokenizer.eos_id]

  def _continuation(self, ids: Sequence[int]) -> Continuation:
    ended = self.tokenizer.eos_id in ids
    count = ids.index(self.tokenizer.eos_id) + 1 if ended else len(ids)
    return Continuation(self.tokenizer.decode(ids), count, ended, tuple(ids[:count]))

  def _read(self, ids: Sequence[int], log_prob: float) -> Prediction:
    """An answer's tokens -> its label, and the rationale if that stands before it."""
    rationale, label = self._reader.split(self.tokenizer.decode(ids))
    return Prediction(label, math.exp(log_prob),
                      rationale=rationale if self.info.answer_phrase else None)

  # The three ways to answer -------------------------------------------------------------------

  def _search(
      self, prompts: decode.Prompts, options: Options, given: decode.Given
  ) -> list[tuple[list[int], float]]:
    return self._decoder.search(
        self.params, prompts, options.batch_size, self._input_length(options),
        self._target_length(options), options.beams, options.length_penalty, given)

  def _written(self, prefix: str, inputs: Sequence[str], options: Options) -> list[str]:
    """The texts of the best answers, whole."""
    found = self._search(self._prompts(prefix, inputs, options), options, self.given(prefix))
    return [self.tokenizer.decode(ids) for ids, _ in found]

  def _sample(
      self, prompts: decode.Prompts, first_row: int, options: Options
  ) -> list[tuple[Sample, ...]]:
    numbers = range(first_row, first_row + len(prompts))
    drawn = self._decoder.sample(
        self.params, prompts, numbers, options.batch_size, self._input_length(options),
        self._target_length(options), decode.Sampling(
            options.samples, options.temperature, options.top_k, options.top_p), options.seed,
        self.given(self.info.label_prefix))
    read = ([self._read(*answer) for answer in answers] for answers in drawn)
    return [tuple(Sample(p.label, p.probability, p.rationale) for p in one) for one in read]

  def _rank(
      self, prompts: decode.Prompts, allowed: Sequence[tuple[str, ...]], first_row: int,
      options: Options) -> list[Prediction]:
    way = options.rank_by or self.info.ranking or ranking.DEFAULT
    scores = self._scores(prompts, allowed, first_row, options, alone=way == 'pmi')
    return [ranked(names, np.exp(row.log_shares(way))) for names, row in zip(allowed, scores)]

  def _scores(
      self, prompts: decode.Prompts, allowed: Sequence[tuple[str, ...]], first_row: int,
      options: Options, alone: bool) -> list[ranking.Scores]:
    targets = [self._candidates(names, first_row + row, options)
               for row, names in enumerate(allowed)]
    def score(prompts, targets):
      return self._decoder.score(
          self.params, prompts, targets, options.batch_size, self._input_length(options),
          self.given(self.info.label_prefix))
    bare = list(dict.fromkeys(targets if alone else ()))  # A closed set is scored once.
    empty = self._prompts(self.info.label_prefix, [''] * len(bare), options)
    scores = dict(zip(bare, score(empty, bare), strict=True))
    return [ranking.Scores(found, scores.get(ids, [0.0] * len(ids)), [len(one) for one in ids])
            for found, ids in zip(score(prompts, targets), targets, strict=True)]

  def _candidates(
      self, names: Sequence[str], row: int, options: Options) -> tuple[tuple[int, ...], ...]:
    """The tokens of each label, EOS included; UserError if two have the same, or too many."""
    length = self._target_length(options)
    found: dict[tuple[int, ...], str] = {}
    for name in names:
      ids = (*self._encode_label(name), self.tokenizer.eos_id)
      if len(ids) > length:
        raise errors.UserError(
            f'rank: label {name!r} (row {row + 1}) has {len(ids)} tokens, and '
            f'max_target_length is {length}: raise it')
      if ids in found:
        raise errors.UserError(
            f'rank: labels {found[ids]!r} and {name!r} (row {row + 1}) have the same tokens, so '
            'the student cannot tell them apart: leave one out, or spell them otherwise')
      found[ids] = name
    return tuple(found)

  def _input_length(self, options: Options) -> int:
    return options.max_input_length or self.info.input_length

  def _target_length(self, options: Options) -> int:
    return options.max_target_length or self.info.target_length
