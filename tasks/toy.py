"""The quick start's toy set, *parcel*: a rationale that names what matters.

An input lists n two-valued facts about a parcel in random order. The sorter's lane starts
left and is flipped by each of three relevant facts; the others do not matter. No single fact
correlates with the label, so a student that sees labels only has to search for the rule,
while the rationale names the facts that count and the lane after each of them. Made to show
the mechanism from scratch in seconds; it predicts nothing about real data.
"""

import random
from collections.abc import Iterator, Sequence

from dss_jax import data, datasets

FACTS = (  # (does not flip, flips) for the three relevant facts, then any two values
    ('domestic', 'foreign'), ('sturdy', 'fragile'), ('signed', 'unsigned'),
    ('heavy', 'light'), ('red', 'blue'), ('round', 'square'), ('new', 'old'),
    ('wet', 'dry'), ('hot', 'cold'), ('paid', 'owed'), ('early', 'late'),
    ('long', 'short'), ('wide', 'narrow'), ('soft', 'hard'), ('clean', 'dirty'),
    ('open', 'closed'), ('full', 'empty'), ('cheap', 'costly'), ('loud', 'quiet'),
    ('rough', 'smooth'), ('thick', 'thin'), ('bright', 'dark'), ('fresh', 'stale'),
    ('sweet', 'sour'), ('urban', 'rural'), ('public', 'private'), ('common', 'rare'),
    ('plain', 'fancy'))
NUM_RELEVANT = 3
LANES = ('left', 'right')
ANSWER_PHRASE = 'so lane is'


def make_examples(count: int, seed: int, num_facts: int = len(FACTS)) -> Iterator[datasets.Example]:
  """`count` distinct inputs: 'heavy foreign sturdy ... old' with label 'left' or 'right'."""
  rng = random.Random(seed)
  seen = set()
  while len(seen) < count:
    words = [rng.choice(pair) for pair in FACTS[:num_facts]]
    rng.shuffle(words)
    text = ' '.join(words)
    if text not in seen:
      seen.add(text)
      yield datasets.Example(id=f'toy-{seed}-{len(seen)}', input=text, label=_trace(text)[-1])


def _trace(text: str, order: Sequence[int] = range(NUM_RELEVANT), mistake: int = -1) -> list[str]:
  """['foreign', 'right', 'sturdy', 'right', 'unsigned', 'left']: fact, lane so far, ..."""
  words = set(text.split())
  lane, trace = 0, []
  for one in order:
    stays, flips = FACTS[one]
    lane ^= (flips in words) != (one == mistake)
    trace += [flips if flips in words else stays, LANES[lane]]
  return trace


def teacher(example: datasets.Example) -> str:
  """The scripted teacher's completion: 'foreign right ... left so lane is left'."""
  return _completion(_trace(example.input))


def unsure_teacher(
    example: datasets.Example, samples: int = 4, mistakes: float = 0.2) -> list[str]:
  """Completions of a teacher that is sampled: facts in any order, in some one is taken wrongly.

  Args:
    samples: how many.
    mistakes: the share of them whose lane, from some fact on, is the wrong one.
  """
  rng = random.Random(example.id)
  return [_completion(_trace(
      example.input, rng.sample(range(NUM_RELEVANT), NUM_RELEVANT),
      rng.randrange(NUM_RELEVANT) if rng.random() < mistakes else -1)) for _ in range(samples)]


def _completion(trace: Sequence[str]) -> str:
  return f"{' '.join(trace)} {ANSWER_PHRASE} {trace[-1]}"


DATASET = data.register(
    'toy',
    labels=LANES,
    completion=datasets.CompletionFormat(
        end_marker='\n', answer_phrase=ANSWER_PHRASE, label_kind='class'),
    holdout='hash',
    source='generated: dss_jax.tasks.toy.make_examples')
