"""`data.register` where only descriptions are wanted, and where SeqIO tasks are."""

import subprocess
import sys
import textwrap

import pytest
import seqio

import dss_jax.tasks  # noqa: F401
from dss_jax import data, datasets, errors
from dss_jax.data import feature_converter, registration
from dss_jax.tasks import anli

_SHOW_MEMORY = '''
import os
if os.path.exists('/proc/self/status'):
  print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))
'''


def _run(tmp_path, code):
  """Runs code in a folder that holds a user's module."""
  (tmp_path / 'my_tasks.py').write_text(
      'from dss_jax import data\n'
      "data.register('tickets', labels=('bug', 'billing'))\n")
  done = subprocess.run([sys.executable, '-c', textwrap.dedent(code) + _SHOW_MEMORY], text=True,
                        cwd=tmp_path, capture_output=True, check=False, timeout=600)
  assert done.returncode == 0, done.stderr
  print(done.stdout)  # The peak of its memory.


def test_descriptions_alone_need_neither_tensorflow_nor_seqio(tmp_path):
  _run(tmp_path, '''
      import sys
      from dss_jax import cli, datasets
      datasets.describe_only()
      import dss_jax.tasks, dss_jax.records
      cli.import_quietly('my_tasks')
      assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)
      assert datasets.get('cqa').tfds_splits == {'test': 'validation'}
      assert datasets.get('tickets').labels == ('bug', 'billing')
  ''')


def test_a_mistyped_macro_is_told_before_tensorflow_is_loaded(tmp_path):
  _run(tmp_path, '''
      import sys, dss_jax
      from dss_jax.train.__main__ import main
      flags = ['--gin_file=gin/native/dss.gin', '--gin.DATASET=cqa', '--gin.MODEL_DIR=x']
      assert main([*flags, '--print_config']) == 0
      try:
        main([*flags, '--gin.TRAIN_STEP=3'])
      except dss_jax.errors.UserError as error:
        assert 'TRAIN_STEPS' in str(error)
      assert 'jax' in sys.modules and not {'tensorflow', 'seqio'} & set(sys.modules)
  ''')


def test_otherwise_the_tasks_are_added_at_once(tmp_path):
  _run(tmp_path, '''
      import dss_jax.tasks, my_tasks, seqio
      assert {'dss_cqa', 'dss_tickets'} <= set(seqio.MixtureRegistry.names())
      assert seqio.get_mixture_or_task('dss_cqa').tasks
  ''')


def test_what_handles_data_is_found_in_the_package():
  assert data.DssFeatureConverter is feature_converter.DssFeatureConverter
  assert data.DssMixture is registration.DssMixture
  assert all(hasattr(data, name) for name in data.__all__)
  with pytest.raises(AttributeError, match="'dss_jax.data' has no attribute 'DssMixtur'"):
    data.DssMixtur  # noqa: B018


def test_where_rows_come_from_is_kept(monkeypatch):
  monkeypatch.setattr(datasets, '_REGISTRY', {})
  def rows(split):
    return [{'id': split, 'input': 'x'}]
  assert data.register('loaded', load=rows).load is rows
  found = data.register('listed', tfds='big/listed', tfds_splits={'test': 'dev'})
  assert (found.tfds, found.tfds_splits) == ('big/listed', {'test': 'dev'})
  assert datasets.get('listed') is found
  plain = data.register('plain')
  assert (plain.tfds, plain.tfds_splits, plain.load) == ('', {}, None)


@pytest.mark.parametrize('arguments, message', [
    ({'tfds_splits': {'dev': 'test'}}, "'mine': tfds_splits has dev; use train, validation, test"),
    ({'tfds': 'mine', 'load': lambda split: []}, "'mine': both tfds and load"),
])
def test_bad_origins_are_refused(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    data.register('mine', **arguments)
  assert 'mine' not in datasets.names()


def test_anli_reads_tfds_and_the_paper_s_files():
  tfds = anli.read_row({'uid': '7', 'context': 'A.', 'hypothesis': 'B.', 'label': 1}, 0)
  files = anli.read_row({'uid': '7', 'premise': 'A.', 'hypothesis': 'B.', 'label': 'neutral'}, 0)
  assert tfds == files == datasets.Example('7', 'A.</s>B.', 'neutral')
  with pytest.raises(KeyError, match='premise'):
    anli.read_row({'uid': '7', 'hypothesis': 'B.', 'label': 1}, 0)


@pytest.mark.parametrize('name', ['a', 'A_1', 'a.b', 'a:b', 'a#b', '\u00e4', 'my-tickets',
                                  'my tickets', '../x', 'a/b', 'a+b', '', 'a\n'])
def test_names_are_refused_as_seqio_refuses_them(monkeypatch, name):
  """Also where no SeqIO task is made: before a teacher is asked."""
  monkeypatch.setattr(datasets, '_REGISTRY', {})
  monkeypatch.setattr(datasets, '_describe_only', True)
  source = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=['train'])
  taken = name != 'a\n'  # SeqIO takes that, no file name should.
  try:
    seqio.Task(f'dss_{name}' if name else '', source, output_features={})
  except ValueError:
    taken = False
  if taken:
    assert data.register(name).name == name
    return
  with pytest.raises(errors.UserError, match='not a name that SeqIO takes'):
    data.register(name)
  assert not datasets.names()


@pytest.mark.parametrize('name', ['cqa_teacher', 'cqa_shuffled', 'cqa_label', 'cqa_rationale'])
def test_no_dataset_takes_the_tasks_of_another(name):
  with pytest.raises(errors.UserError, match=f"'cqa' and '{name}' would both be 'dss_cqa_"):
    data.register(name)
  assert name not in datasets.names()


def test_the_names_that_a_dataset_takes_are_those_of_its_tasks():
  data.register('named')
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  assert {name for name in known if 'named' in name} == datasets.seqio_names('named')
