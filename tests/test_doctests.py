"""The examples in docstrings, run: of the modules that compute from what they are handed."""

import doctest
import importlib

import pytest

MODULES = ('data.span_corruption', 'equations', 'errors', 'metrics', 'precompile.compiled',
           'ranking', 'records.sets', 'train.throughput')


@pytest.mark.parametrize('name', MODULES)
def test_docstrings(name):
  found = doctest.testmod(importlib.import_module(f'dss_jax.{name}'))
  assert found.attempted and not found.failed
