"""What can be asked of a student, and what it answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import errors, ranking, valid


@dataclasses.dataclass(frozen=True)
class Options:
  """How to decode.

  Attributes:
    rationale: also write the rationale.
    tasks: names of further objectives that the student learnt, to be written besides.
    beams: 1 is greedy; more is beam search.
    length_penalty: of the beam search: log probability is divided by length ** this.
    samples: so many sampled answers besides, 0 for none.
    temperature, top_k, top_p: of the samples; top_k=0 and top_p=1.0 cut nothing off.
    seed: of the samples. A row's samples depend on it and on the row's number alone.
    rank: score each of the allowed labels instead of decoding.
    rank_by: how they are compared, a name of `ranking.WAYS`; None for what training chose on
      validation, or 'mean' if that is not known.
    batch_size: rows at a time.
    max_input_length, max_target_length: tokens; None for the student's own.
  """

  rationale: bool = False
  tasks: Sequence[str] | None = None
  beams: int = 1
  length_penalty: float = 1.0
  samples: int = 0
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  rank: bool = False
  rank_by: str | None = None
  batch_size: int = 64
  max_input_length: int | None = None
  max_target_length: int | None = None

  def __post_init__(self):
    valid.whole(1, beams=self.beams, batch_size=self.batch_size)
    valid.whole(0, samples=self.samples, top_k=self.top_k)
    valid.number(lambda x: x > 0, 'above 0 (the label is greedy)',
                 temperature=self.temperature)
    valid.number(lambda x: 0 < x <= 1, 'in (0, 1]', top_p=self.top_p)
    valid.number(lambda x: True, 'that is finite', length_penalty=self.length_penalty)
    for needed, names in (('samples', ('temperature', 'top_k', 'top_p', 'seed')),
                          ('beams', ('length_penalty',))):
      for name in names:
        if getattr(self, name) != _DEFAULT[name] and getattr(self, needed) == _DEFAULT[needed]:
          raise errors.UserError(f'{name}={getattr(self, name)}: it is of the {needed}, of which '
                                 f'none are asked for: give {needed}, too, or leave it out')
    if self.rank_by is not None:
      ranking.check(self.rank_by)
    for name, least in (('max_input_length', 2), ('max_target_length', 1)):
      if (length := getattr(self, name)) is not None:
        valid.whole(least, **{name: length})


_DEFAULT = {field.name: field.default for field in dataclasses.fields(Options)}


@dataclasses.dataclass(frozen=True)
class Sample:
  """One sampled answer, and the model's probability of exactly that text."""

  label: str
  probability: float
  rationale: str | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The student's answer to one input.

  Attributes:
    label: the answer.
    probability: that the model writes exactly it; with `rank`, its share among the allowed
      labels (they sum to 1).
    rationale: if it was asked for.
    tasks: what it wrote for each of `Options.tasks`, by name.
    samples: if any were asked for.
    scores: with `rank`, the share of every allowed label.
    truncated: whether the input was longer than the student reads, and cut.
  """

  label: str
  probability: float
  rationale: str | None = None
  tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)
  samples: tuple[Sample, ...] = ()
  scores: dict[str, float] | None = None
  truncated: bool = False

  def as_row(self) -> dict[str, Any]:
    """Its fields as JSON has them: those that were asked for, the label as `predicted_label`."""
    row: dict[str, Any] = {'predicted_label': self.label, 'probability': self.probability}
    if self.rationale is not None:
      row['rationale'] = self.rationale
    if self.tasks:
      row['tasks'] = self.tasks
    if self.samples:
      row['samples'] = [{name: value for name, value in dataclasses.asdict(sample).items()
                         if value is not None} for sample in self.samples]
    if self.scores is not None:
      row['scores'] = self.scores
    if self.truncated:
      row['truncated'] = True
    return row


def options_of(**given: Any) -> Options:
  """`Options`, but UserError for a name that there is not."""
  if unknown := sorted(given.keys() - _DEFAULT.keys()):
    raise errors.UserError(f'{unknown[0]}: {errors.did_you_mean(unknown[0], _DEFAULT)}')
  return Options(**given)


def ranked(names: Sequence[str], shares: Sequence[float]) -> Prediction:
  """Of the share of each allowed label."""
  best = max(range(len(names)), key=lambda i: shares[i])
  return Prediction(names[best], float(shares[best]),
                    scores={name: float(share) for name, share in zip(names, shares)})


@dataclasses.dataclass(frozen=True)
class Continuation:
  """What a network wrote after a prompt.

  Attributes:
    text: without EOS.
    tokens: how many it wrote, EOS included.
    ended: whether it wrote EOS; otherwise it had no more tokens.
    ids: of the tokens, EOS included.
  """

  text: str
  tokens: int
  ended: bool
  ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
