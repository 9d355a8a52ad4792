"""Which settings make a run the run that it is, and whether two of them are the same one."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from dss_jax import families, models
from dss_jax.train import config as config_lib

Identity = Mapping[str, Any]  # {'optimizer.learning_rate': 5e-5, ...}, as in run.json

# Where something is read, and what tells whether the same is there.
CONTENTS = {'data.vocabulary': 'vocabulary_sha256',
            'initial_checkpoint_path': 'initial_checkpoint_sha256'}


def of(config: Any, prefix: str = '') -> dict[str, Any]:
  """Flat {'optimizer.learning_rate': 5e-5, ...} of the fields that define the run."""
  found: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    if field.metadata.get('free'):
      continue
    value, name = getattr(config, field.name), f'{prefix}{field.name}'
    if dataclasses.is_dataclass(value):
      found |= of(value, f'{name}.')
    elif isinstance(value, Mapping):
      found |= {f'{name}.{key}': item for key, item in value.items()}
    else:
      plain = (str, int, float, bool, type(None))
      found[name] = value if isinstance(value, plain) else str(value)
  return found


def differences(earlier: Identity, now: Identity) -> dict[str, tuple[Any, Any]]:
  """{'alpha': (0.5, 0.3)}: what was and what is, where it makes another run.

  A field that an earlier version counted and this one does not may differ; one that it did not
  have was at its default. The names of CONTENTS may be among the fields: an address may differ
  where the contents are known to be the same, and contents may not where they are known.
  """
  known = dict(_fields(config_lib.TrainConfig))
  free = {name for name, field in known.items() if field.metadata.get('free')}
  found = {}
  for name in sorted({*earlier, *now} - free - set(CONTENTS.values())):
    default = _default(known.get(name))
    was, then = earlier.get(name, default), now.get(name, default)
    contents = [one.get(CONTENTS.get(name, '')) for one in (earlier, now)]
    if None in contents:
      if was != then:
        found[name] = was, then
    elif contents[0] != contents[1]:
      found |= {name: (was, then)} if was != then else {
          CONTENTS[name]: (contents[0], contents[1])}
  return found


def _fields(cls: Any, prefix: str = '') -> Iterator[tuple[str, dataclasses.Field]]:
  """('optimizer.learning_rate', its field), ... of a config class and those inside it."""
  for field in dataclasses.fields(cls):
    yield f'{prefix}{field.name}', field
    of_families = [family.config for family in families.FAMILIES.values()]
    for inner in of_families if field.type is models.Config else [field.type]:
      if dataclasses.is_dataclass(inner):
        yield from _fields(inner, f'{prefix}{field.name}.')


def _default(field: dataclasses.Field | None) -> Any:
  return None if field is None or field.default is dataclasses.MISSING else field.default
