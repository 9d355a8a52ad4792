"""Models by their names at the Hugging Face hub: 'google/t5-v1_1-base', 'hf://OWNER/NAME@REVISION'.

`huggingface_hub` downloads into its cache, or finds there what was downloaded; its variables
(HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT) work as everywhere. It is imported when a name is
given, and only then.
"""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from dss_jax import errors, student_info
from dss_jax.convert import hugging_face, hugging_face_files, own_vocabulary

SCHEME = 'hf://'
_NAME = re.compile(r'([\w.-]+/[\w.-]+)(?:@(\S+))?')
_COMMIT = re.compile(r'[0-9a-f]{40}')
_CACHED = re.compile(r'models--(.+)')  # the cache's folder of a model; '--' for '/'
_SMALL = (hugging_face.CONFIG_FILE, 'generation_config.json', 'adapter_config.json',
          student_info.FILE, *own_vocabulary.FILES)
_BRANCH = 'main'


def parse(path: str) -> tuple[str, str] | None:
  """('google/t5-v1_1-base', 'main'), or None for a path.

  What exists on this machine is a path; so is what could be a mistyped one, beside others in a
  folder that exists. With `hf://` it is a name in any case.

  Raises:
    UserError: `hf://` and no name.
  """
  found = _NAME.fullmatch(path.removeprefix(SCHEME))
  if path.startswith(SCHEME):
    if not found:
      raise errors.UserError(f'{path}: give {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION')
  elif not found or os.path.exists(path) or os.path.exists(path.partition('/')[0]):
    return None
  return found[1], found[2] or _BRANCH


def hint(path: str) -> str:
  """What to say besides of a path that does not exist."""
  return f' (if it is a model of the hub: {SCHEME}{path})' if _NAME.fullmatch(path) else ''


def local(path: str) -> str:
  """The folder of a checkpoint on this machine; downloads it if `path` is a name.

  In one process a name means one revision, also if a branch moves on meanwhile.

  Args:
    path: a name, see `parse`; the folder that the hub's cache has for a model, which means its
      newest revision; or any other path, which is returned as it is.

  Raises:
    UserError: there is no such model or revision, or it cannot be had.
  """
  if named := parse(path):
    return _fetch(*named)
  folder = epath.Path(path)
  if _CACHED.fullmatch(folder.name) and (folder / 'snapshots').exists():
    return _newest(folder)
  return path


def without_weights(path: str) -> str | None:
  """The folder of a named model with all that is needed but its weights; None for a path."""
  return _fetch(*named, weights=False) if (named := parse(path)) else None


def pinned(path: str) -> str:
  """'google/t5-v1_1-base' -> 'hf://google/t5-v1_1-base@<commit>'; a path as it is.

  Raises:
    UserError: see `local`.
  """
  if not (named := parse(path)):
    return path
  return f'{SCHEME}{named[0]}@{os.path.basename(_fetch(*named))}'


def describe(path: str) -> dict[str, Any] | None:
  """What a checkpoint is at the hub: its name, its commit, and the SHA-256 of its files.

  Args:
    path: see `local`.

  Returns: None for what is not in the hub's cache.
  """
  folder = pathlib.Path(local(path))
  name = _CACHED.fullmatch(folder.parent.parent.name)
  if not name or folder.parent.name != 'snapshots' or not _COMMIT.fullmatch(folder.name):
    return None
  return {'name': name[1].replace('--', '/'), 'revision': folder.name,
          'files': {file: _sha256(folder / file) for file in _wanted(folder)}}


def _sha256(file: pathlib.Path) -> str:
  """The cache calls a large file by it; small ones are read."""
  stored = file.resolve().name
  if re.fullmatch(r'[0-9a-f]{64}', stored):
    return stored
  with file.open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _newest(folder: epath.Path) -> str:
  """The snapshot of the main branch, or the only one."""
  ref = folder / 'refs' / _BRANCH
  snapshots = sorted(path.name for path in (folder / 'snapshots').iterdir())
  commit = ref.read_text().strip() if ref.exists() else ''
  if commit not in snapshots and len(snapshots) != 1:
    raise errors.UserError(
        f'{folder} has the snapshots {", ".join(snapshots) or "of none"}, and no branch '
        f'{_BRANCH!r} that says which: give one of them, as {folder}/snapshots/COMMIT')
  return str(folder / 'snapshots' / (commit if commit in snapshots else snapshots[0]))


