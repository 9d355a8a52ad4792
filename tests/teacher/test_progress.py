"""What a job will cost, how far it is, and what its journal lost: told, on a jumping clock."""

import asyncio
import dataclasses

import pytest
from clock import run
from scripted import PROMPT, Scripted, client, complete, examples

from dss_jax.teacher.ask import asking, endpoint, estimate, journal, limits, sender, tokens


def test_dry_run_counts_what_is_missing_and_learns_from_the_journal(tmp_path):
  prices = {'prompt_price': 10.0, 'completion_price': 100.0}
  made = client(tmp_path / 'j', Scripted(), budget=limits.Budget(**prices), samples=2)
  found = estimate.estimate(made, examples(10))
  length = tokens.estimate(PROMPT.as_text('input 0'))
  assert (found.wanted, found.to_send, found.most_completion_tokens) == (20, 20, 20 * 256)
  assert found.prompt_tokens == pytest.approx(20 * length, rel=0.01)
  assert found.completion_tokens == pytest.approx(
      20 * tokens.estimate('A: It is. So the answer is yes.'))
  assert found.shared_tokens < length and not found.measured
  complete(tmp_path / 'j', Scripted(), n=4, samples=2)
  made = client(tmp_path / 'j', Scripted(), budget=limits.Budget(**prices), samples=2)
  found = estimate.estimate(made, examples(10))
  assert (found.to_send, found.completion_tokens, found.measured) == (12, 120, 8)
  assert found.prompt_tokens == pytest.approx(1200)
  text = estimate.render(made, found, requests_per_minute=6)
  assert '20, of which 8 are answered in the journal: 12 to send' in text
  assert 'cost            0.024 USD, at most 0.32' in text and 'at least 2.0 minutes' in text


def test_dry_run_learns_from_answers_to_these_requests_alone(tmp_path):
  complete(tmp_path, Scripted(), n=6)
  other = dataclasses.replace(PROMPT, instruction='Explain at length. ' * 50)
  made = asking.AskingClient(Scripted(), other, journal.Journal(str(tmp_path)), sender.Options())
  found = estimate.estimate(made, examples(6))
  assert (found.to_send, found.measured) == (6, 0) and found.prompt_tokens > 6 * 150
  assert ' a request: too few for the discount' in estimate.render(made, found, 0)


def test_dry_run_counts_with_a_tokenizer_of_ones_own(tmp_path):
  made = client(tmp_path, Scripted())
  found = estimate.estimate(made, examples(10), lambda text: len(text.split()))
  assert found.prompt_tokens == 10 * len(PROMPT.as_text('input 0').split())
  assert '(by their.json; answers as' in estimate.render(made, found, 0, 'their.json')


def test_the_progress_line(tmp_path):
  teacher = Scripted(lambda number, text: endpoint.TryLater('x') if number == 2 else None)
  complete(tmp_path, Scripted(), n=3)
  made = client(tmp_path, teacher, in_flight=2, budget=limits.Budget(prompt_price=100))
  lines = []

  async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(2.5, lambda: lines.append(made.progress.line()))
    await made.complete(examples(10))
    lines.append(made.progress.line())
    await made.close()
  run(main())
  assert lines[0].startswith('5 of 10 done, 2 in flight, ') or lines[0].startswith('6 of 10')
  assert ' USD, 1 asked again' in lines[0] and 'tokens' in lines[0]
  assert lines[1].startswith('10 of 10 done, 0 in flight') and '770 tokens, 0.10 USD' in lines[1]


def test_notes_name_a_torn_and_a_damaged_journal(tmp_path):
  complete(tmp_path, Scripted())
  (path,) = tmp_path.glob('*.jsonl')
  lines = path.read_bytes().split(b'\n')
  lines[4] = lines[4][:-1] + bytes([lines[4][-1] ^ 64])
  path.write_bytes(b'\n'.join(lines)[:-20])
  teacher = Scripted()
  made = client(tmp_path, teacher)
  torn, damaged = asking.journal_notes(made.journal)
  assert torn.startswith(f'{path}: cut off') and '1 damaged line(s)' in damaged
  assert f'{path}, line 5' in damaged
  assert len(complete(tmp_path, teacher)[0]) == 10 and len(teacher.asked) == 2
