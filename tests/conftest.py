"""What all tests share: the device environment and small record sets of the toy data."""

import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# Eight virtual devices, so that meshes are tested everywhere; and the tests compile more than they
# compute, a quarter faster so. Set before JAX starts.
os.environ.setdefault(
    'XLA_FLAGS', '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1')

import pytest

REPO = pathlib.Path(__file__).parents[1]
# A program that an earlier test, process or `pytest` compiled is not compiled again: two thirds
# of the time of the tests that train. Keyed by the program, the flags and the version of jaxlib.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(REPO / '.pytest_cache' / 'compiled'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
sys.path.insert(0, str(REPO / 'tests'))  # hub_server.py


@pytest.fixture(autouse=True)
def in_any_order():
  """What a test registers or configures is gone after it."""
  from dss_jax import datasets
  registered = dict(datasets._REGISTRY)
  settings = sys.modules.get('dss_jax.data.settings')
  before = settings and settings.current()
  yield
  ours = getattr(sys.modules.get('dss_jax.tasks'), '__all__', ())  # These are imported once.
  for name in datasets._REGISTRY.keys() - registered.keys() - {*ours}:
    del datasets._REGISTRY[name]
  datasets._REGISTRY.update(registered)
  settings = sys.modules.get('dss_jax.data.settings')
  if settings and settings.current() != (before := before or settings.DataSettings()):
    settings.configure(**vars(before))


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """The folder of real teacher outputs; skips where it is absent."""
  folder = pathlib.Path(os.environ.get('DSS_TEST_DATA', REPO.parent / 'shared' / 'data'))
  if not (folder / 'cqa').is_dir():
    pytest.skip(f'real teacher outputs are not at {folder}; set DSS_TEST_DATA')
  return folder


@pytest.fixture(scope='session')
def toy_records(tmp_path_factory) -> pathlib.Path:
  """Record sets toy-{train,validation,test} of 96, 16 and 16 rows, as the teacher job writes."""
  import dss_jax.tasks  # noqa: F401
  from dss_jax.tasks import toy
  from dss_jax.teacher import job
  from dss_jax.teacher.ask import clients
  folder = tmp_path_factory.mktemp('toy') / 'records'
  for split, rows, seed in (('train', 96, 1), ('validation', 16, 2), ('test', 16, 3)):
    job.run(toy.DATASET, split, list(toy.make_examples(rows, seed, 12)),
            clients.ScriptedClient(toy.teacher), 'strict', str(folder), num_shards=2,
            holdout='none')
  return folder


@pytest.fixture(scope='session')
def toy_vocabulary(toy_records) -> str:
  """A word vocabulary of the toy records."""
  from dss_jax import vocab
  path = str(toy_records.parent / 'words.model')
  vocab.train(str(toy_records), path, vocab_size=128, model_type='word')
  return path


@pytest.fixture
def toy_data(toy_records, toy_vocabulary):
  """The toy records and vocabulary as what the tasks read."""
  from dss_jax import data
  return data.configure(records_dir=str(toy_records), vocabulary=toy_vocabulary)


@pytest.fixture(scope='session')
def random_weights():
  """Makes the weights of a network, fresh from the initialisation, open for reading."""
  import jax
  from flax import linen as nn

  from dss_jax import models
  from dss_jax.convert import weights

  def make(config, seed=0):
    params = nn.unbox(models.init_params(models.Transformer(config), jax.random.key(seed)))
    return weights.ArrayWeights(params, config)
  return make


@pytest.fixture
def served(tmp_path, monkeypatch):
  """A hub on loopback, see hub_server.py, with an empty cache and no token.

  `served.home` is where the cache is, `served.cache` that of google/t5-v1_1-base.
  """
  import hub_server
  from huggingface_hub import constants

  from dss_jax.convert import hub
  monkeypatch.chdir(tmp_path)
  for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
    monkeypatch.delenv(name, raising=False)
  sleep = time.sleep
  monkeypatch.setattr(time, 'sleep', lambda seconds: sleep(min(seconds, 0.1)))  # between tries
  with hub_server.running() as (found, address):
    for name, value in {'ENDPOINT': address, 'HF_HUB_CACHE': str(tmp_path / 'home' / 'hub'),
                        'HF_TOKEN_PATH': str(tmp_path / 'home' / 'token'), 'HF_HUB_OFFLINE': False,
                        'HUGGINGFACE_CO_URL_TEMPLATE':
                            address + '/{repo_id}/resolve/{revision}/{filename}'}.items():
      monkeypatch.setattr(constants, name, value)
    hub._fetch.cache_clear()
    found.home, found.constants = tmp_path / 'home', constants
    found.cache = tmp_path / 'home' / 'hub' / 'models--google--t5-v1_1-base'
    yield found
    hub._fetch.cache_clear()


@pytest.fixture
def small_disk(tmp_path):
  """Makes `tmp_path/disk`, a disk of so many kB."""
  folder = tmp_path / 'disk'

  def mount(kilobytes):
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs',
                           str(folder)], capture_output=True, check=False)
    if done.returncode:
      pytest.skip('no disk may be mounted here')
    return folder
  yield mount
  if os.path.ismount(folder):
    subprocess.run(['umount', '-l', str(folder)], check=True)
