"""Asking: each answer paid for once; limits, retries, budgets and stops, on a jumping clock."""

import asyncio
import collections
import dataclasses

import pytest
from clock import run
from scripted import PROMPT, Scripted, client, complete, examples

from dss_jax import datasets, errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint, limits, sender
from dss_jax.teacher.ask import journal as journal_lib

# --- Never paid twice ----------------------------------------------------------------------------


def test_answers_come_in_order_and_a_second_run_asks_nothing(tmp_path):
  teacher = Scripted()
  first, _ = complete(tmp_path, teacher)
  assert [c.text for (c,) in first] == [f'A: It is input {i}. So the answer is yes.'
                                        for i in range(10)]
  assert {(c.finish_reason, c.prompt_tokens, c.completion_tokens, c.prompt_sha256)
          for (c,) in first} == {('stop', 100, 10, PROMPT.sha256())}
  assert len(teacher.asked) == 10 and teacher.closed
  again = Scripted()
  assert complete(tmp_path, again)[0] == first and not again.asked
  more = Scripted()
  assert complete(tmp_path, more, n=12)[0][:10] == first and len(more.asked) == 2


def test_inputs_that_are_the_same_are_asked_once(tmp_path):
  teacher = Scripted()
  made = client(tmp_path, teacher, in_flight=4)
  same = [datasets.Example(f'q{i}', f'input {i % 3}') for i in range(12)]

  async def main():
    try:
      return await made.complete(same)
    finally:
      await made.close()
  found = run(main())
  assert len(teacher.asked) == 3 and len({c.request_key for (c,) in found}) == 3
  assert [c.text for (c,) in found] == [f'A: It is input {i % 3}. So the answer is yes.'
                                        for i in range(12)]


@pytest.mark.parametrize('change', [
    {'decoding': endpoint.Decoding(max_tokens=9)}, {'decoding': endpoint.Decoding(temperature=1)}])
def test_other_settings_are_another_request_and_it_is_said(tmp_path, capsys, change):
  complete(tmp_path, Scripted())
  assert 'paid for, again' not in capsys.readouterr().err
  other = Scripted()
  complete(tmp_path, other, **change)
  assert len(other.asked) == 10
  assert capsys.readouterr().err.count('under other settings (prompt, model, decoding)') == 1
  complete(tmp_path, other, n=12, **change)
  assert 'paid for, again' not in capsys.readouterr().err


def test_samples_have_keys_and_seeds_of_their_own(tmp_path):
  two, _ = complete(tmp_path, Scripted(), n=3, samples=2)
  assert all(len(samples) == 2 for samples in two)
  assert len({c.request_key for samples in two for c in samples}) == 6
  assert len({e['response']['seed'] for e in journal_lib.entries(str(tmp_path))}) == 6
  third = Scripted()
  three, _ = complete(tmp_path, third, n=3, samples=3)
  assert [samples[:2] for samples in three] == two and len(third.asked) == 3


def test_a_further_attempt_has_its_own_decoding(tmp_path):
  teacher = Scripted()
  first, _ = complete(tmp_path, teacher, n=2)
  again, _ = complete(tmp_path, teacher, n=2, attempt=1)
  assert len(teacher.asked) == 4
  assert {c.request_key for (c,) in first}.isdisjoint(c.request_key for (c,) in again)


# --- Limits --------------------------------------------------------------------------------------


def test_never_more_in_flight_than_allowed(tmp_path):
  teacher = Scripted()
  _, seconds = complete(tmp_path, teacher, n=40, in_flight=8)
  assert teacher.peak == 8 and 5 <= seconds < 6


def test_requests_per_minute(tmp_path):
  teacher = Scripted(seconds=0.1)
  complete(tmp_path, teacher, n=30, pace=limits.Pace(requests_per_minute=60))
  times = [time for time, _ in teacher.asked]
  assert all(times[i + 10] - times[i] >= 9.9 for i in range(20))
  assert times[-1] - times[0] == pytest.approx(29, abs=0.5)


def test_tokens_per_minute_learn_from_the_answers(tmp_path):
  teacher = Scripted(seconds=0.1)  # 110 tokens a request.
  complete(tmp_path, teacher, n=30, in_flight=4, pace=limits.Pace(tokens_per_minute=1100))
  times = [time for time, _ in teacher.asked]
  assert times[-1] - times[9] == pytest.approx(20 * 6, rel=0.1)  # Ten a minute.


