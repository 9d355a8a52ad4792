"""What the teacher of a sweep's records took: tokens, and USD where prices are known."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from dss_jax import errors, files, valid

FILE = 'prices.json'


@dataclasses.dataclass(frozen=True)
class Prices:
  """USD for a million tokens that the teacher reads (`prompt`) and writes (`completion`)."""

  prompt: float = 0.0
  completion: float = 0.0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      valid.number(lambda x: x >= 0, 'of at least 0', **{f'{name}_price': value})

  def __bool__(self) -> bool:
    return bool(self.prompt or self.completion)

  def usd(self, usage: Mapping[str, Any]) -> float:
    """Of counted tokens, as in a record set's manifest."""
    return (usage['prompt_tokens'] * self.prompt
            + usage['completion_tokens'] * self.completion) / 1e6


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of all training inputs; `usd` is None without prices."""

  tokens: int
  usd: float | None = None

  @property
  def amount(self) -> float:
    """USD, or millions of tokens."""
    return self.tokens / 1e6 if self.usd is None else self.usd

  @property
  def title(self) -> str:
    return "the teacher's tokens" if self.usd is None else "what the teacher cost"

  @property
  def said(self) -> str:
    return ('the tokens that the teacher read and wrote' if self.usd is None else
            'what the teacher read and wrote, in USD,')

  @property
  def axis(self) -> str:
    return "the teacher's tokens (millions)" if self.usd is None else "what the teacher cost (USD)"


def keep(out: str, prices: Prices) -> None:
  """Writes them into a sweep's folder, for this report and later ones."""
  files.write(os.path.join(out, FILE), json.dumps(dataclasses.asdict(prices)) + '\n')


def read(out: str) -> Prices:
  """Those that were kept; none are 0. UserError if the file is damaged."""
  path = os.path.join(out, FILE)
  if not os.path.exists(path):
    return Prices()
  try:
    with open(path, encoding='utf-8') as f:
      return Prices(**json.load(f))
  except (ValueError, TypeError) as error:
    raise errors.UserError(f'{path} cannot be read ({error}): remove it, or give --prompt_price '
                           'and --completion_price anew') from error


def of_datasets(described: Mapping[str, Mapping[str, Any]], prices: Prices) -> dict[str, Cost]:
  """Of each dataset all of whose teachers counted their tokens; see `plan` for `described`."""
  found = {}
  for name, facts in described.items():
    usages = [_counted(one) for one in facts.get('teachers', {}).values()]
    if usages and all(sum(one.values()) for one in usages):
      found[name] = Cost(sum(sum(one.values()) for one in usages),
                         sum(map(prices.usd, usages)) if prices else None)
  return found


def _counted(teacher: Mapping[str, Any]) -> dict[str, int]:
  usage = teacher.get('usage') or {}
  return {key: usage.get(key) or 0 for key in ('prompt_tokens', 'completion_tokens')}


def notes(described: Mapping[str, Mapping[str, Any]], prices: Prices) -> list[str]:
  """What each record set's teacher took, in words."""
  lines = []
  for name, facts in described.items():
    for records, teacher in facts.get('teachers', {}).items():
      said = [f'{value:,} {key.replace("_", " ")}' for key, value in (
          teacher.get('usage') or {}).items() if isinstance(value, int | float)]
      counted = _counted(teacher)
      if prices and any(counted.values()):
        said.append(f'{prices.usd(counted):,.2f} USD at {prices.prompt:g} and '
                    f'{prices.completion:g} USD for a million tokens read and written')
      lines.append(f'{name}: {records} by {teacher.get("model") or teacher.get("client", "?")}; '
                   + (', '.join(said) or 'its records do not tell how many tokens it took') + '.')
  return lines
