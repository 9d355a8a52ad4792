"""What a server answers: as `student.predict`, whoever asks beside."""

import asyncio
import contextlib
import random

import jax
import pytest

import dss_jax


def made_up(count, seed=0):
  """(text, what else is asked) of random requests, some longer than the student reads."""
  draw = random.Random(seed)
  asked = [{'rank': False}, {'rank': False, 'rationale': True}, {}, {'rationale': True},
           {'labels': ['up', 'down', 'out']}, {'labels': ['on', 'off']}]
  return [(''.join(draw.choices('abc left right é 中</s>', k=draw.randint(1, 90))) + '.',
           draw.choice(asked)) for _ in range(count)]


@contextlib.contextmanager
def compilations():
  """Counts the programs that are compiled within it."""
  found, counting = [], True

  def note(event, seconds, **_):
    if counting and event == '/jax/core/compile/backend_compile_duration':
      found.append(seconds)
  jax.monitoring.register_event_duration_secs_listener(note)
  yield found
  counting = False


def test_concurrent_requests_get_what_predict_answers_and_none_compiles(folder, serve):
  asked = made_up(120)
  student = dss_jax.load(folder)  # One that nobody pads: as `dss predict` has it.
  expected = {}
  for options in {str(options): options for _, options in asked}.values():
    texts = [text for text, other in asked if other == options]
    expected |= dict(zip(texts, student.predict(texts, **{'rank': True, **options})))

  async def main():
    async with serve(queue=len(asked), timeout=120) as client:  # However slow the machine is.
      async def ask(text, options):
        await asyncio.sleep(random.random() / 5)
        async with client.post('/predict', json={'input': text, **options}) as response:
          assert response.status == 200, await response.text()
          return await response.json()
      with compilations() as compiled:
        answers = await asyncio.gather(*(ask(*one) for one in asked))
      metrics = await (await client.get('/metrics')).text()
    return answers, compiled, metrics
  answers, compiled, metrics = asyncio.run(main())
  assert compiled == []
  for (text, _), found in zip(asked, answers, strict=True):
    row = expected[text].as_row()
    assert found.pop('truncated') == (
        len(student.encode(student.info.rationale_prefix + text)) > 64 if 'rationale' in row else
        len(student.encode(student.info.label_prefix + text)) > 64)
    row.pop('truncated', None)
    assert set(found) == set(row)
    for name, value in row.items():
      assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5))
  batches = int(float(metrics.split('dss_batch_size_count ')[1].split()[0]))
  assert 'dss_batch_size_sum 120.0' in metrics and batches < 100


def test_several_inputs_are_answered_in_order(folder, serve):
  texts = [text for text, _ in made_up(20, seed=1)]
  expected = dss_jax.load(folder).predict(texts)

  async def main():
    async with serve() as client, client.post(
        '/predict', json={'inputs': texts, 'rank': False}) as response:
      return await response.json()
  found = asyncio.run(main())['predictions']
  assert [row['predicted_label'] for row in found] == [one.label for one in expected]


BAD = {
    b'': 'the body: invalid JSON', b'{"input": "a"': 'the body: invalid JSON',
    b'\x80\xff\x00': 'the body: invalid JSON', b'[1]': 'the body: input should be an object',
    b'"text"': 'the body: ', b'null': 'the body: ', b'[' * 3000: 'the body: ',
    b'{}': 'input: give one', b'{"input": null}': 'input: give one',
    b'{"input": "a", "inputs": ["a"]}': 'input: give one',
    b'{"input": ""}': 'input: empty', b'{"input": " \\n"}': 'input: empty',
    b'{"inputs": []}': 'inputs: empty', b'{"inputs": ["a", ""]}': 'inputs: empty',
    b'{"input": 5}': 'input: input should be a valid string',
    b'{"inputs": "a"}': 'inputs: input should be a valid',
    b'{"inputs": ["a", true]}': 'inputs[1]: ', b'{"text": "a"}': 'text: no such field; there are',
    b'{"input": "a", "rationale": "yes"}': 'rationale: ',
    b'{"input": "\\ud800"}': 'the body: invalid JSON',
    b'{"input": "a", "labels": []}': 'labels: empty',
    b'{"input": "a", "labels": ["a", " "]}': 'labels: empty',
    b'{"input": "a", "labels": ["a"], "rank": false}': 'labels: they are what rank scores',
    b'{"input": "a", "labels": ["a", "b", "c", "d"]}': 'labels: 4 of them, at most 3',
    b'{"input": "a", "labels": ["12345678"]}': "labels: '12345678' has 9 tokens, at most 8",
}


def test_a_wrong_request_is_told_which_field(serve):
  async def main():
    async with serve() as client:
      for body, why in BAD.items():
        async with client.post('/predict', data=body) as response:
          found = await response.json()
          assert response.status == 422 and found['detail'].startswith(why), (body, found)
      assert (await client.get('/predict')).status == 405
      assert (await client.get('/nowhere')).status == 404
  asyncio.run(main())


def test_too_much_is_413(serve):
  async def pieces():
    for _ in range(1000):
      yield b' ' * 1000

  async def main():
    async with serve() as client:
      for data in (b' ' * 6000, pieces()):
        async with client.post('/predict', data=data) as response:
          assert response.status == 413
          assert 'the body has over 5,000 bytes' in (await response.json())['detail']
      async with client.post('/predict', json={'inputs': ['a'] * 21}) as response:
        assert response.status == 413
        assert (await response.json())['detail'].startswith('inputs: 21 of them, at most 20')
  asyncio.run(main())


def test_its_address_alone_shows_the_page(serve):
  async def main():
    async with serve() as client, client.get('/') as response:
      return response.status, response.url.path, await response.text()
  status, path, page = asyncio.run(main())
  assert (status, path) == (200, '/docs') and 'dss serve' in page


def test_the_schema_describes_every_field(serve):
  async def main():
    async with serve() as client:
      return await (await client.get('/openapi.json')).json()
  schema = asyncio.run(main())
  predict = schema['paths']['/predict']['post']
  fields = predict['requestBody']['content']['application/json']['schema']['properties']
  assert set(fields) == {'input', 'inputs', 'rationale', 'rank', 'labels'}
  fields |= schema['components']['schemas']['Prediction']['properties']
  assert all(field['description'] for field in fields.values())
  assert {'200', '413', '422', '429', '500', '503', '504'} <= set(predict['responses'])