def test_too_many_requests_make_all_wait_as_long_as_the_server_says(tmp_path):
  def fault(number, text):
    return endpoint.TryLater('429', after=40.0, limited=True) if number <= 16 else None
  teacher = Scripted(fault)
  found, seconds = complete(tmp_path, teacher, n=32, in_flight=16, max_retries=0)
  assert len(found) == 32 and 41 <= seconds < 50
  times = [time - teacher.asked[0][0] for time, _ in teacher.asked]
  assert len(times) == 48 and not [t for t in times if 1.5 < t < 40]


def test_endless_refusal_stops_in_the_end(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater('busy', after=30, limited=True))
  with pytest.raises(protocol.Unfinished, match='for 1. minutes .* "too many requests".*busy'):
    complete(tmp_path, teacher, n=4, patience=600.0)
  assert len(teacher.asked) < 4 * 25


def test_failures_are_repeated_with_growing_waits(tmp_path):
  counts = collections.Counter()

  def fault(number, text):
    counts[text] += 1
    return endpoint.TryLater('500') if counts[text] <= 4 else None
  teacher = Scripted(fault, seconds=0.01)
  found, seconds = complete(tmp_path, teacher, n=3, max_retries=4)
  assert len(found) == 3 and 7.5 <= seconds <= 16  # 1 + 2 + 4 + 8, each halved at most.


@pytest.mark.parametrize('error', [
    endpoint.TryLater('500: no'), endpoint.Fatal('403: moderated'),
    endpoint.TryLater('the response is no answer: no content')])
def test_a_row_that_never_gets_an_answer_fails_and_is_not_paid_again(tmp_path, error):
  def fault(number, text):
    return error if text.endswith('3') else None
  found, _ = complete(tmp_path, Scripted(fault), max_retries=2)
  assert [(c.finish_reason, c.error) for (c,) in found][3] == ('unanswered', str(error))
  assert {c.finish_reason for (c,) in found[:3] + found[4:]} == {'stop'}
  again = Scripted()
  assert complete(tmp_path, again)[0] == found and not again.asked
  (one,), _ = complete(tmp_path, again, n=1, attempt=1)
  assert len(again.asked) == 1 and one[0].finish_reason == 'stop'


def test_a_further_attempt_at_what_was_not_taken_has_no_more_tokens(tmp_path):
  class Sent(Scripted):
    def __init__(self, **settings):
      super().__init__(**settings)
      self.sent = []

    async def ask(self, request, seed=0, timeouts=0):
      self.sent.append(request['max_tokens'])
      return await super().ask(request, seed)
  complete(tmp_path, Scripted(
      lambda number, text: endpoint.Rejected('400: too long') if text == 'input 1' else None), n=2)
  teacher = Sent()
  complete(tmp_path, teacher, n=2, attempt=1)
  assert teacher.sent == [512, 256]


# --- Stops ---------------------------------------------------------------------------------------


def test_fatal_errors_in_a_row_stop_everything(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.Fatal('401: bad key'))
  with pytest.raises(protocol.Unfinished, match='5 request.s. in a row .*: 401: bad key') as caught:
    complete(tmp_path, teacher, n=200, in_flight=4)
  assert caught.value.mend and len(teacher.asked) <= 5 + 4 + 1
  mended = Scripted()
  complete(tmp_path, mended)
  assert len(mended.asked) == 10


@pytest.mark.parametrize('in_flight', [1, 4, 64])
def test_a_cluster_of_rows_that_are_not_taken_does_not_stop_the_job(tmp_path, in_flight):
  def fault(number, text):
    bad = int(text.split()[-1]) < 12 if text.startswith('input') else False
    return endpoint.Rejected('400: too long') if bad else None
  teacher = Scripted(fault)
  found, _ = complete(tmp_path, teacher, n=40, in_flight=in_flight)
  assert [c.finish_reason for (c,) in found] == ['rejected'] * 12 + ['stop'] * 28
  assert len(teacher.asked) <= 40 + 3  # One in five of them asked whether anything is answered.
  again = Scripted()
  assert complete(tmp_path, again, n=40)[0] == found and not again.asked


def test_a_closed_port_ends_the_job_in_seconds(tmp_path):
  teacher = Scripted(
      lambda number, text: endpoint.TryLater('connection: refused', unreachable=True), seconds=0.01)
  with pytest.raises(protocol.Unfinished, match='nobody answers there') as caught:
    complete(tmp_path, teacher, n=100)
  assert caught.value.mend
  assert teacher.asked[-1][0] - teacher.asked[0][0] < 4


