"""Rows of Hugging Face datasets, by the library itself; and what is said where it is not there."""

import subprocess
import sys

import pytest

from dss_jax import errors, rows
from dss_jax.rows import hugging_face

MADE = {'text': ['a', 'b', 'c'], 'label': [1, 0, -1], 'choices': [['x', 'y']] * 3}


@pytest.fixture
def library(monkeypatch, tmp_path):
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
  monkeypatch.chdir(tmp_path)
  return pytest.importorskip('datasets')


def make(library):
  features = library.Features({'text': library.Value('string'),
                               'label': library.ClassLabel(names=['no', 'yes']),
                               'choices': library.List(library.Value('string'))})
  return library.Dataset.from_dict(MADE, features=features)


def test_class_labels_are_their_names(library, tmp_path):
  make(library).save_to_disk(tmp_path / 'saved')
  found = rows.Rows(str(tmp_path / 'saved'), '--inputs', {'input': 'text'})
  assert [(row['input'], row['label'], row['choices']) for row in found] == [
      ('a', 'yes', ['x', 'y']), ('b', 'no', ['x', 'y']), ('c', None, ['x', 'y'])]
  assert found.where(1) == f'{tmp_path}/saved, row 2' and len(found) == 3
  assert found.sha256 == rows.Rows(str(tmp_path / 'saved'), '--inputs').sha256


def test_splits(library, tmp_path):
  made = make(library)
  library.DatasetDict({'train': made, 'test': made.select([0])}).save_to_disk(tmp_path / 'two')
  library.DatasetDict({'train': made}).save_to_disk(tmp_path / 'one')
  assert len(rows.Rows('one', '--inputs')) == 3 and len(rows.Rows('two/test', '--inputs')) == 1
  with pytest.raises(errors.UserError, match='--inputs=two: has the splits train, test: name one, '
                                             'two/train'):
    rows.Rows('two', '--inputs')
  folder = tmp_path / 'owner' / 'name'  # The library takes a folder where there is one.
  folder.mkdir(parents=True)
  for split in ('train', 'test'):
    made.select(range(1 + (split == 'train'))).to_parquet(folder / f'{split}.parquet')
  assert len(rows.Rows('hf://owner/name:train', '--inputs')) == 2
  assert len(rows.Rows('hf://datasets/owner/name:test', '--inputs')) == 1
  with pytest.raises(errors.UserError, match=r'name one, hf://owner/name:t'):
    rows.Rows('hf://owner/name', '--inputs')
  with pytest.raises(errors.UserError, match='cannot be loaded .*Unknown split "dev"'):
    rows.Rows('hf://owner/name:dev', '--inputs')


def test_names():
  assert hugging_face.with_split('hf://a/b', 'train') == 'hf://a/b:train'
  assert hugging_face.with_split('hf://a/b/c@d/e:dev[:9]', 'train') == 'hf://a/b/c@d/e:dev[:9]'
  assert hugging_face.with_split('x.csv', 'train') == 'x.csv'
  assert hugging_face._NAME.fullmatch('hf://a/b/c@refs/pr/1:dev[:9]').groups() == (
      'a/b', 'c', 'refs/pr/1', 'dev[:9]')
  for name in ('hf://a', 'hf://', 'hf://a/b/c/d'):
    with pytest.raises(errors.UserError, match='not the name of a dataset; use hf://OWNER/NAME'):
      rows.Rows(name, '--inputs')


def test_a_dataset_without_rows(library, tmp_path):
  make(library).select([]).save_to_disk(tmp_path / 'none')
  with pytest.raises(errors.UserError, match='none: cannot be loaded .*not whole, or has no rows'):
    rows.Rows('none', '--inputs')
  (tmp_path / 'owner' / 'name').mkdir(parents=True)
  make(library).to_parquet(tmp_path / 'owner' / 'name' / 'train.parquet')
  assert len(rows.Rows('hf://owner/name:train[:2]', '--inputs')) == 2
  with pytest.raises(errors.UserError, match=r'train\[:0\]: cannot be loaded .*no data'):
    rows.Rows('hf://owner/name:train[:0]', '--inputs')


@pytest.mark.parametrize('settings', [
    {'HF_HUB_OFFLINE': '1'},  # The library tries others for half a minute.
    pytest.param({'HF_ENDPOINT': 'http://127.0.0.1:9'}, marks=pytest.mark.slow)])
def test_without_a_network_there_is_one_line(library, tmp_path, settings):
  code = ("from dss_jax import errors, rows\ntry:\n  rows.Rows('hf://owner/name:train', '--inputs')"
          '\nexcept errors.UserError as error:\n  print(error)')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                        env={'PATH': '', 'HF_HOME': str(tmp_path), **settings}, timeout=60)
  assert done.stdout.startswith('--inputs=hf://owner/name:train: cannot be loaded (')
  assert len(done.stdout.splitlines()) == 1 and 'give that folder' in done.stdout


def test_without_the_library_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(errors.UserError, match=r"--inputs=hf://a/b: needs .*install 'dss_jax\[dat"):
    rows.Rows('hf://a/b', '--inputs')
