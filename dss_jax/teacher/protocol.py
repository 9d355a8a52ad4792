"""What the parts of the teacher job hand to each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dss_jax import datasets


@dataclasses.dataclass(frozen=True)
class Completion:
  """What the teacher wrote after one example's prompt; '' where a client does not know."""

  text: str
  finish_reason: str = ''  # 'stop', 'length', ...
  prompt_sha256: str = ''
  request_key: str = ''  # identifies the request; the job makes one of the text if it is ''


class Client(Protocol):
  """Where completions come from. A new one is a class and an entry in `clients.CLIENTS`."""

  model: str  # goes into every record as `teacher_model`

  def complete(self, examples: Sequence[datasets.Example]) -> Sequence[Completion | None]:
    """One completion per example, in order; None where there is no teacher."""

  def provenance(self) -> Mapping[str, Any]:
    """What the manifest says of this teacher, asked for after `complete`."""
