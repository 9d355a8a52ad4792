"""Training data: records -> SeqIO tasks and mixtures -> batches of token arrays.

What describes data is here at once; what handles it is imported when it is first asked for,
since it loads TensorFlow and SeqIO.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dss_jax.data.description import register
from dss_jax.data.settings import DataSettings, configure

if TYPE_CHECKING:
  from dss_jax.data.feature_converter import DssFeatureConverter
  from dss_jax.data.mixture import DssMixture

__all__ = ['DataSettings', 'DssFeatureConverter', 'DssMixture', 'configure', 'register']

_LATE = {'DssFeatureConverter': 'feature_converter', 'DssMixture': 'mixture'}


def __getattr__(name: str) -> Any:
  if name not in _LATE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_LATE[name]}'), name)
