"""A second teacher, for rows that the first one will not or cannot answer."""

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import asking
from dss_jax.teacher.read import parsing

_UNANSWERED = ('refusal', 'content_filter', parsing.REJECTED, parsing.UNANSWERED)  # finish reasons
_ITS_OWN = ('client', 'model', 'base_url', 'header', 'endpoint', 'api_key_env', 'api_key_secret',
            'engine', 'max_tokens', 'thinking_room', 'reasoning_effort', 'temperature', 'params',
            'in_flight', 'rpm', 'tpm', 'timeout', 'prompt_price', 'completion_price', 'batch_size',
            'mesh', 'dtype', 'fallback')


class FallbackClient(asking.AskingClient):
  """Asks the first, and `second` where no sample of a row was answered.

  The second one's answers are in a journal of its own inside of the first one's, as they have
  other prices.
  """

  passed_on = (parsing.REFUSED, parsing.REJECTED, parsing.UNANSWERED)

  def __init__(self, second: asking.AskingClient, *args: Any, **settings: Any):
    super().__init__(*args, **settings)
    self.second = second
    self.budget.beside, second.budget.beside = second.budget, self.budget
    self._handed_on = 0

  def prepare(self, ids: Sequence[str]) -> None:
    super().prepare(ids)
    self.second.prepare(())

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[tuple[protocol.Completion, ...]]:
    found = await super().complete(examples, attempt)
    refused = [i for i, (example, samples) in enumerate(zip(examples, found, strict=True))
               if all(self._has_none(example, one) for one in samples)]
    self._handed_on += len(refused) * self.second.options.samples
    self.second.expect(self._handed_on)
    more = await self.second.complete([examples[i] for i in refused], attempt) if refused else []
    for i, samples in zip(refused, more, strict=True):
      found[i] = (*found[i], *(dataclasses.replace(one, model=self.second.model)
                               for one in samples))
    return found

  def _has_none(self, example: datasets.Example, one: protocol.Completion) -> bool:
    """Whether a completion is no answer: the server's word, or a refusal that was written."""
    return one.finish_reason in _UNANSWERED or parsing.read(
        one, example, datasets.get(self.prompt.dataset)).status == parsing.REFUSED

  def provenance(self) -> Mapping[str, Any]:
    second = self.second
    return {**super().provenance(), 'fallback': {
        'client': second.name, 'model': second.model, **second.provenance()}}

  def stop(self, why: str, mend: bool = False) -> None:
    super().stop(why, mend)
    self.second.stop(why, mend)

  def paid(self) -> str:
    said = super().paid()
    more = self.second.budget.spent
    return f'{said}, and {more:.4f} for the second teacher' if said and more else said

  async def close(self) -> None:
    try:
      await super().close()
    finally:
      await self.second.close()


def flags_of(flags: argparse.Namespace) -> argparse.Namespace:
  """The flags of the second teacher: those of the first, but for what --fallback says.

  Raises:
    UserError: it says what is not the teacher's.
  """
  from dss_jax.teacher import flags as flag_lib  # It lists the clients, and so this module.
  try:
    words = shlex.split(flags.fallback)
  except ValueError as error:
    raise errors.UserError(f'--fallback={flags.fallback}: {error}') from error
  chosen = flag_lib.parser().parse_args(
      [f'--dataset={flags.dataset}', f'--split={flags.split}', *words],
      argparse.Namespace(**{**vars(flags), 'fallback': None, 'base_url': [], 'header': []}))
  for name in ('base_url', 'header'):
    setattr(chosen, name, getattr(chosen, name) or getattr(flags, name))
  for name, value in vars(chosen).items():
    if name not in _ITS_OWN and value != getattr(flags, name):
      raise errors.UserError(f'--fallback: --{name} is the same for both teachers; take it out')
  if (chosen.client, chosen.model, chosen.base_url) == (flags.client, flags.model, flags.base_url):
    raise errors.UserError("--fallback: name another teacher, '--model=NAME'")
  return chosen
