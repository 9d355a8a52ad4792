"""gin files and `--gin.NAME=VALUE` -> a TrainConfig."""

import ast
import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
from dss_jax import datasets, errors, families, gin_files, models
from dss_jax.train import config as config_lib
from dss_jax.train import student_defaults

_CLASSES: dict[str, Any] = {}  # Dataclasses, by the names that gin has for them.


class UnknownMacro(errors.UserError):
  """A binding of a macro that no gin file has; `known` are those that there are."""

  def __init__(self, name: str, known: set[str]):
    near = errors.did_you_mean(name, known) if known else 'give one such as gin/native/dss.gin'
    super().__init__(f'--gin.{name}: no gin file given defines the macro {name}: {near}')
    self.name, self.known = name, known


def configurable(cls: Any, module: str) -> Any:
  """Lets gin files bind the fields of a dataclass; makes one from what they bind."""
  _CLASSES[f'{module}.{cls.__name__}'] = cls
  return gin.external_configurable(cls, module=module)


_TrainConfig = configurable(config_lib.TrainConfig, 'dss_jax.train')
for _cls in (config_lib.DataConfig, config_lib.OptimizerConfig, config_lib.RngConfig,
             config_lib.MeshConfig, config_lib.EvalConfig, config_lib.CheckpointConfig):
  configurable(_cls, 'dss_jax.train')
for _family in families.FAMILIES.values():
  configurable(_family.config, 'dss_jax.models')

_MODEL = f'dss_jax.models.{models.T5Config.__name__}'
_MODEL_FIELD = re.compile(r'(\w+Config)\.(\w+) is (.*?):(?= use )')
_MACRO = re.compile(r'^[A-Za-z_]\w*$')


def parse(files: Sequence[str], bindings: Sequence[str], *, model_dir: str = ''
          ) -> config_lib.TrainConfig:
  """Reads the files in order, then the bindings; later ones win.

  Args:
    files: paths; `gin/...` is also found inside the installed package.
    bindings: 'NAME=VALUE' of a macro that the files define, or 'Class.field=VALUE'.
      VALUE may be a bare string: `MODEL_DIR=/tmp/run` needs no quotes.
    model_dir: MODEL_DIR, where they set none.

  What they leave open of the network and its vocabulary is the checkpoint's, if the run starts from
  one; else T5 v1.1 base with as many rows as the vocabulary needs.

  Raises:
    UserError: an unknown file, macro or field, a required macro without a value, or values
      that do not fit together.
  """
  given = read(files, bindings)
  if model_dir and not _macro('MODEL_DIR'):
    gin.bind_parameter(('MODEL_DIR', 'gin.macro', 'value'), model_dir)
  _complete_student(given)
  try:
    return _TrainConfig()
  except (errors.UserError, ValueError, TypeError, RuntimeError) as error:
    raise errors.UserError(explain(error)) from error


def read(files: Sequence[str], bindings: Sequence[str]) -> set[str]:
  """Fills gin afresh with the files and then the bindings, see `parse`; the macros they set."""
  given = [binding for binding in bindings if binding.startswith('DATASET=')]
  dataset = given[-1].partition('=')[2].strip('\'"') if given else ''
  gin_files.register(dataset)
  gin.clear_config()
  for path in files:
    _parse_file(path)
  set_here = _macros()
  _bind_defaults()
  known = _macros()
  if (of := _macro('DATASET')) and dataset not in ('', of):
    raise errors.UserError(f'--gin.DATASET={dataset}: the gin files given are of {of}')
  for binding in bindings:
    _bind(binding, known)
  if of and '{DATASET}' in str(task := _macro('MIXTURE_OR_TASK_NAME')):
    _bind(f"MIXTURE_OR_TASK_NAME={task.replace('{DATASET}', of)!r}", known)
  return set_here | {binding.partition('=')[0] for binding in bindings}


