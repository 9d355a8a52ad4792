"""What a dataset is, for the teacher job and the training data alike.

Pure Python and the leftmost module of the package: `tasks/` describes each dataset once,
`teacher/` uses the description to read inputs and parse completions, `data/` to build
SeqIO tasks from the records.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dss_jax import errors, fields, metrics

SPLITS = ('train', 'validation', 'test')
SENTINELS = 100  # T5's <extra_id_0>..<extra_id_99>, which `D_pretrain` needs


@dataclasses.dataclass(frozen=True)
class Example:
  """One input: `input` is what the student reads (no task prefix), `label` the gold label.

  Whoever makes it, its fields are texts: numbers become them as they are written, a label of None
  ''; anything else raises UserError, see `fields`.
  """

  id: str
  input: str
  label: str = ''
  choices: tuple[str, ...] = ()  # per-example answer choices, (a) first; empty if there are none
  extra: Mapping[str, str] = dataclasses.field(  # of `Dataset.extra_fields`; '' if there is none
      default_factory=dict, hash=False)

  def __post_init__(self):
    for name in ('id', 'input', 'label'):
      value = getattr(self, name)
      if type(value) is not str:
        text = '' if name == 'label' and value is None else fields.as_text(value, f'its {name}')
        object.__setattr__(self, name, text)
    object.__setattr__(self, 'choices', fields.as_texts(self.choices, 'its choices'))


@dataclasses.dataclass(frozen=True)
class CompletionFormat:
  """How a teacher's completion ends, and where its rationale stops and its label starts.

  'Birds have wings. So the answer is (b) fly.\\n\\nQ: What ...'
   ^ rationale        ^ answer_phrase   ^ label  ^ end_marker: an invented next question
  """

  end_marker: str = 'Q:'
  answer_phrase: str = 'So the answer is'
  label_kind: str = 'text'  # 'choice': "(x) text"; 'class': of a closed set; 'equation'; 'text'
  # What a chat teacher copies from the demonstrations before its rationale: no part of the form.
  lead_in: str = dataclasses.field(default='', compare=False)
  more_end_markers: tuple[str, ...] = ()
  # More words for teacher/read/reading.toml: {'nouns': ['Antwort'], 'verbs': ['ist']}.
  reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ('end_marker', 'answer_phrase', 'label_kind', 'lead_in'):
      if not isinstance(value := getattr(self, name), str):
        raise errors.UserError(f'{name} is {fields.describe(value)}: give one text')
    if not self.answer_phrase.strip():
      raise errors.UserError('answer_phrase is blank: give the words after which the label stands')
    if not isinstance(self.reading, Mapping):
      raise errors.UserError(f'reading is {fields.describe(self.reading)}: give a dict of lists')
    kinds = ('choice', 'class', 'equation', 'text')
    if self.label_kind not in kinds:
      raise errors.UserError(f'label_kind={self.label_kind!r}: use one of {", ".join(kinds)}')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset's description; `dss_jax.data.register` takes the same arguments.

  Attributes:
    name: D in the task names `dss_D`, `D_finetune`, ...
    read_row: turns one parsed JSON line (a dict) into an `Example`; raises KeyError for a
      missing field. `row_number` (from 0) is passed for rows that have no id of their own.
    labels: the closed label set, in order, or None for free text and equations; numbers become
      texts, as in rows.
    metric: of `metrics.BY_NAME`: 'text' (exact match), 'equation' (equal value) or
      'normalized_text' (as SQuAD: case, punctuation and articles do not count).
    completion: how the teacher's completions are laid out.
    holdout: how 10 % of train become validation where the dataset has no validation split:
      'permutation' (the released code's rows), 'hash' (of the id), or None (it has one).
    records: for each split, the record sets (`<dataset>`) it reads; another dataset's for
      splits that this one borrows.
    source: where the data comes from, for error messages and docs.
    tfds: the TFDS dataset that `dss teacher` reads if no --inputs is given, e.g. 'anli/r1'.
    tfds_splits: our split -> its TFDS split, where the names differ.
    hub: our split -> its rows at the Hugging Face hub, 'hf://OWNER/NAME:SPLIT'.
    load: split -> rows, for data that is neither in a file nor in TFDS; `read_row` gets each.
    extra_fields: further fields of the rows that records keep, for `DSS_OBJECTIVES` to read and
      to write; a row may lack them.
  """

  name: str
  read_row: Callable[[Mapping[str, Any], int], Example]
  labels: tuple[str, ...] | None = None
  metric: str = 'text'
  completion: CompletionFormat = CompletionFormat()
  holdout: str | None = 'hash'
  records: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  source: str = ''
  tfds: str = ''
  tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  hub: Mapping[str, str] = dataclasses.field(default_factory=dict)
  load: Callable[[str], Iterable[Mapping[str, Any]]] | None = None
  extra_fields: tuple[str, ...] = ()

  def __post_init__(self):
    if self.labels is not None:
      labels = fields.label_set(self.labels, f'dataset {self.name!r}: labels')
      object.__setattr__(self, 'labels', labels)  # A list or a generator becomes a tuple.
    if not isinstance(self.completion, CompletionFormat):
      raise errors.UserError(f'dataset {self.name!r}: completion is '
                             f'{fields.describe(self.completion)}: give a CompletionFormat(...)')
    for argument in ('read_row', 'load'):
      if (value := getattr(self, argument)) is not None and not callable(value):
        raise errors.UserError(f'dataset {self.name!r}: {argument} is {fields.describe(value)}: '
                               'give a function')
    if self.metric not in metrics.BY_NAME:
      raise errors.UserError(f'dataset {self.name!r}: metric={self.metric!r}; use '
                       f'{" or ".join(map(repr, metrics.BY_NAME))}')
    if self.holdout not in ('permutation', 'hash', None):
      raise errors.UserError(
          f"dataset {self.name!r}: holdout={self.holdout!r}; use 'permutation', 'hash' or None")
    if self.tfds and self.load:
      raise errors.UserError(
          f'dataset {self.name!r}: both tfds and load; rows come from one of them')
    for argument in ('tfds_splits', 'hub'):
      if unknown := set(getattr(self, argument)) - set(SPLITS):
        raise errors.UserError(
            f"dataset {self.name!r}: {argument} has {', '.join(sorted(unknown))}; "
            f"use {', '.join(SPLITS)}")
    if not re.fullmatch(r'[\w.:#]+', self.name):  # As SeqIO, which the teacher's job goes without.
      raise errors.UserError(f'dataset {self.name!r}: not a name that SeqIO takes; use letters, '
                             'digits and underscores')

  def record_sets(self, split: str) -> tuple[str, ...]:
    """Names of the datasets whose records make up `split`."""
    return tuple(self.records.get(split, (self.name,)))


