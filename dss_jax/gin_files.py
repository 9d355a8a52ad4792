"""Where gin files are found: in a checkout, or inside the installed package.

`gin/` installs as `dss_jax/configs`. Files name each other as in a checkout
(`include 'gin/recipes/paper.gin'`), and so do command lines; after `register()` such a path
is also found from any other directory, in the package.
"""

import pathlib

import gin


def configs_dir() -> pathlib.Path:
  """The folder of the gin files: `dss_jax/configs` of a wheel, `gin/` of a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'gin'


def _packaged(path: str) -> pathlib.Path:
  return configs_dir() / pathlib.PurePosixPath(path).relative_to('gin')


def _exists(path: str) -> bool:
  return path.startswith('gin/') and _packaged(path).is_file()


def _open(path: str):
  return open(_packaged(path), encoding='utf-8')


def register() -> None:
  """Makes gin find `gin/...` wherever the program was started."""
  gin.config.register_file_reader(_open, _exists)


def known_files() -> list[str]:
  """['gin/dss_cqa.gin', 'gin/native/dss_cqa.gin', ...]"""
  root = configs_dir()
  return sorted('gin/' + str(path.relative_to(root).as_posix()) for path in root.rglob('*.gin'))


def is_for_t5x(path: str) -> bool:
  """Whether a file of ours is for T5X's programs: 'gin/dss_cqa.gin', 'gin/t5x/run.gin'."""
  return path in known_files() and not path.startswith(
      ('gin/native/', 'gin/recipes/', 'gin/sweeps/'))
