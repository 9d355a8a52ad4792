"""The native engine: sharding, state, step, optimizer, checkpoints, evaluation, loop.

The package can be called, and trains: `dss train` from Python.

  run = dss_jax.train('gin/native/tiny.gin', method='dss', dataset='tickets', VOCABULARY='bytes',
                      RECORDS_DIR='records', MODEL_DIR='runs/tickets', TRAIN_STEPS=200)
  run.test['accuracy'], dss_jax.show(run), dss_jax.load(run).predict(['an input'])

Arguments are files of settings (later ones win), flags of `dss train` in small letters, and macros
in capitals, as after `--gin.`; see `dss_jax.notebook.calls.train`.
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
