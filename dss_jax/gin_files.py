"""Where gin files are found: in a checkout, or inside the installed package.

`gin/` installs as `dss_jax/configs`. Files name each other as in a checkout
(`include 'gin/recipes/paper.gin'`), and so do command lines; after `register()` such a path
is also found from any other directory, in the package.

Some names are no files, and what stands in them is made when they are read:

  gin/recipes/{DATASET}.gin          the recipe of the run's dataset, or the paper's if it has none
  gin/native/dss_cqa.gin             gin/native/dss.gin with DATASET = 'cqa'
  gin/recipes/single_task_cqa.gin    gin/recipes/cqa.gin and gin/recipes/single_task.gin
  gin/native/models/t5_1_1_xl.gin    a size of `models.NAMED`
  gin/t5x/defaults.gin               the native engine's defaults, for what T5X's files leave open
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import re
from typing import Any

import gin
from dss_jax import datasets, errors

_RECIPE = 'gin/recipes/{DATASET}.gin'
_MODELS = 'gin/native/models/'
_given = ''  # The dataset of the command line, which is read before the files that it is for.


def configs_dir() -> pathlib.Path:
  """The folder of the gin files: `dss_jax/configs` of a wheel, `gin/` of a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'gin'


def register(dataset: str = '') -> None:
  """Makes gin find `gin/...` wherever the program was started.

  Args:
    dataset: what files are read for that leave it open, and set no DATASET before.
  """
  global _given
  _given = dataset
  gin.config.register_file_reader(_open, _exists)


def exists(path: str) -> bool:
  """Whether gin can read `path`: a file, one of ours, or a name that is made into one."""
  return os.path.isfile(path) or _exists(path)


def known_files() -> list[str]:
  """['gin/dss_cqa.gin', 'gin/native/dss.gin', 'gin/native/models/t5_1_1_xl.gin', ...]"""
  root = configs_dir()
  files = ['gin/' + str(path.relative_to(root).as_posix()) for path in root.rglob('*.gin')]
  return sorted([*files, *(f'{_MODELS}{name}.gin' for name in _models())])


def takes_dataset(path: str) -> bool:
  """Whether `path` is a method of ours, which makes a run of any DATASET: 'gin/native/dss.gin'."""
  return path in {f'gin/native/{name}.gin' for name in methods()}


@functools.cache
def methods() -> dict[str, str]:
  """{'dss': 'dss_{DATASET}', 'distill': '{DATASET}_distill', ...}: what each of them trains on.

  A method is a file of gin/native that leaves the dataset open.
  """
  found = {}
  for path in sorted((configs_dir() / 'native').glob('*.gin')):
    text = path.read_text(encoding='utf-8')
    if task := re.search(r"^MIXTURE_OR_TASK_NAME = '(.*{DATASET}.*)'", text, re.MULTILINE):
      found[path.stem] = task[1]
  return found


def method_and_dataset(path: str) -> tuple[str, str] | None:
  """'gin/native/dss_teacher_cqa.gin' -> ('dss_teacher', 'cqa')."""
  known = '|'.join(sorted(methods(), reverse=True))  # 'dss_teacher' before 'dss'.
  found = re.fullmatch(rf'gin/native/({known})_([^/]+)\.gin', path)
  return (found[1], found[2]) if found else None


def is_for_t5x(path: str) -> bool:
  """Whether a file of ours is for T5X's programs: 'gin/dss_cqa.gin', 'gin/t5x/run.gin'."""
  return path in known_files() and not path.startswith(
      ('gin/native/', 'gin/recipes/', 'gin/sweeps/'))


def _packaged(path: str) -> pathlib.Path:
  return configs_dir() / pathlib.PurePosixPath(path).relative_to('gin')


def _exists(path: str) -> bool:
  return path.startswith('gin/') and (_packaged(path).is_file() or _made(path) is not None)


def _open(path: str):
  if _packaged(path).is_file():
    return open(_packaged(path), encoding='utf-8')
  return io.StringIO(_made(path))


def _made(path: str) -> str | None:
  """The text of a name that is no file."""
  if path == _RECIPE:
    return _recipe()
  if both := method_and_dataset(path):
    return f"DATASET = {both[1]!r}\ninclude 'gin/native/{both[0]}.gin'\n"
  if path == 'gin/t5x/defaults.gin':
    return _t5x_defaults()
  if found := re.fullmatch(r'gin/recipes/single_task_(\w+)\.gin', path):
    return f"include 'gin/recipes/{found[1]}.gin'\ninclude 'gin/recipes/single_task.gin'\n"
  if fields := _models().get(path.removeprefix(_MODELS).removesuffix('.gin')):
    return ''.join(f'T5Config.{name} = {value!r}\n' for name, value in fields.items())
  return None


def _recipe() -> str:
  """What DATASET changes; a size of its name is its model.

  Raises:
    UserError: no DATASET, or one that nobody knows.
  """
  name = _given
  with contextlib.suppress(ValueError):  # Of a file that was read before this one.
    name = str(gin.query_parameter('%DATASET'))
  own = f'gin/recipes/{name}.gin'
  recipes = {path.stem for path in (configs_dir() / 'recipes').glob('*.gin')}
  known = recipes - {'paper', 'single_task', 'unpacked'} | set(datasets.names())
  if not name:
    raise errors.UserError(f'give --gin.DATASET=NAME; {errors.did_you_mean("", known)}')
  if name not in known and not (os.path.isfile(own) and name not in recipes):
    raise errors.UserError(
        f'DATASET={name}: {errors.did_you_mean(name, known)}; one of your own is registered '
        'in a module that --import=MODULE names')
  recipe = own if exists(own) else 'gin/recipes/paper.gin'
  model = f"include '{_MODELS}{name}.gin'\n" if name in _models() else ''
  return f"DATASET = {name!r}\ninclude '{recipe}'\n{model}"


def _t5x_defaults() -> str:
  """'WARMUP_STEPS = 0', ...: macros of t5x/model.gin that it and the paper's recipe leave open."""
  from dss_jax.train import config  # Late: it loads jax and flax.
  model, paper, run = ((configs_dir() / name).read_text(encoding='utf-8') for name in (
      't5x/model.gin', 'recipes/paper.gin', 'native/run.gin'))
  left = set(re.findall(r'%(\w+)', model)) - set(
      re.findall(r'^(\w+) =', model + paper, re.MULTILINE))
  found = {macro: getattr(config, cls).__dataclass_fields__[field].default
           for cls, field, macro in re.findall(r'^(\w+)\.(\w+) = %(\w+)', run, re.MULTILINE)
           if macro in left}
  return ''.join(f'{macro} = {default!r}\n' for macro, default in found.items()
                 if default is not dataclasses.MISSING)


def _models() -> dict[str, dict[str, Any]]:
  from dss_jax import models  # Late: it loads jax and flax.
  return models.NAMED
