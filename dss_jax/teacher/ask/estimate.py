"""`--dry_run`: what a job would ask for and cost, before it does."""

import dataclasses
from collections.abc import Sequence

import tqdm

from dss_jax import datasets
from dss_jax.teacher.ask import asking

_CHARACTERS_A_TOKEN = 4.0  # English text under the usual vocabularies


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Of the first attempts; tokens are of the requests that are still to be sent.

  Attributes:
    wanted, to_send: requests in all, and those that the journal does not have.
    prompt_tokens, completion_tokens: expected.
    most_completion_tokens: what `--max_tokens` allows.
    measured: whether the tokens come from answers in the journal.
  """

  wanted: int
  to_send: int
  prompt_tokens: float
  completion_tokens: float
  most_completion_tokens: float
  measured: bool


def estimate(client: asking.AskingClient, examples: Sequence[datasets.Example]) -> Estimate:
  """Goes through all inputs; sends nothing."""
  client.journal.refresh()
  used = client.journal.usage()
  wanted = to_send = characters = 0
  first = client.request(asking.Question(examples[0], 0, 0))
  most = first.get('max_tokens') or first.get('max_completion_tokens') or 0
  for example in tqdm.tqdm(examples, desc='estimating', unit='row', delay=3, disable=None):
    questions = [asking.Question(example, sample, 0) for sample in range(client.options.samples)]
    missing = len(questions) - len(client.journal.has(map(client.key, questions)))
    wanted += len(questions)
    to_send += missing
    characters += missing * len(client.prompt.as_text(example.input))
  replies = [len(client.prompt.reply(shown)) for shown in client.prompt.demonstrations]
  measured = bool(used.completion_tokens)
  if measured:
    prompt = used.prompt_tokens / used.requests * to_send
    completion = used.completion_tokens / used.requests
  else:
    prompt = characters / _CHARACTERS_A_TOKEN
    completion = sum(replies) / len(replies) / _CHARACTERS_A_TOKEN
  return Estimate(wanted, to_send, prompt, completion * to_send,
                  most * to_send, measured)


def render(client: asking.AskingClient, found: Estimate, requests_per_minute: float) -> str:
  """The estimate as text."""
  budget, count = client.budget, max(found.to_send, 1)
  how = ("as in the journal's answers" if found.measured else
         f'{_CHARACTERS_A_TOKEN:g} characters a token; answers as long as the demonstrations')
  lines = [
      f'dry run: nothing was sent to {client.model!r}',
      f'  requests        {found.wanted:,}, of which {found.wanted - found.to_send:,} are answered '
      f'in the journal: {found.to_send:,} to send',
      f'  tokens read     {found.prompt_tokens:,.0f}, {found.prompt_tokens / count:.0f} a request '
      f'({how})',
      f'  tokens written  {found.completion_tokens:,.0f}, {found.completion_tokens / count:.0f} a '
      f'request; at most {found.most_completion_tokens:,.0f}']
  if budget.prompt_price or budget.completion_price:
    expected = budget.cost(found.prompt_tokens, found.completion_tokens)
    most = budget.cost(found.prompt_tokens, found.most_completion_tokens)
    lines.append(f'  cost            {_usd(expected)} USD, at most {_usd(most)}')
  else:
    lines.append('  cost            give --prompt_price and --completion_price, USD for a million '
                 'tokens')
  if requests_per_minute:
    lines.append(f'  time            at least {found.to_send / requests_per_minute:.1f} minutes at '
                 f'--rpm={requests_per_minute:g}')
  return '\n'.join(lines)


def _usd(amount: float) -> str:
  """'12.40', but '0.0031'."""
  return f'{amount:.2f}' if amount >= 1 else f'{amount:.2g}'
