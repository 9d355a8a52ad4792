"""The search for the largest microbatch: right, and with few compilations."""

import fakes
import pytest

from dss_jax.precompile import jobs, search, shapes

GIB = 2**30


def find(numbers, gib_of, room=16, fixed=1, most=4):
  """gib_of: microbatches -> GiB of temporaries, an Outcome, or None for what cannot compile."""
  def attempt(k):
    found = gib_of(k)
    if isinstance(found, jobs.Outcome):
      return found
    if found > room:
      return jobs.Outcome(jobs.NO_ROOM, 1.0, facts={'temporaries': found * GIB})
    return fakes.compiled(found, 3, 10.0)
  return search.smallest_fit(numbers, attempt, room * GIB, fixed * GIB, most)


def test_numbers_of_microbatches_give_every_device_whole_rows():
  assert shapes.divisors(128 // 16) == [1, 2, 4, 8]
  assert shapes.divisors(24 // 2) == [1, 2, 3, 4, 6, 12]


def test_one_compilation_is_enough_where_the_whole_batch_fits():
  found = find([1, 2, 4, 8], lambda k: 8)
  assert (found.microbatches, found.proven, list(found.tried)) == (1, True, [1])


@pytest.mark.parametrize('activations', range(1, 400, 7))
def test_the_answer_is_the_least_that_fits_and_its_neighbour_was_tried(activations):
  numbers = [1, 2, 4, 8, 16, 32]
  found = find(numbers, lambda k: 1 + activations // k)
  least = next((k for k in numbers if 1 + activations // k + 3 <= 16), None)
  assert (found.microbatches, found.proven) == (least, True)
  if least and least > 1:
    assert numbers[numbers.index(least) - 1] in found.tried
  assert len(found.tried) <= 4


def test_figures_that_mislead_cost_compilations_and_not_the_answer():
  found = find([1, 2, 4, 8, 16, 32], lambda k: 40 if k < 16 else 2, most=9)
  assert (found.microbatches, found.proven) == (16, True)


def test_nothing_fits():
  found = find([1, 2, 4], lambda k: 40)
  assert (found.microbatches, found.proven) == (None, True)


def test_the_budget_ends_the_search_without_a_claim():
  found = find([1, 2, 4, 8, 16, 32], lambda k: 15 if k < 16 else 2, most=1)
  assert (found.microbatches, found.proven, list(found.tried)) == (None, False, [1])
  found = find([1, 2, 4, 8, 16, 32], lambda k: 40 if k < 16 else 2, most=2)
  assert (found.microbatches, found.proven) == (16, True)


def test_arguments_that_exceed_the_device_end_it_at_once():
  too_much = jobs.Outcome(jobs.NO_ROOM, 1.0, facts={'arguments': 17 * GIB})
  found = find([1, 2, 4, 8], lambda k: too_much)
  assert (found.microbatches, found.proven, list(found.tried)) == (None, True, [1])


def test_a_crash_is_passed_and_a_timeout_ends_it():
  crash = jobs.Outcome(jobs.CRASHED, 1.0, 'SIGSEGV')
  found = find([1, 2, 4], lambda k: crash if k == 1 else 3)
  assert (found.microbatches, found.proven) == (2, False)
  slow = jobs.Outcome(jobs.TIMEOUT, 900.0, 'over 15 min')
  found = find([1, 2, 4], lambda k: slow)
  assert (found.microbatches, found.proven, list(found.tried)) == (None, False, [1])
