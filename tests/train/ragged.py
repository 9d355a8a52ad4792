"""Random ragged examples of two tasks, or of three, as packed and as plain batches."""

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax import objective
from dss_jax.data import packing


def examples(count=24, seed=0, tasks=(objective.RATIONALE, objective.LABEL)):
  """(inputs, targets, task): rationales are long, labels short, both ragged."""
  rng = np.random.default_rng(seed)
  examples = []
  for i in range(count):
    task = tasks[i % len(tasks)]
    target_length = rng.integers(1, 4) if task == objective.LABEL else rng.integers(3, 11)
    examples.append((np.append(rng.integers(2, 64, rng.integers(2, 12)), 1),
                     np.append(rng.integers(2, 64, target_length), 1), task))
  return examples


def shift_right(targets, segments):
  inputs = np.zeros_like(targets)
  inputs[:, 1:] = np.where(segments[:, 1:] == segments[:, :-1], targets[:, :-1], 0)
  return inputs


def packed_batch(examples, rows=None):
  arrays = packing.pack_window(
      np.concatenate([e[0] for e in examples]), np.array([len(e[0]) for e in examples]),
      np.concatenate([e[1] for e in examples]), np.array([len(e[1]) for e in examples]),
      np.concatenate([np.full(len(e[1]), e[2]) for e in examples]),
      max_inputs=32, max_targets=24)
  names = ('encoder_input_tokens', 'encoder_segment_ids', 'encoder_positions',
           'decoder_target_tokens', 'decoder_segment_ids', 'decoder_positions',
           'decoder_objective')
  batch = dict(zip(names, arrays, strict=True))
  batch['decoder_input_tokens'] = shift_right(
      batch['decoder_target_tokens'], batch['decoder_segment_ids'])
  if rows:
    batch = {k: np.pad(v, ((0, rows - len(v)), (0, 0))) for k, v in batch.items()}
  return batch


def unpacked_batch(examples):
  batch = {name: np.zeros((len(examples), length), np.int32) for name, length in (
      ('encoder_input_tokens', 14), ('decoder_target_tokens', 12), ('decoder_objective', 12))}
  for row, (inputs, targets, task) in enumerate(examples):
    batch['encoder_input_tokens'][row, :len(inputs)] = inputs
    batch['decoder_target_tokens'][row, :len(targets)] = targets
    batch['decoder_objective'][row, :len(targets)] = task
  ones = np.ones_like(batch['decoder_target_tokens'])
  batch['decoder_input_tokens'] = shift_right(batch['decoder_target_tokens'], ones)
  return batch


def relative_difference(a, b):
  """Largest difference over all leaves, relative to each leaf's largest entry."""
  return max(float(jnp.max(jnp.abs(x - y)) / (jnp.max(jnp.abs(y)) + 1e-12))
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
