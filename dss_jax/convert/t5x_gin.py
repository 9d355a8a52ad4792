"""What T5X's config.gin beside a checkpoint says that the shapes of its arrays do not."""

import ast
import re
from typing import Any

from etils import epath

from dss_jax import errors

FILE = 'config.gin'
_LINE = re.compile(r'^\s*([\w./@]+)\s*=\s*(.+?)\s*$', re.MULTILINE)
_MACRO = re.compile(r'%([\w./]+)$')
# Of T5X's network and of Flaxformer's MlpBlock.
_ACTIVATIONS = ('mlp_activations', 'activations')
_DISTANCE = ('max_distance',)
_NAMES = {'swish': 'silu'}  # theirs: ours


def read(folder: epath.Path) -> dict[str, Any]:
  """Fields of T5Config, from `folder` (checkpoint_<step>) or its MODEL_DIR; {} if they say nothing.

  Raises:
    UserError: the file says it in a way that is not understood, or twice.
  """
  file = next((p / FILE for p in (folder, folder.parent) if (p / FILE).exists()), None)
  if file is None:
    return {}
  bindings = [(m[1], m[2]) for m in _LINE.finditer(file.read_text().replace('\\\n', ' '))]
  fields: dict[str, Any] = {}
  if activations := _value(bindings, _ACTIVATIONS, file):
    if not isinstance(activations, (list, tuple)) or not all(
        isinstance(one, str) for one in activations):
      raise errors.UserError(f'{file}: activations {activations!r} are no list of names')
    fields['mlp_activations'] = tuple(_NAMES.get(one, one) for one in activations)
  if distance := _value(bindings, _DISTANCE, file):
    fields['relpos_max_distance'] = distance
  return fields


def _value(bindings: list[tuple[str, str]], names: tuple[str, ...], file: epath.Path) -> Any:
  """What the bindings of these parameters agree on; None without any."""
  macros = dict(bindings)
  found = {}
  for name, text in bindings:
    if re.split(r'[./]', name)[-1] not in names:
      continue
    text = text.partition('#')[0].strip()
    while (macro := _MACRO.match(text)) and macro[1] in macros:
      text = macros[macro[1]]
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
      raise errors.UserError(f'{file}: {name} = {text} is not understood') from error
    found[repr(value)] = value
  if len(found) > 1:
    raise errors.UserError(f'{file}: {" and ".join(names)} are both {" and ".join(found)}')
  return next(iter(found.values()), None)
