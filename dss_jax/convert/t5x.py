"""T5X checkpoints, read one tensor at a time without T5X.

T5X (upstream t5x/checkpoints.py) writes checkpoint_<step>/ in one of two layouts:

  its own, and all public checkpoints           checkpoint           msgpack tree of the train state
    (`use_orbax=False`)                         target.encoder.*/    zarr, one folder per array
  Orbax (`use_orbax=True`, its default)         state/manifest.ocdbt zarr arrays inside one OCDBT
    older versions                              state/target.*/      zarr, one folder per array
                                                state/checkpoint     msgpack tree, small arrays

The optimizer's state is ignored. `t5x_layout` has the names; `t5x_write` writes.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from dss_jax import errors, families, student_info
from dss_jax.convert import native, t5x_gin
from dss_jax.convert import t5x_layout as layout
from dss_jax.convert import weights as weights_lib
from dss_jax.convert.t5x_layout import kvstore_spec
from dss_jax.convert.t5x_write import write_t5x

__all__ = ['T5XWeights', 'is_t5x_checkpoint', 'kvstore_spec', 'write_t5x']

_STEP = re.compile(r'checkpoint_(\d+)')
_UNFINISHED = re.compile(r'.*\.((orbax-checkpoint-)?tmp|writing)-\d+')
_OCDBT_FILE = 'manifest.ocdbt'
_PLACEHOLDER = 'PLACEHOLDER://'  # Orbax's word in state/checkpoint for an array in a folder.
_TF_START = b'model_checkpoint_path'  # TensorFlow's text file `checkpoint`.
_MOST_LISTED = 8
# Every core decoding its own chunk of up to 64 MiB would need more memory than the tensor.
_CONTEXT = {'data_copy_concurrency': {'limit': 4}, 'cache_pool': {'total_bytes_limit': 0}}

_Array = Any  # np.ndarray, for what lies in the msgpack file, or ts.TensorStore.


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where one of our tensors lies: an array, or one layer of it."""

  stored: str
  layer: int | None


class T5XWeights(weights_lib.Weights):
  """A T5X checkpoint open for reading; see `weights.Weights`.

  Where layers are scanned and T5X put all of them into one chunk, the stack last read is kept:
  memory is a stack and a tensor. `specs` has the layers of a stack one after the other for that.

  Args:
    path: checkpoint_<step>, or the MODEL_DIR with several; local or `gs://`.
    step: of a MODEL_DIR; the newest by default.

  Raises:
    UserError: no such checkpoint, an unfinished one, missing arrays, or not a T5 that this
      project has (decoder-only, adapters).
  """

  def __init__(self, path: str, step: int | None = None):
    folder = _find(epath.Path(path), step)
    self.path = str(folder)
    self._arrays = _open_arrays(folder)
    self._places = _places(self._arrays)
    self._last: tuple[str, np.ndarray] | None = None
    info = student_info.find(self.path)
    if not getattr(info and info.model, 'relpos_per_layer', False):
      self._join_equal_biases()
    self.specs = {name: self._spec(name, place) for name, place in self._places.items()}
    scanned = any(place.layer is not None for place in self._places.values())
    said = {} if info else t5x_gin.read(folder)
    self.says_activation = bool(info) or 'mlp_activations' in said
    try:
      self.config = families.infer_config(self.specs, **said, scan_layers=scanned)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
      raise errors.UserError(
          f'{self.path}: not a T5 encoder-decoder (looked for {error}); it has '
          f'{_some(self._arrays)}') from error
    if info:
      self.config = dataclasses.replace(info.model, scan_layers=scanned)
    weights_lib.check(self.specs, self.config, self.path)

  def read(self, name: str) -> np.ndarray:
    return self._read(self._places[name]).reshape(self.specs[name].shape)

  def _read(self, place: _Place) -> np.ndarray:
    array = self._arrays[place.stored]
    try:
      if place.layer is None:
        return _values(array)
      if _has_own_chunks(array):
        return _values(array[:, place.layer])
      return np.ascontiguousarray(self._stack(place.stored)[:, place.layer])
    except ValueError as error:  # TensorStore's, whatever went wrong.
      raise errors.UserError(
          f'{self.path}: {place.stored} cannot be read; copy or download it again '
          f'({str(error).split(" [", maxsplit=1)[0]})') from error

  def _stack(self, stored: str) -> np.ndarray:
    if self._last is None or self._last[0] != stored:
      self._last = None  # Frees it before the next one is read.
      self._last = (stored, _values(self._arrays[stored]))
    return self._last[1]

  def _spec(self, name: str, place: _Place) -> jax.ShapeDtypeStruct:
    array = self._arrays[place.stored]
    dtype = array.dtype if isinstance(array, np.ndarray) else array.dtype.numpy_dtype
    if dtype == np.uint16:
      raise errors.UserError(
          f'{self.path}: {place.stored} is uint16, bfloat16 of T5X before June 2021: restore and '
          'save it with T5X once')
    shape = tuple(array.shape)
    if place.layer is not None:
      shape = shape[:layout.LAYERS_AXIS] + shape[layout.LAYERS_AXIS + 1:]
    return jax.ShapeDtypeStruct(layout.joined_heads(name, shape), dtype)

  def _join_equal_biases(self) -> None:
    """A bias that is the same in all layers of each stack is a T5's, else they are an umT5's."""
    of_stack: dict[str, list[_Place]] = {}
    for name, place in self._places.items():
      if stack := layout.shared(name):
        of_stack.setdefault(stack, []).append(place)
    for places in of_stack.values():
      first, *others = (self._read(place) for place in places)
      if any(not np.array_equal(first, other) for other in others):
        return
    kept = {name: place for name, place in self._places.items() if not layout.shared(name)}
    self._places = kept | {stack: places[0] for stack, places in of_stack.items()}


