"""gin files and `--gin.NAME=VALUE` of a sweep -> a Sweep."""

import dataclasses
from collections.abc import Sequence

from dss_jax import errors
from dss_jax.experiments import grid
from dss_jax.train import gin_config

_Sweep = gin_config.configurable(grid.Sweep, 'dss_jax.experiments')


def parse(files: Sequence[str], bindings: Sequence[str]) -> grid.Sweep:
  """Bindings of the sweep's own macros change the grid; all others are settings of every run.

  Raises:
    UserError: an unknown file, or values that are no grid. Settings are not looked at.
  """
  names = {field.name.upper() for field in dataclasses.fields(grid.Sweep)}
  own = [binding for binding in bindings if binding.partition('=')[0] in names]
  gin_config.read(files, own)
  if not gin_config.bound('dss_jax.experiments.Sweep'):
    raise errors.UserError(
        'these gin files make no sweep: give one such as gin/sweeps/fractions.gin')
  try:
    sweep = _Sweep()
  except (errors.UserError, ValueError, TypeError, RuntimeError) as error:
    raise errors.UserError(gin_config.explain(error)) from error
  others = [binding for binding in bindings if binding not in own]
  for binding in others:
    if '=' not in binding:
      raise errors.UserError(f'--gin.{binding}: write --gin.NAME=VALUE')
  return dataclasses.replace(sweep, settings={
      **sweep.settings, **dict(binding.split('=', 1) for binding in others)})


def check(sweep: grid.Sweep, out: str) -> None:
  """UserError if the first run refuses its settings; `plan` asks all, once TensorFlow is loaded."""
  own = {field.name.upper() for field in dataclasses.fields(grid.Sweep)}
  for cell in grid.cells(sweep)[:1]:
    try:
      gin_config.parse(grid.files(sweep, cell), grid.bindings(sweep, cell, out))
    except gin_config.UnknownMacro as error:
      raise gin_config.UnknownMacro(error.name, {*error.known, *own}) from error
