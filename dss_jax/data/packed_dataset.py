"""Packing (`packing.py`) as a transformation of a tf.data pipeline.

Beside SeqIO's packer it takes fewer rows and less time (`benchmarks/packing.py`), and it
carries the task of each target token.
"""

from collections.abc import Mapping

import tensorflow as tf

from dss_jax import divergence
from dss_jax.data.packing import WINDOW, pack_window

SAME_INPUT = 'same_input'  # bool: whether an example is of the same input as the one before it
_PACKED = ('inputs', 'inputs_segment_ids', 'inputs_positions',
           'targets', 'targets_segment_ids', 'targets_positions', 'objective')
READ = 'targets_cross_segment_ids'  # the inputs' segment that a target reads, where they are shared


def pack(
    examples: tf.data.Dataset, lengths: Mapping[str, int], window: int = WINDOW,
    share_inputs: bool = False) -> tf.data.Dataset:
  """Packs a dataset of {'inputs', 'targets', 'objective'}, each int32 [length].

  And 'distribution', int32 [length of targets, 2 k], where there is one.

  {'inputs': [7, 8, 1], 'targets': [3, 1], 'objective': [1, 1]},
  {'inputs': [8, 4, 1], 'targets': [4, 9, 1], 'objective': [2, 2, 2]}
  -> {'inputs':             [7, 8, 1, 8, 4, 1, 0, 0],   (lengths {'inputs': 8, 'targets': 6})
      'inputs_segment_ids': [1, 1, 1, 2, 2, 2, 0, 0],
      'inputs_positions':   [0, 1, 2, 0, 1, 2, 0, 0],
      'targets':            [3, 1, 4, 9, 1, 0], ... 'objective': [1, 1, 2, 2, 2, 0]}

  The examples of an input (`SAME_INPUT` says of all but the first that they are) share a row where
  one holds them, and a window where not.

  With `share_inputs` those of them that have the same inputs have them once in their row:
  {'inputs': [7, 8, 1], 'targets': [3, 1], ...}, {'inputs': [7, 8, 1], 'targets': [4, 9, 1], ...}
  -> {'inputs': [7, 8, 1, 0, ...], 'targets_segment_ids':       [1, 1, 2, 2, 2, 0], ...
                                   'targets_cross_segment_ids': [1, 1, 1, 1, 1, 0]}

  Args:
    examples: sequences already trimmed to `lengths`; without SAME_INPUT each is alone.
    lengths: {'inputs': ..., 'targets': ...} of a packed row.
    window: how many examples to look at together, or one more.
    share_inputs: see above.
  """
  max_inputs, max_targets = lengths['inputs'], lengths['targets']
  stored = [divergence.FEATURE] if divergence.FEATURE in examples.element_spec else []
  names = (*_PACKED, *([READ] if share_inputs else []), *stored)

  def pack_batch(batch):
    batch = _of_window(batch, window)
    # Stateless, so that the iterator's position can be checkpointed.
    outputs = tf.numpy_function(
        lambda *arrays: pack_window(
            *arrays[:5], max_inputs, max_targets, arrays[5], share_inputs, *arrays[6:]),
        [batch['inputs'].flat_values, batch['inputs'].row_lengths(),
         batch['targets'].flat_values, batch['targets'].row_lengths(),
         batch['objective'].flat_values, batch[SAME_INPUT],
         *(batch[name].flat_values for name in stored)],
        Tout=[tf.int32] * len(names), stateful=False)
    for name, output in zip(names, outputs, strict=True):
      output.set_shape([None, max_inputs if name.startswith('inputs') else max_targets,
                        *(examples.element_spec[name].shape[1:] if name in stored else ())])
    return dict(zip(names, outputs, strict=True))

  only = examples.map(lambda ex: {
      SAME_INPUT: ex.get(SAME_INPUT, False),
      **{name: ex[name] for name in ('inputs', 'targets', 'objective', *stored)}})
  windows = only.window(window + 1, shift=window).flat_map(
      lambda parts: tf.data.Dataset.zip(parts).ragged_batch(window + 1))
  return windows.map(pack_batch, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def _of_window(batch: Mapping[str, tf.Tensor], window: int) -> dict[str, tf.Tensor]:
  """Of window + 1 examples those that are this window's: it begins and ends with a whole input.

  The last one is here as the next window's first, too: it is of the window of the one before it
  if both are of one input, else of the next.
  """
  same = batch[SAME_INPUT]
  position = tf.range(tf.shape(same)[0])
  mine = tf.where(position == 0, tf.logical_not(same),
                  tf.logical_or(position < window, same))
  return {name: tf.ragged.boolean_mask(column, mine) for name, column in batch.items()}
