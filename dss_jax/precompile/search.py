"""The largest microbatch that fits: few compilations, since each takes minutes.

Fewer microbatches need more memory. So the search keeps the least number known to fit and the
greatest known not to, asks for the one that the figures so far point to, and is done when the
two are neighbours: then the answer and the one that is too large were both compiled.
"""

import dataclasses
from collections.abc import Callable, Sequence

from dss_jax.precompile import jobs


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search came to.

  Attributes:
    microbatches: the fewest that fit; None if none was seen to.
    proven: whether the next larger microbatch was compiled too and does not fit, or there is
      none.
    tried: outcome by number of microbatches, in the order of the compilations.
  """

  microbatches: int | None
  proven: bool
  tried: dict[int, jobs.Outcome]


def smallest_fit(
    numbers: Sequence[int], attempt: Callable[[int], jobs.Outcome], room: int, fixed: int,
    most: int) -> Found:
  """Searches `numbers` (ascending) for the least whose program fits.

  Args:
    numbers: of microbatches.
    attempt: compiles for one of them.
    room: bytes of the device.
    fixed: bytes of temporaries that do not shrink with the microbatch: the gradients.
    most: compilations at most. Those that the compiler gives up for want of memory do not
      count: it mostly does so within seconds.
  """
  tried: dict[int, jobs.Outcome] = {}
  below, above = -1, len(numbers)  # Positions: does not fit, fits.
  while above - below > 1 and sum(o.status != jobs.NO_ROOM for o in tried.values()) < most:
    guess = _guess(numbers, tried, room, fixed) if tried else 0
    position = min(max(guess, below + 1), above - 1)
    outcome = tried[numbers[position]] = attempt(numbers[position])
    if outcome.status in (jobs.TIMEOUT, jobs.REFUSED, jobs.MISSING):
      break
    if outcome.status == jobs.NO_ROOM and 'arguments' in outcome.facts:
      return Found(None, True, tried)  # They are the same for all.
    if outcome.fits(room):
      above = position
    else:
      below = position
  found = numbers[above] if above < len(numbers) else None
  crashed = below >= 0 and tried[numbers[below]].status == jobs.CRASHED
  return Found(found, above - below == 1 and not crashed, tried)


def _guess(numbers: Sequence[int], tried: dict[int, jobs.Outcome], room: int, fixed: int) -> int:
  """Position of the least number that should fit, if activations shrink as 1 / number."""
  known = [(k, needed) for k, one in tried.items()
           if (needed := one.facts.get('memory', one.facts).get('temporaries', 0))]
  if not known:
    return len(numbers) // 2
  k, temporaries = known[-1]
  others = max((one.total - one.facts['memory']['temporaries']
                for one in tried.values() if one.status == jobs.COMPILED), default=2 * fixed)
  activations = max(temporaries - fixed, 1) * k
  left = room - others - fixed
  return next((i for i, n in enumerate(numbers) if activations / n <= left), len(numbers) - 1)
