"""`dss predict --text`: answers in the terminal, without files."""

import json

import pytest

import dss_jax
from dss_jax import errors
from dss_jax.predict import __main__ as predict_main

TEXTS = ['the ball is left', 'a < b, "so" {x} é']


def printed(capsys, folder, *flags):
  assert predict_main.main([f'--model_dir={folder}', *flags]) == 0
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_texts_are_answered_in_order_as_the_api_does(student_folders, capsys):
  folder = student_folders / 'native'
  found = printed(capsys, folder, *(f'--text={text}' for text in TEXTS), '--rationale')
  expected = dss_jax.load(str(folder)).predict(TEXTS, rationale=True)
  assert [row['predicted_label'] for row in found] == [one.label for one in expected]
  assert [row['rationale'] for row in found] == [one.rationale for one in expected]
  ranked, = printed(capsys, folder, '--text=x', '--rank', '--labels=up,down')
  assert set(ranked['scores']) == {'up', 'down'}  # How it ranks is told on stderr.


@pytest.mark.parametrize(('flags', 'why'), [
    (['--text=a', '--input=x'], '--text is answered in the terminal: leave --input out'),
    (['--text=a', '--input=x', '--output=y'], 'leave --input and --output out'),
    (['--input=x'], 'give --input=FILE and --output=FILE, or --text=INPUT'), ([], 'or --text=')])
def test_texts_or_files(student_folders, flags, why):
  with pytest.raises(errors.UserError, match=why):
    predict_main.main([f'--model_dir={student_folders / "native"}', *flags])
