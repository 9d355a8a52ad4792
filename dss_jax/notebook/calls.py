"""The programs as functions: keyword arguments are their flags, gin macros in capitals.

Nothing is done here that the command line does otherwise: arguments become its words.
"""

import contextlib
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dss_jax import arguments, cli, datasets, errors, fields
from dss_jax.notebook import results


def teach(
    *, dataset: str, split: str, inputs: Any = None,
    client: str | Callable[[datasets.Example], str] = 'recorded', **flags: Any
) -> results.Records | None:
  """See `dss_jax.teach`."""
  cli.be_quiet()
  with datasets.described_only():  # It builds no SeqIO task: TensorFlow is not needed.
    from dss_jax.teacher import __main__ as program
    from dss_jax.teacher import flags as flags_lib
    from dss_jax.teacher import protocol
    from dss_jax.teacher.ask import clients
    own = None
    if callable(client):
      own = clients.ScriptedClient(_checked(client), getattr(client, '__name__', 'function'))
      client = 'none'
    with _as_file(inputs, f'{dataset}-{split}') as path:
      words = _words({'dataset': dataset, 'split': split, 'inputs': path, 'client': client,
                      **flags})
      _check('teach', lambda: arguments.parse(flags_lib.parser(), words))
      try:
        outcome = program.run(words, own)
      except protocol.Unfinished as error:
        raise errors.UserError(
            f'stopped: {error}. Nothing is lost: the same call goes on from here') from error
  return results.Records(outcome) if outcome else None


def train(gin_file: str | Sequence[str] = (), **settings: Any) -> results.Run | None:
  """Trains a student, or goes on with its run: `dss train` from Python.

  Args:
    gin_file: files of settings, such as 'gin/native/tiny.gin'; later ones win.
    **settings: flags of `dss train`: method='dss', dataset='tickets'; and macros in capitals, as
      after `--gin.`: RECORDS_DIR='records', MODEL_DIR='runs/tickets', TRAIN_STEPS=2000.

  Returns:
    The finished run with its metrics; None with print_config, which only prints.

  Raises:
    UserError: what the command line would refuse.
    Stop: the process was told to stop; the run is saved, and the same call goes on.
  """
  cli.be_quiet()
  from dss_jax.train import __main__ as program
  words = _words({'gin_file': gin_file, **settings})
  _check('train', lambda: arguments.parse_with_gin(program.parser(), words))
  found = program.run(words)
  return results.Run(found[0].model_dir, program.summary(*found), *found) if found else None


def sweep(gin_file: str | Sequence[str], *, out: str, **settings: Any) -> results.Sweep | None:
  """See `dss_jax.sweep`."""
  cli.be_quiet()
  from dss_jax.experiments import sweep as program
  words = _words({'gin_file': gin_file, 'out': out, **settings})
  _check('sweep', lambda: arguments.parse_with_gin(program.parser(), words))
  if code := program.main(words):
    raise errors.UserError(
        f'{out}: not all runs are finished (see failed.json and logs/ there); the same call goes on'
        if code == 1 else f'{out}: stopped, and saved; the same call goes on')
  return None if settings.get('dry_run') else results.read_sweep(out)


def _words(flags: Mapping[str, Any]) -> list[str]:
  """{'gin_file': ['a', 'b'], 'STEPS': 3, 'pack': True} -> ['--gin_file=a', ..., '--gin.STEPS=3'].

  False and None leave a flag out; a name that is Python's own has a `_` behind it (`import_`).
  """
  words = []
  for name, value in flags.items():
    if name.partition('.')[0].upper() == name or '.' in name:
      words.append(f'--gin.{name}={value if isinstance(value, str) else repr(value)}')
      continue
    flag = f'--{name.rstrip("_")}'
    for one in value if isinstance(value, list | tuple) else [value]:
      if one is True:
        words.append(flag)
      elif one is not None and one is not False:
        text = json.dumps(one) if isinstance(one, Mapping) else os.fspath(one) if isinstance(
            one, os.PathLike) else str(one)
        words.append(f'{flag}={text}')
  return words


def _check(function: str, parse: Callable[[], Any]) -> None:
  """UserError in place of argparse's exit."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      parse()
  except SystemExit as error:
    _, _, why = said.getvalue().strip().rpartition('error: ')
    raise errors.UserError(f'{function}: {why}') from error


def _checked(teacher: Callable[[datasets.Example], str]) -> Callable[[datasets.Example], str]:
  """A function that says of which row it failed, or gave what is no text."""
  def ask(example: datasets.Example) -> str:
    try:
      said = teacher(example)
    except Exception as error:
      error.add_note(f'The teacher was asked about row {example.id!r}; nothing is written.')
      raise
    if not isinstance(said, str):
      raise errors.UserError(f'client: the function gave {fields.describe(said)} for row '
                             f'{example.id!r}: return what the teacher writes, a text')
    return said
  return ask


@contextlib.contextmanager
def _as_file(inputs: Any, name: str) -> Iterator[str | None]:
  """The path of inputs, which may be rows: dicts, or a table of pandas or polars."""
  if inputs is None or isinstance(inputs, str | os.PathLike):
    yield inputs if inputs is None else os.fspath(inputs)
    return
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, f'{name}.jsonl')
    with open(path, 'w', encoding='utf-8') as f:
      f.writelines(_line(row, number) for number, row in enumerate(_rows(inputs), 1))
      if not f.tell():
        raise errors.UserError('inputs: no rows')
    try:
      yield path
    except errors.UserError as error:  # The user has no such file.
      text = str(error).replace(f'--inputs={path}', 'inputs')
      raise errors.UserError(text.replace(f'{path}, line', 'inputs, row')) from error


def _rows(inputs: Any) -> Iterable[Any]:
  if hasattr(inputs, 'to_dicts'):  # polars
    return inputs.to_dicts()
  return inputs.to_dict('records') if hasattr(inputs, 'to_dict') else inputs


def _line(row: Any, number: int) -> str:
  if isinstance(row, datasets.Example):
    row = {name: value for name, value in dataclasses.asdict(row).items() if value}
  if not isinstance(row, Mapping):
    raise errors.UserError(f'inputs: row {number} is {type(row).__name__}: give dicts with id, '
                           'input and label, a table, or the path of a file')
  try:
    return json.dumps({str(name): None if _is_missing(value) else value
                       for name, value in row.items()}, default=_plain) + '\n'
  except TypeError as error:
    raise errors.UserError(f'inputs: row {number}: {error}: give texts and numbers') from error


def _is_missing(value: Any) -> bool:
  """NaN and its kin, which a table has where nothing is known."""
  return type(value).__name__ in ('NAType', 'NaTType') or (
      isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
  """Of NumPy's numbers."""
  if hasattr(value, 'item'):
    return value.item()
  raise TypeError(f'{type(value).__name__} is no text')
