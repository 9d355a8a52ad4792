"""Compiled programs are kept on disk, so that a second start does not compile again.

JAX's own persistent cache, switched on, in a folder of the user's.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import stat
import sys
from typing import Any

import jax
from jax.experimental import compilation_cache

_MOST_BYTES = 4 * 2**30
_LEAST_SECONDS = 0.05  # of compiling; what takes less is not worth a file


def use() -> None:
  """Switches the cache on, unless JAX has one already or is told to have none.

  It is in `$XDG_CACHE_HOME/dss_jax` or `~/.cache/dss_jax`, of each kind of processor its own: what
  XLA compiles for a CPU runs on that one only. Says so on stderr when it makes the folder. The
  programs that were written longest ago go where it grows past 4 GiB. `JAX_COMPILATION_CACHE_DIR`
  is another folder; `JAX_ENABLE_COMPILATION_CACHE=0` switches it off.
  """
  config: Any = jax.config
  if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
    return
  folder = _folder()
  try:
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    _remove_oldest(folder)
  except OSError:  # No home, or one that cannot be written: then without.
    return
  # What lies there is run: nobody else may have written it.
  if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
    return
  if new:
    print(f'compiled programs are kept in {folder}, for the next start '
          '(JAX_COMPILATION_CACHE_DIR=DIR moves them)', file=sys.stderr)
  config.update('jax_compilation_cache_dir', str(folder))
  config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)
  # JAX asks once, at the first compilation, whether there is one.
  compilation_cache.compilation_cache.reset_cache()


def _folder() -> pathlib.Path:
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return pathlib.Path(home, 'dss_jax', 'compiled', _processor())


def _processor() -> str:
  """Names the instructions that this machine has: 'x86_64-1f0a9c3b'."""
  text = platform.processor()
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    text += ''.join(sorted({line for line in lines if line.startswith(('flags', 'Features'))}))
  return f'{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


def _remove_oldest(folder: pathlib.Path) -> None:
  files = sorted(((path.stat().st_mtime, path) for path in folder.iterdir() if path.is_file()),
                 reverse=True)
  kept = 0
  for _, path in files:
    kept += path.stat().st_size
    if kept > _MOST_BYTES:
      path.unlink(missing_ok=True)
