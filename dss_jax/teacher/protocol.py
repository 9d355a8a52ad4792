"""What the parts of the teacher job hand to each other."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax import datasets


@dataclasses.dataclass(frozen=True)
class Completion:
  """What the teacher wrote after one example's prompt; '' and 0 where a client does not know."""

  text: str
  finish_reason: str = ''  # 'stop', 'length', 'content_filter', 'refusal', 'rejected', ...
  prompt_sha256: str = ''
  request_key: str = ''  # identifies the request; the job makes one of the text if it is ''
  prompt_tokens: int = 0
  completion_tokens: int = 0
  thoughts: str = ''  # of a thinking model, where they came apart from the text
  model: str = ''  # who wrote it, if it is not the client's
  error: str = ''  # the server's words, where it gave no answer
  apart: tuple[str, str] | None = None  # (rationale, label), where they came as two fields
  logprobs: Any = None  # of its tokens, as the server gave them: see `read.logprobs`


class Client:
  """Where completions come from; `clients.CLIENTS` lists them.

  Attributes:
    name: what `--client` calls it.
    model: goes into every record as `teacher_model`; '' if there is no teacher.
    folders: where it writes; no other job on the same set may, meanwhile.
  """

  name = ''
  model = ''
  folders: Sequence[str] = ()

  def prepare(self, ids: Sequence[str]) -> None:
    """Called once with the ids of all examples, before anything is written."""

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> Sequence[Sequence[Completion]]:
    """The completions (samples) of each example, in order; () where there is no teacher.

    Args:
      examples: a shard's, or, from the second attempt on, those of it that did not parse.
      attempt: 0, or which further attempt this is; only clients that ask have any.

    Raises:
      Unfinished: it stopped before all were answered; nothing that was answered is lost.
    """
    raise NotImplementedError

  def watch(self, read: Callable[[datasets.Example, Completion], Any]) -> None:
    """Called once before `complete` with how completions will be read (`parsing.read`)."""

  def provenance(self) -> Mapping[str, Any]:
    """What the manifest says of this teacher, asked for after `prepare`."""
    return {}

  def paid(self) -> str:
    """What the report says of money, '' if there is nothing to say."""
    return ''

  def doubts(
      self, dataset: datasets.Dataset, examples: Sequence[datasets.Example], summary: Any
  ) -> Sequence[str]:
    """What is odd about the answers as a whole, asked for when the sets are written."""
    return ()

  def stop(self, why: str) -> None:
    """Begins nothing more; what is in flight is waited for."""

  async def close(self) -> None:
    """Gives connections back; called once, whatever happened."""


class Unfinished(Exception):
  """The job stopped with inputs unanswered; the same command goes on from there.

  Attributes:
    mend: the same command would stop again: something must be changed first.
  """

  def __init__(self, why: str, mend: bool = False):
    super().__init__(why)
    self.mend = mend


def clean(text: str) -> str:
  """Text that records can hold: half an emoji, cut by a token limit, becomes U+FFFD."""
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
