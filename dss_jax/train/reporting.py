"""Metrics to TensorBoard, to `metrics.jsonl` and to the terminal."""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorflow as tf
import tqdm
from clu import metric_writers, parameter_overview

from dss_jax import files, objective
from dss_jax.train import processes, trackers
from dss_jax.train import throughput as throughput_lib

METRICS_FILE = 'metrics.jsonl'


class JsonLinesWriter(trackers.ScalarsOnly):
  """One JSON object per call: {"step": 20, "kind": "train", "loss": 3.1, ...}.

  Opening it cuts what a killed run wrote after the step it resumes from, so that every step
  is in the file once.
  """

  def __init__(self, model_dir: str, resume_step: int):
    self._path = os.path.join(model_dir, METRICS_FILE)
    kept = [line for line in self._lines() if line['step'] <= resume_step]
    files.write(self._path, ''.join(json.dumps(line) + '\n' for line in kept))
    self._file = tf.io.gfile.GFile(self._path, 'a')

  def _lines(self) -> list[dict[str, Any]]:
    if not tf.io.gfile.exists(self._path):
      return []
    lines = []
    with tf.io.gfile.GFile(self._path) as f:
      for text in f:
        try:
          lines.append(json.loads(text))
        except ValueError:  # The torn last line of a killed run.
          break
    return lines

  def write_scalars(self, step: int, scalars: Mapping[str, Any]):
    values = {key: _plain(value) for key, value in scalars.items()}
    self._file.write(json.dumps({'step': int(step), **values}) + '\n')

  def flush(self):
    self._file.flush()

  def close(self):
    self._file.close()


def _plain(value: Any) -> float | int:
  number = np.asarray(value)
  return int(number) if np.issubdtype(number.dtype, np.integer) else round(float(number), 7)


def as_text(metrics: Mapping[str, float]) -> str:
  """{'loss': 3.98251, 'accuracy': 41.2} -> 'loss 3.983, accuracy 41.20 %'."""
  def shown(name: str) -> str:
    percent = name.endswith(('accuracy', '_f1'))
    return f'{metrics[name]:.2f} %' if percent else f'{metrics[name]:.4g}'
  losses_first = sorted(metrics, key=lambda name: (name != 'loss', not name.endswith('_loss')))
  return ', '.join(f'{name} {shown(name)}' for name in losses_first)


def _as_code(text: str) -> str:
  return ''.join(f'    {line}\n' for line in text.splitlines())  # TensorBoard reads Markdown.


_RATES = (  # name, digits shown, unit
    ('examples_per_second', 1, 'examples/s'), ('tokens_per_second', 0, 'tokens/s'),
    ('percent_of_peak', 1, '% of peak'))


def _redraws(stream: Any) -> bool:
  """Whether a line can be drawn over: a terminal, or the output of a notebook's cell."""
  return stream.isatty() or type(stream).__module__.startswith('ipykernel.')


