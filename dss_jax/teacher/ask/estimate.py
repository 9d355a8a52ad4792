"""`--dry_run`: what a job would ask for and cost, before it does."""

import dataclasses
from collections.abc import Sequence

import tqdm

from dss_jax import datasets
from dss_jax.teacher.ask import asking, tokens


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Of the first attempts; tokens are of the requests that are still to be sent.

  Attributes:
    wanted, to_send: requests in all, and those that the journal does not have.
    prompt_tokens, completion_tokens: expected.
    most_completion_tokens: what `--max_tokens` allows.
    shared_tokens: with which all requests begin.
    measured: answers in the journal to these very requests, by which the tokens were corrected.
  """

  wanted: int
  to_send: int
  prompt_tokens: float
  completion_tokens: float
  most_completion_tokens: float
  shared_tokens: float
  measured: int


def estimate(
    client: asking.AskingClient, examples: Sequence[datasets.Example],
    count: tokens.Counter = tokens.estimate,
) -> Estimate:
  """Goes through all inputs; sends nothing."""
  client.journal.refresh()
  wanted = to_send = there = read = written = 0
  prompt = answered = 0.0  # tokens by count, of requests to send and of those that are answered
  first = client.request(asking.Question(examples[0], 0, 0))
  most = first.get('max_tokens') or first.get('max_completion_tokens') or 0
  shared = tokens.of_request(first, count) - count(client.prompt.ask(examples[0].input))
  for example in tqdm.tqdm(examples, desc='estimating', unit='row', delay=3, disable=None):
    keys = [client.key(asking.Question(example, sample, 0))
            for sample in range(client.options.samples)]
    known = client.journal.has(keys)
    used = client.journal.usage(known)
    length = shared + count(client.prompt.ask(example.input))
    wanted, to_send = wanted + len(keys), to_send + len(keys) - len(known)
    prompt += length * (len(keys) - len(known))
    if used.requests:
      there, read, written = (
          there + used.requests, read + used.prompt_tokens, written + used.completion_tokens)
      answered += length * used.requests
  replies = [count(client.prompt.reply(shown)) for shown in client.prompt.demonstrations]
  right = read / answered if read else 1.0
  each = written / there if there else sum(replies) / len(replies) if replies else most
  return Estimate(wanted, to_send, prompt * right, each * to_send, most * to_send, shared * right,
                  there)


def render(
    client: asking.AskingClient, found: Estimate, requests_per_minute: float, tokenizer: str = ''
) -> str:
  """The estimate as text."""
  budget, count = client.budget, max(found.to_send, 1)
  by = f'by {tokenizer}' if tokenizer else 'by a rule for the usual tokenizers'
  how = (f'as in {found.measured:,} answers of the journal' if found.measured else
         f'{by}; answers as long as ' + ('the demonstrations' if client.prompt.demonstrations else
                                         '--max_tokens allows'))
  cached = 'enough' if found.shared_tokens >= tokens.CACHED else 'too few'
  lines = [
      f'dry run: nothing was sent to {client.model!r}',
      f'  requests        {found.wanted:,}, of which {found.wanted - found.to_send:,} are answered '
      f'in the journal: {found.to_send:,} to send',
      f'  tokens read     {found.prompt_tokens:,.0f}, {found.prompt_tokens / count:.0f} a request '
      f'({how})',
      f'  of them shared  {found.shared_tokens:,.0f} a request: {cached} for the discount that '
      'many hosted endpoints give from 1,024 on',
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