def task_of(files: Sequence[str], bindings: Sequence[str]) -> str:
  """What they train on, see `parse`; gin is filled afresh with them alone."""
  read(files, bindings)
  return str(_macro('MIXTURE_OR_TASK_NAME'))


def _complete_student(given: set[str]) -> None:
  """Binds what files and bindings leave open of the network and its vocabulary, see `parse`.

  Args:
    given: macros that they set.
  """
  path, vocabulary, model_dir = map(_macro, ('INITIAL_CHECKPOINT_PATH', 'VOCABULARY', 'MODEL_DIR'))
  if not all(value is None or isinstance(value, str) for value in (path, vocabulary, model_dir)):
    return  # The run's classes refuse it.
  fields = bound(_MODEL)
  set_ = {name: value[1:] if value.startswith('%') else f'{_MODEL.rpartition(".")[2]}.{name}'
          for name, value in fields.items() if not value.startswith('%') or value[1:] in given}
  network = dict(models.NAMED['t5_1_1_base'])
  said = student_defaults.of_run(model_dir)
  if said is None and path:
    try:
      said = student_defaults.of_checkpoint(path)
    except errors.UserError as error:
      if not set_.keys() >= network.keys():
        text = str(error).removeprefix(path)
        raise errors.UserError(
            f'INITIAL_CHECKPOINT_PATH={path}{"" if text != str(error) else ": "}{text}') from error
    else:
      _check_said(said, set_)
  if said:
    network = said.network
    if said.vocabulary and 'VOCABULARY' not in given:
      gin.bind_parameter(('VOCABULARY', 'gin.macro', 'value'), said.vocabulary)
  elif vocabulary and 'VOCABULARY' in given and (rows := student_defaults.rows(
      vocabulary, datasets.SENTINELS * str(_macro('MIXTURE_OR_TASK_NAME')).endswith('_pretrain'))):
    network['vocab_size'] = rows
  for name in network.keys() - set_.keys():
    macro = fields.get(name, '').removeprefix('%')
    gin.bind_parameter((macro, 'gin.macro', 'value') if macro else f'{_MODEL}.{name}',
                       network[name])


def _check_said(said: student_defaults.Said, set_: Mapping[str, str]) -> None:
  """UserError if gin sets a field (set_: by which name) otherwise than the checkpoint has it."""
  for name, theirs in said.network.items():
    if name in set_:
      own = gin.query_parameter(f'{_MODEL}.{name}' if '.' in set_[name] else f'%{set_[name]}')
      if (tuple(own) if isinstance(own, list) else own) != theirs:
        raise errors.UserError(
            f'{set_[name]}={own!r}, but INITIAL_CHECKPOINT_PATH={said.where} has {theirs!r}: leave '
            'it, or the size file that sets it, out')


def resolved() -> str:
  """All bindings of the last `parse`, as gin text."""
  return gin.config_str()


def _parse_file(path: str) -> None:
  if gin_files.is_for_t5x(path):
    both = gin_files.method_and_dataset(f'gin/native/{path.rpartition("/")[2]}')
    there = f': this engine has gin/native/{both[0]}.gin --gin.DATASET={both[1]}' if both else ''
    raise errors.UserError(f'--gin_file={path} is for t5x/train.py{there}')
  logging.disable(logging.ERROR)  # gin logs an error for every place it looks in vain.
  try:
    gin.parse_config_file(path)
  except UnicodeDecodeError as error:
    raise errors.UserError(f'--gin_file={path}: not a gin file: it is no text in UTF-8') from error
  except OSError as error:
    if os.path.isdir(path):
      raise errors.UserError(f'--gin_file={path} is a folder: name a file') from error
    missing = re.search(r'Unable to open file: (\S+?)\.? ', str(error) + ' ')
    name = missing[1] if missing else path
    raise errors.UserError(
        f'--gin_file={path}: {name} does not exist; '
        f'{errors.did_you_mean(name, gin_files.known_files())}') from error
  except errors.UserError as error:  # gin appends where it was.
    raise errors.UserError(f'--gin_file={path}: {str(error).partition(chr(10))[0]}') from error
  except (SyntaxError, ValueError, ImportError) as error:
    raise errors.UserError(f'--gin_file={path}: {explain(error)}') from error
  finally:
    logging.disable(logging.NOTSET)


