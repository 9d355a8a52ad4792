"""How fast a run is: examples, tokens and useful arithmetic a second."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dss_jax import models
from dss_jax.models import flops
from dss_jax.precompile import topologies

_SIDES = ('encoder_input_tokens', 'decoder_target_tokens')
_KINDS = {  # row of `topologies.CHIPS`: what JAX calls its devices
    'v4': 'TPU v4', 'v5e': 'TPU v5( lite|e)', 'v5p': 'TPU v5p?', 'v6e': 'TPU v6( lite|e)',
    'tpu7x': 'TPU ?7x', 'a100': 'NVIDIA A100-.*', 'h100': 'NVIDIA H100 80GB HBM3',
    'h200': 'NVIDIA H200'}


class Throughput:
  """Counts the batches that go to the devices; padding counts as nothing.

  Args:
    config: of the network, whose arithmetic is counted on paper (see `models.flops`).
    devices: that share the work.
  """

  def __init__(self, config: models.Config, devices: int | None = None):
    self._config = config
    devices = jax.device_count() if devices is None else devices
    chip = peak(jax.devices()[0].device_kind)
    self._peak = chip and chip * devices
    self._counted = np.zeros(3)  # examples, tokens, operations

  def add(self, batch: Mapping[str, np.ndarray]) -> None:
    """A global batch, features of `data.DssFeatureConverter`."""
    sources, targets, read = example_lengths(batch)
    self._counted += np.array([
        np.count_nonzero(targets), sources.sum() + targets.sum(),
        flops.training_flops(self._config, sources, targets, read)])

  def rates(self, seconds: float) -> dict[str, float]:
    """Of what was added since the last `reset`.

    Returns: `examples_per_second`, `tokens_per_second`, and, of a chip whose peak is known,
      `percent_of_peak`: operations that the tokens need, over what the devices could do in
      bfloat16 (model FLOPs utilization).
    """
    examples, tokens, operations = (float(count) / seconds for count in self._counted)
    share = {'percent_of_peak': 100 * operations / self._peak} if self._peak else {}
    return {'examples_per_second': examples, 'tokens_per_second': tokens} | share

  def reset(self) -> None:
    self._counted[:] = 0


def compile_seconds() -> float:
  """How long XLA compiled in this process, since the first call."""
  return sum(_compilations())


@functools.cache
def _compilations() -> list[float]:
  found: list[float] = []
  def add(event: str, duration_secs: float, **unused_kwargs: Any) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      found.append(duration_secs)
  jax.monitoring.register_event_duration_secs_listener(add)
  return found


def example_lengths(batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of every example, packed or not, tokens of its input, its target, and the input that it reads.

  Int [n] each. An input that several share is the first one's; places of a row that hold no
  example are zeros.
  """
  sources, targets = (
      batch.get(f'{name.partition("_")[0]}_segment_ids', batch[name] > 0).astype(np.int64)
      for name in _SIDES)
  most = max(sources.max(initial=1), targets.max(initial=1))

  def places(segments):
    return (np.arange(len(segments))[:, None] * most + segments - 1)[segments > 0]

  inputs, written = (np.bincount(places(segments), minlength=len(segments) * most)
                     for segments in (sources, targets))
  read = inputs
  if 'decoder_cross_segment_ids' in batch:
    read = np.zeros_like(inputs)
    read[places(targets)] = inputs[places(batch['decoder_cross_segment_ids'])]
  return inputs, written, read


def peak(device_kind: str) -> float | None:
  """bfloat16 operations a second of a device that JAX calls so; None if it is not known.

  >>> peak('TPU v5 lite'), peak('NVIDIA H100 80GB HBM3'), peak('cpu')
  (197000000000000.0, 989400000000000.0, None)
  """
  return next((topologies.CHIPS[row].peak for row, kind in _KINDS.items()
               if re.fullmatch(kind, device_kind)), None)
