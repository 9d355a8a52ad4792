"""Teachers that this package does not know: registered by --import, and second ones."""

import sys

import live
import pytest
import server

import dss_jax.teacher
from dss_jax import errors
from dss_jax.teacher.ask import clients, recorded

MINE = '''
from dss_jax import teacher
from dss_jax.teacher.ask import endpoint


@teacher.register
class Parrot(endpoint.Endpoint):
  """Says what is in --params."""

  name, model = 'parrot', 'polly'

  @classmethod
  def from_flags(cls, flags):
    return cls()

  def request(self, prompt, text, decoding):
    return {'prompt': prompt.as_text(text), 'says': decoding.extra['says']}

  async def ask(self, request, seed=0, timeouts=0):
    if 'What is 3?' in request['prompt'].rpartition('Q: ')[2]:
      raise endpoint.Rejected('it bites')
    return {'text': request['says']}

  def read(self, response):
    return endpoint.Answer(response['text'], 'stop', 100, 10)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', live.KEY)
  live.write_inputs(tmp_path, 20)
  return tmp_path


def test_a_teacher_of_ones_own(folder, monkeypatch):
  (folder / 'my_parrot.py').write_text(MINE)
  monkeypatch.syspath_prepend(str(folder))
  monkeypatch.setattr(clients, 'ENDPOINTS', dict(clients.ENDPOINTS))
  says = '--params={"says": "A number. So the answer is (c) many."}'
  assert live.here(folder, '--import=my_parrot', '--client=parrot', says, '--max_failed=0.1') == 0
  rows = live.read(folder, splits=('test',))
  assert {row.parse_status for key, row in rows.items() if key != 'q3'} == {'ok'}
  assert rows['q3'].parse_status == 'rejected' and rows['q4'].teacher_model == 'polly'
  sys.modules.pop('my_parrot')


def test_a_name_that_is_taken(monkeypatch):
  monkeypatch.setattr(clients, 'CLIENTS', dict(clients.CLIENTS))
  with pytest.raises(errors.UserError, match="a teacher 'recorded' exists already"):
    @dss_jax.teacher.register
    class Mine(recorded.RecordedClient):
      pass

  @dss_jax.teacher.register
  class Other(recorded.RecordedClient):
    name = 'other'
  assert clients.CLIENTS['other'] is Other and 'other' in clients.names()


# --- A second teacher ----------------------------------------------------------------------------


def timid(asked):
  """Row 3 is refused, row 5 filtered, row 7 unreadable, row 8 a refusal in words."""
  own = {live.question(3): None, live.question(5): ['', 'content_filter'],
         live.question(7): 'No idea.', live.question(8): "I'm sorry, but I can't help."}
  return own.get(asked, live.answer(asked))


def refusing(number, body):
  if server._question(body) == live.question(3):
    return server.status(400, server.error('This is against our policy'))
  return None


@pytest.fixture
def first():
  with server.Server(timid, faults=refusing) as running:
    yield running


def test_what_the_first_refuses_is_asked_of_the_second(folder, first, capsys):
  with server.Server(live.answer, model='bold') as second:
    flags = ['--client=openai', '--model=timid', f'--base_url={first.base_url}',
             '--prompt_price=1', '--completion_price=1',
             f'--fallback=--model=bold --base_url={second.base_url} --prompt_price=100']
    assert live.here(folder, *flags) == 0
    assert second.requests == 3 and second.last[0]['model'] == 'bold'
    rows = live.read(folder, splits=('test',))
    models = {key: row.teacher_model for key, row in rows.items()}
    assert {key for key, model in models.items() if model == 'bold'} == {'q3', 'q5', 'q8'}
    assert rows['q3'].rationale == 'Number 3 is a number.' and rows['q7'].parse_status != 'ok'
    out = capsys.readouterr().out
    assert ' for the second teacher' in out
    asked = first.requests
    assert live.here(folder, *flags) == 0 and (first.requests, second.requests) == (asked, 3)


def test_the_budget_is_for_both(folder, first, capsys):
  with server.Server(live.answer, model='bold') as second:
    with pytest.raises(errors.UserError, match='--budget_usd=0.05 would be exceeded'):
      live.here(folder, '--client=openai', '--model=timid', f'--base_url={first.base_url}',
          '--prompt_price=1', '--completion_price=1', '--budget_usd=0.05',
          f'--fallback=--model=bold --base_url={second.base_url} --prompt_price=1000')
    assert second.requests == 0


@pytest.mark.parametrize('flags, says', [
    (['--client=recorded', '--fallback=--model=x'], '--fallback is for teachers that are asked'),
    (['--client=openai', '--model=a', '--batch', '--fallback=--model=x'], '--fallback is for'),
    (['--client=openai', '--model=a', '--fallback=--samples=2'], '--samples is the same for both'),
    (['--client=openai', '--model=a', '--fallback=--prompt_price=2'], 'name another teacher'),
    (['--client=openai', '--model=a', "--fallback=--model='x"], '--fallback=.*quotation'),
])
def test_flags_that_do_not_go_together(folder, flags, says):
  with pytest.raises(errors.UserError, match=says):
    live.here(folder, *flags)
