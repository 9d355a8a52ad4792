"""What a setting may be: each check names the field, its value and the fix.

Values come from gin, so any Python literal may stand anywhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax import errors, files

_LARGEST = 2**31 - 1  # Steps, lengths and seeds are int32 on the device.


def fields(config: Any, *names: str) -> dict[str, Any]:
  """{'MeshConfig.fsdp': 4}: fields of a dataclass, as errors name them.

  Where gin made it, `gin_config.macros_named` puts the macro in the name's place.
  """
  return {f'{type(config).__name__}.{name}': getattr(config, name) for name in names}


def whole(least: int, **settings: Any) -> None:
  """Raises UserError unless every value is an int from `least` to the largest int32.

    whole(1, BATCH_SIZE=64.0)  ->  BATCH_SIZE=64.0: use a whole number of at least 1
  """
  for name, value in settings.items():
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      _fail(name, value, f'use a whole number of at least {least}, without point or exponent')
    if value > _LARGEST:
      _fail(name, value, f'use a whole number of at most {_LARGEST}')


def number(fits: Callable[[float], bool], what: str, **settings: Any) -> None:
  """Raises UserError unless every value is a finite number that fits.

    number(lambda x: x >= 0, 'of at least 0', CLIP_NORM=-1)
    ->  CLIP_NORM=-1: use a number of at least 0
  """
  for name, value in settings.items():
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not fits(value):
      _fail(name, value, f'use a number {what}')


def schedule(**settings: Any) -> None:
  """Raises UserError unless every value is (step, weight) points in the order of their steps."""
  for name, value in settings.items():
    if not value or any(not isinstance(point, (tuple, list)) or len(point) != 2 for point in value):
      _fail(name, value, 'give (step, weight) points, such as ((0, 1.0), (500, 0.2))')
    for i, (step, at) in enumerate(value):
      whole(0, **{f'{name}[{i}]: step': step})
      number(lambda x: x >= 0, 'of at least 0', **{f'{name}[{i}]: weight': at})
    steps = [step for step, _ in value]
    if steps != sorted(set(steps)):
      _fail(name, value, 'give the points in the order of their steps, each step once')


def share(**settings: Any) -> None:
  """Raises UserError unless every value is a part of the training inputs."""
  number(lambda x: 0 < x <= 1, 'in (0, 1], the share of the training inputs', **settings)


def weight(**settings: Any) -> None:
  """Raises UserError unless every value is an alpha."""
  number(lambda x: 0 <= x <= 1, 'in [0, 1], the weight of the label loss', **settings)


def lengths(**settings: Any) -> None:
  """Raises UserError unless every value is {'inputs': ..., 'targets': ...} in tokens."""
  for name, value in settings.items():
    if not isinstance(value, Mapping) or set(value) != {'inputs', 'targets'}:
      raise errors.UserError(f"{name}={value!r}: give exactly {{'inputs': ..., 'targets': ...}}")
    whole(1, **{f"{name}['{side}']": length for side, length in value.items()})


def flag(**settings: Any) -> None:
  """Raises UserError unless every value is True or False."""
  for name, value in settings.items():
    if not isinstance(value, bool):
      _fail(name, value, 'use True or False')


def text(**settings: Any) -> None:
  """Raises UserError unless every value is a string; gin reads 2024 as a number."""
  for name, value in settings.items():
    if not isinstance(value, str):
      _fail(name, value, f'use a text; one that looks like something else needs quotes twice: '
            f'''--gin.{name}="'{value}'"''')


def path(*, hub: bool = False, **settings: Any) -> None:
  """Raises UserError unless every value is a path on this machine or on gs://; see `check_path`."""
  text(**settings)
  for name, value in settings.items():
    files.check_path(name, value, hub=hub)


def one_of(known: Sequence[str], **settings: Any) -> None:
  """Raises UserError unless every value is one of the known."""
  for name, value in settings.items():
    if value not in known:
      _fail(name, value, errors.did_you_mean(str(value), known))


def settings(**settings: Any) -> None:
  """Raises UserError unless every value is a dict whose keys are names."""
  for name, value in settings.items():
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
      _fail(name, value, "use a dict such as {'NAME': ...}")


def _fail(name: str, value: Any, fix: str) -> None:
  raise errors.UserError(f'{name}={value!r}: {fix}')