def _macros() -> set[str]:
  """Names of the macros that have values: what gin's text binds without a class."""
  return set(re.findall(r'^(\w+) =', gin.config_str(), re.MULTILINE))


def bound(name: str) -> dict[str, str]:
  """Field -> text of what the files bind it to, of a class such as 'dss_jax.train.TrainConfig'."""
  return {field: repr(value) for field, value in gin.get_bindings(
      name, resolve_references=False, inherit_scopes=False).items()}


def _bind_defaults() -> None:
  """Gives a macro that no file sets the default of the field that it is bound to."""
  known = _macros()
  for selector, cls in _CLASSES.items():
    for name, value in bound(selector).items():
      field = cls.__dataclass_fields__[name]
      default = field.default_factory() if callable(field.default_factory) else field.default
      macro = value.removeprefix('%')
      if macro not in {value, *known} and default is not dataclasses.MISSING:
        gin.bind_parameter((macro, 'gin.macro', 'value'), default)


def _macro(name: str) -> Any:
  with contextlib.suppress(ValueError):  # It has no value.
    return gin.query_parameter(f'%{name}')


def _bind(binding: str, known: set[str]) -> None:
  name, equals, value = binding.partition('=')
  if not equals:
    raise errors.UserError(f'--gin.{binding}: write --gin.NAME=VALUE')
  if _MACRO.match(name) and name not in known:
    raise UnknownMacro(name, known)
  try:
    gin.parse_config(f'{name} = {_literal(value)}')
  except (SyntaxError, ValueError) as error:
    raise errors.UserError(f'--gin.{binding}: {explain(error)}') from error


def _literal(value: str) -> str:
  """'/tmp/run' -> "'/tmp/run'"; Python literals, %MACROS and @references stay."""
  if value.startswith(('%', '@')):
    return value
  try:
    ast.literal_eval(value)
    return value
  except (ValueError, SyntaxError):
    return repr(value)


def explain(error: Exception) -> str:
  """gin's message in one line, without the trace of calls that gin appends."""
  text = str(error).partition('In call to configurable')[0]
  if isinstance(error, RecursionError):
    text = 'a macro that stands for itself'
  elif "'model_dir'" in text:  # No file binds the configurables.
    text = 'these gin files make no run: give one such as gin/native/dss.gin'
  elif text.startswith('macro()'):
    text = 'a %NAME that no gin file defines'
  return with_macros(' '.join(_MODEL_FIELD.sub(_with_macro, text).split()))


@contextlib.contextmanager
def macros_named() -> Iterator[None]:
  """A library's error about its field becomes one about the macro of these gin files."""
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(with_macros(str(error))) from error


def with_macros(text: str) -> str:
  """'MeshConfig.fsdp=0: ...' -> 'MESH_FSDP=0: ...', where a macro sets the field."""
  ours = {selector: cls for selector, cls in _CLASSES.items() if 'dss_jax.models' not in selector}
  macros = {f'{base.__name__}.{field}': value[1:] for selector, cls in ours.items()
            for field, value in bound(selector).items()
            for base in cls.__mro__ if value.startswith('%')}
  return re.sub(r'\b[A-Z]\w+\.\w+', lambda name: macros.get(name[0], name[0]), text)


def _with_macro(field: re.Match[str]) -> str:
  """'T5Config.dtype is 3:' -> 'DTYPE=3 (T5Config.dtype):', where that macro sets the field."""
  model, name, value = field.groups()
  macro = re.match(r'%(\w+)', bound(f'dss_jax.models.{model}').get(name, ''))
  return f'{macro[1]}={value} ({model}.{name}):' if macro else field[0]