class Reporter:
  """Collects metrics without making the device wait: each is fetched one step late.

  Rates are of the steps alone: neither compiling (of the first) nor evaluations are in them.
  """

  def __init__(self, model_dir: str, *, start: int, steps: int, every: int,
               throughput: throughput_lib.Throughput, log_to: str = ''):
    self._every = every
    self._throughput = throughput
    self._first = start + 1
    self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
    self._since = (time.monotonic(), start)
    self._is_main = processes.is_main()
    self._steps, self._started = steps, time.monotonic()
    self._is_plain = self._is_main and not _redraws(sys.stderr)
    self._bar = tqdm.tqdm(total=steps, initial=start, unit='step', desc='train', mininterval=1.0,
                          disable=self._is_plain or not self._is_main, dynamic_ncols=True)
    if self._is_main:
      self._board = metric_writers.MultiWriter([
          metric_writers.SummaryWriter(os.path.join(model_dir, 'tensorboard')),
          *([trackers.Tracker(log_to, model_dir, self.say)] if log_to else [])])
      self._writer = metric_writers.MultiWriter([self._board, JsonLinesWriter(model_dir, start)])
    else:
      self._board = self._writer = metric_writers.MultiWriter([])

  def describe(self, params: Any, settings: Mapping[str, Any], config_text: str) -> None:
    """Says how large the network is; its parameters and the settings go to TensorBoard.

    Args:
      params: of the network.
      settings: what defines the run, by dotted name.
      config_text: all settings, as text.
    """
    self._board.write_hparams({
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()})
    self._board.write_texts(0, {'config': _as_code(config_text)})
    parts = {name: parameter_overview.count_parameters(part) for name, part in params.items()}
    listed = ', '.join(f'{name} {count / 1e6:.1f}M' for name, count in parts.items())
    self.say(f'{sum(parts.values()) / 1e6:.1f}M parameters ({listed}) on '
             f'{jax.device_count()} x {jax.devices()[0].device_kind}')
    self._writer.write_texts(0, {'parameters': _as_code(
        parameter_overview.get_parameter_overview(params, include_stats='sharding'))})

  def after_step(
      self, step: int, metrics: Mapping[str, jax.Array], batch: Mapping[str, np.ndarray]) -> None:
    """Takes this step's metrics (on the device still), writes the previous one's."""
    self._flush_pending()
    self._bar.update()
    self._throughput.add(batch)
    if step == self._first:
      jax.block_until_ready(metrics)
      self._count_from(step)
    if step % self._every == 0:
      self._pending = (step, metrics)

  def _flush_pending(self) -> None:
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    values = objective.only_present(jax.device_get(dict(metrics)))
    then, since = self._since
    if step > since:
      seconds = max(time.monotonic() - then, 1e-9)
      values |= {'steps_per_second': (step - since) / seconds} | self._throughput.rates(seconds)
    self._count_from(step)
    self._writer.write_scalars(step, {f'train/{key}': value for key, value in values.items()})
    losses = ['loss', *(name for name in values if name.endswith('_loss'))]
    shown = [*(f'{name} {values[name]:.3f}' for name in losses),
             *(f'{values[name]:,.{digits}f} {what}' for name, digits, what in _RATES
               if name in values)]
    self._bar.set_postfix_str(', '.join(shown), refresh=False)
    if self._is_plain:
      print(', '.join([f'step {step:,} of {self._steps:,}', *shown, self._times(step)]),
            file=sys.stderr, flush=True)

  def _times(self, step: int) -> str:
    """'1:20 elapsed, 3:10 left', of this start."""
    elapsed = time.monotonic() - self._started
    left = elapsed / (step - self._first + 1) * (self._steps - step)
    return (f'{tqdm.tqdm.format_interval(elapsed)} elapsed, '
            f'{tqdm.tqdm.format_interval(left)} left')

  def evaluated(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Writes an evaluation and shows it above the progress bar."""
    self._flush_pending()
    self._writer.write_scalars(step, {f'{split}/{key}': value for key, value in metrics.items()})
    self._writer.flush()
    self.say(f'step {step} {split}: {as_text(metrics)}')
    self._count_from(step)

  def tested(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes test's metrics to TensorBoard; test_metrics.json has them, too."""
    self._board.write_scalars(step, {f'test/{key}': value for key, value in metrics.items()})
    self._board.flush()

  def close_bar(self) -> None:
    """No more steps."""
    self._flush_pending()
    self._writer.flush()
    self._bar.close()

  def _count_from(self, step: int) -> None:
    self._since = (time.monotonic(), step)
    self._throughput.reset()

  def flush(self) -> None:
    """Writes what there is, of the last step too."""
    self._flush_pending()
    self._writer.flush()

  def say(self, line: str) -> None:
    if self._is_main:
      self._bar.write(line)

  def close(self) -> None:
    self._flush_pending()
    self._writer.close()
    self._bar.close()
