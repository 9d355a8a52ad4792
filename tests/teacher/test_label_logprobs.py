"""--label_logprobs: records with the probabilities of labels, from one answer of an input."""

import json
import re
import sys
import types

import batch_server
import live
import pytest
import server
import streams

from dss_jax import errors, records
from dss_jax.tasks import nli
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import clients, journal

N = 6
SHARES = [(0.75, 0.2, 0.05), (0.3, 0.6, 0.1), (0.0, 0.0, 1.0)]  # of a row, by its number modulo 3
PIECES = {'entailment': [b' entail', b'ment'], 'neutral': [b' neutral'],
          'contradiction': [b' contr', b'adiction']}


def shares(number):
  return dict(zip(nli.LABELS, SHARES[number % 3], strict=True))


def stream(asked):
  """Of the likeliest label; a tenth of the probability is that of none."""
  number = int(found[1]) if (found := re.search(r'Premise: Row (\d+)\b', asked)) else 0
  likely = {label: 0.9 * share for label, share in shares(number).items() if share}
  path = streams.paths({**likely, 'a': 0.1}, {**PIECES, 'a': [b' a', b' b']},
                       max(likely, key=likely.get))
  return [*streams.words(f'Row {number} says so. So the answer is'), *path, (b'.', 1.0, {})]


def said(asked):
  return streams.text(stream(asked))


@pytest.fixture
def teacher():
  with batch_server.Server(said) as running:
    running.stream = stream
    yield running


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', live.KEY)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(
      {'uid': f'r{i}', 'premise': f'Row {i} is here.', 'hypothesis': 'It is.', 'label': i % 3})
      + '\n' for i in range(N)))
  return tmp_path


def run(teacher, *flags, client='openai', dataset='anli', split='train'):
  address = [f'--base_url={teacher.base_url}'] if client == 'openai' else []
  return teacher_main.main([
      f'--client={client}', '--model=teacher', *address, f'--dataset={dataset}', f'--split={split}',
      '--inputs=in.jsonl', '--records_dir=records', '--num_shards=2', *flags])


def votes(split='train'):
  return [row.label_votes for row in records.read_records('records', 'anli', split, samples=True)]


def wanted(rel=1e-4):
  return [pytest.approx(SHARES[i % 3], rel=rel) for i in range(N)]


@pytest.mark.parametrize('flags, sent', [
    (['--label_logprobs'], {'logprobs': True, 'top_logprobs': 20}),
    (['--label_logprobs=4'], {'logprobs': True, 'top_logprobs': 4}),
    (['--label_logprobs=5', '--endpoint=completions'], {'logprobs': 5}),
    (['--label_logprobs', '--batch'], {'logprobs': True, 'top_logprobs': 20})])
def test_a_job(teacher, folder, capsys, flags, sent):
  assert run(teacher, *flags) == 0
  assert {name: value for name, value in teacher.last[0].items() if 'logprobs' in name} == sent
  assert votes() == wanted()
  assert f'{N} of {N} labels have probabilities (--label_logprobs)\n' in capsys.readouterr().out
  entry = records.find_set('records', 'anli', 'train', verify=True).entry
  assert entry['label_logprobs'] == {'samples': N, 'whole': 0} and entry['schema_version'] == 2
  first, asked = live.output(folder), sum(teacher.questions.values())
  assert run(teacher, *flags) == 0 and sum(teacher.questions.values()) == asked == N
  assert live.output(folder) == first  # Out of the journal.


def test_without_it_nothing_is_new(teacher, folder):
  assert run(teacher) == 0
  assert not any('logprobs' in name for name in teacher.last[0]) and votes() == [()] * N
  entry = records.find_set('records', 'anli', 'train').entry
  assert entry['schema_version'] == 1 and 'label_logprobs' not in entry
  assert all(one['response']['choices'][0]['logprobs'] is None
             for one in journal.entries('records/journal'))


def test_the_journal_is_small(teacher, folder):
  assert run(teacher, '--label_logprobs') == 0
  found = [one['response']['choices'][0]['logprobs'] for one in journal.entries('records/journal')]
  assert [list(one) for one in found] == [['kept']] * N
  assert all(value >= -9.3 for one in found for *_, more in one['kept'] for _, value in more)