def test_a_server_that_never_answers_stops_the_job_and_says_why_at_once(tmp_path, capsys):
  teacher = Scripted(lambda number, text: endpoint.TryLater('connection: refused'), seconds=0.01)
  with pytest.raises(protocol.Unfinished, match='5 request.s. in a row .*: connection: refused'):
    complete(tmp_path, teacher, n=500, in_flight=20, max_retries=3)
  assert len(teacher.asked) <= 20 * 4 + 20
  assert capsys.readouterr().err.count('connection: refused; asking again') == 1


def test_single_fatal_errors_do_not(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.Fatal('404') if number % 3 == 0 else None)
  found, _ = complete(tmp_path, teacher, n=60, in_flight=1)
  assert len(teacher.asked) == 60
  assert [c.error for (c,) in found].count('404') == 20


def test_a_rejected_request_is_an_answer_and_not_repeated(tmp_path):
  def fault(number, text):
    return endpoint.Rejected('400: too long') if text.endswith('3') else None
  found, _ = complete(tmp_path, Scripted(fault))
  assert [c.finish_reason for (c,) in found].count('rejected') == 1
  again = Scripted()
  assert complete(tmp_path, again)[0] == found and not again.asked


def test_rejection_of_everything_is_the_settings_fault_and_leaves_no_trace(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.Rejected('400: max_tokens is not supported'))
  with pytest.raises(protocol.Unfinished, match='max_tokens is not supported'):
    complete(tmp_path, teacher, n=50, in_flight=2)
  mended = Scripted()
  complete(tmp_path, mended)
  assert len(mended.asked) == 10


def test_max_requests_counts_this_run(tmp_path):
  for left in (10, 6, 2):
    teacher = Scripted()
    if left > 4:
      with pytest.raises(protocol.Unfinished, match='--max_requests=4 are sent'):
        complete(tmp_path, teacher, budget=limits.Budget(max_requests=4))
    else:
      complete(tmp_path, teacher, budget=limits.Budget(max_requests=4))
    assert len(teacher.asked) == min(4, left)


def test_what_is_paid_without_an_answer_counts(tmp_path):
  def fault(number, text):
    return {'input 3': endpoint.TryLater('no content', paid=(100, 900)),
            'input 4': endpoint.TryLater('no answer within 1 s', timed_out=True)}.get(text)
  budget = limits.Budget(max_usd=1000, prompt_price=1000, completion_price=1000)
  complete(tmp_path, Scripted(fault), max_retries=2, budget=budget)
  used = journal_lib.Journal(str(tmp_path))
  used.refresh()
  tokens = used.usage().prompt_tokens + used.usage().completion_tokens
  assert tokens > 8 * 110 + 3 * 1000 + 3 * 20
  assert budget.spent == pytest.approx(tokens / 1000)
  later = client(tmp_path, Scripted(), budget=limits.Budget(prompt_price=1000,
                                                            completion_price=1000))
  assert later.budget.spent == pytest.approx(budget.spent)


def test_a_budget_that_is_lost_without_answers_ends_the_job(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater('no content', paid=(100, 900)))
  with pytest.raises(protocol.Unfinished, match='without an answer .no content.') as caught:
    complete(tmp_path, teacher, in_flight=2, max_retries=99,
             budget=limits.Budget(max_usd=5, prompt_price=1000, completion_price=1000))
  assert caught.value.mend and len(teacher.asked) <= 6


def test_no_answer_with_text_at_all_stops_the_job(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater('no content'))
  with pytest.raises(protocol.Unfinished, match='no content'):
    complete(tmp_path, teacher, max_retries=2)
  assert complete(tmp_path, Scripted())[0]  # And is asked for again.


def test_a_budget_is_kept_with_a_server_that_counts_no_tokens(tmp_path, capsys):
  class Uncounted(Scripted):
    def read(self, response):
      return endpoint.Answer(response['text'], 'stop')
  teacher = Uncounted()
  budget = limits.Budget(max_usd=0.3, prompt_price=1000, completion_price=1000)
  with pytest.raises(protocol.Unfinished, match='--budget_usd=0.3 would be exceeded'):
    complete(tmp_path, teacher, in_flight=2, budget=budget,
             decoding=endpoint.Decoding(max_tokens=20))
  assert 0.2 < budget.spent <= 0.3
  assert capsys.readouterr().err.count('they are guessed') == 1


