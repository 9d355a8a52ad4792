"""A teacher that is a script, and jobs that ask it on a jumping clock."""

import asyncio

from clock import run

from dss_jax import datasets
from dss_jax.teacher.ask import asking, endpoint, prompts, sender
from dss_jax.teacher.ask import journal as journal_lib

PROMPT = prompts.Prompt(
    dataset='mine', version=1, instruction='Explain.', question='Q: {input}',
    answer='A: {rationale} So the answer is {label}.', stop=('Q:',), parts=(),
    completion=datasets.CompletionFormat(label_kind='class'),
    demonstrations=(prompts.Demonstration('x', 'It is.', 'yes'),))


class Scripted:
  """Answers 'It is <input>. So the answer is yes.' after `seconds`, or does what `fault` says."""

  name, model = 'scripted', 'me'

  def __init__(self, fault=lambda number, text: None, seconds=1.0):
    self.fault, self.seconds = fault, seconds
    self.asked = []  # (time, text)
    self.in_flight = self.peak = 0
    self.closed = False

  def request(self, prompt, text, decoding):
    return {'prompt': prompt.as_text(text), 'max_tokens': decoding.max_tokens,
            'temperature': decoding.temperature}

  async def ask(self, request, seed=0, timeouts=0):
    text = request['prompt'].rpartition('Q: ')[2].removesuffix('\nA:')
    self.asked.append((asyncio.get_running_loop().time(), text))
    self.in_flight += 1
    self.peak = max(self.peak, self.in_flight)
    number = len(self.asked)
    try:
      await asyncio.sleep(self.seconds)
      if fault := self.fault(number, text):
        raise fault
    finally:
      self.in_flight -= 1
    return {'text': f'A: It is {text}. So the answer is yes.', 'seed': seed}

  def read(self, response):
    return endpoint.Answer(response['text'], 'stop', 100, 10)

  def provenance(self):
    return {}

  async def close(self):
    self.closed = True


def examples(n):
  return [datasets.Example(f'q{i}', f'input {i}', 'yes') for i in range(n)]


def client(folder, teacher, pace=None, budget=None, **options):
  made = asking.AskingClient(
      teacher, PROMPT, journal_lib.Journal(str(folder)), sender.Options(**options), pace, budget)
  made.prepare(['q'] * 10)
  return made


def complete(folder, teacher, n=10, attempt=0, **settings):
  """(completions, seconds) of one call in a process of its own."""
  made = client(folder, teacher, **settings)

  async def main():
    begun = asyncio.get_running_loop().time()
    try:
      return await made.complete(examples(n), attempt), asyncio.get_running_loop().time() - begun
    finally:
      await made.close()
  return run(main())
