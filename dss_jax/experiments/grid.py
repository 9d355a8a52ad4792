"""A sweep: which runs, in which order, and the gin files and settings of each."""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dss_jax import errors, gin_files, valid


def _methods() -> dict[str, dict[str, str]]:
  """{'dss': {'gold': 'dss', 'teacher': 'dss_teacher'}, ...}: method, labels -> its gin file."""
  found: dict[str, dict[str, str]] = {}
  for file, task in gin_files.methods().items():
    labels = 'teacher' if task.endswith(('_teacher', '_distill')) else 'gold'
    found.setdefault(file.removesuffix('_teacher'), {})[labels] = file
  return found


METHODS = _methods()
# Only these have a DSS_ALPHA to choose: mixtures of label and rationale.
WEIGHTED = tuple(name for name in METHODS if gin_files.methods()[name].startswith('dss_'))
AS_IN_RECIPE = 'recipe'
_LISTS = {  # field: what each of its values may be
    'datasets': valid.text, 'methods': valid.text, 'labels': valid.text,
    'fractions': valid.share, 'models': valid.text, 'alphas': valid.weight,
    'seeds': functools.partial(valid.whole, 0)}


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The grid; every field is a macro of `gin/sweeps/grid.gin` in capitals.

  Attributes:
    datasets: registered names.
    methods: of METHODS, or a variant of one, 'dss+smooth', whose settings are in `settings_for`.
    labels: 'gold', 'teacher' or both.
    fractions: of the training inputs, in (0, 1].
    models: published sizes such as 't5_1_1_xl', or paths of gin files; 'recipe' for the
      size in the dataset's own file.
    alphas: DSS_ALPHA of the methods that have one.
    seeds: of parameters, data order and choice of the fraction.
    run_file: where a run's settings are; {method} and {dataset} are replaced. Files of
      gin/native get the DATASET; your own that want it: `settings={'DATASET': '{dataset}'}`.
    overlays: gin files that follow in every run.
    settings: {'TRAIN_STEPS': 500, ...} of every run; {dataset}, {method} and {model} in a text
      are replaced: {'INITIAL_CHECKPOINT_PATH': 'weights/{model}'}.
    settings_for: more of them by method, dataset or model: {'finetune': {'BATCH_SIZE': 32}}.
    rationales: rows of test for which students of the first seed also write their rationales.
    confidences: whether students on the most of the data also rank the labels of test, where they
      are a closed set, for the report's figure of how sure and how often right they are.
  """

  datasets: Sequence[str]
  methods: Sequence[str] = ('dss', 'finetune')
  labels: Sequence[str] = ('gold',)
  fractions: Sequence[float] = (1.0,)
  models: Sequence[str] = (AS_IN_RECIPE,)
  alphas: Sequence[float] = (0.5,)
  seeds: Sequence[int] = (0, 1, 2)
  run_file: str = 'gin/native/{method}.gin'
  overlays: Sequence[str] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  settings_for: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  rationales: int = 200
  confidences: bool = False

  def __post_init__(self):
    for name in (*_LISTS, 'overlays'):
      values = getattr(self, name)
      if isinstance(values, str) or not isinstance(values, Sequence) or (
          not values and name in _LISTS):
        raise errors.UserError(f"Sweep.{name}={values!r}: write a tuple, such as ('x',)")
      for value in values:
        _LISTS.get(name, valid.text)(**{f'Sweep.{name}': value})
      if len({_shown(value) for value in values}) < len(values):
        raise errors.UserError(f'Sweep.{name}={values!r} names something twice')
    _known('Sweep.methods', map(base, self.methods), METHODS)
    _known('Sweep.labels', self.labels, ('gold', 'teacher'))
    for method in self.methods:
      if not set(METHODS[base(method)]) & set(self.labels):
        raise errors.UserError(
            f'Sweep.methods: {method!r} learns {" and ".join(METHODS[base(method)])} labels, and '
            f'Sweep.labels has {" and ".join(self.labels)}')
      if method != base(method) and (
          not re.fullmatch(r'\w+\+[\w.-]+', method) or not self.settings_for.get(method)):
        raise errors.UserError(
            f'Sweep.methods: {method!r} is {base(method)!r} with settings of its own: name them, '
            f"Sweep.settings_for={{{method!r}: {{'LABEL_SMOOTHING': 0.1}}}}, and write letters and "
            "digits behind the '+'")
    valid.whole(0, **valid.fields(self, 'rationales'))
    valid.flag(**valid.fields(self, 'confidences'))
    valid.text(**valid.fields(self, 'run_file'))
    unknown = re.sub(r'\{(method|dataset)\}', '', self.run_file)
    if '{' in unknown or '}' in unknown:
      raise errors.UserError(
          f'Sweep.run_file={self.run_file}: only {{method}} and {{dataset}} are replaced')
    valid.settings(**valid.fields(self, 'settings', 'settings_for'), **{
        f'Sweep.settings_for[{name!r}]': one for name, one in self.settings_for.items()})
    # A file's variants need not all be trained; one that is has its settings, see above.
    _known('Sweep.settings_for', (
        base(name) if base(name) in METHODS else name for name in self.settings_for),
           dict.fromkeys((*METHODS, *self.methods, *self.datasets, *self.models)))


def _shown(value: Any) -> str:
  """A value as a part of a run's folder."""
  return short(value) if isinstance(value, str) else f'{value:g}'


