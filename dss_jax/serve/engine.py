"""A student that answers batches of questions with programs that are all compiled before."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from dss_jax import decode, errors, valid
from dss_jax.predict import options as options_lib
from dss_jax.predict import student as student_lib

_FIRST_WIDTH = 32  # tokens; of fewer, a program takes no less time
_OWN_LABELS, _OWN_LABEL_TOKENS = 8, 16  # of students that have no closed set
_SOME_LABELS = ('x',)  # in the place of those that questions will bring


@dataclasses.dataclass(frozen=True)
class Question:
  """One input with what is asked about it.

  Attributes:
    text: the input, without prefix.
    rationale, rank, labels: see `Options` and `Student.predict`.
    tokens: of the longest prompt that is made of it, after cutting.
    truncated: whether that was cut.
  """

  text: str
  rationale: bool = False
  rank: bool = False
  labels: tuple[str, ...] = ()
  tokens: int = 0
  truncated: bool = False

  @property
  def kind(self) -> tuple[bool, bool]:
    """What all questions of a batch have in common."""
    return self.rationale, self.rank


@dataclasses.dataclass(frozen=True)
class Answer:
  """A prediction, and the tokens that were written for it."""

  prediction: options_lib.Prediction
  tokens: int


class Engine:
  """Prepares questions, in any thread, and answers batches of them, in one.

  Attributes:
    student: that answers.
    options: of all questions; its `rationale` and `rank` are what a question gets that says
      nothing about them. Only if it ranks can a question ask for that.
  """

  def __init__(
      self, student: student_lib.Student, options: options_lib.Options, *, max_batch: int = 32,
      max_labels: int | None = None, max_label_tokens: int | None = None):
    """Raises UserError for options that this student does not have.

    Args:
      student: made with `dss_jax.load`; from now on this engine's alone.
      options: see above.
      max_batch: questions that are answered at once.
      max_labels, max_label_tokens: of a question that brings labels; by default as many as the
        student's closed set, or 8 of 16 tokens.
    """
    for name, value in {'max_labels': max_labels, 'max_label_tokens': max_label_tokens}.items():
      if value is not None:
        valid.whole(1, **{name: value})
    closed = student.info.labels
    self.student = student
    self.options = options
    student.check(closed or _SOME_LABELS, **dataclasses.asdict(options))
    own = (0, 0) if closed else (_OWN_LABELS, _OWN_LABEL_TOKENS)
    self._max_labels = max(len(closed), max_labels or own[0])
    self._max_label_tokens = max([max_label_tokens or own[1], *map(self._tokens, closed)])
    self._input_length = options.max_input_length or student.info.input_length
    self._rows = _doubled(1, max_batch)
    self._widths = _doubled(_FIRST_WIDTH, self._input_length)
    student.pad_to(decode.Shapes(
        self._widths, self._max_labels, -(-self._max_label_tokens // 8) * 8))

  def question(
      self, text: str, *, rationale: bool | None = None, rank: bool | None = None,
      labels: Sequence[str] = ()) -> Question:
    """What to ask about an input.

    Args:
      text: the input, as `predict` takes it.
      rationale, rank: None for the server's default.
      labels: of rank, instead of the student's.

    Raises:
      UserError: the student cannot, or not with the programs that are compiled; names the field.
    """
    rationale = self.options.rationale if rationale is None else rationale
    rank = (self.options.rank or bool(labels)) if rank is None else rank
    if rank and not self.options.rank:
      raise errors.UserError('rank: this server scores no labels: start it with --rank')
    if labels and not rank:
      raise errors.UserError('labels: they are what rank scores: ask for rank, or leave them out')
    if len({*labels}) < len(labels):
      raise errors.UserError('labels: one of them twice')
    if len(labels) > self._max_labels:
      raise errors.UserError(f'labels: {len(labels)} of them, at most {self._max_labels}: start '
                             'the server with a larger --max_labels')
    for label in labels:
      if (count := self._tokens(label)) > self._max_label_tokens:
        raise errors.UserError(
            f'labels: {label!r} has {count} tokens, at most {self._max_label_tokens}: start the '
            'server with a larger --max_label_tokens')
    self.student.check(labels, **self._asked(rationale, rank))
    length = self.student.length(text, rationale)
    return Question(text, rationale, rank, tuple(labels), min(length, self._input_length),
                    length > self._input_length)

  def answer(self, questions: Sequence[Question]) -> list[Answer | Exception]:
    """The answers to at most `max_batch` questions of one kind; an exception for one without."""
    first = questions[0]
    rows = next(rows for rows in self._rows if rows >= len(questions))
    labels = [one.labels or self.student.info.labels for one in questions] if first.rank else ()
    predictions = self.student.predict(
        [one.text for one in questions], labels=labels, batch_size=rows,
        **self._asked(first.rationale, first.rank))
    return [self._answer(prediction) for prediction in predictions]

  def programs(self) -> list[tuple[int, int, bool]]:
    """(rows, tokens of an input, whether labels are ranked) of every program there is."""
    ranked = [False, True] if self.options.rank else [False]
    return list(itertools.product(self._rows, self._widths, ranked))

  def compile(self, rows: int, width: int, rank: bool) -> None:
    """Compiles, or reads from disk, and runs one of `programs`."""
    self.student.compile(rows, width, self.student.info.labels or _SOME_LABELS,
                         **self._asked(False, rank))

  def _asked(self, rationale: bool, rank: bool) -> dict[str, Any]:
    asked = dataclasses.asdict(self.options) | {'rationale': rationale, 'rank': rank}
    return {name: value for name, value in asked.items() if name != 'batch_size'}

  def _answer(self, prediction: options_lib.Prediction) -> Answer | Exception:
    numbers = [prediction.probability, *(prediction.scores or {}).values()]
    if not all(map(math.isfinite, numbers)):
      return FloatingPointError('the network overflowed: try --dtype=float32')
    written = [prediction.label] * (prediction.scores is None)
    written += [prediction.rationale] if prediction.rationale is not None else []
    return Answer(prediction, sum(map(self._tokens, written)))

  def _tokens(self, text: str) -> int:
    return len(self.student.tokenizer.encode_target(text)) + 1  # EOS


def _doubled(first: int, last: int) -> tuple[int, ...]:
  """_doubled(32, 200) == (32, 64, 128, 200)."""
  values = itertools.takewhile(lambda value: value < last, (first << i for i in itertools.count()))
  return (*values, last)
