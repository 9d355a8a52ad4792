"""student.py of an exported folder, as whoever gets the folder uses it."""

import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys
import venv

import pytest
from packaging.requirements import Requirement

import dss_jax
from dss_jax import student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.export import __main__ as export_main
from dss_jax.export import loader

REPO = pathlib.Path(__file__).parents[2]
NEEDS = loader.INSTALL.removeprefix('pip install ').split()


@pytest.fixture(scope='module')
def exported(student_weights, toy_vocabulary, tmp_path_factory):
  """A student with a SentencePiece vocabulary."""
  folder = tmp_path_factory.mktemp('exported')
  info = student_info.StudentInfo(
      model=student_weights.config, vocabulary=student_info.VOCABULARY_FILE,
      label_prefix='[label] ', labels=('left', 'right'), target_length=12)
  convert_main.convert(student_weights, str(folder / 'run'), 'native', info=info,
                       vocabulary=pathlib.Path(toy_vocabulary).read_bytes())
  assert export_main.main([f'--model_dir={folder / "run"}', f'--output={folder / "portable"}',
                           '--platforms=cpu']) == 0
  return folder / 'portable'


def run(folder, *words, python=sys.executable):
  return subprocess.run([python, str(folder / 'student.py'), *words], text=True,
                        capture_output=True, timeout=600, check=False, cwd=folder.parent)


def answers(done):
  assert done.returncode == 0 and not done.stderr, done.stderr
  return [line.split('\t') for line in done.stdout.splitlines()]


def needed(*names):
  """Distributions that pip would install for these, at the versions that are installed here."""
  found, open_ = {}, [Requirement(name) for name in names]
  while open_:
    requirement = open_.pop()
    if requirement.name not in found:
      found[requirement.name] = importlib.metadata.distribution(requirement.name)
      open_ += [one for one in map(Requirement, found[requirement.name].requires or ())
                if one.marker is None or one.marker.evaluate({'extra': ''})]
  return list(found.values())


def clean_environment(folder, *names):
  """A virtual environment with what `pip install NAMES` installs; its Python."""
  venv.create(folder, symlinks=True)
  packages, = folder.glob('lib/python*/site-packages')
  for one in needed(*names):
    for top in {path.parts[0] for path in one.files or () if '..' not in path.parts}:
      if not (packages / top).exists() and top != '__pycache__':
        (packages / top).symlink_to(one.locate_file(top))
  return folder / 'bin' / 'python'


@pytest.mark.slow
def test_it_runs_where_only_what_the_page_names_is_installed(exported, tmp_path):
  texts = ['the ball is left', '', 'a']
  answer = answers(run(exported, *texts, python=clean_environment(tmp_path / 'all', *NEEDS)))
  assert answer == answers(run(exported, *texts)) and len(answer) == 3
  for left_out in NEEDS:
    rest = [name for name in NEEDS if name != left_out]
    if left_out in {one.name for one in needed(*rest)}:
      continue  # numpy comes with jax.
    done = run(exported, 'x', python=clean_environment(tmp_path / left_out, *rest))
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr == (f'student.py needs {left_out}, which is not installed: '
                           f'{loader.INSTALL}\n')


def test_every_page_names_what_it_needs(exported):
  for name in ('README.md', 'docs/checkpoints.md', 'docs/your_task.md',
               'dss_jax/export/__main__.py', 'dss_jax/export/loader.py'):
    text = ' '.join((REPO / name).read_text().split())
    named = re.findall(r'pip install jax [a-z ]*?flatbuffers', text)
    assert named and set(named) == {loader.INSTALL}, name
  assert loader.INSTALL in (exported / 'student.py').read_text()


def test_without_texts_it_says_how_it_is_used(exported):
  for words, code in (((), 2), (('--help',), 0), (('-h',), 0)):
    done = run(exported, *words)
    assert done.returncode == code
    said = done.stdout if code == 0 else done.stderr
    assert said.startswith('usage: python student.py TEXT') and loader.INSTALL in said
    assert 'Traceback' not in done.stdout + done.stderr


def test_texts_that_are_empty_or_like_flags_are_texts(exported):
  texts = ['', '--left', '-1', '\u043b\u0435\u0432\u043e']
  found = loader.Student(exported).predict(texts)
  assert [label for _, label in answers(run(exported, *texts))] == [label for label, _ in found]
  assert len(found) == 4 and all(0 < probability <= 1 for _, probability in found)


def test_from_python(exported):
  student = loader.Student(exported)
  assert student.predict([]) == [] and student.predict(iter(())) == []
  assert student.predict(iter(['a'])) == student.predict(('a',))
  with pytest.raises(TypeError, match='a list of inputs, not one string'):
    student.predict('the ball')


def test_what_does_not_run_here_is_one_line(exported, make_folder, tmp_path):
  (tmp_path / 'student.py').write_bytes((exported / 'student.py').read_bytes())
  done = run(tmp_path, 'x')
  assert done.returncode == 1 and re.fullmatch(r'student.py: .*export.json.*\n', done.stderr)
  for_tpu = tmp_path / 'tpu'
  assert export_main.main([f'--model_dir={make_folder()}', f'--output={for_tpu}',
                           '--platforms=tpu']) == 0
  done = run(for_tpu, 'x')
  assert done.returncode == 1 and re.fullmatch(r'student.py: .*tpu.*cpu.*\n', done.stderr)


def test_no_inputs_have_no_predictions(make_folder):
  assert dss_jax.load(make_folder()).predict([]) == []
