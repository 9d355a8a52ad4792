"""`Student.generate`: what the network writes after any prompt."""

import pytest

import dss_jax

PROMPTS = ['the ball is left', 'a', 'where is it? ' * 9, 'right</s>left', '']


@pytest.fixture(scope='module')
def student(student_folders):
  return dss_jax.load(str(student_folders / 'native'))


@pytest.fixture(scope='module')
def prompts(student):
  return [student.encode(text) for text in PROMPTS]


def test_encode_adds_eos_alone(student, prompts):
  assert prompts[-1] == [1] and len(prompts[2]) == 118 and prompts[3].count(1) == 2


@pytest.mark.slow
def test_greedy_is_what_predict_finds_without_prefix(student_folders, student, prompts):
  plain = dss_jax.load(str(student_folders / 'native'), label_prefix='')
  found = student.generate(prompts, max_tokens=12)
  assert [one.text for one in found] == [
      one.label for one in plain.predict(PROMPTS, max_input_length=200)]
  assert student.generate([]) == []


def test_tokens_and_end(student, prompts):
  found = student.generate(prompts, max_tokens=12)
  for prompt, one in zip(prompts, found):
    assert one.ended or one.tokens == 12
    if one.tokens > 1:  # With room for all but the last token it is cut.
      (cut,) = student.generate([prompt], max_tokens=one.tokens - 1)
      assert (cut.tokens, cut.ended) == (one.tokens - 1, False)
      assert one.text.startswith(cut.text)


def test_samples_depend_on_prompt_and_seed_alone(student, prompts):
  options = {'max_tokens': 12, 'temperature': 1.5}
  seeds = [7, 2 ** 32 - 1, 0, 7, 3]
  found = student.generate(prompts, seeds=seeds, **options)
  alone = [student.generate([prompt], seeds=[seed], **options)[0]
           for prompt, seed in zip(prompts, seeds)]
  assert found == alone
  assert len({one.text for one in student.generate(prompts[:1] * 8, **options)}) > 4
