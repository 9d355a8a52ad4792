"""What the first answers are like, told before all the others are paid for."""

import collections
import threading
from collections.abc import Callable, Sequence

from dss_jax import datasets, records
from dss_jax.teacher import protocol
from dss_jax.teacher.read import parsed, parsing

ANSWERS = 50
_SHOWN = 300  # characters of a failed answer

Read = Callable[[datasets.Example, protocol.Completion], parsed.Parsed]


class FirstLook:
  """Counts of the first answers by what can be read of them, and one that cannot.

  Attributes:
    done: all that are looked at have come.
  """

  def __init__(self, read: Read, passed_on: Sequence[str] = ()):
    """`passed_on` are statuses of rows that somebody else is asked about: they do not count."""
    self.done = False
    self._passed_on = passed_on
    self._lock = threading.Lock()
    self._read = read
    self._counts: collections.Counter[str] = collections.Counter()
    self._failed = ''

  def add(self, example: datasets.Example, completion: protocol.Completion) -> bool:
    """The next answer; whether it is the last one. Shards' threads may come with theirs at once."""
    status = self._read(example, completion).status
    with self._lock:
      return self._add(status, example, completion)

  def _add(self, status: str, example: datasets.Example, completion: protocol.Completion) -> bool:
    if self.done:
      return False
    self._counts[status] += 1
    if status != records.PARSED and not self._failed:
      said = completion.error or completion.text
      shown = said if len(said) <= _SHOWN else f'{said[:_SHOWN // 2]} ... {said[-_SHOWN // 2:]}'
      self._failed = f'  {example.id}, {status} ({parsing.REASONS[status]}): {shown!r}'
    self.done = self._counts.total() >= ANSWERS
    return self.done

  @property
  def mostly_unread(self) -> bool:
    counted = self._counts.total() - sum(self._counts[status] for status in self._passed_on)
    return self._counts[records.PARSED] < counted / 2

  def table(self) -> str:
    """'the first 50 answers: 48 ok, 2 truncated', and the failed one; '' if there was none."""
    if not self._counts:
      return ''
    counts = ', '.join(f'{count} {status}' for status, count in self._counts.most_common())
    return '\n'.join([f'the first {self._counts.total()} answers: {counts}',
                      *([self._failed] if self._failed else [])])