def base(method: str) -> str:
  """'dss+smooth' -> 'dss'."""
  return method.partition('+')[0]


def _known(name: str, values: Iterable[str], known: Any) -> None:
  for value in values:
    if value not in known:
      raise errors.UserError(f'{name}: {value!r}: {errors.did_you_mean(str(value), list(known))}')


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run; `alpha` is None where the method has none to choose."""

  dataset: str
  method: str
  labels: str
  model: str
  fraction: float
  alpha: float | None
  seed: int

  @property
  def key(self) -> str:
    """'svamp/dss-gold/t5_1_1_base/fraction-0.25/alpha-0.5/seed-0': also its folder."""
    parts = [self.dataset, f'{self.method}-{self.labels}', short(self.model),
             f'fraction-{_shown(self.fraction)}',
             *([f'alpha-{_shown(self.alpha)}'] if self.alpha is not None else []),
             f'seed-{self.seed}']
    return '/'.join(parts)


def cells(sweep: Sweep) -> list[Cell]:
  """All runs, seed by seed, so that a sweep that is cut short has whole curves of some seeds.

  Combinations that are no experiment are left out: a method with labels that it does not use,
  and other alphas of a method that has none.
  """
  found = []
  for seed, dataset, model, fraction, method, labels in itertools.product(
      sweep.seeds, sweep.datasets, sweep.models, sweep.fractions, sweep.methods, sweep.labels):
    if labels in METHODS[base(method)]:
      for alpha in sweep.alphas if base(method) in WEIGHTED else (None,):
        found.append(Cell(dataset, method, labels, model, fraction, alpha, seed))
  return found


def files(sweep: Sweep, cell: Cell) -> list[str]:
  """The gin files of a run, in order.

  Raises:
    UserError: there is none for the model, or for the method and dataset.
  """
  run = _run_file(sweep, cell)
  _check_file(run, f'RUN_FILE: no gin file of {cell.method} on {cell.dataset}')
  if cell.model == AS_IN_RECIPE:
    return [run, *sweep.overlays]
  model = cell.model if cell.model.endswith('.gin') else f'gin/native/models/{cell.model}.gin'
  _check_file(model, 'MODELS')
  return [run, *sweep.overlays, model]


def _run_file(sweep: Sweep, cell: Cell) -> str:
  return sweep.run_file.format(
      method=METHODS[base(cell.method)][cell.labels], dataset=cell.dataset)


def _check_file(path: str, what: str) -> None:
  if not gin_files.exists(path):
    raise errors.UserError(
        f'{what}: {path} does not exist; {errors.did_you_mean(path, gin_files.known_files())}')


def bindings(sweep: Sweep, cell: Cell, out: str) -> list[str]:
  """['MODEL_DIR=...', 'SEED=0', ...]: what sets the run apart, over the sweep's own settings."""
  chosen: dict[str, Any] = dict(sweep.settings)
  for name in dict.fromkeys((cell.dataset, cell.model, base(cell.method), cell.method)):
    chosen |= sweep.settings_for.get(name, {})
  chosen |= {'MODEL_DIR': os.path.join(out, 'runs', cell.key), 'TRAIN_FRACTION': cell.fraction,
             'TRAIN_FRACTION_SEED': cell.seed, 'SEED': cell.seed}
  if gin_files.takes_dataset(_run_file(sweep, cell)):
    chosen['DATASET'] = cell.dataset
  if cell.alpha is not None:
    chosen['DSS_ALPHA'] = cell.alpha
  names = {'{dataset}': cell.dataset, '{method}': cell.method, '{model}': short(cell.model)}
  return [f'{name}={_replaced(str(value), names)}' for name, value in chosen.items()]


def _replaced(text: str, names: Mapping[str, str]) -> str:
  for name, value in names.items():
    text = text.replace(name, value)
  return text


def short(model: str) -> str:
  """'t5_1_1_base', also of a path."""
  return os.path.splitext(os.path.basename(model))[0]
