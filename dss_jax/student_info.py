"""`student.json`: what one must know, besides the parameters, to use a student.

The trainer writes it into MODEL_DIR, conversion carries it along, prediction reads it.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from dss_jax import errors, families, models

FILE = 'student.json'
VOCABULARY_FILE = 'vocabulary.model'
BYTES = 'bytes'
ASKED = ('label_prefix', 'rationale_prefix', 'answer_phrase', 'labels', 'metric')


@dataclasses.dataclass(frozen=True)
class StudentInfo:
  """What a student is.

  Attributes:
    model: its network.
    vocabulary: 'bytes', or the SentencePiece model's file in the same folder ('' if it is not
      known).
    label_prefix: put before an input to ask for the label; '' for the baselines.
    rationale_prefix: put before an input to ask for the rationale; None if the student did not
      learn to write one.
    prefixes: of what else the student learnt to write, by the objective's name.
    shared_encoder: whether a prefix is given to the decoder, before what it writes, instead of
      standing before the input.
    answer_phrase: if the label stands behind a rationale in one target, the words between them.
    labels: the closed label set, if there is one.
    metric: of `metrics.BY_NAME`, how a label is compared with the gold one.
    ranking: how labels are compared by their scores, a name of `ranking.WAYS`, as validation
      chose it; '' if it did not.
    input_length, target_length: tokens, EOS included; longer inputs are cut.
    datasets: of a student of several, name -> its fields of ASKED; {} of a single one. Fields in
      which they differ are '' or () above.
    training: task, steps, data and scores, for the model card; {} if not trained here.
  """

  model: models.Config
  vocabulary: str = ''
  label_prefix: str = ''
  rationale_prefix: str | None = None
  prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
  shared_encoder: bool = False
  answer_phrase: str = ''
  labels: tuple[str, ...] = ()
  metric: str = 'text'
  ranking: str = ''
  input_length: int = 1024
  target_length: int = 256
  datasets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  training: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def of(self, dataset: str) -> 'StudentInfo':
    """How to ask for this dataset's labels.

    Raises:
      UserError: the student learnt several datasets, and this is none of them; or it is '', and
        they are asked in different ways.
    """
    if not self.datasets:
      return self
    if dataset:
      if dataset not in self.datasets:
        raise errors.UserError(f'the student did not learn dataset {dataset!r}: '
                               f'{errors.did_you_mean(dataset, self.datasets)}')
      return dataclasses.replace(self, **self.datasets[dataset])
    if differ := [name for name in ASKED[:3]
                  if len({one[name] for one in self.datasets.values()}) > 1]:
      raise errors.UserError(
          f'the student learnt {", ".join(self.datasets)}, which differ in {differ[0]}: name one '
          'of them (dataset)')
    return self

  def closed_set(self) -> tuple[str, ...]:
    """The labels that an answer is read as; of several datasets theirs together, if all have some.

    () for open answers.
    """
    sets = [one['labels'] for one in self.datasets.values()] or [self.labels]
    return tuple(dict.fromkeys(label for one in sets for label in one)) if all(sets) else ()

  def as_json(self) -> str:
    fields = dataclasses.asdict(self)
    fields['model']['dtype'] = np.dtype(self.model.dtype).name
    # As before there were any: earlier versions read it.
    for name in ('prefixes', 'ranking', 'shared_encoder'):
      if not fields[name]:
        del fields[name]
    if (family := families.name(self.model)) != families.T5:
      fields['model']['family'] = family
    return json.dumps(fields, indent=2, sort_keys=True) + '\n'


def from_json(text: str, where: str) -> StudentInfo:
  """Reads what `as_json` wrote.

  Raises:
    UserError: not JSON, or fields that this version does not know.
  """
  try:
    fields = json.loads(text)
    family = families.FAMILIES[fields['model'].pop('family', families.T5)]
    fields['model'] = family.config(**fields['model'])
    for asked in (fields, *fields.get('datasets', {}).values()):
      asked['labels'] = tuple(asked['labels'])
    return StudentInfo(**fields)
  except (ValueError, TypeError, KeyError) as error:
    raise errors.UserError(
        f'{where}: not a student.json of this version of dss_jax ({error})') from error


_INSIDE = re.compile(r'params|state|best|checkpoints|\d+|checkpoint_\d+')


def folders(path: str) -> list[epath.Path]:
  """`path` and, as long as it is a part of a student's folder, what is above it.

  'runs/dss_cqa/best/200/params' -> itself, .../200, .../best, runs/dss_cqa
  """
  found = [epath.Path(path)]
  while _INSIDE.fullmatch(found[-1].name):
    found.append(found[-1].parent)
  return found


def find(path: str) -> StudentInfo | None:
  """The student.json of the folder that `path` is, or is a part of."""
  for folder in folders(path):
    if (folder / FILE).exists():
      return from_json((folder / FILE).read_text(), str(folder / FILE))
  return None