def read_plain_row(row: Mapping[str, Any], row_number: int) -> Example:
  """The default `read_row`: rows with `input` and, where they are there, `id` and `label`."""
  del row_number  # Joins are by id, never by position.
  text = fields.text(row, 'input')
  return Example(fields.text(row, 'id', made_id(text)), text, fields.label(row))


def made_id(text: str) -> str:
  """The id of an input whose row has none: it stays when rows are added, moved or taken out.

  >>> made_id('Where do birds live?')
  'row-ff38b9c949a01338'
  """
  return f'row-{hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]}'


def numbered(made: str, occurrence: int) -> str:
  """A made id of the nth of the same inputs, from 1: 'row-0', 'row-0-2', 'row-0-3'."""
  return made if occurrence < 2 else f'{made}-{occurrence}'


def with_extra(example: Example, row: Mapping[str, Any], dataset: Dataset) -> Example:
  """The example with what its row has of the dataset's `extra_fields`."""
  if not dataset.extra_fields:
    return example
  found = {name: '' if row.get(name) is None else fields.text(row, name)
           for name in dataset.extra_fields}
  for name, text in found.items():
    fields.check_unicode(text, name)
  return dataclasses.replace(example, extra=found)


def plain_fields(dataset: Dataset) -> tuple[str, ...]:
  """The fields of its rows, where `read_plain_row` reads them; () where only its own code knows."""
  return ('id', 'input', 'label', *dataset.extra_fields) if (
      dataset.read_row is read_plain_row) else ()


