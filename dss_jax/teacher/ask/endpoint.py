"""What a live teacher is to the job: one request in, one raw response out.

A new kind of teacher is a class with these methods and a class method `from_flags(flags)`, and an
entry in `clients.ENDPOINTS` or, outside of this package, `dss_jax.teacher.register`; limits,
retries, the journal, voting and records are the job's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from dss_jax.teacher.ask import prompts


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How the teacher writes; part of every request and so of its key."""

  max_tokens: int = 256
  temperature: float = 0.0
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # more fields; None drops one


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a response says."""

  text: str
  finish_reason: str = ''  # 'stop', 'length', 'content_filter', 'refusal', or the server's own
  prompt_tokens: int = 0
  completion_tokens: int = 0
  thoughts: str = ''  # what a thinking model wrote before its answer, where the server parts them
  logprobs: Any = None  # of the tokens, in any layout of `read.logprobs`


def token_count(value: Any) -> int:
  """Tokens as a server reports them: a number, or one in quotes; 0 for what is neither."""
  try:
    number = 0.0 if isinstance(value, bool) else float(value)
  except (TypeError, ValueError, OverflowError):
    return 0
  return int(number) if 0 <= number < 1e15 else 0  # NaN is not.


class Endpoint(Protocol):
  """A teacher that is asked one question at a time.

  Attributes:
    name: of the kind, as `--client` has it.
    model: goes into every record as `teacher_model`, and into every request's key.
    first_alone: optional, False: the first request goes alone, as others can learn from it.
    room: optional, 0: tokens that it may write beyond `Decoding.max_tokens`.
    in_batches: optional, False: it works on --batch_size requests at a time.
    gives_logprobs: optional, False: its answers may have the probabilities of their tokens.
  """

  name: str
  model: str

  def request(self, prompt: prompts.Prompt, text: str, decoding: Decoding) -> dict[str, Any]:
    """All that decides the answer to an input, as JSON values; holds no secret."""

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> Mapping[str, Any]:
    """Sends it once and returns the raw response, as JSON values that `read` understands.

    Args:
      request: from `request`.
      seed: differs between the samples of one request; for teachers that draw by themselves.
      timeouts: how often this request was not answered in time: it may have more of it now.

    Raises:
      TryLater, Rejected, Fatal.
    """

  def read(self, response: Mapping[str, Any]) -> Answer:
    """Pure: also applied to responses out of the journal."""

  def provenance(self) -> Mapping[str, Any]:
    """What the manifest says of it, e.g. its address; no secret."""
    return {}

  async def close(self) -> None:
    """Gives connections and devices back."""
    return


class TryLater(Exception):
  """This time it did not work: overload, a broken connection, half a response.

  Attributes:
    after: seconds that the server asked to wait, or None.
    limited: the server counts requests or tokens (429): it is no failure of this one.
    paid: tokens read and written, if it counted some for what is no answer.
    timed_out: nothing came in time; it may have been answered, and be paid for, all the same.
    unreachable: nobody listens there.
    strange: what came is nothing that such a server sends.
  """

  def __init__(self, message: str, after: float | None = None, limited: bool = False,
               paid: tuple[int, int] | None = None, timed_out: bool = False,
               unreachable: bool = False, strange: bool = False):
    super().__init__(message)
    self.after = after
    self.limited = limited
    self.paid = paid
    self.timed_out = timed_out
    self.unreachable = unreachable
    self.strange = strange


class Rejected(Exception):
  """The server will never answer this request (too long, filtered); others it may."""


class Fatal(Exception):
  """The server will answer no request as things are: bad key, unknown model, no credit."""
