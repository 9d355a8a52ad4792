"""Every core dependency imports beside the others, at a version inside its bounds.

Importing, not `pip check`: protobuf's generated code and runtimes can disagree although all
metadata is satisfied.
"""

import importlib
import importlib.metadata
import pathlib
import re

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPO = pathlib.Path(__file__).parents[1]
MODULES = {  # distribution -> what we import of it, where the names differ
    'absl-py': 'absl.logging', 'clu': 'clu.metric_writers', 'gin-config': 'gin',
    'google-crc32c': 'google_crc32c', 'importlib-resources': 'importlib_resources',
    'ml-collections': 'ml_collections', 'orbax-checkpoint': 'orbax.checkpoint',
    'tensorflow-datasets': 'tensorflow_datasets',
    'tensorflow-text': 'tensorflow_text', 'flax': 'flax.linen', 'etils': 'etils.epath',
}
CORE = [requirement for requirement in map(Requirement, importlib.metadata.requires('dss_jax'))
        if requirement.marker is None]


def test_the_list_is_read():
  assert {'jax', 'flax', 'optax', 'orbax-checkpoint', 'seqio', 'tensorflow', 'gin-config',
          'clu'} <= {requirement.name for requirement in CORE}


@pytest.mark.parametrize('requirement', CORE, ids=lambda requirement: requirement.name)
def test_imports_within_its_bounds(requirement):
  version = importlib.metadata.version(requirement.name)
  assert requirement.specifier.contains(version, prereleases=True), version
  importlib.import_module(MODULES.get(requirement.name, requirement.name.replace('-', '_')))


def test_the_readme_says_what_is_compiled_and_with_what():
  """On Python 3.13, where CI installs the same into a bare Debian."""
  ci, readme = ((REPO / name).read_text() for name in ('.ci/python313', 'README.md'))
  packages = set(re.search(r'^packages=(.*)$', ci, re.MULTILINE)[1].split(','))
  named = set(re.search(r'`apt install ([^`]*)`', readme)[1].split())
  assert {'g++', 'python3-dev'} <= named <= packages and '`editdistance`' in readme


def test_the_readme_names_the_pythons_that_it_installs_on():
  """The next one after the last is refused at once, rather than found to lack a wheel."""
  first, last = re.search(r'Python 3\.(\d+) to 3\.(\d+)', (REPO / 'README.md').read_text()).groups()
  allowed = SpecifierSet(importlib.metadata.metadata('dss_jax')['Requires-Python'])
  assert [minor for minor in range(30) if f'3.{minor}' in allowed] == list(
      range(int(first), int(last) + 1))
