"""A small T5 teacher with random weights, for the tests of `--client=t5`; import its fixtures."""

import asyncio
import dataclasses
import io
import random

import pytest
import sentencepiece

from dss_jax import models, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.teacher.ask import endpoint, prompts, t5_client
from dss_jax.train import config as config_lib

CONFIG = models.t5_config(
    '1.1', 'small', vocab_size=256, emb_dim=32, num_heads=8, head_dim=4, mlp_dim=64,
    num_encoder_layers=1, num_decoder_layers=1)
INFO = student_info.StudentInfo(
    model=CONFIG, vocabulary='vocabulary.model', label_prefix='[label] ')
CQA = prompts.load(prompts.path_of('cqa'))
PROMPT = dataclasses.replace(CQA, demonstrations=CQA.demonstrations[:1])
WORDS = sorted({word for shown in CQA.demonstrations for word in shown.rationale.split()})
RANDOM = random.Random(0)
TEXTS = [' '.join(RANDOM.choices(WORDS, k=1 + i % 12)) for i in range(24)]
GREEDY = endpoint.Decoding(max_tokens=12)
DRAWN = endpoint.Decoding(max_tokens=12, temperature=1.2)
MODEL = config_lib.MeshConfig(1, 1, 8)


@pytest.fixture(scope='module', name='vocabulary')
def fixture_of_vocabulary():
  """Bytes of a SentencePiece model of the prompts' words."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CQA.as_text('What?').splitlines()), model_writer=model,
      vocab_size=CONFIG.vocab_size, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2,
      bos_id=-1, num_threads=1, minloglevel=2)
  return model.getvalue()


@pytest.fixture(scope='module', name='write')
def fixture_of_write(random_weights, vocabulary):
  """Writes a network that looks at its input, and whose outputs vary and end."""
  def write(folder, seed=2, to='hf'):
    weights = random_weights(CONFIG, seed=seed)
    for name, array in weights.arrays.items():
      if 'encoder_decoder_attention' in name:
        weights.arrays[name] = 4 * array
    head = 6 * weights.arrays['decoder/logits_dense/kernel']
    head[:, 1] *= 3  # EOS.
    weights.arrays['decoder/logits_dense/kernel'] = head
    convert_main.convert(weights, str(folder), to, info=INFO, vocabulary=vocabulary)
    return str(folder)
  return write


@pytest.fixture(scope='module', name='folder')
def fixture_of_folder(write, tmp_path_factory):
  return write(tmp_path_factory.mktemp('models') / 'tiny')


@pytest.fixture(scope='module', name='teacher')
def fixture_of_teacher(folder):
  """Split over eight devices; its compiled programs serve several tests."""
  return make(folder, MODEL)


@pytest.fixture(scope='module', name='greedy')
def fixture_of_greedy(teacher):
  """Its greedy answers to TEXTS."""
  return ask(teacher, TEXTS)


def make(folder, mesh=None, batch_size=8):
  return t5_client.T5Endpoint(folder, mesh, batch_size=batch_size, dtype='float32')


def ask(teacher, texts, decoding=GREEDY, seeds=None, prompt=PROMPT):
  """The responses, or the exceptions in their place, when all are asked at once."""
  async def main():
    return await asyncio.gather(
        *(teacher.ask(teacher.request(prompt, text, decoding), seed)
          for text, seed in zip(texts, seeds or range(len(texts)), strict=True)),
        return_exceptions=True)
  return asyncio.run(main())


def written(responses):
  return [response['text'] for response in responses]
