"""Do recorded answers belong to the inputs that they were joined to?

A rationale tells of its own input: it repeats words that few other inputs have. Answers of another
order share those with another input, and that shows without knowing what is right.
"""

import collections
import dataclasses
import heapq
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dss_jax import datasets

# Thresholds by measurement, 100 to 9,741 rows of three data sets: in order, 50-99 % of the
# rationales point at one input and 96-100 % of those at their own; shuffled, as many, at most 1 %.
# With every word taken out that a rationale shares with its input, 0-19 % point at one.
_SAMPLED, _FEWEST = 300, 20  # rationales looked at
_COMMON = 0.05  # a word that more texts hold tells nothing
_LEAST_WEIGHT = 2 * math.log(1 / _COMMON)  # shared by a rationale and the input it points at
_RIVALS, _RATIO = 10, 2.0  # and twice that of the tenth input: siblings may share a premise
_LEAST_POINTING, _LEAST_OWN = 0.35, 0.7
_WORD = re.compile(r'\w+')
_WITHOUT_SPACES = re.compile('[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff]')


@dataclasses.dataclass(frozen=True)
class Pointing:
  """Of `sampled` rationales, `pointing` share their words with one input, `own` with theirs."""

  sampled: int
  pointing: int
  own: int

  @property
  def elsewhere(self) -> bool:
    """Whether that is another input's too often for chance."""
    return (self.sampled >= _FEWEST and self.pointing >= _LEAST_POINTING * self.sampled
            and self.own < _LEAST_OWN * self.pointing)


def doubts(
    rationales: Sequence[str], examples: Iterable[datasets.Example], accuracy: float
) -> list[str]:
  """What to tell the user; nothing if all looks well, or cannot be seen.

  Args:
    rationales: one for each example, in the same order; '' where there is none.
    examples: gone through once.
    accuracy: of all rows with a gold label, in percent.
  """
  gold: collections.Counter[str] = collections.Counter()

  def inputs() -> Iterator[str]:
    for example in examples:
      gold.update([example.label] if example.label else [])
      yield example.input
  found, lines = compare(rationales, inputs()), []
  if found.elsewhere:
    lines.append(
        f'WARNING: of {found.pointing} rationales that share their words with one input, '
        f'{found.own} share them with their own: are these in the order of the inputs?')
  if (rows := gold.total()) >= _FEWEST:
    (label, count), = gold.most_common(1)
    share = 100 * count / rows
    if accuracy < share - 100 / math.sqrt(rows):  # By more than chance.
      lines.append(
          f'WARNING: an accuracy of {accuracy:.2f} is below {share:.2f}, that of {label!r} for '
          'every row: are these in the order of the inputs, and read as they are meant?')
  return lines


def compare(rationales: Sequence[str], inputs: Iterable[str]) -> Pointing:
  """Compares some of the rationales, evenly spaced, with all inputs.

  Args:
    rationales: one for each input, in the same order; '' where there is none.
    inputs: gone through once.
  """
  there = [i for i, text in enumerate(rationales) if text.strip()]
  sample = there[::max(1, -(-len(there) // _SAMPLED))]
  holders: dict[str, list[int]] = {}  # word -> rationales that hold it
  for i in sample:
    for word in words(rationales[i]):
      holders.setdefault(word, []).append(i)
  common = max(2, _COMMON * len(sample))
  holders = {word: found for word, found in holders.items() if len(found) <= common}
  shared = [[word for word in words(text) if word in holders] for text in inputs]
  scores = _scores(holders, shared)
  pointing = own = 0
  for i in sample:
    best, rival, mine = scores.get(i, (0.0, 0.0, 0.0))
    if best >= _LEAST_WEIGHT and best >= _RATIO * rival:
      pointing += 1
      own += 4 * mine >= 3 * best
  return Pointing(len(sample), pointing, own)


def words(text: str) -> set[str]:
  """Words, in lower case; of scripts that put no spaces between them, pairs of characters."""
  found: set[str] = set()
  for word in _WORD.findall(text.lower()):
    if _WITHOUT_SPACES.search(word):
      found.update(word[i:i + 2] for i in range(len(word) - 1))
    else:
      found.add(word)
  return found


def _scores(
    holders: Mapping[str, Sequence[int]], shared: Sequence[Sequence[str]]
) -> dict[int, tuple[float, float, float]]:
  """rationale -> weight of the words shared with the best input, the tenth, and its own."""
  counts = collections.Counter(word for found in shared for word in found)
  common = max(2, _COMMON * len(shared))
  weights = {word: math.log(len(shared) / count) for word, count in counts.items()
             if count <= common}
  best: dict[int, list[float]] = {}
  own: dict[int, float] = {}
  for number, found in enumerate(shared):
    here: collections.Counter[int] = collections.Counter()
    for word in found:
      for i in holders[word] if word in weights else ():
        here[i] += weights[word]  # type: ignore[assignment]
    for i, weight in here.items():
      if i == number:
        own[i] = weight
      heap = best.setdefault(i, [])
      (heapq.heappush if len(heap) < _RIVALS else heapq.heappushpop)(heap, weight)
  return {i: (max(heap), min(heap) if len(heap) == _RIVALS else 0.0, own.get(i, 0.0))
          for i, heap in best.items()}