def is_t5x_checkpoint(path: str) -> bool:
  """Whether there is a checkpoint_<step>, or the content of one, at `path`."""
  folder = epath.Path(path)
  return folder.is_dir() and bool(
      _steps(folder) or _is_legacy(folder) or _is_orbax(folder / layout.ORBAX_FOLDER))


def _steps(folder: epath.Path) -> list[int]:
  return sorted(int(m[1]) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name)))


def _is_legacy(folder: epath.Path) -> bool:
  file = folder / layout.LEGACY_FILE
  if not file.exists() or file.is_dir():
    return False
  with file.open('rb') as f:
    return f.read(len(_TF_START)) != _TF_START


def _is_orbax(state: epath.Path) -> bool:
  """Our own runs have a folder `state` too, with other names in it."""
  if not state.is_dir():
    return False
  if (state / native.METADATA_FILE).exists():
    return f"('{layout.TARGET}'," in (state / native.METADATA_FILE).read_text()
  return any(p.name.startswith(f'{layout.TARGET}.') or p.name in (layout.LEGACY_FILE, _OCDBT_FILE)
             for p in state.iterdir())


def _find(folder: epath.Path, step: int | None) -> epath.Path:
  if not folder.is_dir():
    raise errors.UserError(f'{folder} is not a folder: give checkpoint_<step> or its MODEL_DIR')
  if _UNFINISHED.fullmatch(folder.name):
    raise errors.UserError(f'{folder} was not finished being written: give another step')
  steps = _steps(folder)
  if not steps and step is not None and folder.name != f'checkpoint_{step}':
    raise errors.UserError(f'{folder}: no checkpoint_{step} in it, only {_found(folder)}')
  if steps and step is not None and step not in steps:
    raise errors.UserError(f'{folder}: no checkpoint_{step} in it; it has steps {steps}')
  return folder / f'checkpoint_{steps[-1] if step is None else step}' if steps else folder


def _open_arrays(folder: epath.Path) -> dict[str, _Array]:
  """T5X's name -> the array, open."""
  state = folder / layout.ORBAX_FOLDER
  if _is_legacy(folder):
    leaves = _msgpack_leaves(folder / layout.LEGACY_FILE)
    stores = _stores_of_leaves(folder, leaves)
  elif (state / _OCDBT_FILE).exists():
    leaves, stores = {}, dict(_stores_in_ocdbt(state))
  elif _is_orbax(state):
    file = state / layout.LEGACY_FILE
    leaves = _msgpack_leaves(file) if file.exists() else {}
    folders = {p.name for p in state.iterdir() if p.name.startswith(f'{layout.TARGET}.')}
    stores = _stores_of_leaves(state, leaves) | {
        _name(folder): kvstore_spec(state / folder) for folder in folders}
  else:
    raise errors.UserError(
        f"{folder} is no T5X checkpoint, or not a whole one: looked for the file "
        f"'{layout.LEGACY_FILE}' (T5X's own format) or {layout.ORBAX_FOLDER}/{_OCDBT_FILE} "
        f'(Orbax), found {_found(folder)}')
  inline = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
  return inline | _open_stores(folder, stores)


