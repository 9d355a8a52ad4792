"""What a parser makes of a completion."""

import dataclasses

from dss_jax import records


@dataclasses.dataclass(frozen=True)
class Parsed:
  """A completion taken apart. With a status other than 'ok' there is nothing to train on."""

  rationale: str
  label: str
  status: str = records.PARSED  # or a key of `parsing.REASONS`

  @property
  def ok(self) -> bool:
    return self.status == records.PARSED


def failed(reason: str) -> Parsed:
  return Parsed('', '', reason)


class Unreadable(Exception):
  """There is no label; `reason` is a key of `parsing.REASONS`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason
