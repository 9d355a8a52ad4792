"""Models by their names: huggingface_hub itself, against a hub on loopback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch_bytes
from t5x_weights import Given

from dss_jax import cli, errors, student_info
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import formats, hub, hugging_face

NAME = 'google/t5-v1_1-base'


@pytest.fixture(scope='module')
def given():
  return Given()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, given):
  """A model with all that a repository may hold, in every format."""
  made = tmp_path_factory.mktemp('model') / 'hf'
  convert_main.convert(given, str(made), 'hf', info=student_info.StudentInfo(model=given.config))
  (made / 'student.json').unlink()
  arrays = {hugging_face.their_name(name): x.T if x.ndim == 2 and not name.endswith(
      'token_embedder/embedding') else x for name, x in given.values.items()}
  torch_bytes.write(made / 'pytorch_model.bin', arrays)
  (made / 'spiece.model').write_bytes(b'not looked at here')
  (made / 'tf_model.h5').write_bytes(b'x' * 1000)
  (made / 'onnx').mkdir()
  (made / 'onnx' / 'config.json').write_text('{}')
  (made / '.gitattributes').write_text('*.bin filter=lfs')
  return made


def without(folder, tmp_path, *names):
  made = shutil.copytree(folder, tmp_path / f'without-{len(names)}')
  for name in names:
    (made / name).unlink()
  return made


def assert_read(path, given):
  weights = formats.open_weights(path)
  for name, x in given.values.items():
    assert np.array_equal(weights.read(name), x), name
  return weights.path


def fails(path, message):
  hub._fetch.cache_clear()
  with pytest.raises(errors.UserError, match=message) as caught:
    formats.open_weights(path)
  assert '\n' not in str(caught.value)


SMALL = {'config.json', 'generation_config.json', 'spiece.model'}


def test_only_what_is_needed_is_downloaded(served, folder, given):
  commit = served.add(NAME, folder)
  path = assert_read(NAME, given)
  assert path == str(served.cache / 'snapshots' / commit)
  assert {*served.downloads()} == {*SMALL, 'model.safetensors'}
  asked = len(served.asked)
  assert_read(f'hf://{NAME}', given)
  assert_read(f'{NAME}@main', given)
  assert len(served.asked) == asked  # One process, one look.


def test_the_bin_alone(served, folder, given, tmp_path):
  served.add(NAME, without(folder, tmp_path, 'model.safetensors'))
  assert_read(NAME, given)
  assert {*served.downloads()} == {*SMALL, 'pytorch_model.bin'}


def test_shards_of_the_index_alone(served, folder, given, tmp_path):
  made = without(folder, tmp_path, 'model.safetensors')
  hugging_face.write_hugging_face(str(made), given, max_shard_bytes=20_000)
  shards = {path.name for path in made.glob('model-*.safetensors')}
  (made / 'model-00001-of-00001.fp16.safetensors').write_bytes(b'x')
  served.add(NAME, made)
  assert_read(NAME, given)
  assert len(shards) > 2
  assert {*served.downloads()} == {*SMALL, 'model.safetensors.index.json', *shards}


def test_a_download_that_was_cut_goes_on_where_it_was(served, folder, given, tmp_path):
  served.add(NAME, without(folder, tmp_path, 'model.safetensors'))
  served.cut = 1
  assert_read(NAME, given)
  assert served.downloads().count('pytorch_model.bin') == 2


def test_a_revision_and_where_the_branch_was(served, folder, given, tmp_path):
  first = served.add(NAME, folder)
  second = served.add(NAME, without(folder, tmp_path, 'model.safetensors'))
  assert first != second
  assert hub.pinned(NAME) == f'hf://{NAME}@{second}'
  assert hub.pinned(f'{NAME}@{first}') == hub.pinned(f'hf://{NAME}@{first}')
  assert_read(hub.pinned(f'{NAME}@{first}'), given)
  described = hub.describe(hub.pinned(NAME))
  assert (described['name'], described['revision']) == (NAME, second)
  assert {*described['files']} == {*SMALL, 'pytorch_model.bin'}
  for name, sha256 in described['files'].items():
    assert sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
  assert hub.describe(str(folder)) is None and hub.pinned(str(folder)) == str(folder)


def test_without_a_network_what_was_downloaded_is_enough(served, folder, given, monkeypatch):
  commit = served.add(NAME, folder)
  assert_read(NAME, given)
  asked = len(served.asked)
  monkeypatch.setattr(served.constants, 'HF_HUB_OFFLINE', True)
  for path in (NAME, f'hf://{NAME}', f'{NAME}@{commit}', str(served.cache),
               str(served.cache / 'snapshots' / commit)):
    hub._fetch.cache_clear()
    assert_read(path, given)
  assert len(served.asked) == asked
  monkeypatch.setattr(served.constants, 'HF_HUB_OFFLINE', False)
  served.status = 503
  hub._fetch.cache_clear()
  assert_read(NAME, given)
  fails('google/t5-v1_1-large', 'not on this machine, and http.* answers 503: where it can')


def test_without_a_network_and_not_downloaded(served, folder, monkeypatch, tmp_path):
  monkeypatch.setattr(served.constants, 'HF_HUB_OFFLINE', True)
  fails(f'{NAME}@v2', f'{NAME}@v2: not on this machine, and HF_HUB_OFFLINE is set: where it can be '
        f'reached, run `hf download {NAME} --revision=v2 --local-dir=DIR`, copy DIR here, and give')
  monkeypatch.setattr(served.constants, 'HF_HUB_OFFLINE', False)
  commit = served.add(NAME, folder)
  snapshot = served.cache / 'snapshots' / commit  # As another program leaves it, without weights.
  snapshot.mkdir(parents=True)
  shutil.copy(folder / 'config.json', snapshot)
  (served.cache / 'refs').mkdir()
  (served.cache / 'refs' / 'main').write_text(commit)
  monkeypatch.setattr(served.constants, 'HF_HUB_OFFLINE', True)
  fails(NAME, 'not on this machine, and HF_HUB_OFFLINE is set')
  fails(str(served.cache), f'{commit} has no model.safetensors')


def test_nobody_answers(served, monkeypatch):
  monkeypatch.setattr(served.constants, 'ENDPOINT', 'http://127.0.0.1:9')
  monkeypatch.setattr(served.constants, 'HUGGINGFACE_CO_URL_TEMPLATE',
                      'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}')
  fails(NAME, 'not on this machine, and http://127.0.0.1:9 cannot be reached: .*hf download')


def test_what_the_hub_refuses_is_one_line(served, folder, given, monkeypatch):
  commit = served.add(NAME, folder)
  served.gated.add(NAME)
  fails(NAME, f'{NAME}: accept its terms at http.*/{NAME}, and set HF_TOKEN')
  served.gated.clear()
  served.private.add(NAME)
  fails(NAME, 'no folder here and no model of that name at the hub, or a private one')
  monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
  fails(NAME, 'the hub does not accept the token: correct HF_TOKEN')
  monkeypatch.setenv('HF_TOKEN', served.token)
  hub._fetch.cache_clear()
  assert_read(NAME, given)
  fails('google/t5-v1_1-bass', 'google/t5-v1_1-bass: no folder here and no model of that name')
  fails(f'{NAME}@v9', f"{NAME}@v9: the model has no revision 'v9'")
  fails('hf://t5-base', 'hf://t5-base: give hf://OWNER/NAME or')
  fails('google/a--b', 'no model at the hub can have this name')
  assert commit


def test_models_of_another_kind(served, folder, tmp_path):
  made = without(folder, tmp_path, 'model.safetensors', 'pytorch_model.bin')
  served.add(NAME, made)
  fails(NAME, 'has no model.safetensors or pytorch_model.bin or .*; it has .*tf_model.h5')
  (made / 'config.json').unlink()
  served.add(NAME, made)
  fails(NAME, 'the model has no config.json: it is none of transformers')
  assert not {'tf_model.h5'} & {*served.downloads()}


def test_a_folder_of_that_name_is_the_folder(served, folder, given, tmp_path):
  assert hub.parse(NAME) == (NAME, 'main')
  shutil.copytree(folder, tmp_path / NAME)
  assert hub.parse(NAME) is None and hub.local(NAME) == NAME
  assert_read(NAME, given)
  assert hub.parse('google/t5-v1_1-bass') is None  # A mistyped folder, beside others.
  fails('google/t5-v1_1-bass', r'does not exist.*of the hub: hf://google/t5-v1_1-bass')
  assert hub.parse(f'hf://{NAME}@x') == (NAME, 'x')
  for path in ('t5-base', './a/b', '../a', '/a/b', 'a/b/c', 'gs://a/b', '~/a', 'a/', '', 'a b/c'):
    assert hub.parse(path) is None, path
  assert served.asked == []


def test_a_cache_folder_that_does_not_say_which(served, tmp_path):
  for commit in ('a' * 40, 'b' * 40):
    (served.cache / 'snapshots' / commit).mkdir(parents=True)
  fails(str(served.cache), "has the snapshots a+, b+, and no branch 'main' that says which")


def test_commands_take_names(served, folder, given, tmp_path, capsys):
  """One program as a user starts it, with the hub's own variables."""
  commit = served.add(NAME, folder)
  environment = {**os.environ, 'HF_ENDPOINT': served.constants.ENDPOINT,
                 'HF_HOME': str(served.home), 'JAX_PLATFORMS': 'cpu'}
  words = [sys.executable, '-m', 'dss_jax.convert', f'--input=hf://{NAME}@{commit}',
           '--output=out', '--to=native', '--vocabulary=bytes']
  (folder / 'spiece.model').rename(tmp_path / 'kept')
  served.add('google/plain', folder)
  (tmp_path / 'kept').rename(folder / 'spiece.model')
  words[3] = '--input=hf://google/plain'
  done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'models--google--plain/snapshots' in done.stdout
  assert_read(str(tmp_path / 'out'), given)
  done = subprocess.run([*words[:3], '--input=google/none', '--output=b', '--to=native'],
                        env=environment, capture_output=True, text=True, cwd=tmp_path)
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert done.stderr.startswith('error: google/none: no folder here and no model'), done.stderr


@pytest.mark.parametrize('word', ['--output=hf://a/b', '--records_dir=hf://a/b'])
def test_what_is_written_is_no_name(word):
  with pytest.raises(errors.UserError, match='hf:// cannot be read or written'):
    cli._check_words([word])
  cli._check_words(['--input=hf://a/b', '--gin.INITIAL_CHECKPOINT_PATH=hf://a/b@c'])


def test_nothing_is_imported_for_a_folder(folder):
  code = (f'import sys\nfrom dss_jax.convert import formats\nformats.open_weights({str(folder)!r})'
          "\nassert 'huggingface_hub' not in sys.modules")
  subprocess.run([sys.executable, '-c', code], check=True,
                 env={**os.environ, 'JAX_PLATFORMS': 'cpu'})


def test_the_small_files_are_those_that_are_read(served, folder):
  """Whatever a tokenizer's or a student's folder may hold beside its weights."""
  assert json.loads((folder / 'config.json').read_text())
  assert {'student.json', 'vocabulary.model', 'tokenizer.json', 'tokenizer_config.json',
          'added_tokens.json', 'special_tokens_map.json', *SMALL} <= {*hub._SMALL}