def test_the_budget_is_of_the_whole_journal_and_is_not_exceeded(tmp_path):
  # 0.11 USD an answer; about 0.29 is set aside for one in flight.
  def budget():
    return limits.Budget(max_usd=0.80, prompt_price=1000, completion_price=1000)
  options = {'decoding': endpoint.Decoding(max_tokens=200)}
  teacher = Scripted()
  with pytest.raises(protocol.Unfinished, match='--budget_usd=0.8 would be exceeded: 0.[5-7]'):
    complete(tmp_path, teacher, budget=budget(), **options)
  paid = 0.11 * len(teacher.asked)
  assert 0.5 < paid <= 0.80
  again = Scripted()
  with pytest.raises(protocol.Unfinished, match='budget'):
    complete(tmp_path, again, budget=budget(), **options)
  assert paid + 0.11 * len(again.asked) <= 0.80
  rest = Scripted()
  complete(tmp_path, rest, **options)
  assert len(teacher.asked) + len(again.asked) + len(rest.asked) == 10


def test_a_stop_waits_for_what_is_in_flight(tmp_path):
  teacher = Scripted(seconds=5)
  made = client(tmp_path, teacher, in_flight=3)

  async def main():
    asyncio.get_running_loop().call_later(7, made.stop, 'interrupted')
    try:
      await made.complete(examples(10))
    finally:
      await made.close()
  with pytest.raises(protocol.Unfinished, match='interrupted'):
    run(main())
  assert len(teacher.asked) == 6  # Two rounds of three: the second was in flight.
  rest = Scripted()
  complete(tmp_path, rest)
  assert len(rest.asked) == 4


def test_a_stop_does_not_wait_for_requests_that_wait_themselves(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater('429', after=800, limited=True))
  made = client(tmp_path, teacher)

  async def main():
    loop = asyncio.get_running_loop()
    begun = loop.time()
    loop.call_later(100, made.stop, 'interrupted')
    with pytest.raises(protocol.Unfinished, match='interrupted'):
      await made.complete(examples(5))
    await made.close()
    return loop.time() - begun
  assert run(main()) < 110


def test_a_journal_that_cannot_be_written_ends_the_job(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='could not be written down'):
    complete(tmp_path / 'file' / 'journal', Scripted())


def test_options_are_plain_values():
  assert dataclasses.asdict(sender.Options())['decoding'] == {
      'max_tokens': 256, 'temperature': 0.0, 'extra': {}}


def test_a_server_that_asks_to_wait_a_day_is_not_waited_for(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater(
      '429: daily limit', after=86400, limited=True) if number > 4 else None)
  with pytest.raises(protocol.Unfinished, match='asks to wait 24:00:00 .429: daily') as caught:
    complete(tmp_path, teacher, in_flight=2)
  assert not caught.value.mend and len(teacher.asked) <= 6
  rest = Scripted()
  complete(tmp_path, rest)
  assert len(rest.asked) == 6


def test_a_few_refusals_hardly_slow_the_others(tmp_path):
  """2 % of 429s without Retry-After."""
  _, without = complete(tmp_path / 'a', Scripted(seconds=0.05), n=1500)
  _, some = complete(tmp_path / 'b', Scripted(
      lambda number, text: endpoint.TryLater('429', limited=True) if number % 50 == 0 else None,
      seconds=0.05), n=1500)
  assert some < 3 * without + 1


@pytest.mark.slow
def test_a_servers_rate_is_found(tmp_path):
  """It takes 20 requests a second, and refuses the others at once."""
  begun = []

  class Limited(Scripted):
    async def ask(self, request, seed=0, timeouts=0):
      now = asyncio.get_running_loop().time()
      begun[:] = [one for one in begun if now - one < 1]
      if len(begun) >= 20:
        self.asked.append((now, 'refused'))
        raise endpoint.TryLater('429', limited=True)
      begun.append(now)
      return await super().ask(request, seed)
  teacher = Limited(seconds=0.05)
  found, seconds = complete(tmp_path, teacher, n=600)
  assert len(found) == 600 and 29 < seconds < 60
  refused = sum(text == 'refused' for _, text in teacher.asked)
  assert refused < 300


@pytest.mark.parametrize('strange', [True, False])
def test_a_server_that_sends_nothing_of_the_kind_is_to_be_mended(tmp_path, strange):
  """A web page, always, is a wrong address; a status 500 may pass."""
  teacher = Scripted(lambda number, text: endpoint.TryLater('a web page', strange=strange))
  with pytest.raises(protocol.Unfinished, match='had no answer') as caught:
    complete(tmp_path, teacher, max_retries=1)
  assert caught.value.mend == strange
  with pytest.raises(protocol.Unfinished, match='had no answer') as caught:
    complete(tmp_path, teacher, n=1, max_retries=1)  # Fewer than --max_fatal.
  assert caught.value.mend == strange
