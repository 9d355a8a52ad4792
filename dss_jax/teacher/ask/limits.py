"""How fast a teacher may be asked, and how much may be spent on it."""

import asyncio
import dataclasses
import math
import random

from dss_jax.teacher import protocol

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
_WINDOW = 1.0  # seconds over which a server shows how much it takes
_FASTER = 1.1  # from one window to the next, as long as nothing is refused
_SLOWEST = 1.0  # requests a second; what is still too many is for each request's own waiting


def back_off(failures: int, longest: float = _LONGEST_WAIT) -> float:
  """Seconds to wait after that many failures in a row: doubling, jittered, at most a minute."""
  return min(longest, _FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


class Pace:
  """Lets requests go evenly spaced, so that no minute holds more than the limits allow.

  A server that refuses without saying how long to wait (429) is asked as fast as it has answered
  in the last second, and from there a tenth faster every second.

  Attributes:
    requests_per_minute: 0 for no limit.
    tokens_per_minute: read and written together; 0 for no limit.
    rate: requests a second that the server was seen to take; infinite if it refused none.
  """

  def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0):
    self._request_seconds = 60 / requests_per_minute if requests_per_minute else 0.0
    self._token_seconds = 60 / tokens_per_minute if tokens_per_minute else 0.0
    self._next_request = self._next_token = self._resume = 0.0
    self.rate = math.inf
    self._since, self._sent, self._refused, self._fastest = 0.0, 0, 0, 0.0

  async def turn(self, tokens: float) -> None:
    """Returns when one request of about so many tokens may be sent."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    self._look(now)
    start = max(now, self._next_request, self._next_token)
    self._next_request = start + max(self._request_seconds, 1 / self.rate)
    self._next_token = start + tokens * self._token_seconds
    while (wait := max(start, self._resume) - loop.time()) > 0:
      paused = self._resume > start
      # Not all at the same instant after a pause, which would cause the next one.
      await asyncio.sleep(wait + (random.uniform(0, min(1.0, wait / 4)) if paused else 0))
    self._sent += 1

  def correct(self, tokens: float) -> None:
    """Tokens that a request needed beyond what `turn` was told (less, if negative)."""
    self._next_token += tokens * self._token_seconds

  def refused(self) -> None:
    """A request was too many, and the server did not say for how long."""
    self._refused += 1
    self._look(asyncio.get_running_loop().time())

  def pause(self, seconds: float) -> None:
    """No request for so long: the server has said so."""
    self._resume = max(self._resume, asyncio.get_running_loop().time() + seconds)

  @property
  def paused(self) -> float:
    """Seconds until requests go on, 0 if they do."""
    return max(0.0, self._resume - asyncio.get_running_loop().time())

  def _look(self, now: float) -> None:
    """Once a second: what was taken of what was sent."""
    seconds = now - self._since
    if seconds < _WINDOW:
      return
    if self._refused:
      self._fastest = max(self._fastest, self._sent / seconds)
      self.rate = max(_SLOWEST, (self._sent - self._refused) / seconds)
    elif self.rate < math.inf:
      self.rate *= _FASTER
      if self.rate > self._fastest:
        self.rate = math.inf
    self._since, self._sent, self._refused = now, 0, 0


@dataclasses.dataclass
class Budget:
  """What a job may spend.

  Attributes:
    max_requests: of this run; 0 for no limit.
    max_usd: of the whole journal, earlier runs and answers that came too late included; 0 for no
      limit.
    prompt_price, completion_price: USD for a million tokens.
    spent: USD so far.
    beside: another teacher's, under the same limit.
  """

  max_requests: int = 0
  max_usd: float = 0.0
  prompt_price: float = 0.0
  completion_price: float = 0.0
  spent: float = 0.0
  beside: 'Budget | None' = None
  _sent: int = 0
  _reserved: float = 0.0
  _open: int = 0  # requests for which something is set aside
  _settled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

  def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
    """USD."""
    return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

  def fits(self, cost: float) -> bool:
    """Whether `reserve` would not wait."""
    return not self.max_usd or self._used + cost <= self.max_usd or not self._open

  def hold(self, cost: float, requests: int) -> None:
    """Sets aside what requests of an earlier run, still on their way, may cost at most."""
    self._open += requests
    self._reserved += cost

  async def reserve(self, cost: float) -> None:
    """Sets aside what one request may cost at most; waits for others if that is too much now.

    Raises:
      Unfinished: the request would go beyond a limit, whatever the others turn out to cost.
    """
    while self.max_usd and self._used + cost > self.max_usd:
      if not self._open:
        raise protocol.Unfinished(
            f'--budget_usd={self.max_usd:g} would be exceeded: {self._used:.4f} USD are spent, '
            f'and one more request may cost {cost:.4f}: raise it to go on', mend=True)
      self._settled.clear()
      await self._settled.wait()
    if self.max_requests and self._sent >= self.max_requests:
      raise protocol.Unfinished(f'--max_requests={self.max_requests} are sent')
    self._sent += 1
    self._open += 1
    self._reserved += cost

  @property
  def committed(self) -> float:
    """USD that are spent or set aside."""
    return self.spent + self._reserved

  @property
  def _used(self) -> float:
    return sum(one.committed for one in (self, self.beside) if one)

  @property
  def exceeded(self) -> bool:
    """Whether a request that is sent once more could go beyond the limit."""
    return 0 < self.max_usd < self._used

  def settle(self, reserved: float, cost: float) -> None:
    """Replaces what was set aside by what was paid, 0 for a request that failed."""
    self._open -= 1
    self._reserved -= reserved
    self.spent += cost
    self._settled.set()
