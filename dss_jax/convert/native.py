"""Native checkpoints: parameters in Orbax, read and written one tensor at a time.

A student's folder is one of

  MODEL_DIR of a run   student.json, best/<step>/params, checkpoints/<step>/state (of which, as in
                       training, the average of the parameters counts where there is one)
  a converted model    student.json, params/
"""

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from orbax.checkpoint import type_handlers

from dss_jax import errors, families, student_info
from dss_jax.convert import weights as weights_lib

PARAMS = 'params'
METADATA_FILE = '_METADATA'  # Orbax writes it into every folder of arrays.
_PLACES = (('best', PARAMS), ('checkpoints', 'state'))


def is_native(path: str) -> bool:
  return bool(_candidates(epath.Path(path)))


def _candidates(folder: epath.Path) -> list[epath.Path]:
  """Folders of arrays that `path` may mean, the preferred one first."""
  found = [p for p in (folder, folder / PARAMS, folder / 'state') if _holds_arrays(p)]
  for name, item in _PLACES:
    if (folder / name).is_dir():
      steps = sorted(int(p.name) for p in (folder / name).iterdir() if p.name.isdigit())
      found += [folder / name / str(step) / item for step in reversed(steps)
                if _holds_arrays(folder / name / str(step) / item)]
  return found


def _holds_arrays(folder: epath.Path) -> bool:
  return (folder / METADATA_FILE).exists()


class NativeWeights(weights_lib.Weights):
  """Parameters open for reading; see `weights.Weights`.

  Args:
    path: a student's folder (the best parameters, else the newest), or one step in it such as
      `runs/dss_cqa/checkpoints/200`.

  Raises:
    UserError: no parameters there, or not a T5's.
  """

  def __init__(self, path: str):
    found = _candidates(epath.Path(path))
    if not found:
      raise errors.UserError(f'{path}: no params/, best/<step>/ or checkpoints/<step>/ in it')
    self._arrays = epath.Path(epath.Path(found[0]).resolve())
    self.path = str(found[0])
    self._stored, self._inside = _metadata(self._arrays)
    scanned = any(name.startswith('encoder/layers/') for name in self._stored)
    self.specs, self._place = _unrolled(self._stored)
    try:
      self.config = families.infer_config(self.specs, scan_layers=scanned)
    except KeyError as error:
      raise errors.UserError(f'{self.path}: not the parameters of a T5: no {error}') from error
    info = student_info.find(path)
    self.says_activation = bool(info)
    if info:
      self.config = dataclasses.replace(info.model, scan_layers=scanned)
    weights_lib.check(self.specs, self.config, self.path)
    self._last: tuple[str, np.ndarray] | None = None

  def read(self, name: str) -> np.ndarray:
    """A layer of a scanned tensor comes with the others, which are kept for the next calls."""
    stored, index = self._place[name]
    if index is None:
      return self._restore(stored)
    if self._last is None or self._last[0] != stored:
      self._last = None  # Frees it before the next one is read.
      self._last = (stored, self._restore(stored))
    return self._last[1][index]

  def _restore(self, stored: str) -> np.ndarray:
    path = (*self._inside, *stored.split('/'))
    item = traverse_util.unflatten_dict({path: 0})
    as_numpy = traverse_util.unflatten_dict({path: ocp.RestoreArgs(restore_type=np.ndarray)})
    tree = ocp.PyTreeCheckpointHandler().restore(self._arrays, args=ocp.args.PyTreeRestore(
        item=item, restore_args=as_numpy, partial_restore=True))
    return jax.tree.leaves(tree)[0]


_AVERAGE = ('opt_state', 'average')  # See `train/average.py`.


def _metadata(arrays: epath.Path) -> tuple[dict[str, jax.ShapeDtypeStruct], tuple[str, ...]]:
  """Specs as stored, and where they are in a train state, if it is one."""
  tree = ocp.PyTreeCheckpointHandler().metadata(arrays).tree
  has_average = isinstance(tree.get(_AVERAGE[0]), dict) and _AVERAGE[1] in tree[_AVERAGE[0]]
  inside = _AVERAGE if has_average else (PARAMS,) if PARAMS in tree else ()
  for name in inside:
    tree = tree[name]
  flat = traverse_util.flatten_dict(tree, sep='/')
  specs = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}
  return specs, inside


def _unrolled(stored: weights_lib.Specs):
  """Unrolled specs, and for each name the stored tensor and the layer in it (or None)."""
  specs: dict[str, jax.ShapeDtypeStruct] = {}
  place: dict[str, tuple[str, int | None]] = {}
  for name, spec in stored.items():
    side, _, rest = name.partition('/layers/')
    if not rest:
      specs[name], place[name] = spec, (name, None)
      continue
    for i in range(spec.shape[0]):  # The layers of a tensor in a row: it is read once.
      unrolled = f'{side}/layers_{i}/{rest}'
      specs[unrolled] = jax.ShapeDtypeStruct(spec.shape[1:], spec.dtype)
      place[unrolled] = (name, i)
  return specs, place


# Writing --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Later:
  """An array that is made when Orbax gets to it."""

  make: Callable[[], np.ndarray]
  shape: tuple[int, ...]
  dtype: Any


class _LaterHandler(type_handlers.NumpyHandler):
  """Writes one array after the other; Orbax's own would hold the model two to three times."""

  async def serialize(self, values, infos, args=None):
    for i, (value, info) in enumerate(zip(values, infos)):
      futures = await super().serialize([value.make()], [info], args and [args[i]])
      for future in futures:
        await asyncio.to_thread(future.result)
    return []

  def memory_size(self, values):
    sizes = [int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in values]
    return [(size, size) for size in sizes]


def write_params(
    path: str, weights: weights_lib.Weights, *, scan_layers: bool, dtype: Any = None
) -> None:
  """Writes `path`/params, whole or absent.

  Args:
    path: the student's folder.
    weights: open for reading.
    scan_layers: store the layers of a stack in one tensor, as a network with scan_layers has
      them.
    dtype: of the parameters; None keeps the weights' own.
  """
  groups = weights_lib.tensor_groups(weights.specs, scanned=scan_layers)
  flat = {}
  for target, parts in groups.items():
    spec = weights.specs[parts[0]]
    shape = (len(parts), *spec.shape) if weights_lib.is_stack(target) else spec.shape
    flat[target] = _Later(
        functools.partial(weights_lib.read_group, weights, target, parts, dtype),
        shape, dtype or spec.dtype)
  registry = type_handlers.create_type_handler_registry((_Later, _LaterHandler()))
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as writer:
    writer.save(epath.Path(path).resolve() / PARAMS,
                args=ocp.args.PyTreeSave(traverse_util.unflatten_dict(flat, sep='/')))
