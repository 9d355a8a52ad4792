"""What holds for every verb: modules to import, addresses, terminals, and who reads the output."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import dss_jax
from dss_jax import cli, errors, files

ASCII = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii'}
TEXT = '\N{THUMBS UP SIGN} \u0445\u043e\u0440\u043e\u0448\u043e'
IN_ASCII = TEXT.encode('ascii', 'backslashreplace').decode()


def dss(*words, cwd=None, env=None, stdout=subprocess.PIPE):
  return subprocess.run([sys.executable, '-m', 'dss_jax.cli', *words], cwd=cwd, stdout=stdout,
                        stderr=subprocess.PIPE, text=True, encoding='utf-8', check=False,
                        timeout=600, env={**os.environ, **(env or {})})


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A user's folder with a module, inputs with an emoji and Cyrillic, and completions."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'thumbs.py').write_text(
      f'from dss_jax import data\ndata.register("thumbs", labels=({TEXT!r}, "no"))\n',
      encoding='utf-8')
  rows = [{'id': f'q{i}', 'input': f'{i} {TEXT}', 'label': TEXT} for i in range(4)]
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (tmp_path / 'c.json').write_text(json.dumps(
      [f'{TEXT}, so it is. So the answer is {TEXT}.'] * 3 + [f'{TEXT}?']))
  return tmp_path


def teacher(folder, *more, **settings):
  return dss('teacher', '--dataset=thumbs', '--split=test', '--inputs=in.jsonl',
             '--completions=c.json', '--records_dir=records', '--import=thumbs',
             *more, cwd=folder, **settings)


# --- Modules to import ---------------------------------------------------------------------------


@pytest.mark.parametrize('given, advice', [
    ('./thumbs.py', '--import=thumbs$'),
    ('thumbs.py', '--import=thumbs$'),
    ('./thumbs', '--import=thumbs$'),
    ('some/folder/thumbs.py', '--import=thumbs, with PYTHONPATH=some/folder$'),
    ('/some/thumbs', '--import=thumbs, with PYTHONPATH=/some$'),
    ('..thumbs', '--import=thumbs$'),
    ('', '--import=my_tasks$'),
    ('thums', "no module 'thums'; run from the folder"),
])
def test_a_module_is_named_not_its_file(folder, given, advice):
  with pytest.raises(errors.UserError, match=f'^--import={given}: .*{advice}'):
    cli.import_quietly(given)


@pytest.mark.parametrize('code, says', [
    ('\nfrom dss_jax import data\ndata.register("my-tickets")', "line 3: .*'my-tickets': not a"),
    ('from dss_jax import data\n\ndata.register("x", lables=())', "line 3: .* 'lables'"),
    ('import no_such_thing', "line 1: No module named 'no_such_thing'"),
    ('x = = 3', r'invalid syntax \(broken.py, line 1\)'),
])
def test_what_fails_in_a_users_module_is_one_line(folder, monkeypatch, code, says):
  monkeypatch.delitem(sys.modules, 'broken', raising=False)
  (folder / 'broken.py').write_text(code)
  with pytest.raises(errors.UserError, match=f'^--import=broken: .*{says}') as caught:
    cli.import_quietly('broken')
  assert '\n' not in str(caught.value)


# --- Addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize('path, local, taken', [
    ('s3://b/x', False, False), ('https://h/x', False, False), ('file:///x', False, False),
    ('az://b/x', True, False), ('gs:/b/x', False, False), ('gs://b/x', False, True),
    ('gs://b/x', True, False), ('/x/y', False, True), ('a:b/c', True, True), ('', False, True),
    (None, True, True), ('runs/s3://x', False, True),
])
def test_only_googles_store_is_read(path, local, taken):
  if taken:
    files.check_path('--inputs', path, local=local)
    return
  with pytest.raises(errors.UserError, match=f'^--inputs={path}: .* on this machine|machine.s dis'):
    files.check_path('--inputs', path, local=local)


@pytest.mark.parametrize('words', [
    ['predict', '--model_dir=m', '--input=s3://b/x', '--output=y'],
    ['predict', '--model_dir=m', '--input', 's3://b/x', '--output=y'],
    ['train', '--gin_file=gin/native/dss.gin', "--gin.RECORDS_DIR='s3://b/x'"],
    ['report', 's3://b/x'],
])
def test_every_verb_refuses_other_stores(words):
  done = dss(*words)
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert 's3://' in done.stderr and 'gs://BUCKET' in done.stderr


# --- Terminals -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone(folder):
  done = teacher(folder, env=ASCII)
  assert done.returncode == 0, done.stderr
  done = dss('inspect', '--task=dss_thumbs', '--import=thumbs', '--records_dir=records',
             '--split=test', '--vocabulary=bytes', cwd=folder, env=ASCII)
  assert done.returncode == 0 and IN_ASCII in done.stdout, done.stderr
  quarantined = pathlib.Path(folder, 'records/quarantine/thumbs-test.jsonl').read_bytes()
  assert json.loads(quarantined)['completion'] == f'{TEXT}?'
  (folder / 'c.json').write_text(json.dumps([f'{TEXT}?'] * 4))
  done = teacher(folder, env=ASCII)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert f"begin: '{IN_ASCII}?'" in done.stderr


def test_words_that_the_locale_cannot_read():
  done = dss('predict', f'--labels={TEXT},no', '--model_dir=m', env=ASCII)
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert done.stderr.startswith("error: '--labels': ") and 'PYTHONUTF8=1' in done.stderr
  for word in (TEXT, os.fsdecode(b'caf\xe9.jsonl'), 'plain'):  # No other setting reads the second.
    cli._check_words([word])


@pytest.mark.parametrize('verb', cli.VERBS)
def test_help_in_ascii_to_a_reader_of_one_line(verb):
  """`dss VERB --help | head -1`."""
  read, write = os.pipe()
  os.close(read)
  try:
    done = dss(verb, '--help', env=ASCII, stdout=write)
  finally:
    os.close(write)
  assert done.returncode in (0, 141) and not done.stderr  # argparse may pass over it.


@pytest.mark.parametrize('code, stderr', [
    ('print("x")', ''),  # Seen when it is flushed.
    ('print("x" * 100_000)', ''),  # Seen at once.
    ('os.write(worker, b"x")', 'BrokenPipeError'),  # Another pipe: that is an error of ours.
])
def test_a_closed_pipe(code, stderr):
  program = f'''
      import os, signal
      from dss_jax import cli
      def main(argv):
        end, worker = os.pipe()
        os.close(end)
        {code}
      cli.run(main)
  '''
  read, write = os.pipe()
  if not stderr:
    os.close(read)
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(program)], stdout=write,
                        stderr=subprocess.PIPE, text=True, check=False, timeout=600)
  os.close(write)
  assert done.returncode == (1 if stderr else 141) and stderr in done.stderr
  assert bool(done.stderr) == bool(stderr)


def test_a_jobs_records_are_written_though_nobody_reads_its_report(folder):
  read, write = os.pipe()
  os.close(read)
  done = teacher(folder, stdout=write)
  os.close(write)
  assert (done.returncode, done.stderr) == (141, '')
  assert (folder / 'records' / 'manifest.json').exists()


def test_the_version_is_told():
  done = dss('--version')
  assert (done.returncode, done.stdout) == (0, f'dss_jax {dss_jax.__version__}\n')


def test_the_shell_completes_verbs_and_flags(capsys):
  from dss_jax import completion
  assert completion.main(['bash']) == 0
  script = capsys.readouterr().out
  asked = ('COMP_WORDS=(dss tea); COMP_CWORD=1; _shtab_dss; echo "${COMPREPLY[@]}"; '
           'COMP_WORDS=(dss predict --ra); COMP_CWORD=2; _shtab_dss; echo "${COMPREPLY[@]}"')
  done = subprocess.run(['bash', '-c', f'{script}\n{asked}'], text=True, capture_output=True,
                        check=True)
  verbs, flags = done.stdout.splitlines()
  assert verbs == 'teacher'
  assert {'--rationale', '--rank', '--rank_by'} <= set(flags.split())