@functools.cache
def _fetch(repo: str, revision: str, weights: bool = True) -> str:
  """The snapshot's folder in the cache, with all that is needed, or all but the weights.

  The weights come last: where they are, everything is.
  """
  import huggingface_hub
  from huggingface_hub import errors as hub_errors

  said = f'{repo}@{revision}' if revision != _BRANCH else repo
  try:
    api = huggingface_hub.HfApi()
    config = api.hf_hub_download(repo, hugging_face.CONFIG_FILE, revision=revision)
    folder = pathlib.Path(config).parent
    download = functools.partial(api.hf_hub_download, repo, revision=folder.name)
    unlisted = None
    try:
      names = api.list_repo_files(repo, revision=folder.name)
    except Exception as error:  # Of any kind: those of its HTTP library too.
      unlisted, names = error, [path.name for path in folder.iterdir()]
    tensors = _weights(names, download) if weights else []
    if weights and not tensors and unlisted:
      raise hub_errors.LocalEntryNotFoundError('no weights in the cache') from unlisted
    for name in [*sorted({*names} & {*_SMALL}), *tensors]:
      download(name)
  except Exception as error:  # Of any kind, as above: all that can go wrong is outside of us.
    raise errors.UserError(
        f'{said}: {_why(repo, revision, error, hub_errors, huggingface_hub.constants)}') from error
  if weights and not tensors:
    raise errors.UserError(f'{said} has no {" or ".join(hugging_face_files.FORMATS)}; it has '
                           f'{", ".join(sorted(names)[:12])}')
  return str(folder)


def _weights(names: Iterable[str], download: Callable[[str], str]) -> list[str]:
  """The files with tensors, of the first format that there is."""
  for one in hugging_face_files.FORMATS:
    if one in names:
      return [one]
    if (index := hugging_face_files.index_of(one)) in names:
      return sorted(set(hugging_face_files.weight_map(epath.Path(download(index))).values()))
  return []


def _wanted(folder: pathlib.Path) -> list[str]:
  """The names of a snapshot's files that are used."""
  weights = {path.name for path in hugging_face.weight_files(epath.Path(folder))}
  return sorted(weights | {name for name in _SMALL if (folder / name).exists()})


def _why(repo: str, revision: str, error: Exception, kinds: Any, constants: Any) -> str:
  """What went wrong at the hub, and what to do."""
  page = f'{constants.ENDPOINT}/{repo}'
  if isinstance(error, errors.UserError):
    return str(error)
  if isinstance(error, kinds.GatedRepoError):
    return f'accept its terms at {page}, and set HF_TOKEN to a token of that account'
  if isinstance(error, kinds.RepositoryNotFoundError):
    return ('no folder here and no model of that name at the hub, or a private one: correct the '
            'name, or set HF_TOKEN')
  if isinstance(error, kinds.RevisionNotFoundError):
    return f'the model has no revision {revision!r}: give a branch, a tag or a commit of {page}'
  if isinstance(error, kinds.HFValidationError):
    return 'no model at the hub can have this name: give OWNER/NAME'
  if isinstance(error, kinds.LocalEntryNotFoundError):
    said = _status(error.__cause__)
    reason = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else (
        f'{constants.ENDPOINT} ' + (f'answers {said}' if said else 'cannot be reached'))
    at = f' --revision={revision}' if revision != _BRANCH else ''
    return (f'not on this machine, and {reason}: where it can be reached, run `hf download '
            f'{repo}{at} --local-dir=DIR`, copy DIR here, and give its path')
  if isinstance(error, kinds.EntryNotFoundError):
    return (f'the model has no {hugging_face.CONFIG_FILE}: it is an adapter, or none of '
            f'transformers; see {page}')
  if _status(error) == 401:
    return 'the hub does not accept the token: correct HF_TOKEN, or unset it'
  return f'it cannot be downloaded ({type(error).__name__}: {" ".join(str(error).split())[:200]})'


def _status(error: BaseException | None) -> int | None:
  return getattr(getattr(error, 'response', None), 'status_code', None)
