"""The first answers are looked at before the others are paid for."""

import pytest
from clock import run
from scripted import Scripted, client, examples

from dss_jax.teacher import first_look, protocol
from dss_jax.teacher.ask import limits
from dss_jax.teacher.read import parsed


@pytest.mark.parametrize('readable, go_on', [(30, False), (20, False), (20, True)])
def test_most_of_the_first_answers_must_be_readable(tmp_path, capsys, readable, go_on):
  teacher = Scripted()
  made = client(tmp_path, teacher, in_flight=1, go_on=go_on)

  def read(example, completion):
    good = int(example.id[1:]) < readable
    return parsed.Parsed('It is.', 'yes') if good else parsed.failed('no_answer_phrase')

  async def main(made):
    made.watch(read)
    try:
      return await made.complete(examples(80))
    finally:
      await made.close()
  if readable >= 25 or go_on:
    run(main(made))
    assert len(teacher.asked) == 80
  else:
    for runs in (1, 2):  # The second has seen enough in the journal.
      with pytest.raises(protocol.Unfinished, match='most of the first answers') as caught:
        run(main(made if runs == 1 else client(tmp_path, teacher, in_flight=1)))
      assert caught.value.mend and len(teacher.asked) <= 51
  said = capsys.readouterr().err
  assert f'the first 50 answers: {max(readable, 50 - readable)} ' in said
  assert f"q{readable}, no_answer_phrase (the answer phrase does not" in said
  assert f'It is input {readable}. So' in said


def test_a_run_that_ends_early_shows_what_it_has_seen(tmp_path, capsys):
  made = client(tmp_path, Scripted(), budget=limits.Budget(max_requests=7))
  made.watch(lambda example, completion: parsed.failed('empty_label'))

  async def main():
    try:
      await made.complete(examples(10))
    finally:
      await made.close()
  with pytest.raises(protocol.Unfinished, match='max_requests=7'):
    run(main())
  assert 'the first 7 answers: 7 empty_label' in capsys.readouterr().err


@pytest.mark.parametrize('passed_on', [(), ('refused',)])
def test_rows_that_a_second_teacher_is_asked_about_do_not_count(passed_on):
  look = first_look.FirstLook(
      lambda example, completion: parsed.failed('refused') if completion.text else parsed.Parsed(
          'It is.', 'yes'), passed_on)
  for example in examples(50):
    look.add(example, protocol.Completion('' if int(example.id[1:]) < 10 else 'I cannot.'))
  assert look.done and look.mostly_unread == (not passed_on)
