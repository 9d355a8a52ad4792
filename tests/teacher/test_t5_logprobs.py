"""A T5 teacher's probabilities: of its tokens, and with --label_logprobs of its labels."""

import asyncio
import dataclasses
import math

import numpy as np
import pytest

import dss_jax
from dss_jax import datasets, models, records, student_info, tokenizer
from dss_jax.convert import __main__ as convert_main
from dss_jax.tasks import toy
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.ask import endpoint, t5_client
from dss_jax.teacher.ask import prompts as prompts_lib
from dss_jax.teacher.read import logprobs

CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=259, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=64,
    num_encoder_layers=1, num_decoder_layers=1)
INFO = student_info.StudentInfo(model=CONFIG, vocabulary='bytes', label_prefix='')
TEXTS = ['Where do birds live?', 'a', 'zwölf Brötchen ' * 9, 'x y z']
PROMPT = '''
version = 1
dataset = 'toy'
instruction = ''
[completion]
question = '{input}'
answer = '{rationale} so lane is {label}'
answer_phrase = 'so lane is'
label_kind = 'class'
stop = []
'''


@pytest.fixture(scope='module')
def folder(random_weights, tmp_path_factory):
  """A network of bytes whose answers vary and end."""
  weights = random_weights(CONFIG, seed=2)
  head = 6 * weights.arrays['decoder/logits_dense/kernel']
  head[:, 1] *= 3
  weights.arrays['decoder/logits_dense/kernel'] = head
  path = str(tmp_path_factory.mktemp('models') / 'bytes')
  convert_main.convert(weights, path, 'native', info=INFO)
  return path


@pytest.fixture(scope='module')
def student(folder):
  return dss_jax.load(folder)


def likelihood(student, prompt, ids):
  """Log probability of a beginning of an answer, by the code that ranks labels."""
  return student._decoder.score(student.params, [prompt], [[ids]], 8, 4096)[0][0]


@pytest.mark.parametrize('temperature', [0.0, 1.5])
def test_each_token_has_the_probability_that_ranking_gives(student, temperature):
  prompts = [student.encode(text) for text in TEXTS]
  written = student.generate(prompts, max_tokens=8, temperature=temperature)
  assert len({one.text for one in written}) > 1
  found = {number: steps for number, *steps in student.alternatives(
      prompts, written, top_k=3, batch_size=3)}
  for number, (prompt, one) in enumerate(zip(prompts, written, strict=True)):
    ids, values, own = found[number]
    assert ids.shape == values.shape == (one.tokens, 3) and own.shape == (one.tokens,)
    assert len(one.ids) == one.tokens and np.all(np.diff(values) <= 0)
    before = 0.0
    for at, log_prob in enumerate(own):
      whole = likelihood(student, prompt, one.ids[:at + 1])
      assert whole - before == pytest.approx(log_prob, abs=2e-4)
      for other, value in zip(ids[at].tolist(), values[at]):
        assert other == tokenizer.PAD_ID or likelihood(
            student, prompt, [*one.ids[:at], other]) - before == pytest.approx(value, abs=2e-4)
      assert temperature or log_prob == pytest.approx(values[at, 0], abs=1e-5)
      before = whole


def test_the_texts_of_tokens_make_the_text(toy_vocabulary, student):
  with open(toy_vocabulary, 'rb') as f:
    words = tokenizer.SentencePieceTokenizer(f.read())
  for one, text in ((words, 'foreign sturdy left nonsense'), (student.tokenizer, 'ä 👍 b')):
    ids = [*one.encode_target(text), one.eos_id]
    joined = b''.join(map(one.text_of, ids)).decode()
    assert joined.endswith('\n') and joined[:-1].lstrip(' ') == one.decode(ids).lstrip(' ')
    assert one.text_of(tokenizer.PAD_ID) == b''


def ask(teacher, decoding):
  prompt = prompts_lib.load(prompts_lib.path_of('cqa'))
  prompt = dataclasses.replace(prompt, demonstrations=(), stop=())
  async def main():
    return await asyncio.gather(*(
        teacher.ask(teacher.request(prompt, text, decoding)) for text in TEXTS))
  return asyncio.run(main())


@pytest.mark.parametrize('extra', [{'logprobs': True, 'top_logprobs': 4}, {'logprobs': 4}])
def test_they_come_with_the_answer_if_asked_for(folder, extra):
  teacher = t5_client.T5Endpoint(folder, batch_size=2, dtype='float32')
  plain, asked = (ask(teacher, endpoint.Decoding(max_tokens=8, extra=one)) for one in ({}, extra))
  for one, other in zip(plain, asked, strict=True):
    assert 'logprobs' not in one and teacher.read(one).logprobs is None
    assert {name: other[name] for name in one} == one
    answer = teacher.read(other)
    tokens = logprobs.tokens(answer.logprobs)
    assert len(tokens) == answer.completion_tokens
    assert all(len(token.others) <= 4 for token in tokens)
    assert all(0 < token.probability <= 1 for token in tokens)


@pytest.mark.slow
def test_a_students_labels_with_their_probabilities(
    toy_records, toy_vocabulary, tmp_path, monkeypatch):
  """One that writes its rationale first teaches: a label is as probable as ranking has it."""
  dss_jax.train('gin/native/tiny.gin', method='rationale_then_label', dataset='toy',
                RECORDS_DIR=str(toy_records), VOCABULARY=toy_vocabulary, TRAIN_STEPS=150,
                EVAL_PERIOD=150, MODEL_DIR=str(tmp_path / 'run'), BATCH_SIZE=32)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'prompt.toml').write_text(PROMPT)
  rows = list(toy.make_examples(12, 5, 12))
  (tmp_path / 'in.jsonl').write_text(''.join(
      f'{{"id": "{row.id}", "input": "{row.input}", "label": "{row.label}"}}\n' for row in rows))
  assert teacher_main.main([
      '--client=t5', '--model=run', '--dataset=toy', '--split=train', '--inputs=in.jsonl',
      '--records_dir=out', '--prompt=prompt.toml', '--label_logprobs', '--holdout=none',
      '--dtype=float32', '--max_tokens=24', '--go_on', '--allow_unparsed']) == 0
  student = dss_jax.load('run')
  read = [row for row in records.read_records('out', 'toy', 'train', samples=True)
          if row.parse_status == 'ok']
  assert len(read) > 6
  for row in read:
    before = student.tokenizer.encode_target(f'{row.rationale} so lane is')
    scores = [likelihood(student, student.encode(row.input),
                         [*before, *student.tokenizer.encode_target(label)])
              for label in datasets.get('toy').labels]
    shares = np.exp(np.array(scores) - max(scores))
    assert row.label_votes == pytest.approx(shares / shares.sum(), abs=2e-3)
    assert math.isclose(sum(row.label_votes), 1, rel_tol=1e-6)
