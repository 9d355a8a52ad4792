"""dss_jax: Distilling Step-by-Step (Hsieh et al., ACL 2023) for JAX, Flax and SeqIO.

From Python, as on the command line: `register` a dataset, `teach` (the teacher's rationales become
records), `train` a student, `load` and ask it, `sweep` over methods and data, `show` any of it.

Importing the package is cheap: no TensorFlow, no SeqIO, no device is touched until a
submodule that needs them is imported. `docs/architecture.md` says what lives where.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from dss_jax.datasets import Dataset, Example
  from dss_jax.notebook.results import Records, Shown, Sweep
  from dss_jax.predict.student import Student

__version__ = '0.1.0'


def register(name: str, **description: Any) -> 'Dataset':
  """Describes a dataset of your own: `dss_jax.register('tickets', labels=('bug', 'other'))`.

  Args:
    name: letters, digits and underscores; the same name again replaces it.
    **description: of `dss_jax.data.register`: labels (the closed set, if there is one), metric
      ('text', 'normalized_text' or 'equation'), completion, read_row, holdout, extra_fields, and
      where its rows are found by name.

  Returns: the description.

  Raises:
    UserError: an argument that there is not; and what `dss_jax.data.register` refuses.
  """
  from inspect import signature  # Not the package's own `inspect`.

  from dss_jax import data, datasets, errors
  known = signature(data.register).parameters
  for argument in description:
    if argument not in known:
      raise errors.UserError(f'register: no argument {argument!r}: '
                             f'{errors.did_you_mean(argument, known)}')
  with datasets.described_only():  # Its tasks are made when one of them is trained on.
    return data.register(name, **description)


def teach(
    *, dataset: str, split: str, inputs: Any = None,
    client: 'str | Callable[[Example], str]' = 'recorded', **flags: Any) -> 'Records | None':
  """Asks the teacher about every input and writes records: `dss teacher` from Python.

  Args:
    dataset: a name of `register`, or cqa, svamp, ...
    split: 'train', 'validation' or 'test'.
    inputs: a file's path, or the rows: dicts with id, input and label, or a table of them.
    client: as `--client`, or a function from an `Example` (id, input, label, choices) to what the
      teacher writes about it.
    **flags: of `dss teacher`, without dashes: records_dir='records', model='NAME', samples=5.

  Returns:
    The records, with the teacher's accuracy; None with dry_run or show_prompt, which only print.

  Raises:
    UserError: what the command line would refuse; or the teacher stopped answering: what it wrote
      is kept, and the same call goes on.
  """
  from dss_jax.notebook import calls
  return calls.teach(dataset=dataset, split=split, inputs=inputs, client=client, **flags)


def load(path: 'str | os.PathLike[str]', **options: Any) -> 'Student':
  """Loads a trained student: `dss_jax.load('runs/dss_cqa').predict(['an input'])`.

  Args:
    path: a folder, local or `gs://`, a model's name at the Hugging Face hub, or what `train` gave.
    **options: see `dss_jax.predict.student.load`, which tells the errors, too.
  """
  from dss_jax.predict import student
  return student.load(os.fspath(path), **options)


def sweep(
    gin_file: str | Sequence[str], *, out: str, **settings: Any) -> 'Sweep | None':
  """Trains a grid of runs and writes its report: `dss sweep` and `dss report` from Python.

  Each run is a program of its own: a dataset of yours must be registered in a module that
  `import_='my_tasks'` names.

  Args:
    gin_file: of the sweep, such as 'gin/sweeps/toy.gin'; or several.
    out: the folder of everything; the same call again goes on.
    **settings: flags of `dss sweep` (slots=2), and macros in capitals (SEEDS=(0, 1, 2)).

  Returns:
    Findings, tables and figures; None with dry_run, which only prints.

  Raises:
    UserError: what the command line would refuse; a run that failed.
  """
  from dss_jax.notebook import calls
  return calls.sweep(gin_file, out=out, **settings)


def show(thing: Any, rows: int = 5) -> 'Shown':
  """Something to look at, as text or, in a notebook, as tables and figures.

  Args:
    thing: what `teach`, `train`, `sweep` or `Student.predict` returned, or a folder of theirs:
      of records the rows, of a run its curves and wrong test answers, of a sweep its report.
    rows: so many of each kind.

  Raises:
    UserError: it is none of these.
  """
  from dss_jax.notebook import results
  return results.show(thing, rows)


if TYPE_CHECKING:
  from dss_jax.notebook.calls import train as train
else:
  def __getattr__(name: str) -> Any:
    if name == 'train':  # The package of that name, which can be called: see there.
      return importlib.import_module('dss_jax.train')
    if name in ('data', 'datasets', 'errors', 'teacher'):  # What the documentation calls so.
      return importlib.import_module(f'dss_jax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