def test_a_student_learns_them(teacher, folder):
  import seqio

  from dss_jax import data, objective
  assert run(teacher, '--label_logprobs') == 0
  data.configure(records_dir='records', vocabulary='bytes', soft_labels=1.0)
  task = seqio.get_mixture_or_task('anli_distill')
  found = {}
  for row in task.get_dataset({'inputs': 64, 'targets': 24}, split='train', num_epochs=1
                              ).as_numpy_iterator():
    text = [task.output_features[name].vocabulary.decode(row[name].tolist())
            for name in ('inputs', 'targets')]
    found[int(re.search(r'\d', text[0])[0]), text[1]] = float(
        objective.share_of(row['objective'])[0])
  assert found == pytest.approx({
      (i, label): share for i in range(N) for label, share in shares(i).items() if share}, rel=1e-4)


def test_samples_add_up_and_may_be_kept(teacher, folder):
  assert run(teacher, '--label_logprobs', '--samples=2') == 0
  assert votes() == [pytest.approx([2 * one for one in SHARES[i % 3]], rel=1e-4) for i in range(N)]
  assert run(teacher, '--label_logprobs', '--samples=2', '--keep_samples') == 0
  assert votes()[1::2] == [()] * N and len(votes()) == 2 * N


def test_json(teacher, folder):
  teacher.stream = lambda asked: [
      *streams.words('{"rationale": "It says so.", "label": "'), (b'ent', 0.75, {b'neutral': 0.25}),
      (b'ailment', 1.0, {}), (b'"}', 1.0, {})]
  teacher._answers = lambda asked: streams.text(teacher.stream(asked))
  assert run(teacher, '--label_logprobs', '--answer=json') == 0
  assert votes() == [pytest.approx((0.75, 0.25, 0.0), rel=1e-4)] * N


def test_a_server_that_gives_none(teacher, folder, capsys):
  teacher.stream = lambda asked: stream(asked) if 'Row 2 ' in asked else None
  assert run(teacher, '--label_logprobs') == 0
  assert votes() == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)] * 2
  shown = capsys.readouterr()
  assert shown.err.count('--label_logprobs: an answer came without logprobs') == 1
  assert '1 of 6 labels have probabilities (--label_logprobs); the others count whole' in shown.out


REFUSALS = [
    (400, server.error('You are not allowed to request logprobs from this model.')),
    (400, {'error': {'message': 'Unsupported value', 'param': 'top_logprobs'}}),
    (422, {'detail': [{'loc': ['body', 'top_logprobs'], 'msg': 'at most 5'}]}),
    (400, {'object': 'error', 'message': 'Requested sample logprobs of 20, more than 5'})]


@pytest.mark.parametrize('status, body', REFUSALS)
@pytest.mark.parametrize('flags', [[], ['--batch']])
def test_a_server_that_refuses(teacher, folder, status, body, flags):
  teacher.faults = lambda number, body_: server.status(status, body)
  with pytest.raises((errors.UserError, teacher_main.protocol.Unfinished),
                     match=f'{status}, with --label_logprobs=20: drop it, or give a smaller'):
    teacher_main.run([
        '--client=openai', '--model=teacher', f'--base_url={teacher.base_url}', '--dataset=anli',
        '--split=train', '--inputs=in.jsonl', '--records_dir=records', '--label_logprobs', *flags])
  assert not [one for one in journal.entries('records/journal') if 'response' in one]


@pytest.mark.parametrize('client, flags, says', [
    ('silent', [], '--client=silent gives no probabilities of tokens; .*--samples=N --keep_sam'),
    ('none', [], '--client=none has no answers'),
    ('openai', ['--label_logprobs=-1'], '--label_logprobs=-1: use 0 or more'),
    ('openai', ['--fallback=--client=silent'], '--client=silent gives no probabilities')])
def test_refusals(teacher, folder, monkeypatch, client, flags, says):
  monkeypatch.setitem(clients.ENDPOINTS, 'silent', type('Silent', (), {}))  # One's own, say.
  with pytest.raises(errors.UserError, match=says):
    run(teacher, '--label_logprobs', *flags, client=client)
  assert not teacher.requests


def test_an_open_set_is_refused(teacher, folder):
  live.write_inputs(folder, 2)
  with pytest.raises(errors.UserError, match="the labels of 'cqa' are no closed set"):
    run(teacher, '--label_logprobs', dataset='cqa')
  assert not teacher.requests


