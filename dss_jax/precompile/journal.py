"""Outcomes on disk: one JSON line per compilation, so that a killed plan goes on."""

import dataclasses
import json
import os
import pathlib

from dss_jax import errors
from dss_jax.precompile import jobs

_BEGINNING = '{"key": '  # of every line


class Journal:
  """Remembers outcomes by the key of their job; in memory only, without a path."""

  def __init__(self, path: str = ''):
    """Reads what is there. A torn last line, of a killed program, is cut off.

    Raises:
      UserError: the file holds something else.
    """
    self._path = pathlib.Path(path) if path else None
    self._outcomes: dict[str, jobs.Outcome] = {}
    if self._path and self._path.exists():
      self._read(self._path)

  def get(self, job: jobs.Job) -> jobs.Outcome | None:
    return self._outcomes.get(job.key())

  def add(self, job: jobs.Job, outcome: jobs.Outcome) -> None:
    """Remembers it; on disk when this returns."""
    self._outcomes[job.key()] = outcome
    if not self._path:
      return
    mesh = job.config.mesh
    line = json.dumps({
        'key': job.key(), 'kind': job.kind, 'topology': job.topology,
        'mesh': f'{mesh.data}x{mesh.fsdp}x{mesh.model}', 'microbatches': job.config.microbatches,
        'outcome': dataclasses.asdict(outcome)})
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('a') as f:
      f.write(line + '\n')
      f.flush()
      os.fsync(f.fileno())

  def _read(self, path: pathlib.Path) -> None:
    try:
      text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
      raise errors.UserError(f'--output={path} cannot be read ({error}); give a file') from error
    whole = text[:text.rfind('\n') + 1]
    torn = text[len(whole):]
    if torn and _BEGINNING.startswith(torn[:len(_BEGINNING)]):  # Else it is no file of ours.
      os.truncate(path, len(whole.encode()))
    elif torn:
      whole = text
    for number, line in enumerate(whole.splitlines(), 1):
      try:
        row = json.loads(line)
        self._outcomes[row['key']] = jobs.Outcome(**row['outcome'])
      except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f'--output={path}: line {number} is not of a plan; give another file') from error