def as_example(value: object) -> Example:
  """What a `read_row` gave; UserError if that is no Example, or holds half a surrogate pair."""
  if not isinstance(value, Example):
    raise errors.UserError(f'read_row gave {fields.describe(value)}: return a datasets.Example')
  for name in ('id', 'input', 'label'):
    fields.check_unicode(getattr(value, name), name)
  for number, choice in enumerate(value.choices, 1):
    fields.check_unicode(choice, f'choice {number}')
  return value


_REGISTRY: dict[str, Dataset] = {}
_describe_only = False


def describe_only() -> None:
  """From now on `dss_jax.data.register` only describes: it adds no SeqIO tasks.

  For programs (the teacher's) that never build a SeqIO task, to which TensorFlow and SeqIO
  would be 800 MB and 4 s for nothing. Call it before `import dss_jax.tasks`. It holds for the
  whole process and cannot be undone, so it is not for use inside a larger program.
  """
  global _describe_only
  _describe_only = True


@contextlib.contextmanager
def described_only() -> Iterator[None]:
  """Within it, `dss_jax.data.register` only describes; `dss_jax.data.configure` adds the rest."""
  global _describe_only
  before, _describe_only = _describe_only, True
  try:
    yield
  finally:
    _describe_only = before


def only_described() -> bool:
  """Whether `describe_only` was called in this process."""
  return _describe_only


def seqio_names(name: str) -> set[str]:
  """Of the tasks and mixtures that a dataset is registered under, see `data.register`."""
  parts = ('', '_teacher', '_shuffled', '_label', '_teacher_label', '_rationale',
           '_shuffled_rationale')
  return {f'dss_{name}{part}' for part in parts} | {
      f'{name}_{baseline}' for baseline in (
          'finetune', 'distill', 'rationale_then_label', 'pretrain')}


def of_task(task: str) -> str | None:
  """The described dataset that a SeqIO name is of; 'dss_cqa' -> 'cqa'. None: of none of them."""
  return next((name for name in _REGISTRY if task in seqio_names(name)), None)


def unknown_task(task: str, known: Iterable[str]) -> errors.UserError:
  """The error to raise for a SeqIO name that nobody registered."""
  return errors.UserError(
      f'unknown task or mixture {task!r}: {errors.did_you_mean(task, known)}; tasks of your own '
      'come with --import=MODULE or an `import` line in the gin file')


def add(dataset: Dataset) -> None:
  """Makes `dataset` known by name; the same name again replaces it (as in a notebook).

  Raises:
    UserError: a task of it would replace one of another dataset.
  """
  for other in _REGISTRY:
    if other != dataset.name and (both := seqio_names(other) & seqio_names(dataset.name)):
      raise errors.UserError(
          f'datasets {other!r} and {dataset.name!r} would both be {min(both)!r}: rename one')
  _REGISTRY[dataset.name] = dataset


def names() -> list[str]:
  return sorted(_REGISTRY)


def get(name: str) -> Dataset:
  """The registered dataset; UserError with the nearest name if there is none."""
  if name not in _REGISTRY:
    raise errors.UserError(
        f'unknown dataset {name!r}: {errors.did_you_mean(name, _REGISTRY)}; '
        'a dataset of your own is added with dss_jax.data.register(...), in a module that '
        '--import=MODULE names')
  return _REGISTRY[name]
