"""Writes checkpoints that T5X restores, without T5X.

T5X's own format (upstream t5x/checkpoints.py, version 3), not Orbax: T5X restores it whatever
`use_orbax` says, so do all its versions since June 2021, and it is streamed array by array.

T5X wants an optimizer state where it trains. Adafactor's at its start is written, the optimizer
of all T5X configs of T5, so that

  t5x/configs/runs/finetune.gin, eval.gin, infer.gin

work as they are, with INITIAL_CHECKPOINT_PATH or CHECKPOINT_PATH set to checkpoint_<step>.
Steps count from <step>: TRAIN_STEPS is <step> and what is to be trained. Another optimizer, or
Adafactor with momentum, starts with these bindings:

  utils.RestoreCheckpointConfig.assignment_map = ((r'state/param_states.*', None),)
  utils.RestoreCheckpointConfig.fallback_to_scratch = True

With scan_layers the shared position bias is copied into every layer of scalable_t5. There the
copies drift apart in training, and what T5X saves is read as an umT5: train with examples/t5 what
is to come back as a T5.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from dss_jax import errors, families, files
from dss_jax.convert import t5x_layout as layout
from dss_jax.convert import weights as weights_lib

_VERSION = 3
_CHUNK_BYTES = 8 * 2**20  # TensorStore holds a chunk some two to four times.
_MIN_SIZE_TO_FACTOR = 128  # Adafactor's `min_dim_size_to_factor`.


@dataclasses.dataclass(frozen=True)
class _Target:
  """An array of the checkpoint; `layer_axes` are its axes without layers if it has that axis."""

  shape: tuple[int, ...]
  dtype: np.dtype
  layer_axes: tuple[str, ...] | None = None

  @property
  def chunks(self) -> list[int]:
    """Rows of one layer, so that layers are written, and read, one by one."""
    chunks = list(self.shape)
    if self.layer_axes:
      chunks[layout.LAYERS_AXIS] = 1
    pieces = -(-math.prod(chunks) * self.dtype.itemsize // _CHUNK_BYTES)
    chunks[0] = -(-chunks[0] // pieces)  # Equal pieces: zarr fills up the last one.
    return chunks


def write_t5x(
    path: str,
    weights: weights_lib.Weights,
    *,
    step: int = 0,
    dtype: Any = None,
    scan_layers: bool = False,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
  """Writes path/checkpoint_<step>, whole or absent; memory is one tensor and some chunks of 8 MiB.

  On local disks the folder is written aside and renamed. On `gs://`, which cannot rename a
  folder, the file `checkpoint`, by which T5X knows a checkpoint, is written last.

  Args:
    path: the MODEL_DIR; made if it is not there.
    weights: open for reading.
    step: number in the folder's name, and T5X's step counter.
    dtype: of the new arrays; None keeps each tensor's own.
    scan_layers: names and axes of T5X's examples/scalable_t5 instead of examples/t5.
    progress: wraps the tensors' names, for a progress bar.

  Raises:
    UserError: T5X's network cannot hold it, or path/checkpoint_<step> exists.
  """
  if not families.of(weights.config).in_t5x:
    raise errors.UserError(f'T5X has no network of the family {families.name(weights.config)!r}: '
                           'write another format')
  if not scan_layers and any(map(layout.shared, weights.specs)):
    raise errors.UserError(
        'an umT5 has a position bias in every layer, the network of examples/t5 one for all: give '
        '--scan_layers, for that of examples/scalable_t5')
  final = epath.Path(path) / f'checkpoint_{step}'
  if final.exists():
    raise errors.UserError(f'{final} exists: give another folder or step, or remove it')
  with files.whole_folder(final) as folder:
    targets = _targets(weights, dtype, scan_layers)
    stores = {name: _create(folder, name, target) for name, target in targets.items()}
    for name in progress(list(weights.specs)):
      _write_tensor(name, weights, targets, stores, scan_layers)
    state = _train_state(targets, step)
    files.write(str(folder / layout.LEGACY_FILE), serialization.msgpack_serialize(state))


def _targets(weights: weights_lib.Weights, dtype: Any, scanned: bool) -> dict[str, _Target]:
  targets = {}
  config: Any = weights.config
  sizes = layout.axis_sizes(config)
  for name, spec in weights.specs.items():
    new_dtype = np.dtype(dtype or spec.dtype)
    place = layout.to_scanned(name, weights.config) if scanned else None
    if place is None:
      targets[name] = _Target(spec.shape, new_dtype)
      continue
    stored = place[0]
    axes = layout.axes(stored)
    shape = [sizes[axis] for axis in axes]
    shape.insert(layout.LAYERS_AXIS, layout.num_layers(name, weights.config))
    targets[stored] = _Target(tuple(shape), new_dtype, axes)
  return targets


def _create(folder: epath.Path, name: str, target: _Target) -> ts.TensorStore:
  return ts.open({
      **layout.zarr_spec(layout.kvstore_spec(folder / _stored_name(name))),
      'dtype': target.dtype.name,
      # Not compressed: weights shrink by a tenth at best, and it takes most of the time.
      'metadata': {'shape': target.shape, 'chunks': target.chunks, 'compressor': None},
      # A chunk that is absent is then one that was lost.
      'store_data_equal_to_fill_value': True,
  }, create=True).result()


def _stored_name(name: str) -> str:
  return f'{layout.TARGET}/{name}'.replace('/', '.')


def _write_tensor(
    name: str,
    weights: weights_lib.Weights,
    targets: Mapping[str, _Target],
    stores: Mapping[str, ts.TensorStore],
    scanned: bool,
) -> None:
  array = weights.read(name)
  place = layout.to_scanned(name, weights.config) if scanned else None
  if place is None:
    _write_rows(stores[name], array, targets[name].chunks[0])
    return
  stored, layers = place
  for layer in layers:
    store = stores[stored][:, layer]
    _write_rows(store, array.reshape(store.shape), targets[stored].chunks[0])


def _write_rows(store: ts.TensorStore, array: np.ndarray, rows: int) -> None:
  """A chunk at a time, so that neither the cast nor the encoding holds the tensor again."""
  for start in range(0, len(array), rows):
    piece = array[start:start + rows].astype(store.dtype.numpy_dtype, copy=False)
    store[start:start + len(piece)].write(piece).result()


def _train_state(targets: Mapping[str, _Target], step: int) -> dict[str, Any]:
  params, param_states = {}, {}
  for name, target in targets.items():
    path = tuple(name.split('/'))
    params[path] = {
        'driver': 'zarr', 'dtype': target.dtype.name,
        # Relative, and T5X turns 'file' into 'gcs' where it is: the folder can be moved.
        'kvstore': {'driver': 'file', 'path': f'{_stored_name(name)}/'},
        'metadata': {'shape': list(target.shape), 'chunks': target.chunks, 'compressor': None},
    }
    param_states[path] = _adafactor_state(target)
  return {'version': _VERSION, 'optimizer': {
      layout.TARGET: traverse_util.unflatten_dict(params),
      'state': {'step': np.asarray(step, np.int32),
                'param_states': traverse_util.unflatten_dict(param_states)}}}


def _adafactor_state(target: _Target) -> dict[str, np.ndarray]:
  """Adafactor before its first step (upstream t5x/adafactor.py, `init_param_state`).

  In a stack of layers, matrices are factored into `embed` and the rest by the logical axes;
  otherwise into their two axes if both are long enough. Unused fields have shape [1].
  """
  unused = np.zeros((1,), np.float32)
  state = {'v_row': unused, 'v_col': unused, 'v': unused, 'm': unused}
  shape = target.shape
  if target.layer_axes:
    axes = list(target.layer_axes)
    axes.insert(layout.LAYERS_AXIS, 'layers')
    rows = [i for i, axis in enumerate(axes) if axis == 'embed']
    columns = [i for i, axis in enumerate(axes) if axis in ('heads', 'kv', 'mlp')]
    factored = bool(rows and columns)
  else:
    rows, columns = [0], [1]
    factored = len(shape) == 2 and min(shape) >= _MIN_SIZE_TO_FACTOR
    if factored and shape[0] > shape[1]:
      rows, columns = columns, rows  # The longest axis is the columns.
  if not factored:
    return {**state, 'v': np.zeros(shape, np.float32)}
  return {**state, 'v_row': np.zeros(np.delete(shape, columns), np.float32),
          'v_col': np.zeros(np.delete(shape, rows), np.float32)}
