"""The teacher phase: rationales and labels of a large language model become records.

`dss teacher --help`, or `dss_jax.teacher.job.run(...)` from Python.
"""

from typing import TypeVar

_T = TypeVar('_T', bound=type)


def register(kind: _T) -> _T:
  """Adds a teacher of one's own, which `--client` then calls by its `name`; a class decorator.

  Args:
    kind: a class like `ask.endpoint.Endpoint`, asked one question at a time, or a
      `protocol.Client`, with a class method `from_flags(flags)`, see `flags.parser`.

  Raises:
    UserError: another teacher has that name.
  """
  from dss_jax.teacher.ask import clients
  return clients.register(kind)