def _msgpack_leaves(file: epath.Path) -> dict[str, Any]:
  """Name -> array, TensorStore spec or placeholder, of the parameters."""
  try:
    tree = serialization.msgpack_restore(file.read_bytes())
    target = tree.get('optimizer', tree)[layout.TARGET]
  except Exception as error:  # msgpack's own errors have no common base.
    raise errors.UserError(f"{file}: not T5X's train state, or cut ({error!r})") from error
  return traverse_util.flatten_dict(
      target, is_leaf=lambda _, value: 'kvstore' in value, sep='/')


def _stores_of_leaves(folder: epath.Path, leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  stores = {}
  for name, leaf in leaves.items():
    if isinstance(leaf, dict):
      # The bucket and driver of the day it was written say nothing; the old place is `path`.
      relative = leaf['kvstore'].get('path') or leaf['path']
      stores[name] = kvstore_spec(folder / relative)
    elif isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
      stores[name] = kvstore_spec(folder / leaf.removeprefix(_PLACEHOLDER))
  return stores


def _stores_in_ocdbt(state: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  spec = {'driver': 'ocdbt', 'base': kvstore_spec(state)}
  # Names start with 'target.', and '/' is the next character after '.'.
  keys = ts.KvStore.KeyRange(f'{layout.TARGET}.', f'{layout.TARGET}/')
  for key in ts.KvStore.open(spec).result().list(keys).result():
    stored, _, file = key.decode().rpartition('/')
    if file == '.zarray':
      yield _name(stored), {**spec, 'path': f'{stored}/'}


def _name(stored: str) -> str:
  """'target.encoder.encoder_norm.scale' -> 'encoder/encoder_norm/scale'."""
  return stored.removeprefix(f'{layout.TARGET}.').replace('.', '/')


def _open_stores(folder: epath.Path, stores: Mapping[str, dict[str, Any]]) -> dict[str, _Array]:
  """Opens all at once: one after the other takes minutes on an object store."""
  context = ts.Context(_CONTEXT)
  # A lost chunk must not be read as zeros, which is zarr's rule.
  opening = {name: ts.open({**layout.zarr_spec(store), 'fill_missing_data_reads': False},
                           open=True, read=True, context=context)
             for name, store in stores.items()}
  opened: dict[str, _Array] = {}
  lost = {}
  for name, future in opening.items():
    try:
      opened[name] = future.result()
    except ValueError as error:
      lost[name] = str(error).split(' [', maxsplit=1)[0]
  if lost:
    raise errors.UserError(
        f'{folder}: {len(lost)} of {len(stores)} arrays are missing or damaged; copy or download '
        f'it again: {_some(lost)} ({next(iter(lost.values()))})')
  return opened


def _places(arrays: Mapping[str, _Array]) -> dict[str, _Place]:
  return {name: _Place(stored, layer) for stored in sorted(arrays)
          for name, layer in layout.from_stored(stored, tuple(arrays[stored].shape))}


def _has_own_chunks(array: _Array) -> bool:
  """Whether a layer can be read without decoding the others."""
  return isinstance(array, np.ndarray) or (
      array.chunk_layout.read_chunk.shape[layout.LAYERS_AXIS] == 1)


def _values(array: _Array) -> np.ndarray:
  return array if isinstance(array, np.ndarray) else array.read().result()


def _some(names: Iterable[str]) -> str:
  names = sorted(names)
  more = f' and {len(names) - _MOST_LISTED} more' if len(names) > _MOST_LISTED else ''
  return ', '.join(names[:_MOST_LISTED]) + more


def _found(folder: epath.Path) -> str:
  return _some(p.name for p in folder.iterdir()) or 'nothing'
