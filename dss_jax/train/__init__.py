"""The native engine: sharding, state, step, optimizer, checkpoints, evaluation, loop.

`dss_jax.train(...)` trains: the package of that name can be called.
"""

import sys
import types
from typing import Any


class _Callable(types.ModuleType):

  def __call__(self, gin_file: Any = (), **settings: Any) -> Any:
    """See `dss_jax.notebook.calls.train`."""
    from dss_jax.notebook import calls
    return calls.train(gin_file, **settings)


sys.modules[__name__].__class__ = _Callable