def test_the_estimate_is_the_same(teacher, folder, capsys):
  lines = []
  for flags in ([], ['--label_logprobs']):
    run(teacher, '--dry_run', '--prompt_price=1', '--completion_price=2', *flags)
    lines.append(capsys.readouterr().out.splitlines())
  assert lines[0][:-1] == lines[1][:-1] and 'cost' in lines[0][-2]
  assert lines[0][-1] != lines[1][-1] and 'of answers' in lines[1][-1]  # Of the disk.


def recorded(*flags):
  return teacher_main.main([
      '--client=recorded', '--dataset=anli', '--split=train', '--inputs=in.jsonl',
      '--records_dir=records', '--completions=said.jsonl', *flags])


def asked_of(number):
  return f'Premise: Row {number} is here.'


def rows():
  for i in range(N):
    yield {'id': f'r{i}', 'completion': said(asked_of(i)), 'logprobs': streams.chat(
        stream(asked_of(i)))}


def batch_lines():
  for i in range(N):
    body = server.completion(said(asked_of(i)), 'stop', {
        'model': 'm', 'messages': [], 'logprobs': True, 'top_logprobs': 20}, stream(asked_of(i)))
    yield {'custom_id': f'r{i}', 'response': {'status_code': 200, 'body': body}}


@pytest.mark.parametrize('lines', [rows, batch_lines])
def test_recorded_answers_that_have_them(folder, lines):
  (folder / 'said.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines()))
  assert recorded() == 0 and votes() == [()] * N
  assert recorded('--label_logprobs') == 0 and votes() == wanted()


def test_recorded_answers_that_have_none(folder):
  (folder / 'said.jsonl').write_text(''.join(
      json.dumps({**one, 'logprobs': None}) + '\n' for one in rows()))
  with pytest.raises(errors.UserError, match='no completion of --completions=said.jsonl has logp'):
    recorded('--label_logprobs')


@pytest.mark.parametrize('given', [True, False])
def test_litellm(folder, monkeypatch, capsys, given):
  made = types.ModuleType('litellm')

  async def acompletion(*, api_base, num_retries, max_retries, drop_params, **body):
    asked = server._question(body)
    found = server.completion(said(asked), 'stop', body, stream(asked) if given else None)
    return types.SimpleNamespace(model_dump=lambda mode: found)
  made.acompletion = acompletion
  monkeypatch.setitem(sys.modules, 'litellm', made)
  assert run(None, '--label_logprobs', client='litellm') == 0
  assert (votes() == wanted()) is given and all(map(any, votes()))
  assert ('an answer came without logprobs' in capsys.readouterr().err) is not given


@pytest.mark.parametrize('endpoint', ['chat', 'completions'])
def test_vllm(folder, monkeypatch, endpoint):
  """With token ids and Logprob objects, as its CompletionOutput has them."""
  made = types.ModuleType('vllm')
  made.__version__ = '0'

  class SamplingParams:

    def __init__(self, max_tokens, temperature, seed, logprobs, stop=None):
      assert logprobs == 20
  monkeypatch.setattr(made, 'SamplingParams', SamplingParams, raising=False)

  def step(number, token, probability, others):
    return {number + i: types.SimpleNamespace(decoded_token=text.decode(), logprob=value)
            for i, (text, value) in enumerate(
                [(token, streams._log(probability)),
                 *((other, streams._log(value)) for other, value in others.items())])}

  class LLM:

    def __init__(self, model):
      pass

    def generate(self, prompts, params, use_tqdm):
      return [self._output(server._question({'prompt': one})) for one in prompts]

    def chat(self, conversations, params, use_tqdm, chat_template_kwargs):
      return [self._output(server._question({'messages': one})) for one in conversations]

    def _output(self, asked):
      found = stream(asked)
      return types.SimpleNamespace(prompt_token_ids=[1], outputs=[types.SimpleNamespace(
          text=streams.text(found), finish_reason='stop', token_ids=range(0, 9 * len(found), 9),
          logprobs=[step(9 * i, *one) for i, one in enumerate(found)])])
  made.LLM = LLM
  monkeypatch.setitem(sys.modules, 'vllm', made)
  assert run(None, '--label_logprobs', f'--endpoint={endpoint}', client='vllm') == 0
  assert votes() == wanted()
