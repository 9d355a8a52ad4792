"""Fingerprints: further training changes them, copying does not."""

import random
import shutil

import pytest

from dss_jax.predict import fingerprint

SIZE = 3 << 20  # beyond what is read whole


@pytest.fixture
def folder(tmp_path):
  """A Hugging Face folder, as far as its files go."""
  made = tmp_path / 'model'
  made.mkdir()
  (made / 'config.json').write_text('{}')
  (made / 'spiece.model').write_bytes(b'pieces')
  rng = random.Random(0)
  for i in (1, 2):
    header = (b'{"a":%d}' % i).ljust(5000)
    (made / f'model-{i}.safetensors').write_bytes(
        len(header).to_bytes(8, 'little') + header + rng.randbytes(SIZE))
  return made


def of(folder):
  return fingerprint.fingerprint(str(folder))


def overwrite(file, at, data):
  with file.open('r+b') as f:
    f.seek(at)
    f.write(data)


def test_what_lies_beside_and_where_does_not_matter(folder, tmp_path):
  before = of(folder)
  assert len(before) == 64
  (folder / 'README.md').write_text('a card')
  (folder / '.cache').mkdir()
  assert of(folder) == before
  shutil.copytree(folder, tmp_path / 'elsewhere')
  (tmp_path / 'elsewhere' / 'config.json').touch()
  assert of(tmp_path / 'elsewhere') == before


@pytest.mark.parametrize('name', ['config.json', 'spiece.model', 'student.json'])
def test_every_byte_of_small_files_counts(folder, name):
  before = of(folder)
  (folder / name).write_bytes(b'{ ')
  assert of(folder) != before


@pytest.mark.parametrize('at', [8 + 4900, SIZE + 5007, SIZE // 2])
def test_training_on_with_the_same_sizes(folder, at):
  """In the header, at the end, or anywhere for as long as two distances between the samples."""
  before = of(folder)
  overwrite(folder / 'model-2.safetensors', at, bytes(1 if at != SIZE // 2 else 30_000))
  assert of(folder) != before


def test_another_size(folder):
  before = of(folder)
  (folder / 'model-1.safetensors').open('ab').write(b'x')
  assert of(folder) != before


def test_folders_of_arrays_with_hidden_files(tmp_path):
  arrays = tmp_path / 'params' / 'decoder.norm'
  arrays.mkdir(parents=True)
  (arrays / '.zarray').write_text('{}')
  (arrays / '0').write_bytes(b'weights')
  found = {of(tmp_path / 'params')}
  (tmp_path / 'logs').write_text('not of the arrays')
  found.add(of(tmp_path / 'params'))
  assert len(found) == 1
  for name in ('.zarray', '0'):
    (arrays / name).write_text('other')
    found.add(of(tmp_path / 'params'))
  (tmp_path / 'student.json').write_text('{}')
  found.add(of(tmp_path / 'params'))
  assert len(found) == 4
